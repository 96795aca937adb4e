"""`fairseq2 recipe run speech_llm evaluate OUTPUT_DIR --checkpoint RUN_DIR`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fairseq2.logging import log
from fairseq2.recipe.base import Recipe, RecipeContext
from fairseq2.runtime.dependency import DependencyContainer
from fairseq2.task import Task
from typing_extensions import override

from speechllm_plugin.datasets.speech_text import SpeechTextDataset
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.scoring.normalizers import get_normalizer
from speechllm_plugin.scoring.provenance import provenance as collect_provenance
from speechllm_plugin.units.evaluation import SpeechLlmEvalUnit
from speechllm_plugin.units.hypotheses import Decoder
from speechllm_plugin.units.kept import KeptHypotheses
from speechllm_recipes.speech_llm.auto_precision import DecodingPrecision, settle_decoding
from speechllm_recipes.speech_llm.common import (
    arithmetic,
    check_references,
    check_sharing,
    create_reader,
    decoding_of,
    feature_cache,
    read_manifests,
    register_common,
    sharing_llm,
)
from speechllm_recipes.speech_llm.config import SpeechLlmEvaluateConfig
from speechllm_recipes.speech_llm.task import DecodingTask
from speechllm_recipes.speech_llm.user_errors import get_model


class SpeechLlmEvaluateRecipe(Recipe):
    @property
    @override
    def config_kls(self) -> type[object]:
        return SpeechLlmEvaluateConfig

    @override
    def register(self, container: DependencyContainer) -> None:
        register_common(container)

    @override
    def create_task(self, context: RecipeContext) -> Task:
        config = context.get_config_as(SpeechLlmEvaluateConfig)
        get_normalizer(config.wer_normalizer)  # reports a missing package before anything is decoded
        decoding = decoding_of(config)
        check = read_manifests(context, config.dataset, config.dataset.splits)
        precision = settle_decoding(context, config.model, config.common)
        with sharing_llm(context.gangs.dp, wanted=config.shard_llm):
            model = get_model(context, check)
        check_sharing(model, context.gangs.dp, wanted=config.shard_llm)
        log.info("{}", precision.describe(model.precision))
        if precision.checkpoint is not None:
            _warn_of_cleaning(precision.checkpoint.clean_text(), context)
        model.features.cache = feature_cache(config.dataset, model.encoder)
        units, readers, kept = [], [], []
        for split in config.dataset.splits:
            reader = create_reader(context, config.dataset, model, [split])
            beyond = check_references(split, model.prompts, reader, decoding)
            provenance = self._provenance(context, replace(config, decoding=decoding), model, precision, split)
            kept.append(KeptHypotheses(context.output_dir / split, context.gangs.dp.rank, provenance()))
            units.append(
                SpeechLlmEvalUnit(
                    split,
                    model,
                    Decoder(model, decoding, kept[-1]),
                    reader,
                    context.gangs.dp,
                    context.output_dir / split,
                    normalizer=config.wer_normalizer,
                    beyond_limit=beyond,
                    provenance=provenance,
                )
            )
            readers.append(reader)
        evaluator = context.create_evaluator(units, readers)
        return DecodingTask(evaluator, kept, context.gangs.root, context.output_dir)

    @staticmethod
    def _provenance(
        context: RecipeContext,
        config: SpeechLlmEvaluateConfig,
        model: SpeechLlm,
        precision: DecodingPrecision,
        split: str,
    ) -> Any:
        manifests = context.get_dataset_as(SpeechTextDataset).manifest_files(split)
        checkpoint = None if precision.checkpoint is None else precision.checkpoint.model_dir

        def collect() -> dict[str, Any]:
            return {
                **collect_provenance(config, checkpoint, manifests),
                "clean_text": context.get_dataset_as(SpeechTextDataset).config.clean_text,
                "precision": precision.record(model.precision),
                "encoder": model.encoder.identity(),
                "llm": model.llm.identity(),
                "arithmetic": arithmetic(
                    config.dataset, config.evaluator, context.device,
                    encoder=model.encoder, llm=model.llm, adapter=model.adapter,
                ),
            }

        return collect


def _warn_of_cleaning(trained: str | None, context: RecipeContext) -> None:
    here = context.get_dataset_as(SpeechTextDataset).config.clean_text
    if trained not in (None, here):
        log.warning(
            "dataset.config_overrides.clean_text: found {}, but the run was trained with {}: what only one of them "
            "removes counts as errors.", here, trained,
        )
