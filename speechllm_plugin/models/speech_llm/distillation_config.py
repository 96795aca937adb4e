"""The share of distillation, as a configuration. Imports no torch: a wrong value is told at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from typing_extensions import override

from speechllm_plugin.configuration.checked import Checked


@dataclass(kw_only=True)
class DistillationConfig(Checked):
    weight: float = 0.0
    """Share of the LLM's loss that is the divergence of its next-token distributions, given the speech, from those
    that it has given the transcript in the same prompt, at the tokens of the target. 0 = cross entropy alone, as
    published; 1 = the divergence alone. It costs a forward pass of the LLM. Clips without a transcript have their cross
    entropy alone, if `ctc.no_transcript` is `leave_out`."""
    temperature: float = 1.0
    """That the logits of both are divided by; the divergence is multiplied by its square, which keeps its gradients in
    proportion (arXiv 1503.02531)."""

    @override
    def problems(self) -> Iterator[str]:
        if not 0 <= self.weight <= 1:
            yield f"weight: found {self.weight}, expected 0 to 1"
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            yield f"temperature: found {self.temperature}, expected a number above 0"
