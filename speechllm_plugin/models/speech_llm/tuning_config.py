"""The configuration of tuning a pretrained part. Imports no torch, so that a wrong value is reported at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec

from speechllm_plugin.configuration.checked import Checked
from speechllm_plugin.errors import UserError


@dataclass(kw_only=True)
class TuningConfig(Checked):
    """Which weights of a pretrained part are trained beside the adapter, by default none. The part's dropout stays
    off."""

    lora_rank: int = 0
    """Rank of the low-rank updates that are trained beside linear layers (LoRA, arXiv 2106.09685), in float32. 0 = no
    updates. Needs peft."""
    lora_alpha: float = 32.0
    """Scale of the updates, by `lora_alpha / lora_rank`."""
    lora_dropout: float = 0.0
    """Dropout before each update, in training."""
    lora_targets: list[str] | None = None
    """Name patterns (`*`, `?`, `[qv]`) of the linear layers that get an update, such as `*.[qv]_proj`. None = the
    projections of the attention, whose names are known for each family; filled in."""
    unfreeze: list[str] = field(default_factory=list)
    """Name patterns of weights to train, such as `encoder.layers.31.*` or `*layer_norm*`. The part's `dtype` must be
    float32: in bfloat16 an update below 1/256 of a weight is lost."""

    def problems(self) -> Iterator[str]:
        if self.lora_rank < 0:
            yield f"lora_rank: found {self.lora_rank}, expected at least 0"
        if not 0 < self.lora_alpha < math.inf:
            yield f"lora_alpha: found {self.lora_alpha}, expected above 0 and finite"
        if not 0 <= self.lora_dropout < 1:
            yield f"lora_dropout: found {self.lora_dropout}, expected at least 0 and below 1"

    def check_installed(self, key: str) -> None:
        """
        :param key: the configuration key that holds this one.
        :raises UserError: a package is missing.
        """
        if self.lora_rank > 0 and find_spec("peft") is None:
            raise UserError(
                f"{key}.lora_rank: found {self.lora_rank}, which needs peft, which is not installed: pip install peft"
            )
