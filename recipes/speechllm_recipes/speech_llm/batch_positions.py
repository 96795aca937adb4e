"""How many positions of the LLM a clip takes in training, for batches that are limited by them."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import cache

from speechllm_plugin.cost.estimate import CostModel, stacked
from speechllm_plugin.cost.skeleton import SkeletonBuilder
from speechllm_plugin.datasets.earlier import earlier_seconds
from speechllm_plugin.datasets.utterances import Utterance
from speechllm_plugin.models.speech_llm.model import SpeechLlm

_STEP = 0.1
"""Seconds to which a clip is rounded up: the encoder's shapes are computed once for each length."""


class ModelPositions:
    """Positions of a clip's prompt, of its target, and of as many vectors as the adapter can make of it."""

    def __init__(self, model: SpeechLlm) -> None:
        config = deepcopy(model.config)
        config.ctc.bos = False  # no tokenizer is loaded
        self._model, self._skeleton, self._costs = model, SkeletonBuilder().build(config), CostModel()
        self._frames = cache(self._count_frames)

    def of_texts(self, clip: Utterance) -> tuple[int, int]:
        task = self._model.config.prompt.task_of(*clip.asked)
        prompts = self._model.prompts
        prompt = prompts.render(clip.source_lang, clip.target_lang, task, clip.row.asks, clip.row.id)
        heard = sum(self._vectors(seconds) for seconds in earlier_seconds(clip))
        return prompt.num_tokens + heard, len(prompts.encode_target(clip.row.tgt_text))

    def __call__(self, words: int, target: int, seconds: float) -> int:
        return words + target + self._vectors(seconds, target)

    def _vectors(self, seconds: float, target: int = 0) -> int:
        frames = self._frames(math.ceil(seconds / _STEP))
        return self._costs.most_vectors(self._skeleton, frames, target)

    def _count_frames(self, steps: int) -> int:
        return stacked(self._skeleton, self._costs.frames(self._skeleton, steps * _STEP))
