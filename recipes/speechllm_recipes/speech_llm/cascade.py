"""`fairseq2 recipe run speech_llm cascade OUTPUT_DIR`."""

from __future__ import annotations

from typing import Any

from fairseq2.evaluator import Evaluator
from fairseq2.logging import log
from fairseq2.recipe.base import Recipe, RecipeContext
from fairseq2.runtime.dependency import DependencyContainer, wire_object
from fairseq2.task import Task
from typing_extensions import override

from speechllm_plugin.cascade.model import Cascade
from speechllm_plugin.cascade.recognizers.api import RECOGNIZERS
from speechllm_plugin.datasets.row_checks import check_languages
from speechllm_plugin.datasets.speech_text import SpeechTextDataset
from speechllm_plugin.datasets.utterances import Utterances
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.columns.fields import Places
from speechllm_plugin.llms.api import LLMS
from speechllm_plugin.llms.limits import reference_lengths, report_limit
from speechllm_plugin.models.speech_llm.archs import check_part_arch
from speechllm_plugin.prompts import PromptConfig
from speechllm_plugin.scoring.normalizers import get_normalizer
from speechllm_plugin.scoring.provenance import provenance as collect_provenance
from speechllm_plugin.tensors.parameters import count_parameters
from speechllm_plugin.tensors.precision import MachinePrecision, describe_decoding
from speechllm_plugin.text.languages import language_name
from speechllm_plugin.units.cascade_hypotheses import CascadeDecoder, CascadeEvalUnit
from speechllm_plugin.units.kept import KeptHypotheses
from speechllm_recipes.speech_llm.auto_precision import shared_precision
from speechllm_recipes.speech_llm.common import arithmetic, open_reader, register_common
from speechllm_recipes.speech_llm.config import CascadeConfig
from speechllm_recipes.speech_llm.task import DecodingTask


class CascadeRecipe(Recipe):
    @property
    @override
    def config_kls(self) -> type[object]:
        return CascadeConfig

    @override
    def register(self, container: DependencyContainer) -> None:
        register_common(container)

    @override
    def create_task(self, context: RecipeContext) -> Task:
        config = context.get_config_as(CascadeConfig)
        if config.dataset.feature_cache is not None:
            raise UserError(
                f"dataset.feature_cache: found {config.dataset.feature_cache!r}, expected null: a cascade keeps no "
                "features"
            )
        get_normalizer(config.wer_normalizer)  # reports a missing package before anything is loaded
        machine = shared_precision(context)
        cascade = _create(context, config, machine)
        units, readers, kept = [], [], []
        for split in config.dataset.splits:
            reader = open_reader(
                context, config.dataset, [split], max_seconds=cascade.recognizer.max_seconds, prompt=config.prompt
            )
            beyond = 0.0
            if cascade.prompts is not None:
                clips = reader.clips.take(_answered(reader.clips.utterances, config.prompt))
                beyond = report_limit(split, reference_lengths(cascade.prompts, clips), config.decoding)
            provenance = _provenance(context, config, cascade, split)
            kept.append(KeptHypotheses(context.output_dir / split, context.gangs.dp.rank, provenance()))
            units.append(
                CascadeEvalUnit(
                    split,
                    CascadeDecoder(cascade, config.decoding, kept[-1]),
                    reader,
                    context.gangs.dp,
                    context.output_dir / split,
                    normalizer=config.wer_normalizer,
                    beyond_limit=beyond,
                    provenance=provenance,
                )
            )
            readers.append(reader)
        # `context.create_evaluator` does the same, but needs a model of a registered family.
        evaluator = wire_object(
            context.resolver,
            Evaluator,
            model=cascade,
            units=units,
            data_readers=readers,
            amp=config.evaluator.amp,
            amp_dtype=config.evaluator.amp_dtype,
            seed=config.common.seed + 3,
        )
        return DecodingTask(evaluator, kept, context.gangs.root, context.output_dir)


def _answered(rows: Utterances, prompt: PromptConfig) -> Places:
    """Indices of the clips whose text the LLM writes."""
    return rows.where(lambda asked: not prompt.task_of(*asked).writes_speech)


def _create(context: RecipeContext, config: CascadeConfig, machine: MachinePrecision) -> Cascade:
    # Done before anything is loaded, so that a wrong key costs no time; the score file then names every default.
    config.recognizer.config = RECOGNIZERS.config(config.recognizer.name, config.recognizer.config)
    config.llm.config = LLMS.config(config.llm.name, config.llm.config)
    parts: dict[str, Any] = {"recognizer": config.recognizer.config, "llm": config.llm.config}
    for part in parts.values():
        if getattr(part, "dtype", None) == "auto":
            part.dtype = machine.auto
    if config.recognizer.arch is not None:
        raise UserError(
            f"recognizer.arch: found {config.recognizer.arch!r}, expected null; recognizer.config.path names the model"
        )
    if config.llm.arch is not None:
        check_part_arch("llm", config.llm.arch, config.llm.name, config.llm.config)
    dataset = context.get_dataset_as(SpeechTextDataset)
    config.prompt.check()
    rows = dataset.read_together(config.dataset.splits)
    answered = rows.take(_answered(rows, config.prompt))
    check_languages(answered, lambda row: config.prompt.named_in(*row.asked, row.row.asks), language_name)
    with context.device:
        recognizer = RECOGNIZERS.get(config.recognizer.name).build(config.recognizer.config)
        llm = LLMS.get(config.llm.name).build(config.llm.config) if answered else None
    check_languages(rows, lambda row: {"source": row.source_lang}, recognizer.code)
    log.info(
        "Cascade: a recogniser of {:.1f} M parameters, {}.",
        count_parameters(recognizer) / 1e6,
        "and no LLM, since all clips are to be transcribed" if llm is None
        else f"and an LLM of {count_parameters(llm) / 1e6:.1f} M for {len(answered):,} clips",
    )
    used = {name: part.dtype for name, part in parts.items() if hasattr(part, "dtype")}
    log.info("{}", describe_decoding(used, None, machine))
    return Cascade(recognizer, llm, config.prompt)


def _provenance(context: RecipeContext, config: CascadeConfig, cascade: Cascade, split: str) -> Any:
    manifests = context.get_dataset_as(SpeechTextDataset).manifest_files(split)

    def collect() -> dict[str, Any]:
        collected = collect_provenance(config, None, manifests)
        llm = None if cascade.llm is None else cascade.llm.identity()
        return {
            **collected,
            "clean_text": context.get_dataset_as(SpeechTextDataset).config.clean_text,
            "recognizer": cascade.recognizer.identity(),
            "llm": llm,
            "arithmetic": arithmetic(
                config.dataset, config.evaluator, context.device, recognizer=cascade.recognizer, llm=cascade.llm
            ),
        }

    return collect
