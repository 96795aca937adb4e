"""`speechllm cache`: what training would encode is there before it begins, to the bit."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from speechllm_plugin.encoders.packs import _ENTRY
from tests.commands import Commands, System


def entries(folder: Path) -> dict[tuple[int, int], bytes]:
    """What a cache holds, by key; what is there twice, because it was read ahead, is equal."""
    found: dict[tuple[int, int], bytes] = {}
    for index in folder.rglob("*.index"):
        pack = index.with_suffix(".pack").read_bytes()
        for entry in np.frombuffer(index.read_bytes(), _ENTRY):
            key, place = (int(entry["key"]), int(entry["check"])), int(entry["place"])
            data = pack[place : place + int(entry["size"])]
            assert found.setdefault(key, data) == data
    return found


def config(system: System, folder: Path, cache: str, **changes: object) -> Path:
    """Two variants of each training clip, three of the four clips to validate on, none above 1.9 s."""
    return system.write(
        folder / f"{cache}.json", dataset__feature_cache=str(folder / cache), dataset__valid_clips=3,
        dataset__augmentation={"probability": 1.0, "variants": 2}, dataset__max_seconds=1.9,
        dataset__too_long="cut", regime__num_steps=8, regime__validate_every_n_steps=4,
        regime__checkpoint_every_n_steps=4, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(commands: Commands, system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the cache that training fills itself, in two epochs, and the run."""
    folder = tmp_path_factory.mktemp("trained")
    commands.recipe("train", folder / "run", "--config-file", config(system, folder, "own")).ok()
    return folder


def test_training_finds_every_clip(commands: Commands, system: System, trained: Path, tmp_path: Path) -> None:
    """In two parts, as an array of jobs fills it; the run after it has the numbers of one that encodes itself."""
    file = config(system, tmp_path, "built")
    for shard in ("1/2", "2/2"):
        command = ("cache", "build", "--config-file", file, "--shard", shard, "--workers", 2)
        told = commands.speechllm(*command).ok().stdout
        assert told.endswith("encoded by whisper in float32 on cpu; 0 were there, 0 left out\n")
    own, built = entries(trained / "own"), entries(tmp_path / "built")
    assert len(own) == 2 * 12 + 3 and built == own
    again = commands.speechllm("cache", "build", "--config-file", file, "--workers", 1).ok().stdout
    assert "built: 0 clips, 0.00 h, 0.00 GB encoded by whisper" in again and "; 27 were there, 0 left out" in again
    before = {file: file.stat().st_size for file in (tmp_path / "built").rglob("*.*")}
    commands.recipe("train", tmp_path / "run", "--config-file", file).ok()
    assert {file: file.stat().st_size for file in (tmp_path / "built").rglob("*.*")} == before
    read = [[json.loads(line)["NLL Loss"] for line in (run / "metrics/train.jsonl").read_text().splitlines()]
            for run in (trained / "run", tmp_path / "run")]
    assert read[0] == read[1]
    shown = commands.speechllm("cache", "show", tmp_path / "built").ok().stdout.splitlines()
    assert len(shown) == 2 and shown[1].split()[1:5] == ["whisper", str(system.whisper), "float32", "27"]


def test_a_killed_build_goes_on(commands: Commands, system: System, trained: Path, tmp_path: Path) -> None:
    file = config(system, tmp_path, "killed", dataset__augmentation__variants=30)
    command = ("cache", "build", "--config-file", file, "--workers", 1)
    assert commands.speechllm(*command, kill_when=(tmp_path / "killed/*/*.index", "")).status == -9
    time.sleep(0.1)  # its worker ends with it
    there = len(entries(tmp_path / "killed"))
    assert 0 < there < 300
    assert f"; {there} were there, 0 left out" in commands.speechllm(*command).ok().stdout
    # Which clip a variant changes, and how, is the same for any number of variants.
    assert entries(trained / "own").items() <= entries(tmp_path / "killed").items()


def test_mistakes_are_one_line(commands: Commands, system: System, tmp_path: Path) -> None:
    file = config(system, tmp_path, "built")

    def error(*more: object) -> str:
        return commands.speechllm("cache", "build", "--config-file", file, *more).user_error()

    assert error("--config", "dataset.feature_cache=null") == (
        "dataset.feature_cache: found null, expected the folder to fill"
    )
    assert error("--shard", "3/2") == "--shard: found '3/2', expected K/N with K from 1 to N"
    assert error("--workers", 0) == "--workers: found 0, expected at least 1"
    assert error("--config", "dataset.batch_sise=3").startswith("dataset.batch_sise: found an unknown key")
    tuned = "model.config_overrides.encoder_tuning.unfreeze=[encoder.layer_norm]"
    assert "expected null: the encoder is trained" in error("--config", tuned)
    assert error("--config", "dataset.too_long=error").endswith("s (dataset.max_seconds)")
    full = error("--config", "dataset.feature_cache_gb=0.00001")
    assert "built full after " in full
    assert full.endswith("of 27 clips, expected room for all (dataset.feature_cache_gb, or the disk)")
    assert commands.speechllm("cache", "show", tmp_path).user_error() == (
        f"{tmp_path}: found no features in it, expected dataset.feature_cache of a training run"
    )
