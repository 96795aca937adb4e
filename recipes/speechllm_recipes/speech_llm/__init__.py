"""The speech_llm recipe: train, evaluate, generate, cascade."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from speechllm_recipes.entry import Action, Driver, RecipeEntry
from speechllm_recipes.speech_llm.step_numbers import derived_steps

if TYPE_CHECKING:
    from fairseq2.recipe.base import Recipe


def _train() -> Recipe:
    from speechllm_recipes.speech_llm.train import SpeechLlmTrainRecipe

    return SpeechLlmTrainRecipe()


def _evaluate() -> Recipe:
    from speechllm_recipes.speech_llm.evaluate import SpeechLlmEvaluateRecipe

    return SpeechLlmEvaluateRecipe()


def _generate() -> Recipe:
    from speechllm_recipes.speech_llm.generate import SpeechLlmGenerateRecipe

    return SpeechLlmGenerateRecipe()


def _cascade() -> Recipe:
    from speechllm_recipes.speech_llm.cascade import CascadeRecipe

    return CascadeRecipe()


def _look(action: str) -> Callable[[Mapping[str, Any]], None]:
    def look(given: Mapping[str, Any]) -> None:
        getattr(import_module("speechllm_recipes.speech_llm.first_look"), f"look_at_{action}")(given)

    return look


RECIPE = RecipeEntry(
    "a frozen speech encoder and a frozen LLM, joined by a trained adapter",
    {
        "train": Action(
            "train an adapter; run again to resume",
            _train,
            takes_checkpoint=False,
            takes_init=True,
            derive=derived_steps,
            look=_look("train"),
        ),
        "evaluate": Action(
            "decode splits and score them: WER, BLEU, chrF",
            _evaluate,
            takes_checkpoint=True,
            last_of_published=True,
            look=_look("evaluate"),
        ),
        "generate": Action(
            "decode a split into a TSV, with or without references",
            _generate,
            takes_checkpoint=True,
            last_of_published=True,
            look=_look("generate"),
        ),
        "cascade": Action(
            "the baseline without training: a recogniser, then the LLM on its text; scored as by evaluate",
            _cascade,
            takes_checkpoint=False,
            look=_look("cascade"),
            model_keys="",
        ),
        "sweep": Driver("train and evaluate every combination of a grid; run again to go on",
                        "speechllm_recipes.sweep.command"),
    },
)
