"""Lets a resumed run follow the optimiser and the schedule of its configuration from the step that it has reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairseq2.logging import log
from fairseq2.optim.lr_schedulers import LRScheduler
from torch import Tensor
from torch.optim import Optimizer

from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.checkpoint_files import step_numbers

_PROGRESS = ("last_epoch", "_step_count", "_last_lr", "_is_initial", "_get_lr_called_within_step")
"""The part of a schedule's state that counts steps; the rest is configuration."""


def check_steps(output_dir: Path, num_steps: int | None) -> None:
    """
    :raises UserError: the run has already made more steps.
    """
    steps = step_numbers(output_dir / "checkpoints")
    if steps and num_steps is not None and num_steps < steps[-1]:
        raise UserError(
            f"regime.num_steps: found {num_steps}, expected at least {steps[-1]}, the step that {output_dir} has "
            "reached, or a new output directory"
        )


def follow_configuration(optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Restores only the optimiser's moments and the schedule's step from a checkpoint. fairseq2 would also restore
    rate, weight decay and length of the schedule, in the place of the configured ones.

    :param scheduler: schedule of `optimizer`; both are new. A checkpoint restores the schedule first.
    """
    asked_groups = [_settings(group) for group in optimizer.param_groups]
    asked_schedule = dict(vars(scheduler))

    def before_loading(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        saved = state["param_groups"]
        _check_groups(saved, optimizer.param_groups)
        for number, (before, asked) in enumerate(zip(saved, asked_groups, strict=True)):
            place = f" of parameter group {number}" if len(saved) > 1 else ""
            # A changed rate is reported with the schedule.
            _log_changes(before, {key: value for key, value in asked.items() if key not in ("lr", "initial_lr")}, place)
        groups = [
            {**asked, "params": before["params"]} for before, asked in zip(saved, asked_groups, strict=True)
        ]
        return {**state, "param_groups": groups}

    def after_loading(_: Optimizer) -> None:
        saved = dict(vars(scheduler))
        _log_changes(saved, asked_schedule, " of the schedule")
        vars(scheduler).clear()
        vars(scheduler).update(asked_schedule)
        scheduler.last_epoch, scheduler._step_count = saved["last_epoch"], saved["_step_count"]
        rates = scheduler._compute_lrs()  # type: ignore[attr-defined]  # `get_lr` warns outside a step
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler._last_lr = rates

    optimizer.register_load_state_dict_pre_hook(before_loading)
    optimizer.register_load_state_dict_post_hook(after_loading)


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _check_groups(saved: list[dict[str, Any]], groups: list[dict[str, Any]]) -> None:
    """
    :raises UserError: the moments belong to another optimiser or to other groups.
    """
    before, now = ([len(group["params"]) for group in which] for which in (saved, groups))
    if before != now:
        raise UserError(
            f"optimizer.config.groups: found groups of {now} parameters, expected those that the run was started "
            f"with, of {before}, to resume it; --init-from starts a new run from its model"
        )
    if set(_settings(saved[0])) != set(_settings(groups[0])):
        raise UserError(
            "optimizer.name: found another optimizer than the run was started with, expected the same to resume it; "
            "--init-from starts a new run from its model"
        )


def _log_changes(before: dict[str, Any], asked: dict[str, Any], place: str) -> None:
    for key, value in asked.items():
        if key in _PROGRESS or key not in before or isinstance(value, Tensor) or key == "optimizer":
            continue
        if before[key] != value:
            log.info("Resuming with {}{} = {}, as configured; it was {}.", key, place, value, before[key])
