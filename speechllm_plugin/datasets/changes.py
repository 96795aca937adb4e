"""The augmentation of each clip of a run, and the clip's length after it."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from speechllm_plugin.datasets.augmentation import Augmentation, AugmentationConfig, draw
from speechllm_plugin.datasets.feature_masks import FeatureMasks
from speechllm_plugin.datasets.measured import Seconds
from speechllm_plugin.datasets.mixture import Draws
from speechllm_plugin.datasets.speed import draw_speeds
from speechllm_plugin.datasets.utterances import Utterance, Utterances
from speechllm_plugin.files.columns.fields import Hashes

_MARGIN = 0.01
"""Seconds: durations of a manifest are up to a frame of 10 ms too short."""


class Changes:
    def __init__(
        self, config: AugmentationConfig, longest: float | None, utterances: Utterances, seconds: Seconds
    ) -> None:
        """
        :param longest: the longest clip that the encoder takes, in seconds; None = any.
        :param seconds: lengths of the utterances without augmentation.
        """
        self._config, self._longest = config, longest
        self._utterances, self._seconds = utterances, seconds

    def of(self, utterance: Utterance, index: int, turn: int) -> Augmentation | None:
        """
        :param index: place of the utterance among all.
        :param turn: how often it has been seen before.
        """
        if not self._config.changes_length:
            return None
        (speed,) = self._speeds(Draws(np.array([index]), np.array([turn]))).tolist()
        return self._draw(utterance, index, turn, speed)

    def masks(self, identity: str, turn: int) -> FeatureMasks | None:
        return self._config.masks(identity, turn)

    def seconds(self, draws: Draws) -> Seconds:
        """Lengths of the drawn clips with their changes."""
        speeds = self._speeds(draws)
        seconds = self._seconds[draws.indices] / speeds
        if self._config.probability > 0:
            pairs = zip(draws.indices.tolist(), draws.turns.tolist(), speeds.tolist(), strict=True)
            for place, (index, turn, speed) in enumerate(pairs):
                if (changes := self._draw(self._utterances[index], index, turn, speed)) is not None:
                    seconds[place] += changes.added_seconds
        return seconds

    def _draw(self, utterance: Utterance, index: int, turn: int, speed: float) -> Augmentation | None:
        room = float("inf") if self._longest is None else self._longest - float(self._seconds[index]) / speed
        key = f"{self._config.seed}:{utterance.row.id}:{turn % self._config.variants}"
        return draw(self._config, key, room - _MARGIN, speed)

    def _speeds(self, draws: Draws) -> Seconds:
        if not self._config.speed:
            return np.ones(len(draws.indices))
        speeds = draw_speeds(
            self._config.speed, self._config.seed, self._ids[draws.indices], draws.turns % self._config.variants
        )
        if self._longest is None:
            return speeds
        return np.where(self._seconds[draws.indices] / speeds + _MARGIN > self._longest, 1.0, speeds)

    @cached_property
    def _ids(self) -> Hashes:
        return self._utterances.ids
