"""Numbers of LLM positions that clips take in training, for batches with a limit on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from copy import deepcopy
from functools import cache
from itertools import islice

import numpy as np

from speechllm_plugin.cost.estimate import CostModel, stacked
from speechllm_plugin.cost.skeleton import SkeletonBuilder
from speechllm_plugin.datasets.earlier import earlier_seconds
from speechllm_plugin.datasets.measured import Seconds
from speechllm_plugin.datasets.utterances import Utterance
from speechllm_plugin.files.columns.fields import Places
from speechllm_plugin.models.speech_llm.model import SpeechLlm

_STEP = 0.1
"""Lengths are rounded up to a multiple of this many seconds; the encoder's shapes are computed once per length."""
_TOGETHER = 4096
"""Number of texts that are tokenised together."""


class ModelPositions:
    """Counts the positions of a clip's prompt, its target and the most vectors that the adapter can make of it."""

    def __init__(self, model: SpeechLlm) -> None:
        config = deepcopy(model.config)
        config.ctc.bos = False  # no tokenizer is loaded
        self._model, self._skeleton, self._costs = model, SkeletonBuilder().build(config), CostModel()
        self._most_vectors = cache(self._count_vectors)

    def of_texts(self, clips: Iterable[Utterance]) -> Places:
        every = iter(clips)
        blocks = [np.empty((2, 0), dtype=np.int64)]
        while block := list(islice(every, _TOGETHER)):
            targets = self._model.prompts.encode_targets([clip.row.tgt_text for clip in block])
            blocks.append(np.array([list(self._of_prompts(block)), list(map(len, targets))], dtype=np.int64))
        return np.concatenate(blocks, axis=1)

    def __call__(self, prompts: Places, targets: Places, seconds: Seconds) -> Places:
        steps, of_clips = np.unique(np.ceil(seconds / _STEP), return_inverse=True)
        if self._skeleton.adapter.vector_per_token:
            frames = np.array([self._count_frames(int(number)) for number in steps], dtype=np.int64)
            vectors = np.minimum(targets, frames[of_clips])
        else:
            vectors = np.array([self._most_vectors(int(number)) for number in steps], dtype=np.int64)[of_clips]
        return prompts + targets + vectors

    def _of_prompts(self, clips: Iterable[Utterance]) -> Iterator[int]:
        for clip in clips:
            task = self._model.config.prompt.task_of(*clip.asked)
            prompt = self._model.prompts.render(
                clip.source_lang, clip.target_lang, task, clip.row.asks, clip.row.id
            )
            heard = sum(self._most_vectors(math.ceil(seconds / _STEP)) for seconds in earlier_seconds(clip))
            yield prompt.num_tokens + heard

    def _count_vectors(self, steps: int) -> int:
        """The most vectors of an adapter whose output length does not depend on the target."""
        return self._costs.most_vectors(self._skeleton, self._count_frames(steps), 0)

    def _count_frames(self, steps: int) -> int:
        return stacked(self._skeleton, self._costs.frames(self._skeleton, steps * _STEP))
