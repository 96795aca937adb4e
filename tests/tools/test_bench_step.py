"""`speechllm bench step` and `bench decode`, with one system of theirs and one of ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from speechllm_tools.cli import main


@pytest.mark.parametrize("benchmark", ["step", "decode"])
def test_systems_are_measured_in_turn(benchmark: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    options = ["--clips", "1", "0.5", "--tokens", "3", "--rounds", "1", "--output", str(page)]
    options += ["--batches", "2", "1"] if benchmark == "decode" else ["--dtype", "bfloat16", "float32"]
    assert main(["bench", benchmark, *options, "--only", "granite", "not padded"]) == 0
    lines = page.read_text().splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith(("| ours", "| transformers"))]
    made = {"step": ["bfloat16", "float32"], "decode": ["float32", "float32"]}[benchmark]
    names = ("| ours, not padded", "| transformers' Granite Speech")
    assert [row[0] for row in rows] == [f"{name} ({dtype})" for dtype in made for name in names]
    if benchmark == "step":
        assert [row[7] for row in rows[2:]] == ["1.0x", "1.0x"]
        assert all(row[7].endswith("x") for row in rows)
    # 13 and 7 vectors, and 12 tokens behind each with 3 - 1 of the target, packed; or the tokens that were written.
    place, expected = {"step": (1, "48"), "decode": (2, "6")}[benchmark]
    assert rows[0][place] == expected
    assert main(["bench", benchmark, "--only", "nothing"]) == 2
    assert "--only: found nothing, expected words of ours" in capsys.readouterr().err
