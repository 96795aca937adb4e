"""`speechllm gpu`: its stages on a CPU with tiny parts, and what it says where there is no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from speechllm_tools.bench.framework import load_benchmark
from speechllm_tools.cli import main
from speechllm_tools.gpu import gaps, memory, recipes
from speechllm_tools.gpu.command import exit_status
from speechllm_tools.gpu.targets import (
    CIF_CASE,
    LABELS_CASE,
    Section,
    Verdict,
    kernel_verdicts,
    memory_verdict,
    step_verdicts,
)
from speechllm_tools.gpu.training import Workplace


def cells(section: str) -> list[list[str]]:
    """Of the table's rows."""
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path, "cpu", tiny=True, report=lambda line: None)


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
    (_, targets) = text.split("## Targets")
    assert [row[1:] for row in cells(targets)] == [["not measured", "NO"]] * 4


def test_steps_are_measured_beside_the_targets(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--tiny", "--output", str(tmp_path), "--stages", "step"]
    assert main(["gpu", *options]) == 0, "on a CPU the targets only show that the command runs"
    (page,) = tmp_path.glob("*.md")
    steps, targets = page.read_text().split("## Targets")
    assert "Batches of 1: clips of 1 s" in steps and "Batches of 2: clips of 1, 0.5 s" in steps
    rows = cells(targets)
    assert [row[0].split(":")[0] for row in rows] == ["a step of 1 clips"] * 2 + ["a step of 2 clips"] * 2
    assert rows[0][1:] == ["ours, trimmed: not measured", "NO"]


def test_memory_is_measured_beside_its_estimate(place: Workplace) -> None:
    systems = ["seamless_m4t_v2.mistral_7b.ctc", "whisper_large_v3.llama31_8b.conv"]
    section = memory.run(place, systems)
    rows = cells(section.text)
    assert [row[0] for row in rows] == systems
    assert rows[1][1] == "375", "a quarter of Whisper's 1500 vectors"
    # The estimate is of an adapter in float32, and of kernels that a CPU does not have.
    assert all(0.5 < float(row[4]) < 1.5 for row in rows)
    worst = max(rows, key=lambda row: abs(float(row[4]) - 1))
    assert [verdict.found for verdict in section.verdicts] == [f"{worst[0]}: {worst[4]} of it"]


def test_a_system_without_room_leaves_the_others(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = memory.measure

    def too_large(config: Any, *options: Any) -> Any:
        if config.adapter.name == "ctc":
            torch.empty(2**55)
        return measure(config, *options)

    monkeypatch.setattr(memory, "measure", too_large)
    section = memory.run(place, ["seamless_m4t_v2.mistral_7b.ctc", "seamless_m4t_v2.mistral_7b.conv"])
    first, second = cells(section.text)
    assert first[1] == "out of memory" and float(second[4]) > 0
    assert not section.verdicts[0].reached


def test_recipes_are_trained_resumed_and_decoded(place: Workplace) -> None:
    (place.folder / "mistral_7b").mkdir()  # taken for an LLM that was written
    systems = [f"seamless_m4t_v2.{llm}.wlq_former" for llm in ("mistral_7b", "llama31_8b")]
    section = recipes.run(place, systems)
    failed, row = cells(section.text)
    assert section.failed and failed[0] == systems[0] and failed[1].startswith("FAILED: speechllm_recipes recipe run")
    assert row[:3] == [systems[1], "4", "2"]
    assert float(row[4]) < float(row[3]) + 0.5
    assert row[7] == "4 clips"


def test_steps_of_a_recipe_are_traced(place: Workplace) -> None:
    rows = cells(gaps.run(place).text)
    assert [row[0] for row in rows] == ["3", "4"]
    assert all(row[7].endswith("%") and row[8].endswith(" ms") for row in rows)


def test_kernels_are_judged_by_their_share_of_the_bandwidth() -> None:
    def result(operation: str, shape: list[int], kernel: str, share: float, **shares: float) -> dict[str, Any]:
        kernels = {f"{kernel}_0d1d": {"seconds": 1.0, "share": share}, "other": {"seconds": 1.0}}
        return {
            "operation": operation, "shape": shape, "dtype": "bf16", "variant": "full", "implementation": "triton",
            "shares": shares, "figures": {"kernels": kernels},
        }  # fmt: skip

    found = kernel_verdicts([
        result("cif", [64, 500, 512, 125], "gather_kernel", 0.1),
        result("cif", [32, 1500, 1280, 375], "gather_kernel", 0.85, forward=0.76, backward=0.69),
        result("labels", [8, 1500, 1280, 128256], "ctc_label_frames_kernel", 0.5),
    ])  # fmt: skip
    for kernel, (_, shape, dtype, variant) in (("cif", CIF_CASE), ("ctc-collapse", LABELS_CASE)):
        measured = load_benchmark(kernel).cases("cuda")
        assert (shape, dtype, variant) in [(case.shape, case.dtype_name, case.variant) for case in measured]
    assert [(verdict.found, verdict.reached) for verdict in found] == [
        ("85%", True), ("76%", True), ("69%", False), ("50%", False),
    ]


def test_steps_are_judged_by_the_slowest_of_ours() -> None:
    def row(system: str, seconds: float, share: float, **values: Any) -> dict[str, Any]:
        return {
            "system": system, "clips": 4, "out_of_memory": False, "seconds": seconds, "real_positions": 100,
            "matrix_share": share, **values,
        }  # fmt: skip

    rows = [
        row("ours, trimmed", 1.0, 0.51), row("ours, not padded", 1.0, 0.5), row("ours, cached", 0.5, 0.6),
        row("ours, padded to 30 s", 5.0, 0.1), row("transformers' Voxtral", 1.9, 0.4),
    ]  # fmt: skip
    assert [(verdict.found, verdict.reached) for verdict in step_verdicts(rows)] == [
        ("ours, not padded: 50%", True), ("ours, trimmed: 1.9 times", False),
    ]
    rows[-1]["seconds"] = 2.0
    assert step_verdicts(rows)[1].reached
    rows[-1]["out_of_memory"] = True
    assert step_verdicts(rows)[1] == Verdict(step_verdicts(rows)[1].target, "ours, trimmed: not measured", False)


def test_a_target_that_is_missed_is_the_exit_status() -> None:
    reached, missed = (memory_verdict({"a": 1.05, "b": ratio}) for ratio in (0.9, 0.89))
    assert missed.found == "b: 0.89 of it"
    assert exit_status([Section("", [reached])], judged=True) == 0
    assert exit_status([Section("", [reached]), Section("", [missed])], judged=True) == 1
    assert exit_status([Section("", [missed])], judged=False) == 0
    assert exit_status([Section("", failed=True)], judged=False) == 1
