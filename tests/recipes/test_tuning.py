"""A run that trains parts of the encoder and of the LLM: told, resumed, divided and loaded like any other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import Commands, System, metrics

CHANGES: dict[str, Any] = {
    "model__config_overrides__encoder_tuning": {"unfreeze": ["encoder.layers.1.*"]},
    "model__config_overrides__llm_tuning": {"lora_rank": 2, "lora_targets": ["*.[qv]_proj"]},
    # The LLM's updates wait for the end of the steps on CTC alone.
    "model__config_overrides__ctc__align_steps": 2,
}


@pytest.fixture(scope="module")
def accumulated(commands: Commands, system: System, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One process that puts the batches of two processes together, and what it wrote."""
    folder = tmp_path_factory.mktemp("tuned")
    file = _write(system, folder, trainer__grad_accumulation__num_batches=2)
    result = commands.recipe("train", folder / "run", "--config-file", file).ok()
    return folder / "run", result.output


def test_the_log_counts_what_is_trained(accumulated: tuple[Path, str]) -> None:
    (line,) = re.findall(r"Parameters: (.*)", accumulated[1])
    # Updates: rank 2 x (inputs + outputs) of the queries and the values in each of two layers.
    updates = 2 * 2 * ((32 + 32) + (32 + 16)) / 1e6
    assert re.fullmatch(
        rf"0\.\d+ M trained \(adapter 0\.\d+ M, CTC head 0\.000 M, encoder 0\.009 M, llm {updates:.3f} M\), "
        r"0\.1 M frozen\.",
        line,
    ), line


def test_a_checkpoint_holds_what_is_trained(accumulated: tuple[Path, str]) -> None:
    from speechllm_plugin import load_speech_llm

    (file,) = (accumulated[0] / "checkpoints/step_6/model").rglob("*.pt")
    assert file.stat().st_size < 200_000
    saved = torch.load(file, weights_only=True)
    assert {name.split(".")[0] for name in saved} == {"adapter", "ctc", "tuned"}
    model = load_speech_llm(accumulated[0], 6, device="cpu").model
    for part, own in (("encoder", model.encoder), ("llm", model.llm)):
        names = [name.removeprefix(f"tuned.{part}.") for name in saved if name.startswith(f"tuned.{part}.")]
        assert len(names) == (15 if part == "encoder" else 8)
        for name in names:
            assert torch.equal(own.get_parameter(name), saved[f"tuned.{part}.{name}"])
            # An update starts from zero.
            assert "lora_B" not in name or own.get_parameter(name).any()


def test_a_killed_run_goes_on_to_the_same_numbers(
    commands: Commands, system: System, accumulated: tuple[Path, str], tmp_path: Path
) -> None:
    file, run = _write(system, tmp_path, trainer__grad_accumulation__num_batches=2), tmp_path / "run"
    killed = commands.recipe(
        "train", run, "--config-file", file, kill_when=(run / "metrics/train.jsonl", '"Step": 5,')
    )
    assert killed.status == -9
    result = commands.recipe("train", run, "--config-file", file).ok()
    assert "Resuming from step 4" in result.output
    assert metrics(run, "train")[-1] == metrics(accumulated[0], "train")[-1]
    assert metrics(run, "valid/dev")[-1] == metrics(accumulated[0], "valid/dev")[-1]


def test_two_processes_give_the_same_numbers(
    commands: Commands, system: System, accumulated: tuple[Path, str], tmp_path: Path
) -> None:
    commands.recipe("train", tmp_path / "run", "--config-file", _write(system, tmp_path), processes=2).ok()
    lines = metrics(tmp_path / "run", "train")
    assert len(lines) == 6
    for found, expected in zip(lines, metrics(accumulated[0], "train"), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


def test_shards_of_what_is_tuned_are_refused(commands: Commands, system: System, tmp_path: Path) -> None:
    file = _write(system, tmp_path, trainer__data_parallelism="fsdp")
    result = commands.recipe("train", tmp_path / "run", "--config-file", file, processes=2)
    assert result.status == 2
    line = "trainer.data_parallelism: found 'fsdp' with encoder_tuning and llm_tuning, expected 'ddp'"
    assert set(result.errors()) == {line}


def test_features_of_a_tuned_encoder_are_not_cached(commands: Commands, system: System, tmp_path: Path) -> None:
    file = _write(system, tmp_path, dataset__feature_cache=str(tmp_path / "features"))
    line = commands.recipe("train", tmp_path / "run", "--config-file", file).user_error()
    assert line == (
        f"dataset.feature_cache: found '{tmp_path / 'features'}', expected null: the encoder is trained "
        "(encoder_tuning), so that its features change from step to step"
    )


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        ({"unfreeze": ["*.layers.7.*"]}, "llm_tuning.unfreeze: '*.layers.7.*' matches no weight"),
        ({"lora_rank": -1}, "model.config_overrides.llm_tuning.lora_rank: found -1, expected at least 0"),
        ({"lora_rnk": 1}, "lora_rnk"),
    ],
)
def test_a_wrong_tuning_is_one_line(
    commands: Commands, system: System, tmp_path: Path, tuning: dict[str, Any], words: str
) -> None:
    file = _write(system, tmp_path, model__config_overrides__llm_tuning=tuning)
    result = commands.recipe("train", tmp_path / "run", "--config-file", file)
    assert result.status == 2 and "Traceback" not in result.output
    assert words in result.output


def _write(system: System, folder: Path, **changes: Any) -> Path:
    return system.write(folder / "config.yaml", **{**CHANGES, **changes})
