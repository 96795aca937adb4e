"""Provenance: versions, data, configuration and commit beside each score."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest
import sacrebleu

from speechllm_plugin.errors import UserError
from speechllm_plugin.scoring.provenance import provenance


class Precision(Enum):
    HALF = 1


@dataclass
class Config:
    rate: float
    folder: Path
    precision: Precision
    hook: Callable[[], None] | None
    kind: Literal["a", "b"]


def test_provenance_names_versions_data_and_configuration(tmp_path: Path) -> None:
    manifest = tmp_path / "m.tsv"
    manifest.write_bytes(b"manifest")
    checkpoint = tmp_path / "step_10"
    (checkpoint / "model").mkdir(parents=True)
    (checkpoint / "model" / "x.safetensors").write_bytes(b"weights")
    (checkpoint / "config.yaml").write_bytes(b"a: 1")
    config = Config(0.1, Path("data"), Precision.HALF, lambda: None, "a")

    result = provenance(config, checkpoint, [manifest])

    assert json.loads(json.dumps(result)) == result
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", result["date_utc"])
    assert result["versions"]["sacrebleu"] == sacrebleu.__version__
    assert set(result["versions"]) >= {"python", "torch", "fairseq2", "transformers", "speechllm-plugin"}
    assert result["config"] == {
        "rate": 0.1,
        "folder": "data",
        "precision": "HALF",
        "hook": "function",  # its address would differ from run to run
        "kind": "a",
    }
    assert result["manifests"] == [{"path": str(manifest), "sha256": hashlib.sha256(b"manifest").hexdigest()}]
    assert result["checkpoint"] == {
        "path": str(checkpoint),
        "sha256": {
            "config.yaml": hashlib.sha256(b"a: 1").hexdigest(),
            "model/x.safetensors": hashlib.sha256(b"weights").hexdigest(),
        },
    }


def test_provenance_knows_the_commit_and_whether_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()

    copy = tmp_path / "provenance.py"
    monkeypatch.setattr("speechllm_plugin.scoring.provenance.__file__", str(copy))
    # As a hook would set it.
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    copy.write_text("one")
    assert provenance(None, None, [])["git"] is None
    monkeypatch.delenv("GIT_DIR")
    git("init", "--quiet")
    (tmp_path / "other.py").touch()
    git("add", "other.py")
    git("commit", "--quiet", "-m", "other")
    # In a checkout, but no part of it, as in a virtual environment inside someone's project.
    assert provenance(None, None, [])["git"] is None
    git("add", "provenance.py")
    git("commit", "--quiet", "-m", "one")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    found = provenance(None, None, [])["git"]
    monkeypatch.delenv("GIT_DIR")
    assert found == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    copy.write_text("two")
    assert provenance(None, None, [])["git"]["dirty"] is True


@pytest.mark.parametrize("missing", ["checkpoint", "manifest"])
def test_provenance_of_missing_files_is_an_error(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "none"
    with pytest.raises(UserError, match="none: cannot be read"):
        provenance(None, path if missing == "checkpoint" else None, [path] if missing == "manifest" else [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: found an empty folder, expected a checkpoint"):
        provenance(None, tmp_path / "empty", [])
