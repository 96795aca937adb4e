"""`speechllm gpu`: its stages on a CPU with tiny parts, and what it says where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from speechllm_tools.cli import main
from speechllm_tools.gpu import memory, recipes


def cells(section: str) -> list[list[str]]:
    """Of the table's rows."""
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu", "--output", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.splitlines() == [
        "speechllm gpu: error: --device: found no CUDA device, expected one; nothing was measured"
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_fails_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "outlines").write_text("no folder")
    options = ["--device", "cpu", "--tiny", "--output", str(tmp_path), "--work", str(tmp_path)]
    assert main(["gpu", *options, "--stages", "memory", "kernels"]) == 1
    (page,) = tmp_path.glob("*.md")
    text = page.read_text()
    assert text.startswith("# What a GPU shows: a CPU, tiny")
    assert "## Memory\n\nFAILED: " in text
    assert "speechllm bench cif --device cpu" in text and "speechllm bench ctc-collapse --device cpu" in text


def test_memory_is_measured_beside_its_estimate(tmp_path: Path) -> None:
    systems = ["seamless_m4t_v2.mistral_7b.ctc", "whisper_large_v3.llama31_8b.conv"]
    section = memory.run(tmp_path, "cpu", tiny=True, report=lambda line: None, systems=systems)
    rows = cells(section)
    assert [row[0] for row in rows] == systems
    assert rows[1][1] == "375", "a quarter of Whisper's 1500 vectors"
    # The estimate is of an adapter in float32, and of kernels that a CPU does not have.
    assert all(0.5 < float(row[4]) < 1.5 for row in rows)


def test_a_recipe_is_trained_resumed_and_decoded(tmp_path: Path) -> None:
    systems = ["seamless_m4t_v2.llama31_8b.wlq_former"]
    (row,) = cells(recipes.run(tmp_path, "cpu", tiny=True, report=lambda line: None, systems=systems))
    assert row[:3] == [systems[0], "4", "2"]
    assert float(row[4]) < float(row[3]) + 0.5
    assert row[7] == "4 clips"
