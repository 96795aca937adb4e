"""Processes that work together: each knows its number, and none outlives one that fails."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from speechllm_tools.demo.launch import num_processes, run_together


def command(code: str, *arguments: Path) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


@pytest.mark.parametrize("number", [1, 2])
def test_each_process_knows_its_place_among_the_others(number: int, tmp_path: Path) -> None:
    names = "'RANK', 'WORLD_SIZE', 'MASTER_PORT'"
    # In one write: lines of two processes must not mix.
    code = f"import os; os.write(1, (' '.join(map(str, map(os.environ.get, [{names}]))) + chr(10)).encode())"
    with (tmp_path / "console").open("w") as console:
        assert run_together(command(code), number, console=console) == 0
    lines = sorted(line.split() for line in (tmp_path / "console").read_text().splitlines())
    if number == 1:
        assert lines == [["None", "None", "None"]]
        return
    assert [line[:2] for line in lines] == [["0", "2"], ["1", "2"]]
    assert len({line[2] for line in lines}) == 1 and lines[0][2].isdigit()


def test_when_one_fails_the_others_are_ended(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys, time\n"
        "ready, ended = map(pathlib.Path, sys.argv[1:])\n"
        "if os.environ['RANK'] == '1':\n"
        "    while not ready.exists(): time.sleep(0.1)\n"
        "    time.sleep(1.5); sys.exit(3)\n"
        "def stop(*_): ended.touch(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "ready.touch()\n"
        "time.sleep(300)"
    )
    start, looks = time.monotonic(), []
    assert run_together(command(code, tmp_path / "ready", tmp_path / "ended"), 2, watch=lambda: looks.append(1)) == 3
    assert (tmp_path / "ended").exists() and time.monotonic() - start < 200
    assert looks


def test_no_more_processes_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in (({3}, 1), ({0, 5}, 2), ({*range(16)}, 2)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: cores)
        assert num_processes() == expected
