"""`speechllm bench audio`: each reader reads each file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from speechllm_tools.bench.audio import READERS
from speechllm_tools.bench.command import run
from speechllm_tools.cli import parse

from speechllm_plugin.errors import UserError

KINDS = ["wav", "mp3"]


def test_a_row_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--seconds", "0.5", "--repeats", "1", "--minutes", "1", "--output", str(tmp_path / "page.md")]
    assert run(parse(["bench", "audio", "--only", *KINDS, *options])) == 0
    page = (tmp_path / "page.md").read_text()
    assert capsys.readouterr().out == page + "\n"
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("|")][2:]
    assert [row[0].removeprefix("| ") for row in rows] == KINDS
    for row in rows:
        assert len(row) == len(READERS) + 2
        # Real-time factor and memory of each reader, and a ratio.
        assert all(re.fullmatch(r"[\d,]+, \d+", cell) for cell in row[1:-1]), row
        assert re.fullmatch(r"\d+\.\d+ \|", row[-1])
    assert len(re.findall(r"^- (?:wav|flac|mp3): [\d,]+, \d+$", page, re.MULTILINE)) == 3
    assert re.search(r"the first \d+\.\d ms, each\nfurther one \d+\.\d ms", page)


def test_a_row_that_is_not_there_is_said() -> None:
    with pytest.raises(UserError, match="^--only: 'vaw' found, one of 'wav', "):
        run(parse(["bench", "audio", "--only", "wav", "vaw"]))
