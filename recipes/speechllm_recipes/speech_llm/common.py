"""Code that the actions share."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from fairseq2.device import Device
from fairseq2.gang import Gang
from fairseq2.logging import log
from fairseq2.metrics import format_as_float, format_as_int
from fairseq2.metrics.recorders import MetricDescriptor
from fairseq2.recipe.base import RecipeContext
from fairseq2.recipe.cli import register_cli_error
from fairseq2.recipe.config import EvaluatorSection
from fairseq2.runtime.dependency import DependencyContainer
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import Module
from typing_extensions import TypedDict, Unpack

from speechllm_plugin.adapters.api import ADAPTERS
from speechllm_plugin.datasets.audio import AudioError
from speechllm_plugin.datasets.augmentation import AugmentationConfig
from speechllm_plugin.datasets.lengths import LengthPolicy
from speechllm_plugin.datasets.mixture import MixtureConfig
from speechllm_plugin.datasets.plan import Batching, BatchLimits
from speechllm_plugin.datasets.position_counter import PositionCounter
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
from speechllm_plugin.datasets.row_checks import check_languages
from speechllm_plugin.datasets.speech_text import SpeechTextDataset
from speechllm_plugin.datasets.utterances import Utterances
from speechllm_plugin.encoders.api import SpeechEncoder
from speechllm_plugin.encoders.feature_cache import FeatureCache
from speechllm_plugin.errors import ClipError, UserError
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.llms.limits import reference_lengths, report_limit
from speechllm_plugin.llms.sharding import sharing_layers
from speechllm_plugin.models.speech_llm.checkpoint_files import describe_choice, named_checkpoint
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.models.speech_llm.position_room import check_room_of_batch, check_room_of_rows
from speechllm_plugin.models.speech_llm.preflight import Outline
from speechllm_plugin.prompts import PromptConfig, PromptRenderer
from speechllm_plugin.tasks.api import task_names
from speechllm_plugin.text.languages import direction_of, language_code, language_name
from speechllm_recipes.speech_llm.batch_positions import ModelPositions
from speechllm_recipes.speech_llm.config import (
    SpeechDatasetSection,
    SpeechLlmEvaluateConfig,
    SpeechLlmGenerateConfig,
)
from speechllm_recipes.speech_llm.user_errors import report_user_error


def sharing_llm(gang: Gang, *, wanted: bool) -> AbstractContextManager[None]:
    """The processes of a gang share the layers of an LLM that is loaded in the context, where that is wanted."""
    alone = not wanted or gang.size == 1
    return sharing_layers(None if alone else DeviceMesh.from_group(gang.as_process_group(), gang.device.type))


def check_sharing(model: SpeechLlm, gang: Gang, *, wanted: bool) -> None:
    """
    :raises UserError: processes are to share the layers of an LLM that cannot be shared.
    """
    if not wanted or gang.size == 1:
        return
    if not model.llm.shares_layers or model.tuned:
        found = "parts that were trained" if model.tuned else "an encoder-decoder or a quantised LLM"
        raise UserError(f"shard_llm: found true with {found}, expected false, or a frozen decoder-only LLM")
    log.info("LLM: {} processes share its layers.", gang.size)


def register_common(container: DependencyContainer) -> None:
    """Registers the reports of our errors and the names of our metrics."""
    for kls in (UserError, ClipError, AudioError):
        register_cli_error(container, kls, report_user_error)
    for descriptor in (
        MetricDescriptor("divergence", "Divergence from the LLM given the text", 101, format_as_float),
        MetricDescriptor("other_audio_loss", "NLL Loss with another clip's audio", 101, format_as_float),
        *(MetricDescriptor(f"{key}_loss", name, 101, format_as_float) for key, name in _adapter_losses().items()),
        MetricDescriptor("ctc_infeasible", "CTC rows that cannot be aligned", 102, format_as_int),
        MetricDescriptor("chrf2", "chrF2", 200, format_as_float, higher_better=True),
        MetricDescriptor("bleu_mean", "BLEU, mean of directions", 201, format_as_float, higher_better=True),
        MetricDescriptor("chrf2_mean", "chrF2, mean of directions", 201, format_as_float, higher_better=True),
        MetricDescriptor("answer_exact", "Answers that match exactly (%)", 201, format_as_float, higher_better=True),
        MetricDescriptor("answer_f1", "Token F1 of answers (%)", 201, format_as_float, higher_better=True),
        *(MetricDescriptor(f"nll_loss_{task}", f"NLL Loss of {task}", 101, format_as_float) for task in task_names()),
        *(MetricDescriptor(f"num_examples_{task}", f"Clips to {task}", 811, format_as_int) for task in task_names()),
        MetricDescriptor("words_in_silence", "Words per minute of silence", 202, format_as_float),
        MetricDescriptor("rtf", "Real-time factor of decoding", 210, format_as_float),
        MetricDescriptor("audio_seconds", "Audio (s)", 825, format_as_int),
        MetricDescriptor("skipped_clips", "Clips left out", 826, format_as_int),
    ):
        container.collection.register_instance(MetricDescriptor, descriptor)


def _adapter_losses() -> dict[str, str]:
    """Names of the adapters' own losses by key."""
    builders = (ADAPTERS.get(name).build for name in ADAPTERS.names())
    return {key: name for build in builders for key, name in getattr(build, "loss_names", {}).items()}


def feature_cache(
    section: SpeechDatasetSection, encoder: SpeechEncoder, kls: type[FeatureCache] = FeatureCache
) -> FeatureCache | None:
    if section.feature_cache is None:
        return None
    if encoder.tuned:
        raise UserError(tuned_features(section))
    cache = kls(
        Path(section.feature_cache),
        encoder.fingerprint(),
        encoder.feature_dtype,
        max_bytes=None if section.feature_cache_gb is None else 1e9 * section.feature_cache_gb,
    )
    cache.describe(encoder.identity())
    return cache


def tuned_features(section: SpeechDatasetSection) -> str:
    """The error line about a cache for an encoder that is trained."""
    return (
        f"dataset.feature_cache: found {section.feature_cache!r}, expected null: the encoder is trained "
        "(encoder_tuning), so that its features change from step to step"
    )


def length_policy(section: SpeechDatasetSection) -> LengthPolicy:
    return LengthPolicy(
        min_seconds=section.min_seconds, max_seconds=section.max_seconds, too_long=section.too_long
    )


def sampled(utterances: Utterances, name: str, sample: int | None) -> Utterances:
    """
    :param name: name of the split.
    :param sample: number of clips drawn at random, the same each time; None takes all.
    """
    if sample is None or sample >= len(utterances):
        return utterances
    drawn = random.Random(f"{name}:{sample}").sample(range(len(utterances)), sample)
    return utterances.take(np.sort(drawn))


def decoding_of(config: SpeechLlmEvaluateConfig | SpeechLlmGenerateConfig) -> DecodingConfig:
    """The decoding of the training run's validation with the changes of `config.decoding`, which is also logged.

    :raises UserError: a key is unknown, or a value is of another type or outside its range.
    """
    checkpoint = named_checkpoint(config.common.assets.prev_checkpoint_dir, config.model.name)
    run = DecodingConfig() if checkpoint is None else checkpoint.decoding()
    if checkpoint is not None:
        log.info("Checkpoint: {}.", describe_choice(checkpoint))
    decoding = run.changed(config.decoding)
    check_level(decoding, config.dataset)
    log.info("Decoding {}.", decoding.described(run))
    return decoding


def check_level(decoding: DecodingConfig, section: SpeechDatasetSection) -> None:
    """:raises UserError: the guard against silence needs the sound, which cached features replace."""
    if decoding.no_speech_level is not None and section.feature_cache is not None:
        raise UserError(
            f"decoding.no_speech_level: found {decoding.no_speech_level} with dataset.feature_cache, expected null, or "
            "no cache: a cached clip is not read, so its level is not known"
        )


def check_references(
    split: str, prompts: PromptRenderer, reader: SpeechTextReader, decoding: DecodingConfig
) -> float:
    """Logs, and returns, the share of the split's references that are longer than a hypothesis may be."""
    return report_limit(split, reference_lengths(prompts, reader.clips), decoding)


def arithmetic(
    section: SpeechDatasetSection, evaluator: EvaluatorSection, device: Device, **parts: Module | None
) -> dict[str, object]:
    """Device, batch sizes and dtypes, for score files: results depend on them.

    :param parts: each is reported with the dtype of most of its weights.
    """
    dtypes = {name: None if part is None else dtype_name(part) for name, part in parts.items()}
    return {
        "device": device.type,
        "batch_size": section.batch_size,
        "max_batch_seconds": section.max_batch_seconds,
        "dtypes": dtypes,
        "autocast": str(evaluator.amp_dtype).removeprefix("torch.") if evaluator.amp else None,
    }


def dtype_name(part: Module) -> str:
    """The dtype of most of a part's weights: `bfloat16`."""
    sizes: Counter[str] = Counter()
    for weight in part.parameters():
        sizes[str(weight.dtype).removeprefix("torch.")] += weight.numel()
    return max(sizes, key=lambda name: sizes[name], default="none")


class TrainingReading(TypedDict, total=False):
    """How training reads its clips: fields of `ReadOptions`, which have their defaults in evaluation."""

    shuffle_seed: int
    num_accumulate: int
    batching: Batching
    augmentation: AugmentationConfig
    mixture: MixtureConfig
    accept_new_rows: bool


def create_reader(
    context: RecipeContext,
    section: SpeechDatasetSection,
    model: SpeechLlm,
    splits: Sequence[str],
    *,
    require_text: bool = True,
    sample: int | None = None,
    max_positions: int | None = None,
    **training: Unpack[TrainingReading],
) -> SpeechTextReader:
    """A reader of this process's share of splits, whose rows' languages the prompt can name.

    :raises UserError: a row is wrong, or the longest clip has no room in the LLM.
    """
    utterances = context.get_dataset_as(SpeechTextDataset).read_together(splits, require_text=require_text)
    prompt = model.config.prompt
    check_languages(utterances, lambda row: prompt.named_in(*row.asked, row.row.asks), language_name)
    reader = open_reader(
        context,
        section,
        splits,
        max_seconds=model.encoder.max_seconds,
        languages=model.encoder.languages,
        find_features=model.features.find,
        require_text=require_text,
        sample=sample,
        max_positions=max_positions,
        positions=None if max_positions is None else ModelPositions(model),
        prompt=prompt,
        **training,
    )
    if (longest := reader.longest()) is not None:
        longest.to(context.gangs.root.device)
        check_room_of_batch(model, longest)
    return reader


def joint_name(splits: Sequence[str]) -> str:
    """What the log calls splits that are read together."""
    return " + ".join(splits)


def read_manifests(
    context: RecipeContext, section: SpeechDatasetSection, splits: Sequence[str], *, require_text: bool = True
) -> Callable[[Outline], None]:
    """Reads manifests before a model of gigabytes is loaded; each split is parsed once.

    :returns: a check of the rows, to be called once the model is known.
    :raises UserError: a manifest is missing, or a row is wrong.
    """
    rows = context.get_dataset_as(SpeechTextDataset).read_together(splits, require_text=require_text)

    def check(outline: Outline) -> None:
        windows = (section.max_seconds, outline.encoder.max_seconds)
        check_room_of_rows(outline, rows, longest=min((value for value in windows if value is not None), default=None))

    return check


def warn_of_languages(split: str, utterances: Utterances, known: Collection[str] | None) -> None:
    if known is None:
        return
    others: Counter[str] = Counter()
    for (language, _, _), count in utterances.counts.items():
        if language_code(language) not in known:
            others[language] += count
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
    splits: Sequence[str],
    *,
    max_seconds: float | None,
    languages: Collection[str] | None = None,
    find_features: Callable[[str], Tensor | None] = lambda key: None,
    require_text: bool = True,
    sample: int | None = None,
    max_positions: int | None = None,
    positions: PositionCounter | None = None,
    prompt: PromptConfig,
    **training: Unpack[TrainingReading],
) -> SpeechTextReader:
    """`create_reader` for models other than `SpeechLlm`.

    :param max_seconds: length of the longest allowed clip; None allows any.
    :param languages: codes of the languages that clips may have; None allows any.
    :param find_features: see `SpeechTextReader`.
    :param sample: see `sampled`.
    :param prompt: decides the task of a clip.
    """
    name = joint_name(splits)
    rows = context.get_dataset_as(SpeechTextDataset).read_together(splits, require_text=require_text)
    utterances = sampled(rows, name, sample)
    warn_of_languages(name, utterances, languages)
    options = ReadOptions(
        limits=BatchLimits(section.batch_size, section.max_batch_seconds, max_positions),
        positions=positions,
        max_seconds=max_seconds,
        lengths=length_policy(section),
        on_error=section.on_error,
        num_threads=section.num_threads,
        prefetch=section.prefetch,
        pinned=context.device.type == "cuda",
        task_of=prompt.task_of,
        **training,
    )
    gang = context.gangs.dp
    reader = SpeechTextReader(
        utterances, options, rank=gang.rank, world_size=gang.size, find_features=find_features
    )
    directions: Counter[str] = Counter()
    for (source, target, _), count in utterances.counts.items():
        directions[direction_of(source, target)] += count
    log.info(
        "Split {}: {:,} clips, {:.2f} h, {:,} steps, {:.0%} padding; {} left out; languages: {}.",
        name, reader.num_clips, reader.hours, reader.num_steps, reader.padding, len(reader.skipped),
        ", ".join(f"{direction} {count:,}" for direction, count in directions.most_common()),
    )
    if len(splits) > 1:
        log.info("Mixture by {}, clips an epoch: {}.", options.mixture.by, _mixture(reader))
    return reader


def _mixture(reader: SpeechTextReader) -> str:
    total = sum(quota for _, quota in reader.shares.values())
    return ", ".join(
        f"{split} {quota:,} of {size:,} ({quota / total:.1%}, each {quota / size:.2f} times)"
        for split, (size, quota) in reader.shares.items()
    )
