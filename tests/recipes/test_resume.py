"""A run that is killed and resumed is the run that was never killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.commands import Commands, System, metrics

STEPS = 24
KILLED_AFTER = (3, 11, 18)


def test_a_run_that_is_killed_three_times_equals_the_uninterrupted_one(
    commands: Commands, system: System, tmp_path: Path
) -> None:
    # Dropout, so that the state of the random numbers counts; six epochs, so that the order of the clips does; a
    # feature cache that the kill leaves half full, with clips of steps that are made again; and the change from CTC
    # alone to the LLM between two kills.
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    commands.recipe("train", whole, *_config(system, tmp_path, "whole")).ok()
    for step in KILLED_AFTER:
        result = commands.recipe(
            "train", killed, *_config(system, tmp_path, "killed"),
            kill_when=(killed / "metrics/train.jsonl", f'"Step": {step},'),
        )
        assert result.status == -9
        assert "Task finished" not in result.output
    result = commands.recipe("train", killed, *_config(system, tmp_path, "killed")).ok()
    assert "Resuming from step" in result.output
    for name, steps in (("train", range(1, STEPS + 1)), ("valid/dev", range(2, STEPS + 1, 2))):
        expected, found = metrics(whole, name), metrics(killed, name)
        assert [line["Step"] for line in expected] == list(steps)
        # Steps between a checkpoint and the kill stand there twice: made twice, and twice the same.
        assert found == [_of_step(expected, line["Step"]) for line in found]
        # fairseq2 validates a step after its checkpoint: a kill in between loses that validation, and nothing else.
        lost = set(steps) - {line["Step"] for line in found}
        assert lost <= ({step - step % 2 for step in KILLED_AFTER} if name == "valid/dev" else set())


def _config(system: System, folder: Path, name: str) -> list[object]:
    file = system.write(
        folder / f"{name}.yaml",
        model__arch="whisper_tiny_en.smollm2_135m.base",
        model__config_overrides__adapter={
            "config": {"num_layers": 1, "dim": 32, "num_heads": 2, "ffn_dim": 64, "dropout": 0.2}
        },
        model__config_overrides__ctc={"weight": 0.3, "classifier": "llm_embedding", "align_steps": 6},
        dataset__feature_cache=str(folder / f"{name}_features"),
        regime__num_steps=STEPS,
    )
    return ["--config-file", file]


def _of_step(lines: list[dict[str, Any]], step: int) -> dict[str, Any]:
    return next(line for line in lines if line["Step"] == step)
