"""Sweeps of small real systems: trained, evaluated, broken off and gone on with."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
import speechllm_recipes
from speechllm_recipes.sweep.cells import CellFolder
from speechllm_recipes.sweep.launch import submit
from speechllm_recipes.sweep.sweep_file import read_sweep

from speechllm_plugin.datasets.manifest import read_manifest, write_manifest
from speechllm_plugin.scoring.report import read_hypotheses
from tests.commands import Commands, System, environment, metrics
from tests.waiting import wait_until

MLP = {"model.config_overrides.adapter": {"name": "mlp", "config": {"stack": 2, "hidden_dim": 48}}}
BROKEN = {"model.config_overrides.adapter": {"name": "mlp", "config": {"stack": 0}}}
BOTH = {"broken": BROKEN, "mlp": MLP}
STEPS = 8


def write(folder: Path, system: System, adapters: dict[str, Any]) -> Path:
    base = system.config()
    del base["model"]["config_overrides"]["adapter"]
    base["dataset"]["valid_splits"] = []
    spoken = [replace(row, src_text=f"said: {row.id}", audio=str(system.corpus / row.audio))
              for row in read_manifest(system.corpus / "test.tsv")]  # fmt: skip
    write_manifest(folder / "test.tsv", spoken)
    base["dataset"]["config_overrides"]["manifests"] = system.manifests(test=folder / "test.tsv")
    base["regime"] = {"num_steps": STEPS, "checkpoint_every_n_steps": 4, "publish_metrics_every_n_steps": 1,
                      "score_metric": None, "keep_best_n_checkpoints": None}  # fmt: skip
    content = {"base": base, "axes": {"encoder": {"tiny": {}}, "adapter": adapters},
               "evaluate": {"dataset": {"batch_size": 3, "splits": ["test"]}}}  # fmt: skip
    file = folder / "sweep.yaml"
    file.write_text(json.dumps(content))
    return file


def is_free(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@pytest.fixture(scope="module")
def swept(commands: Commands, system: System, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The file, the directory, and what was printed. Begun with one cell and killed (-9) while that trains, then run
    with another before it that does not work."""
    folder = tmp_path_factory.mktemp("sweep")
    out, file = folder / "out", write(folder, system, BOTH)
    killed = commands.recipe(
        "sweep", out, "--config-file", file, "--only", "tiny.mlp",
        kill_when=(out / "tiny.mlp/metrics/train.jsonl", '"Step": 2,'),
    )
    assert killed.status == -signal.SIGKILL, killed.output
    # The cell's process is told to end; until then the cell is locked.
    with open(out / "tiny.mlp/.sweep.lock") as lock:
        wait_until(lambda: is_free(lock), "the cell of the killed sweep saves and ends")
    result = commands.recipe("sweep", out, "--config-file", file)
    assert result.status == 1, result.output
    return file, out, result.output


def test_a_killed_cell_is_a_whole_run_with_its_evaluation(
    commands: Commands, swept: tuple[Path, Path, str], tmp_path: Path
) -> None:
    """What its configurations give without a sweep, and without a kill."""
    cell = swept[1] / "tiny.mlp"
    commands.recipe("train", tmp_path / "run", "--config-file", cell / "sweep.train.yaml").ok()
    commands.recipe("evaluate", tmp_path / "evaluation", "--checkpoint", tmp_path / "run", "--step", "last",
                    "--config-file", cell / "sweep.evaluate.yaml").ok()  # fmt: skip
    assert [line["Step"] for line in metrics(cell, "train")] == list(range(1, STEPS + 1))
    assert metrics(cell, "train") == metrics(tmp_path / "run", "train")
    name = "evaluation/test/hypotheses.tsv"
    assert len(read_hypotheses(cell / name)) == 6
    assert (cell / name).read_text() == (tmp_path / name).read_text()
    assert (cell / "config.yaml").is_file()


def test_a_failed_cell_is_told_and_the_rest_goes_on(swept: tuple[Path, Path, str]) -> None:
    _, out, output = swept
    assert output.index("tiny.broken: failed") < output.index("tiny.mlp: finished in")
    assert "1 of 2 cells are finished" in output
    assert "failed: tiny.broken: train ended with status 2:" in output and "stack" in output
    assert not (out / "tiny.broken/evaluation").exists()


def test_what_is_finished_is_not_run_again(commands: Commands, swept: tuple[Path, Path, str]) -> None:
    file, out, _ = swept
    checkpoint = next((out / "tiny.mlp/checkpoints").glob(f"step_{STEPS}/**/*.pt"))
    before = checkpoint.stat().st_mtime_ns
    result = commands.recipe("sweep", out, "--config-file", file, "--only", "tiny.mlp").ok()
    assert "tiny.mlp: finished before" in result.output and "1 of 1 cells" in result.output
    assert checkpoint.stat().st_mtime_ns == before


def test_hypotheses_hold_what_was_said(swept: tuple[Path, Path, str]) -> None:
    rows = read_hypotheses(swept[1] / "tiny.mlp/evaluation/test/hypotheses.tsv")
    assert [row.transcript for row in rows] == [f"said: {row.id}" for row in rows]


def test_a_dry_run_tells_sizes_and_hours(commands: Commands, system: System, tmp_path: Path) -> None:
    wide = {"model.config_overrides.adapter": {"name": "mlp", "config": {"stack": 2, "hidden_dim": 96}}}
    dry = ("sweep", tmp_path / "out", "--dry-run", "--seconds", "2", "--config-file")
    result = commands.recipe(*dry, write(tmp_path, system, {"mlp": MLP, "wide": wide})).ok()
    head, row, other, total, *_ = result.stdout.splitlines()
    assert head.split()[:3] == ["cell", "trained", "M"] and row.split()[0] == "tiny.mlp"
    # Steps of 3 clips, one batch each.
    assert row.split()[3:5] == [str(STEPS), "3"] and total.startswith("2 cells, ")
    assert float(other.split()[1]) > float(row.split()[1])
    assert not (tmp_path / "out").exists()
    broken = commands.recipe(*dry, write(tmp_path, system, BOTH))
    assert broken.status == 2
    assert "error: tiny.broken: adapter.config.stack: found 0" in broken.stderr


@pytest.mark.parametrize("name", ["demo-adapters", "embedded"])
def test_the_sweeps_for_a_cpu_are_valid_as_they_stand(commands: Commands, tmp_path: Path, name: str) -> None:
    """Their steps, for instance, fit each other; sizes are told without the models."""
    file = Path(speechllm_recipes.__file__).parent / f"configs/sweeps/{name}.yaml"
    cell = "whisper_tiny_en.smollm2_135m.ctc_detached"
    result = commands.at(tmp_path).recipe("sweep", "out", "--dry-run", "--only", cell, "--config-file", file).ok()
    assert result.stdout.splitlines()[1].split()[:2] == [cell, "8.06"]


def test_slurm_is_given_an_array_with_a_job_for_each_cell(commands: Commands, system: System, tmp_path: Path) -> None:
    """SLURM's two commands are stood in for: what they are given is looked at."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", "exit 0"), ("sbatch", f'cp "$1" {tmp_path}/script; echo "Submitted batch job 12"')):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    file = write(tmp_path, system, BOTH)
    result = commands.recipe(
        "sweep", tmp_path / "out", "--config-file", file, "--launcher", "slurm", "--slurm", "slurm_partition=gpu",
        "timeout_min=90", env={"PATH": f"{programs}:{os.environ['PATH']}"},
    ).ok()  # fmt: skip
    assert "tiny.broken: job 12_0" in result.output and "tiny.mlp: job 12_1" in result.output
    script = (tmp_path / "script").read_text()
    assert "#SBATCH --array=0-1" in script and "#SBATCH --partition=gpu" in script and "#SBATCH --time=90" in script
    wrong = commands.recipe(
        "sweep", tmp_path / "out", "--config-file", file, "--launcher", "slurm", "--slurm", "slurm_partitions=gpu",
        env={"PATH": f"{programs}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert "--launcher slurm: " in wrong.user_error() and "slurm_partitions" in wrong.user_error()


def test_a_job_runs_its_cell(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By submitit's own executor for this machine, which runs what SLURM would."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    (cell,) = read_sweep(write(tmp_path, system, {"broken": BROKEN}))
    (job,) = submit([CellFolder(cell, tmp_path / "out")], 1, tmp_path / "jobs", {"timeout_min": 5}, cluster="local")
    assert "train ended with status 2" in str(job.result())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--only", "x"], "--only: found 'x', expected one of tiny.broken, tiny.mlp"),
        (["--processes", "2"], "--processes: found 2 with --launcher local, expected at least 1, and more than 1 with "
         "torchrun or slurm"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    commands: Commands, system: System, tmp_path: Path, options: list[str], error: str
) -> None:
    file = write(tmp_path, system, BOTH)
    assert commands.recipe("sweep", tmp_path / "out", "--config-file", file, *options).user_error() == error
