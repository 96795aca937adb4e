"""`fairseq2 recipe run speech_llm generate OUTPUT_DIR --checkpoint RUN_DIR`."""

from __future__ import annotations

from dataclasses import replace

from fairseq2.logging import log
from fairseq2.recipe.base import Recipe, RecipeContext
from fairseq2.runtime.dependency import DependencyContainer
from fairseq2.task import Task
from typing_extensions import override

from speechllm_plugin.datasets.speech_text import SpeechTextDataset
from speechllm_plugin.scoring.provenance import provenance
from speechllm_plugin.units.evaluation import SpeechLlmGeneratorUnit
from speechllm_plugin.units.hypotheses import Decoder
from speechllm_plugin.units.kept import KeptHypotheses
from speechllm_recipes.speech_llm.auto_precision import settle_decoding
from speechllm_recipes.speech_llm.common import (
    check_references,
    check_sharing,
    create_reader,
    decoding_of,
    feature_cache,
    read_manifests,
    register_common,
    sharing_llm,
)
from speechllm_recipes.speech_llm.config import SpeechLlmGenerateConfig
from speechllm_recipes.speech_llm.task import DecodingTask
from speechllm_recipes.speech_llm.user_errors import get_model


class SpeechLlmGenerateRecipe(Recipe):
    @property
    @override
    def config_kls(self) -> type[object]:
        return SpeechLlmGenerateConfig

    @override
    def register(self, container: DependencyContainer) -> None:
        register_common(container)

    @override
    def create_task(self, context: RecipeContext) -> Task:
        config = context.get_config_as(SpeechLlmGenerateConfig)
        decoding = decoding_of(config)
        check = read_manifests(context, config.dataset, [config.dataset.split], require_text=False)
        precision = settle_decoding(context, config.model, config.common)
        with sharing_llm(context.gangs.dp, wanted=config.shard_llm):
            model = get_model(context, check)
        check_sharing(model, context.gangs.dp, wanted=config.shard_llm)
        log.info("{}", precision.describe(model.precision))
        model.features.cache = feature_cache(config.dataset, model.encoder)
        reader = create_reader(context, config.dataset, model, [config.dataset.split], require_text=False)
        check_references(config.dataset.split, model.prompts, reader, decoding)
        checkpoint = None if precision.checkpoint is None else precision.checkpoint.model_dir
        manifests = context.get_dataset_as(SpeechTextDataset).manifest_files(config.dataset.split)
        made_by = {
            **provenance(replace(config, decoding=decoding), checkpoint, manifests),
            "precision": precision.record(model.precision),
            "encoder": model.encoder.identity(),
            "llm": model.llm.identity(),
        }
        kept = KeptHypotheses(context.output_dir, context.gangs.dp.rank, made_by)
        unit = SpeechLlmGeneratorUnit(Decoder(model, decoding, kept), reader, context.gangs.dp, context.output_dir)
        generator = context.create_generator(unit, reader)
        return DecodingTask(generator, [kept], context.gangs.root, context.output_dir)
