"""`speechllm bench data`: the reader beside a plain loop, on a few rows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from speechllm_tools.bench.command import run
from speechllm_tools.cli import parse

from speechllm_plugin.errors import UserError


def test_a_small_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rows", "300", "--clips", "8", "--repeats", "1", "--only", "speechllm", "plain loop"]
    options += ["--root", str(tmp_path)]
    assert run(parse(["bench", "data", *options, "--output", str(tmp_path / "page.md")])) == 0
    page = (tmp_path / "page.md").read_text()
    assert capsys.readouterr().out == page + "\n"
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"], "files are left"
    for reader in ("speechllm", "plain loop"):
        assert re.search(rf"^\| {reader} \| [\d,]+ \| \d+\.\d\d s \|$", page, re.MULTILINE)
        assert re.search(rf"^\| {reader} \| \d+\.\d\d s \| \d+\.\d\d s \| [\d,]+ MB \|$", page, re.MULTILINE)
    (padded,) = re.findall(r"^\| `bucketed`, 2,000 positions \| (.*) \|$", page, re.MULTILINE)
    assert [float(share.rstrip("%")) for share in padded.split(" | ")][1] <= 8.0
    assert "speechllm bench data --rows 300 --clips 8 --repeats 1 --only speechllm 'plain loop'\n" in page


def test_a_size_that_is_none() -> None:
    with pytest.raises(UserError, match="^--rows: found 0, expected at least 1"):
        run(parse(["bench", "data", "--rows", "0"]))
