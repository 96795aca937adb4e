"""Two processes do what one does with the same global batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from speechllm_plugin.scoring.report import read_hypotheses
from tests.commands import Commands, System, environment, metrics


@pytest.fixture(scope="module")
def accumulated(commands: Commands, system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process that puts the batches of two processes together."""
    folder = tmp_path_factory.mktemp("one_process")
    file = _config(system, folder, trainer__grad_accumulation__num_batches=2)
    commands.recipe("train", folder / "run", "--config-file", file).ok()
    return folder / "run"


@pytest.fixture(scope="module")
def two_processes(system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two_processes")
    command = ["recipe", "run", "speech_llm", "train", folder / "run", "--no-rich", "--config-file",
               _config(system, folder)]
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "speechllm_recipes", *map(str, command)],
        env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Running on 2 process(es)." in result.stderr
    return folder / "run"


@pytest.mark.parametrize("name", ["train", "valid/dev"])
def test_ddp_under_torchrun_equals_one_process(accumulated: Path, two_processes: Path, name: str) -> None:
    expected, found = metrics(accumulated, name), metrics(two_processes, name)
    if name != "train":
        for line in (*expected, *found):
            del line["Batch Size"]  # of a step: two processes validate two batches at a time
    assert len(expected) in (3, 6)
    assert found == expected


def test_fsdp2_equals_one_process(commands: Commands, system: System, accumulated: Path, tmp_path: Path) -> None:
    file = _config(system, tmp_path, trainer__data_parallelism="fsdp")
    result = commands.recipe("train", tmp_path / "run", "--config-file", file, processes=2).ok()
    assert "LLM: 2 processes share its layers." in result.output
    for name in ("train", "valid/dev"):
        for found, expected in zip(metrics(tmp_path / "run", name), metrics(accumulated, name), strict=True):
            del found["Batch Size"], expected["Batch Size"]
            # Shards add up the gradient's norm in another order.
            assert found == pytest.approx(expected, rel=1e-5)
    # Each process writes its shard, and one process puts them together.
    shards = list((tmp_path / "run/checkpoints/step_6/model").rglob("sdp_*.pt"))
    assert sorted(shard.name for shard in shards) == ["sdp_00.pt", "sdp_01.pt"]
    result = commands.speechllm("transcribe", "--checkpoint", tmp_path / "run", system.corpus / "test_0.wav").ok()
    assert len(result.stdout.splitlines()) == 1


def test_shared_layers_with_passes_that_not_all_processes_make(
    commands: Commands, system: System, tmp_path: Path
) -> None:
    # Only one clip of four has a teacher, and only one process meets the second prompt.
    lines = ["id\taudio\ttgt_text\tsrc_text\ttask\tinstruction"]
    tasks = ("transcribe", "answer", "answer", "answer")
    lines += [f"{file.stem}\t{file}\thello\thello\t{task}\tSay {'it' if place else 'all'}: <speech>"
              for place, (file, task) in enumerate(zip(sorted(system.corpus.glob("train_*.*")), tasks, strict=False))]
    rows = tmp_path / "rows.tsv"
    rows.write_text("\n".join(lines) + "\n")
    changes = {
        "dataset__config_overrides__manifests": system.manifests(train=rows, dev=rows),
        "dataset__batch_size": 1, "model__config_overrides__distillation": {"weight": 0.5, "tasks": ["transcribe"]},
        "trainer__activation_checkpointing__mode": "layerwise",
    }  # fmt: skip
    one = _config(system, tmp_path, trainer__grad_accumulation__num_batches=2, **changes)
    commands.recipe("train", tmp_path / "one", "--config-file", one).ok()
    two = _config(system, tmp_path, trainer__data_parallelism="fsdp", **changes)
    commands.recipe("train", tmp_path / "two", "--config-file", two, processes=2).ok()
    for name in ("train", "valid/dev"):
        for found, expected in zip(metrics(tmp_path / "two", name), metrics(tmp_path / "one", name), strict=True):
            del found["Batch Size"], expected["Batch Size"]
            assert found == pytest.approx(expected, rel=1e-3)  # rounding grows with the steps


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_checkpointing_chosen_by_estimate_equals_that_chosen_by_hand(
    commands: Commands, system: System, tmp_path: Path, parallelism: str
) -> None:
    """By the estimate it is applied to a model that is already wrapped."""
    adapter = {"name": "base", "config": {"num_layers": 2, "dim": 16, "num_heads": 2, "ffn_dim": 32, "dropout": 0.5}}
    for way, section in {"auto": {"memory_gb": 0.0005}, "by hand": {"mode": "layerwise"}}.items():
        file = _config(
            system, tmp_path, model__config_overrides__adapter=adapter, dataset__valid_splits=[],
            regime__score_metric=None, trainer__data_parallelism=parallelism,
            trainer__activation_checkpointing=section,
        )
        log = commands.recipe("train", tmp_path / way, "--config-file", file, processes=2).ok().output
        assert ("with activation checkpointing" in " ".join(log.split())) == (way == "auto")
    found, expected = (metrics(tmp_path / way, "train") for way in ("auto", "by hand"))
    assert len(found) == 6
    assert found == expected  # to the bit: without it the prompt before the speech is cached, with other roundings
    clip = system.corpus / "test_0.wav"
    commands.speechllm("transcribe", "--checkpoint", tmp_path / "auto", clip).ok()


@pytest.mark.parametrize("shard_llm", [False, True])
def test_evaluation_on_two_processes_gives_the_same_hypotheses(
    commands: Commands, system: System, trained: Path, tmp_path: Path, shard_llm: bool
) -> None:
    # Three batches of two: one process has a batch more than the other.
    arguments = ["--checkpoint", trained, "--config", "dataset.batch_size=2",
                 f"dataset.config_overrides.manifests.test={system.corpus / 'test.tsv'}"]
    for processes in (1, 2):
        shared = f"shard_llm={str(shard_llm and processes == 2).lower()}"
        result = commands.recipe("evaluate", tmp_path / str(processes), *arguments, shared, processes=processes).ok()
        assert ("LLM: 2 processes share its layers." in result.output) == (shard_llm and processes == 2)
    files = [tmp_path / str(processes) / "test" / "hypotheses.tsv" for processes in (1, 2)]
    assert [row.id for row in read_hypotheses(files[0])] == [f"test_{i}" for i in range(6)]
    assert files[1].read_bytes() == files[0].read_bytes()
    one, two = (json.loads(file.with_name("scores.json").read_text())["scores"] for file in files)
    del one["rtf"], two["rtf"]
    for name in ("nll_loss", "other_audio_loss"):
        assert two.pop(name) == pytest.approx(one.pop(name), rel=1e-6)
    assert two == one


def test_a_clip_that_only_the_second_process_reads_is_told(
    commands: Commands, system: System, tmp_path: Path
) -> None:
    # A file that is there is not opened before its turn where the manifest states its length, unless it is the longest.
    rows = [f"clip_{i}\t{system.corpus / f'train_{i}.wav'}\t{10 * (i + 1)}\thello" for i in (0, 2, 4)]
    (tmp_path / "lost.wav").write_text("no sound at all")
    lines = ["id\taudio\tn_frames\ttgt_text", *rows, "lost\tlost.wav\t40\thi"]
    (tmp_path / "train.tsv").write_text("\n".join(lines))
    manifests = system.manifests(train=tmp_path / "train.tsv")
    file = _config(system, tmp_path, dataset__config_overrides__manifests=manifests, dataset__batch_size=2)
    result = commands.recipe("train", tmp_path / "run", "--config-file", file, processes=2)
    assert result.status == 2
    row = f"{tmp_path / 'train.tsv'}, line 5, id lost, column 'audio'"
    assert f"process 1: error: {row}: lost.wav: found no audio" in result.stderr


def test_another_number_of_processes_is_refused(
    commands: Commands, system: System, two_processes: Path, tmp_path: Path
) -> None:
    before = metrics(two_processes, "train")
    result = commands.recipe("train", two_processes, "--config-file", _config(system, tmp_path))
    line = result.user_error()
    assert "run.json" in line and "started with 2 processes, found 1" in line
    assert metrics(two_processes, "train") == before


def _config(system: System, folder: Path, **changes: object) -> Path:
    return system.write(folder / "config.yaml", model__config_overrides__ctc__align_steps=2, **changes)
