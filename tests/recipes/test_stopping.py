"""What ends a run before its time: a scheduler's signal, a full disk, a kill in the middle of an evaluation."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fairseq2.gang import FakeGang
from fairseq2.task import TaskStopException
from speechllm_recipes.speech_llm.task import Stop

from speechllm_plugin.files.tsv import read_table
from tests.commands import Commands, System, metrics
from tests.stand_in_device import DEVICE, stand_in


def test_sigterm_saves_and_the_same_command_goes_on(commands: Commands, system: System, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # No checkpoint is due before the end.
    file = system.write(
        tmp_path / "config.yaml", dataset__valid_decode=False, regime__score_metric=None, regime__num_steps=40,
        regime__validate_every_n_steps=40, regime__checkpoint_every_n_steps=40,
    )
    stopped = commands.recipe(
        "train", run, "--config-file", file, kill_when=(run / "metrics/train.jsonl", '"Step": 3,'),
        kill_by=signal.SIGTERM,
    )
    assert stopped.status == -signal.SIGTERM, stopped.output
    assert "Traceback" not in stopped.output
    last = metrics(run, "train")[-1]["Step"]
    assert 3 <= last < 40
    assert f"Stopped by a signal after step {last}; its checkpoint is saved" in stopped.output
    assert [folder.name for folder in (run / "checkpoints").glob("step_*")] == [f"step_{last}"]
    result = commands.recipe("train", run, "--config-file", file).ok()
    assert f"Resuming from step {last}" in result.output
    assert [line["Step"] for line in metrics(run, "train")] == list(range(1, 41))


def test_processes_stop_together(commands: Commands, system: System, tmp_path: Path) -> None:
    """Only one of them gets the signal."""
    run = tmp_path / "run"
    file = system.write(
        tmp_path / "config.yaml", dataset__valid_splits=[], regime__num_steps=40, regime__checkpoint_every_n_steps=40
    )
    stopped = commands.recipe(
        "train", run, "--config-file", file, processes=2, kill_when=(run / "metrics/train.jsonl", '"Step": 3,'),
        kill_by=signal.SIGTERM, killed=1,
    )
    assert stopped.status == -signal.SIGTERM, stopped.output
    (step,) = (run / "checkpoints").glob("step_*")
    assert 3 <= int(step.name.removeprefix("step_")) < 40
    assert len(list((step / "trainer").glob("rank_*.pt"))) == 2


def test_asking_the_other_processes_waits_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_in(monkeypatch) as device:
        stop = Stop(FakeGang(DEVICE, size=2))
        trainer: Any = SimpleNamespace(step_nr=0, _maybe_complete_checkpoint_save_operation=lambda: None)
        stop.trainer = trainer
        stop.before_step()
        stop.request()
        stop.before_step()  # reads what was told before it was requested
        with pytest.raises(TaskStopException):
            stop.before_step()
        assert (device.reads, device.waiting_copies) == ([], [])


@pytest.mark.parametrize("killed", [True, False])
def test_an_evaluation_goes_on_from_its_hypotheses(
    commands: Commands, system: System, trained: Path, tmp_path: Path, killed: bool
) -> None:
    output = tmp_path / "evaluation"
    argv = (
        "--checkpoint", trained, "--step", "last", "--config", "dataset.batch_size=1", "decoding.extra_tokens=3",
        f"dataset.config_overrides.manifests.test={system.corpus / 'test.tsv'}",
    )
    kept = output / "test/decoded.rank_0.jsonl"
    if killed:
        result = commands.recipe("evaluate", output, *argv, kill_when=(kept, '"texts"'))
        assert result.status == -9 and not (output / "test/hypotheses.tsv").exists()
        # A line that shows what is read from here.
        header, *lines = kept.read_text().splitlines()
        entry = json.loads(lines[0])
        entry["texts"] = ["kept"]
        kept.write_text("\n".join([header, json.dumps(entry), *lines[1:], '{"rows": [5], "tex']) + "\n")
    result = commands.recipe("evaluate", output, *argv).ok()
    assert ("clips have been decoded before" in result.output) == killed
    rows = {row.fields["id"]: row.fields["hypothesis"] for row in read_table(
        output / "test/hypotheses.tsv", required=("id", "hypothesis"))}
    assert len(rows) == 6 and list(rows.values()).count("kept") == int(killed)
    assert not kept.exists()
    scores = json.loads((output / "test/scores.json").read_text())["scores"]
    assert scores["rtf"] > 0 and scores["nll_loss"] > 0


def test_hypotheses_of_other_settings_are_dropped(
    commands: Commands, system: System, trained: Path, tmp_path: Path
) -> None:
    output = tmp_path / "generated"
    manifest = f"dataset.config_overrides.manifests.test={system.corpus / 'test.tsv'}"
    argv = ("--checkpoint", trained, "--step", "last", "--config", manifest, "dataset.batch_size=1")
    kept = output / "decoded.rank_0.jsonl"
    assert commands.recipe("generate", output, *argv, kill_when=(kept, '"texts"')).status == -9
    result = commands.recipe("generate", output, *argv, "decoding.extra_tokens=2").ok()
    assert "hypotheses of another system, of other data or settings" in result.output
    assert not kept.exists()
