"""What a machine must have before anything is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import namedtuple
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "check_machine.py"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def check() -> ModuleType:
    spec = spec_from_file_location("check_machine", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_this_machine_is_good_enough() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", str(SCRIPT), "/"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_another_python_is_named_with_one_that_works(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.sys, "version_info", (3, 13, 1))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "python3.12" else None)
    assert check.check_python().startswith("Python: found 3.13 (")
    assert check.check_python().endswith("built for; run `make PYTHON=python3.12 ...`")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "install one" in check.check_python()


def test_too_little_room_is_one_line_unless_all_is_installed(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, 3e9))
    assert check.main(str(tmp_path)) == 2
    assert capsys.readouterr().err == f"error: disk: found 3.0 GB free in {tmp_path}, expected 9 GB\n"
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    assert check.main(str(tmp_path)) == 0


def test_too_little_memory_is_one_line(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 500_000}[name])
    assert check.check_memory() == "memory: found 2.0 GB, expected 4 GB"
