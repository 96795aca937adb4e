"""Cached features: their precision, processes that write at once, limits of space."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from speechllm_plugin.encoders.feature_cache import FeatureCache
from speechllm_plugin.encoders.whisper import WhisperConfig, create_whisper
from tests.commands import environment
from tests.waiting import LONGEST

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_features_come_back_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    cache = FeatureCache(tmp_path, "x", dtype)
    features = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    for found in (cache.put("clip", features), cache.get("clip")):
        assert found is not None and found.dtype == dtype and torch.equal(found, features)


def test_features_of_another_precision_are_others(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "x", torch.bfloat16).put("clip", torch.ones(7, 5, dtype=torch.bfloat16))
    assert FeatureCache(tmp_path, "x", torch.float16).get("clip") is None
    assert FeatureCache(tmp_path, "x", torch.bfloat16).get("clip") is not None


WRITER = """
import os, sys
from pathlib import Path
import torch
from speechllm_plugin.encoders import packs
from speechllm_plugin.encoders.feature_cache import FeatureCache
packs.PACK_BYTES = 20_000
cache = FeatureCache(Path(sys.argv[1]), "x", torch.float32)
first = int(sys.argv[2])
for number in range(first, first + 400):
    cache.put(f"clip {number}", torch.full((3 + number % 5, 16), float(number)))
    if number == first + 300:
        print("there", flush=True)
        if sys.argv[3] == "killed":
            sys.stdin.read()
"""


def test_processes_write_at_once_and_one_is_killed(tmp_path: Path) -> None:
    """In packs of 20 kB, so that each process makes several."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(first), end], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=environment(),
        )
        for first, end in ((0, "finished"), (250, "finished"), (1000, "killed"))
    ]
    early = FeatureCache(tmp_path, "x", torch.float32)
    there = writers[2].stdout
    assert there is not None and select.select([there], [], [], LONGEST)[0], "the third has written 300 clips"
    assert there.readline() == b"there\n"
    writers[2].kill()
    for writer in writers:
        writer.communicate(timeout=LONGEST)
    # As if it had been killed in the middle of an entry.
    index = max(tmp_path.rglob("*.index"), key=lambda file: file.stat().st_mtime)
    index.write_bytes(index.read_bytes() + b"half")
    late = FeatureCache(tmp_path, "x", torch.float32)
    early._packs._looked = 0.0  # the ten seconds between two looks are over
    for cache in (early, late):
        for number in [*range(650), *range(1000, 1301)]:
            found = cache.get(f"clip {number}")
            assert found is not None and found.shape == (3 + number % 5, 16) and (found == number).all()
        assert cache.get("clip 1301") is None
        cache.put("clip 1301", torch.ones(1, 16))
        assert cache.get("clip 1301") is not None
    assert len(list(tmp_path.rglob("*.pack"))) > 10


def test_a_cache_has_its_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In kilobytes: two older encoders have 16 and 8, this one may have 12, and all together 20. Two processes share
    that, and clips are counted with their entries in the index, 1,012 bytes."""
    for name, count in (("oldest", 16), ("older", 8)):
        other = FeatureCache(tmp_path, name, torch.float32)
        for number in range(count):
            other.put(f"clip {number}", torch.zeros(1, 240))
        os.utime(tmp_path / name, (1.0, 1.0 + (name == "older")))
    caches = [FeatureCache(tmp_path, "this", torch.float32, max_bytes=20_000) for _ in range(2)]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["older", "this"]
    with caplog.at_level("WARNING", logger="fairseq2"):
        for number in range(30):
            caches[number % 2].put(f"clip {number}", torch.full((1, 240), float(number)))
    assert [cache.full for cache in caches] == [True, True]
    assert len(caplog.records) == 2 and "no more is added, it has the 2e-05 GB" in caplog.text
    late = FeatureCache(tmp_path, "this", torch.float32)
    kept = [number for number in range(30) if f"clip {number}" in late]
    assert kept == list(range(11))
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.*")) <= 20_000


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file system of its own")
def test_a_full_disk_ends_the_adding_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False, timeout=60).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        cache = FeatureCache(folder, "x", torch.float32)
        with caplog.at_level("WARNING", logger="fairseq2"):
            for number in range(30):
                features = torch.full((1, 1000), float(number))
                assert torch.equal(cache.put(f"clip {number}", features), features)
        assert len(caplog.records) == 1 and "No space left on device" in caplog.text
        kept = [number for number in range(30) if (found := cache.get(f"clip {number}")) is not None
                and (found == number).all()]
        assert 10 < len(kept) < 17 and kept == list(range(len(kept)))
    finally:
        subprocess.run(["umount", folder], check=True, timeout=60)


def test_encoders_of_another_precision_share_no_features(tiny_whisper: Path) -> None:
    encoders = [create_whisper(WhisperConfig(path=str(tiny_whisper), dtype=dtype))  # type: ignore[arg-type]
                for dtype in ("auto", "float32", "bfloat16", "float16")]
    auto, *chosen = ((encoder.fingerprint(), encoder.feature_dtype) for encoder in encoders)
    assert len(set(chosen)) == 3
    # What `auto` came to counts: the word would be the same on every machine.
    assert auto in chosen
