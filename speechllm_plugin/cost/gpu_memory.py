"""Whether a training step has room on a GPU, and what gives it room."""

from __future__ import annotations

from dataclasses import dataclass

from speechllm_plugin.cost.estimate import Cost

USABLE = 0.9
"""Share of a GPU's memory that the estimate may fill. The rest is left for what it does not count."""


@dataclass(frozen=True)
class Room:
    """All in bytes."""

    memory: int
    """The GPU's."""
    plain: int
    recomputed: int
    """With activation checkpointing."""
    batch_size: int
    fits: int
    """The most clips that fit with activation checkpointing, `batch_size` at most; 0 = not even one."""

    @property
    def recompute(self) -> bool:
        """Whether activation checkpointing is needed."""
        return self.plain > USABLE * self.memory

    @property
    def is_enough(self) -> bool:
        return self.fits == self.batch_size

    def describe(self, accumulate: int = 1) -> str:
        """
        :param accumulate: batches of a step.
        """
        share = f"{USABLE:.0%} of its {_gb(self.memory)}"
        plain = f"{self.batch_size} clips take {_gb(self.plain)}"
        if not self.recompute:
            return f"{plain}, within {share}: without activation checkpointing"
        both = f"{plain}, with activation checkpointing {_gb(self.recomputed)}"
        if self.is_enough:
            return f"{both}, within {share}: with activation checkpointing"
        if not self.fits:
            return f"{both}, and not even one clip is within {share}: a smaller or a quantised LLM may be"
        total = self.batch_size * accumulate
        size = next(size for size in range(self.fits, 0, -1) if total % size == 0)
        return (
            f"{both}, more than {share}: {self.fits} would fit; dataset.batch_size={size} "
            f"trainer.grad_accumulation.num_batches={total // size} makes the same step"
        )


def room_for(cost: Cost, batch_size: int, memory: int) -> Room:
    def fits(size: int) -> bool:
        return cost.gpu_bytes(size, recompute=True) <= USABLE * memory

    most = next((size for size in range(batch_size, 0, -1) if fits(size)), 0)
    recomputed = cost.gpu_bytes(batch_size, recompute=True)
    return Room(memory, cost.gpu_bytes(batch_size), recomputed, batch_size, most)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
