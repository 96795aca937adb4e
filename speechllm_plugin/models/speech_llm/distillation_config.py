"""The configuration of distillation. Imports no torch, so that a wrong value is reported at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from typing_extensions import override

from speechllm_plugin.configuration.checked import Checked
from speechllm_plugin.tasks.api import task_names


@dataclass(kw_only=True)
class DistillationConfig(Checked):
    weight: float = 0.0
    """Share of the divergence in the LLM's loss: at the tokens of the target, its next-token distributions given the
    speech are compared with those given the transcript in the same prompt. 0 = cross entropy alone, as published; 1 =
    the divergence alone. It costs a forward pass of the LLM. With `ctc.no_transcript=leave_out`, clips without a
    transcript have only their cross entropy."""
    temperature: float = 1.0
    """Divides the logits of both distributions. The divergence is multiplied by its square, which keeps its gradients
    in proportion (arXiv 1503.02531)."""

    tasks: list[str] | None = None
    """Names of the tasks whose clips have this teacher, for instance `[answer]`: a small LLM that is shown a transcript
    beside a list of phrases may not repeat it. None = all tasks."""

    def teaches(self, task: str) -> bool:
        """Whether clips of a task have the teacher."""
        return self.weight > 0 and (self.tasks is None or task in self.tasks)

    @override
    def problems(self) -> Iterator[str]:
        if not 0 <= self.weight <= 1:
            yield f"weight: found {self.weight}, expected 0 to 1"
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            yield f"temperature: found {self.temperature}, expected a number above 0"
        unknown = [task for task in self.tasks or () if task not in task_names()]
        if unknown or self.tasks == []:
            found = ", ".join(unknown) or "none"
            yield f"tasks: found {found}, expected null or some of {', '.join(task_names())}"
