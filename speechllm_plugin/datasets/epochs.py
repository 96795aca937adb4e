"""The plan of each epoch of a run: which clips it draws, and which of them share a batch and a step."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from speechllm_plugin.datasets.changes import Changes
from speechllm_plugin.datasets.mixture import Draws, draw_epoch
from speechllm_plugin.datasets.plan import EarlierSound, Sizes, evaluation_steps, padding, training_steps
from speechllm_plugin.datasets.same_rows import row_digests
from speechllm_plugin.datasets.steps import Steps
from speechllm_plugin.datasets.utterances import Clips
from speechllm_plugin.files.columns.fields import Places
from speechllm_plugin.log import log

if TYPE_CHECKING:
    from speechllm_plugin.datasets.reader import ReadOptions


class Epochs:
    def __init__(
        self,
        clips: Clips,
        earlier: EarlierSound | None,
        changes: Changes | None,
        options: ReadOptions,
        batches_per_step: int,
    ) -> None:
        """
        :param earlier: what was said before each clip; None = nothing before any.
        :param changes: what augmentation does to the clips.
        :param batches_per_step: of all processes together.
        """
        self._clips = clips
        self._earlier = earlier
        self._changes = changes
        self._options = options
        self._batches_per_step = batches_per_step
        self._quotas = options.mixture.quotas({split: len(own) for split, own in self._by_split.items()})
        self.draws = Draws(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
        """The clips of the planned epoch."""
        self.steps = Steps()
        """The batches of the planned epoch, as places among its draws."""

    def plan(self, epoch: int) -> None:
        options = self._options
        if options.shuffle_seed is None:
            self.draws = self._all_once(epoch)
            self.steps = evaluation_steps(self._sizes(), options.limits, self._batches_per_step)
            return
        if options.mixture.by == "size":
            self.draws = self._all_once(epoch)
        else:
            self.draws = draw_epoch(self._by_split, self._quotas, options.shuffle_seed, epoch)
        self.steps, repeated = training_steps(
            self._sizes(), options.limits, self._batches_per_step, options.shuffle_seed, epoch, options.batching
        )
        if repeated and epoch == 0:
            log.info("{} batch(es) are seen twice an epoch to fill its last step.", repeated)

    @property
    def padding(self) -> float:
        """The share of the planned epoch's audio that is padding."""
        return padding(self.steps, self._sizes())

    @property
    def shares(self) -> dict[str, tuple[int, int]]:
        """Split -> how many clips it has, and how many of them are in an epoch."""
        return {split: (len(own), self._quotas[split]) for split, own in self._by_split.items()}

    @property
    def seconds(self) -> float:
        """The audio of all clips, without augmentation."""
        return float(sum(memoryview(self._clips.seconds)))  # type: ignore[arg-type]

    def fingerprint(self) -> dict[str, object]:
        """What the plans of all epochs follow from: a run is resumed only where it is the same."""
        limits, augmentation, mixture = self._options.limits, self._options.augmentation, self._options.mixture
        earlier = 0.0 if self._earlier is None else float(self._earlier.seconds.sum())
        return {
            "clips": len(self._clips),
            "seconds": round(self.seconds + earlier, 1),
            "batch_size": limits.batch_size,
            "max_batch_seconds": limits.max_seconds,
            "seed": self._options.shuffle_seed,
            "batches_per_step": self._batches_per_step,
            # What earlier versions did has no key, so that their checkpoints are resumed.
            **({"batching": self._options.batching} if self._options.batching != "bucketed_steps" else {}),
            **({"augmentation": augmentation.named()} if augmentation.named() else {}),
            **({"max_batch_positions": limits.max_positions} if limits.max_positions is not None else {}),
            **({"mixture": asdict(mixture)} if mixture.by != "size" else {}),
            "rows": self._row_digests,
        }

    def _all_once(self, epoch: int) -> Draws:
        return Draws(np.arange(len(self._clips)), np.full(len(self._clips), epoch))

    def _sizes(self) -> Sizes:
        """Sizes of the planned epoch's draws."""
        draws, count = self.draws, self._options.positions
        seconds = self._clips.seconds[draws.indices] if self._changes is None else self._changes.seconds(draws)
        earlier = None if self._earlier is None else self._earlier.take(draws.indices)
        if count is None:
            return Sizes(seconds, earlier=earlier)
        prompts, targets = self._text_positions[:, draws.indices]
        return Sizes(seconds, count(prompts, targets, seconds), earlier)

    @cached_property
    def _text_positions(self) -> Places:
        """Positions that the prompt and the target of each clip take, `[2, clips]`."""
        count = self._options.positions
        assert count is not None
        return count.of_texts(self._clips.utterances)

    @cached_property
    def _by_split(self) -> dict[str, Places]:
        return self._clips.utterances.by_split

    @cached_property
    def _row_digests(self) -> dict[str, str]:
        of_splits = self._options.mixture.by != "size"
        return row_digests(self._clips.utterances, self._clips.seconds, of_splits=of_splits)
