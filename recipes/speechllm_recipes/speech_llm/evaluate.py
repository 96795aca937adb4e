"""`fairseq2 recipe run speech_llm evaluate OUTPUT_DIR --checkpoint RUN_DIR`."""

from __future__ import annotations

from typing import Any

from fairseq2.recipe.base import Recipe, RecipeContext
from fairseq2.runtime.dependency import DependencyContainer
from fairseq2.task import Task
from typing_extensions import override

from speechllm_plugin.datasets.speech_text import SpeechTextDataset
from speechllm_plugin.models.speech_llm.checkpoint import step_directory
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.scoring.provenance import provenance as collect_provenance
from speechllm_plugin.tasks.decoding import Decoder
from speechllm_plugin.tasks.evaluation import SpeechLlmEvalUnit
from speechllm_plugin.tasks.kept import KeptHypotheses
from speechllm_recipes.speech_llm.common import create_reader, feature_cache, register_common
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
        model = get_model(context)
        model.feature_cache = feature_cache(config.dataset, model)
        units, readers, kept = [], [], []
        for split in config.dataset.splits:
            reader = create_reader(context, config.dataset, model, split)
            provenance = self._provenance(context, config, model, split)
            kept.append(KeptHypotheses(context.output_dir / split, context.gangs.dp.rank, provenance()))
            units.append(
                SpeechLlmEvalUnit(
                    split,
                    model,
                    Decoder(model, config.decoding, kept[-1]),
                    reader,
                    context.gangs.dp,
                    context.output_dir / split,
                    normalizer=config.wer_normalizer,
                    provenance=provenance,
                )
            )
            readers.append(reader)
        evaluator = context.create_evaluator(units, readers)
        return DecodingTask(evaluator, kept, context.gangs.root, context.output_dir)

    @staticmethod
    def _provenance(context: RecipeContext, config: SpeechLlmEvaluateConfig, model: SpeechLlm, split: str) -> Any:
        manifests = context.get_dataset_as(SpeechTextDataset).manifest_files(split)
        checkpoint = step_directory(config.common.assets.prev_checkpoint_dir, config.model.name)

        def collect() -> dict[str, Any]:
            collected = collect_provenance(config, checkpoint, manifests)
            return {**collected, "encoder": model.encoder.identity(), "llm": model.llm.identity()}

        return collect
