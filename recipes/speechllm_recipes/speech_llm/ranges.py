"""Ranges of the numbers in fairseq2's sections, which fairseq2 does not check: a learning rate of -1 would end in a
stack trace, one of NaN in a broken model. Imports neither torch nor fairseq2."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping


class Between:
    """A range of numbers. NaN is in no range."""

    def __init__(self, least: float, most: float = math.inf, *, above: bool = False, below: bool = False) -> None:
        """
        :param above: `least` itself is not in the range.
        :param below: `most` itself is not in the range.
        """
        self._least, self._most, self._above, self._below = least, most, above, below

    def __contains__(self, value: float) -> bool:
        if not -math.inf < value < math.inf:
            return False
        over = value > self._least if self._above else value >= self._least
        under = value < self._most if self._below else value <= self._most
        return over and under

    def __str__(self) -> str:
        if self._least == self._most:
            return f"{self._least:g}"
        ends = []
        if self._least > -math.inf:
            ends.append(f"{'above' if self._above else 'at least'} {self._least:g}")
        ends.append("finite" if self._most == math.inf else f"{'below' if self._below else 'at most'} {self._most:g}")
        return " and ".join(ends)


_POSITIVE, _NOT_NEGATIVE, _COUNT = Between(0, above=True), Between(0), Between(1)
_SHARE = Between(0, 1, below=True)

_RATES = {
    "lr": _POSITIVE, "betas[]": _SHARE, "eps": _NOT_NEGATIVE, "eps[]": _NOT_NEGATIVE, "weight_decay": _NOT_NEGATIVE,
    "beta2_decay": Between(-math.inf, 0), "d": _COUNT,
}
_EACH_STEP = ("validate", "checkpoint", "publish_metrics")

RULES: Mapping[str, Between] = {
    **{f"optimizer.config.{key}": rule for key, rule in _RATES.items()},
    **{f"optimizer.config.groups[].{key}": rule for key, rule in _RATES.items()},
    **{f"lr_scheduler.config.{key}{item}": _NOT_NEGATIVE
       for key in ("start_lr", "final_lr", "start_lr_scale", "final_lr_scale") for item in ("", "[]")},
    "lr_scheduler.config.cycle_len": _COUNT,
    "lr_scheduler.config.cycle_mul": _COUNT,
    "lr_scheduler.config.lr_mul": _POSITIVE,
    "lr_scheduler.config.num_warmup_steps": _NOT_NEGATIVE,
    "lr_scheduler.config.power": _POSITIVE,
    "lr_scheduler.config.stage_ratio[]": Between(0, 1),
    **{f"regime.{key}": _COUNT
       for key in ("num_steps", "num_data_epochs", "keep_last_n_checkpoints", "keep_best_n_checkpoints",
                   "keep_checkpoint_every_n_steps")},
    **{f"regime.{key}_every_n_{unit}": _COUNT for key in _EACH_STEP for unit in ("steps", "data_epochs")},
    **{f"regime.{key}_after_n_{unit}": _NOT_NEGATIVE for key in _EACH_STEP for unit in ("steps", "data_epochs")},
    "trainer.max_grad_norm": _POSITIVE,
    "trainer.fp16_loss_scale[]": _POSITIVE,
    "trainer.gc_every_n_steps": _COUNT,
    "trainer.grad_accumulation.num_batches": _COUNT,
    "trainer.activation_checkpointing.every_nth_layer": _COUNT,
    # Tensor parallelism is not possible, because each process holds the complete frozen parts.
    "gang.tensor_parallel_size": Between(1, 1),
    "gang.timeout": _COUNT,
    "common.seed": Between(0, 2**63 - 1),
    "common.torch.num_threads": _COUNT,
    "common.torch.compiled_region_activation_memory_budget": Between(0, 1),
    **{f"common.profilers.torch.{key}": _NOT_NEGATIVE for key in ("skip_n_steps", "wait_n_steps", "num_warmup_steps")},
    **{f"common.profilers.torch.{key}": _COUNT for key in ("num_active_steps", "repeat")},
    "dataset.max_batch_seconds": _POSITIVE,
    "dataset.max_seconds": _POSITIVE,
    "dataset.valid_clips": _COUNT,
    "dataset.min_seconds": _NOT_NEGATIVE,
}
"""Range of the numbers under each key; `[]` stands for each item of a list, and null is not checked."""


def range_of(key: str) -> Between | None:
    """:param key: key of a number, such as `optimizer.config.betas[1]`."""
    return RULES.get(re.sub(r"\[\d+\]", "[]", key))
