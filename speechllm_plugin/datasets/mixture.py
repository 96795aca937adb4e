"""How often the clips of several splits are seen in training."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal

import numpy as np
from typing_extensions import override

from speechllm_plugin.configuration.checked import Checked
from speechllm_plugin.datasets.order import shuffled
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.columns.fields import Places


@dataclass(kw_only=True)
class MixtureConfig(Checked):
    by: Literal["size", "temperature", "weights"] = "size"
    """Which share of the training clips comes from each split of `dataset.train_split`. `size`: each clip is seen once
    an epoch, so that a split counts by its number of clips, as in SLM (arXiv 2310.00230). `temperature`: a split of n
    clips has a share in proportion to `n ** (1 / temperature)` (arXiv 1907.05019): small splits are seen more often.
    `weights`: as `weights` says. An epoch has as many clips as the splits together, and within a split all clips are
    seen equally often."""
    temperature: float = 2.0
    """For `by=temperature`: 1 is the same as `size`; higher values bring the shares nearer to each other."""
    weights: dict[str, float] = field(default_factory=dict)
    """For `by=weights`: a weight for each split, which need not add up to 1: `{asr: 2, st: 1}`."""

    @override
    def problems(self) -> Iterator[str]:
        if not (isfinite(self.temperature) and self.temperature > 0):
            yield f"temperature: found {self.temperature}, expected a number above 0"
        for split, weight in self.weights.items():
            if not (isfinite(weight) and weight > 0):
                yield f"weights.{split}: found {weight}, expected a number above 0"
        if self.weights and self.by != "weights":
            yield f"by: found {self.by!r} beside weights, expected 'weights'"

    def check_splits(self, splits: Sequence[str]) -> None:
        """
        :param splits: the splits that are trained on.
        :raises UserError: the weights are not those of the splits.
        """
        if self.by == "weights" and set(self.weights) != set(splits):
            raise UserError(
                f"dataset.mixture.weights: found {', '.join(self.weights) or 'none'}, expected one for each split of "
                f"dataset.train_split: {', '.join(splits)}"
            )

    def quotas(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """
        :param sizes: number of clips of each split.
        :returns: how many clips of each split an epoch sees.
        :raises UserError: an epoch would see no clip of a split.
        """
        if self.by == "size":
            return dict(sizes)
        parts = {
            split: self.weights[split] if self.by == "weights" else size ** (1 / self.temperature)
            for split, size in sizes.items()
        }
        quotas = _rounded(parts, sum(sizes.values()))
        for split, quota in quotas.items():
            if quota == 0:
                share = parts[split] / sum(parts.values())
                raise UserError(
                    f"dataset.mixture: split {split!r} has a share of {share:.2g} and none of the "
                    f"{sum(sizes.values()):,} clips of an epoch, expected a larger share"
                )
        return quotas


@dataclass(frozen=True)
class Draws:
    """The clips of an epoch, before they are shuffled."""

    indices: Places
    """Places in the list of all clips; a clip that is seen twice has its place here twice."""
    turns: Places
    """How often each clip has been seen before."""


def draw_epoch(splits: Mapping[str, Places], quotas: Mapping[str, int], seed: int, epoch: int) -> Draws:
    """Each split is read again and again, in a new order each time; an epoch takes the next `quotas` of its clips.

    The clips of an epoch follow from its number: resuming needs no state.

    :param splits: places of the clips of each split in the list of all clips.
    """
    indices, turns = [], []
    for split, own in splits.items():
        places = np.arange(epoch * quotas[split], (epoch + 1) * quotas[split])
        numbers = places % len(own)
        turns.append(places // len(own))
        for turn in np.unique(turns[-1]).tolist():
            order = shuffled(random.Random(f"{seed}:{split}:{turn}"), len(own))
            indices.append(own[order[numbers[turns[-1] == turn]]])
    return Draws(np.concatenate(indices), np.concatenate(turns))


def _rounded(parts: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers in these proportions that add up to the total: the largest remainders are rounded up."""
    exact = {name: total * part / sum(parts.values()) for name, part in parts.items()}
    whole = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: whole[name] - exact[name])
    for name in by_remainder[: total - sum(whole.values())]:
        whole[name] += 1
    return whole
