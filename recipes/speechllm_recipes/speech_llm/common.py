"""What the actions share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from fairseq2.logging import log
from fairseq2.metrics import format_as_float, format_as_int
from fairseq2.metrics.recorders import MetricDescriptor
from fairseq2.recipe.base import RecipeContext
from fairseq2.recipe.cli import register_cli_error
from fairseq2.runtime.dependency import DependencyContainer

from speechllm_plugin.datasets.audio import AudioError
from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
from speechllm_plugin.datasets.speech_text import SpeechTextDataset, Utterance
from speechllm_plugin.encoders.cache import FeatureCache
from speechllm_plugin.errors import UserError
from speechllm_plugin.languages import language_code
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_recipes.speech_llm.config import SpeechDatasetSection
from speechllm_recipes.speech_llm.user_errors import report_user_error


def register_common(container: DependencyContainer) -> None:
    """Exit status and line of our own errors, and the names of our own metrics."""
    for kls in (UserError, AudioError):
        register_cli_error(container, kls, report_user_error)
    for descriptor in (
        MetricDescriptor("other_audio_loss", "NLL Loss with another clip's audio", 101, format_as_float),
        MetricDescriptor("quantity_loss", "CIF quantity loss", 101, format_as_float),
        MetricDescriptor("token_loss", "CIF token loss", 101, format_as_float),
        MetricDescriptor("ctc_infeasible", "CTC rows that cannot be aligned", 102, format_as_int),
        MetricDescriptor("rtf", "Real-time factor of decoding", 210, format_as_float),
        MetricDescriptor("audio_seconds", "Audio (s)", 825, format_as_int),
        MetricDescriptor("skipped_clips", "Clips left out", 826, format_as_int),
    ):
        container.collection.register_instance(MetricDescriptor, descriptor)


def feature_cache(section: SpeechDatasetSection, model: SpeechLlm) -> FeatureCache | None:
    if section.feature_cache is None:
        return None
    if model.encoder.tuned:
        raise UserError(
            f"dataset.feature_cache: found {section.feature_cache!r}, expected null: the encoder is trained "
            "(encoder_tuning), so that its features change from step to step"
        )
    return FeatureCache(Path(section.feature_cache), model.encoder.fingerprint())


def create_reader(
    context: RecipeContext,
    section: SpeechDatasetSection,
    model: SpeechLlm,
    split: str,
    *,
    shuffle_seed: int | None = None,
    num_accumulate: int = 1,
    require_text: bool = True,
) -> SpeechTextReader:
    """A reader of this process's share of a split."""
    return open_reader(
        context,
        section,
        split,
        max_seconds=model.encoder.max_seconds,
        languages=model.encoder.languages,
        feature_cache=model.feature_cache,
        shuffle_seed=shuffle_seed,
        num_accumulate=num_accumulate,
        require_text=require_text,
    )


def warn_of_languages(split: str, utterances: Sequence[Utterance], known: Collection[str] | None) -> None:
    if known is None:
        return
    others = Counter(row.source_lang for row in utterances if language_code(row.source_lang) not in known)
    if others:
        log.warning(
            "Split {}: {:,} of {:,} clips are in a language that the speech encoder was not pretrained on ({}), which "
            "knows {} alone.",
            split, others.total(), len(utterances),
            ", ".join(f"{language}: {count:,}" for language, count in others.most_common(5)), ", ".join(known),
        )


def open_reader(
    context: RecipeContext,
    section: SpeechDatasetSection,
    split: str,
    *,
    max_seconds: float | None,
    languages: Collection[str] | None = None,
    feature_cache: FeatureCache | None = None,
    shuffle_seed: int | None = None,
    num_accumulate: int = 1,
    require_text: bool = True,
) -> SpeechTextReader:
    """`create_reader` for what is no `SpeechLlm`.

    :param max_seconds: the longest clip that can be taken; None = any.
    :param languages: codes of those that the clips should be in; None = any.
    """
    utterances = context.get_dataset_as(SpeechTextDataset).read(split, require_text=require_text)
    warn_of_languages(split, utterances, languages)
    options = ReadOptions(
        limits=BatchLimits(section.batch_size, section.max_batch_seconds),
        shuffle_seed=shuffle_seed,
        max_seconds=max_seconds,
        on_error=section.on_error,
        num_accumulate=num_accumulate,
        num_threads=section.num_threads,
        prefetch=section.prefetch,
    )
    gang = context.gangs.dp
    reader = SpeechTextReader(
        utterances, options, rank=gang.rank, world_size=gang.size, feature_cache=feature_cache
    )
    log.info(
        "Split {}: {:,} clips, {:.2f} h, {:,} steps; {} left out.",
        split, reader.num_clips, reader.hours, reader.num_steps, len(reader.skipped),
    )
    return reader
