"""A run that is resumed with other settings follows them from the step it has reached; another run starts from it."""

from __future__ import annotations

import shutil
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import Commands, System, metrics

WARM_UP, RATE = 2, 0.01


@pytest.fixture(scope="module")
def first(commands: Commands, system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps."""
    folder = tmp_path_factory.mktemp("first")
    commands.recipe("train", folder / "run", "--config-file", write(system, folder)).ok()
    return folder / "run"


def write(system: System, folder: Path, **changes: Any) -> Path:
    quick = {"dataset__valid_decode": False, "regime__score_metric": None}
    return system.write(folder / "config.yaml", **{**quick, **changes})


def rates(run: Path) -> dict[int, float]:
    return {line["Step"]: line["Learning Rate"] for line in metrics(run, "train")}


def cosine(step: int, steps: int, rate: float = RATE) -> float:
    """That of the `step`-th step, which is made after one less."""
    return rate * (1 + cos(pi * (step - 1 - WARM_UP) / (steps - WARM_UP))) / 2


def resume(commands: Commands, first: Path, folder: Path, *overrides: str) -> tuple[Path, str]:
    run = folder / "run"
    shutil.copytree(first, run)
    result = commands.recipe("train", run, "--config-file", first.parent / "config.yaml", "--config", *overrides).ok()
    return run, result.output


def test_more_steps_follow_the_longer_schedule(commands: Commands, first: Path, tmp_path: Path) -> None:
    run, output = resume(commands, first, tmp_path, "regime.num_steps=10")
    assert rates(run) == pytest.approx(
        {step: rates(first)[step] for step in range(1, 7)} | {step: cosine(step, 10) for step in range(7, 11)}
    )
    assert "cycle_len of the schedule = 8, as configured; it was 4" in output


def test_another_rate_counts_from_the_step_reached(commands: Commands, first: Path, tmp_path: Path) -> None:
    changes = ("regime.num_steps=8", "optimizer.config.lr=0.0001", "optimizer.config.weight_decay=0.2")
    run, output = resume(commands, first, tmp_path, *changes)
    assert [rates(run)[step] for step in (7, 8)] == pytest.approx([cosine(step, 8, 1e-4) for step in (7, 8)])
    assert "base_lrs of the schedule = [0.0001], as configured; it was [0.01]" in output
    assert "weight_decay = 0.2, as configured; it was 0.01" in output
    (file,) = (run / "checkpoints/step_8/optimizer").rglob("*.pt")
    state = torch.load(file, weights_only=False)
    assert state["param_groups"][0]["weight_decay"] == 0.2
    # Its moments are those of all eight steps.
    assert {int(moments["step"]) for moments in state["state"].values()} == {8}


def test_another_schedule_counts_from_the_step_reached(commands: Commands, first: Path, tmp_path: Path) -> None:
    changes = ("regime.num_steps=8", "lr_scheduler.name=noam", "set:lr_scheduler.config={num_warmup_steps: 2}")
    run, _ = resume(commands, first, tmp_path, *changes)
    assert [rates(run)[step] for step in (7, 8)] == pytest.approx([RATE * (step - 1) ** -0.5 for step in (7, 8)])


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["regime.num_steps=4"], "regime.num_steps: found 4, expected at least 6, the step that "),
        (["optimizer.name=adafactor", "set:optimizer.config={}"], "optimizer.name: found another optimizer than "),
        (["optimizer.config.groups=[{params: ctc.*}]"], "optimizer.config.groups: found groups of "),
    ],
    ids=["fewer steps", "another optimizer", "other groups"],
)
def test_what_cannot_be_followed_is_refused(
    commands: Commands, first: Path, tmp_path: Path, overrides: list[str], line: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(first, run)
    config = first.parent / "config.yaml"
    more = [] if "num_steps" in overrides[0] else ["regime.num_steps=8"]
    result = commands.recipe("train", run, "--config-file", config, "--config", *overrides, *more)
    assert result.user_error().startswith(line)


def test_a_new_run_starts_from_the_model_of_another(
    commands: Commands, system: System, first: Path, tmp_path: Path
) -> None:
    # With steps too small to be seen the model stays the other run's.
    file = write(system, tmp_path, optimizer__config__lr=1e-12, regime__num_steps=4)
    run = tmp_path / "run"
    output = commands.recipe("train", run, "--config-file", file, "--init-from", first, "--step", "last").ok().output
    assert [line["Step"] for line in metrics(run, "train")] == [1, 2, 3, 4]
    assert rates(run)[3] == pytest.approx(1e-12)
    found, expected = (weights(folder) for folder in (run / "checkpoints/step_4", first / "checkpoints/step_6"))
    for name, weight in expected.items():
        assert torch.allclose(found[name].float(), weight.float(), atol=1e-9), name
    assert f"The model is that of step 6 of {first}" in output
    # Resumed by the same command, it goes on with its own model.
    result = commands.recipe(
        "train", run, "--config-file", file, "--init-from", first, "--config", "regime.num_steps=6"
    ).ok()
    assert "Resuming from step 4" in result.output


def test_an_architecture_beside_a_model_to_start_from_is_refused(
    commands: Commands, first: Path, tmp_path: Path
) -> None:
    argv = ("--init-from", first, "--config", "model.arch=whisper_tiny_en.smollm2_135m.cif")
    line = commands.recipe("train", tmp_path / "run", *argv).user_error()
    assert line.startswith("model.arch: found 'whisper_tiny_en.smollm2_135m.cif' with --init-from, expected none")
    assert "--step: found '3' without --init-from" in commands.recipe("train", tmp_path, "--step", "3").user_error()


def weights(step: Path) -> dict[str, torch.Tensor]:
    (file,) = (step / "model").rglob("*.pt")
    state: dict[str, torch.Tensor] = torch.load(file, weights_only=True)
    return state
