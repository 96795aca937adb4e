"""How many positions of the LLM a clip takes in training, for batches that are limited by them."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import cache

from speechllm_plugin.cost.estimate import CostModel, stacked
from speechllm_plugin.cost.skeleton import SkeletonBuilder
from speechllm_plugin.datasets.speech_text import Utterance
from speechllm_plugin.models.speech_llm.model import SpeechLlm

_STEP = 0.1
"""Seconds to which a clip is rounded up: the encoder's shapes are computed once for each length."""


def position_counter(model: SpeechLlm) -> Callable[[Utterance, float], int]:
    """
    :returns: a function of a clip and its seconds: positions of its prompt, of its target, and of as many vectors as
        the adapter can make of it.
    """
    config = deepcopy(model.config)
    config.ctc.bos = False  # no tokenizer is loaded
    skeleton, costs = SkeletonBuilder().build(config), CostModel()
    texts: dict[tuple[str, str], tuple[int, int]] = {}

    @cache
    def frames(steps: int) -> int:
        return stacked(skeleton, costs.frames(skeleton, steps * _STEP))

    def count(clip: Utterance, seconds: float) -> int:
        key = (clip.split, clip.row.id)
        if key not in texts:
            task = model.config.prompt.task_of(*clip.asked)
            prompt = model.prompts.render(clip.source_lang, clip.target_lang, task, clip.row.asks, clip.row.id)
            target = len(model.prompts.encode_target(clip.row.tgt_text))
            texts[key] = (len(prompt.before) + len(prompt.after), target)
        words, target = texts[key]
        return words + target + costs.most_vectors(skeleton, frames(math.ceil(seconds / _STEP)), target)

    return count
