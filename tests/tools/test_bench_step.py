"""`speechllm bench step` and `bench decode`, with one system of theirs and some of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from speechllm_tools.bench import systems
from speechllm_tools.bench.ours import Ours
from speechllm_tools.bench.peers import Voxtral
from speechllm_tools.bench.step import measure
from speechllm_tools.bench.system import WIDTHS, Clips, Shared, System
from speechllm_tools.cli import main
from torch import Tensor


class TooLarge(Ours):
    """Its first step is one to many for the memory."""

    def __init__(self, shared: Shared) -> None:
        super().__init__("ours, too large", shared, pad_to_30s=False)

    def loss(self) -> Tensor:
        return torch.empty(2**55)

    def decode(self, tokens: int) -> int:
        return len(torch.empty(2**55))


def measured(benchmark: str, folder: Path, *options: str) -> list[dict[str, str]]:
    """The rows of the tables of the page, by the names of their columns."""
    page = folder / "page.md"
    words = ["--widths", "tiny", "--clips", "1", "0.5", "--tokens", "3", "--rounds", "1", "--output", str(page)]
    assert main(["bench", benchmark, *words, *options]) == 0
    header: list[str] = []
    rows = []
    for line in page.read_text().splitlines():
        if line.startswith("| system"):
            header = line.strip("| ").split(" | ")
        elif line.startswith(("| ours", "| transformers")):
            rows.append(dict(zip(header, line.strip("| ").split(" | "), strict=True)))
    return rows


@pytest.fixture
def too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(systems.SYSTEMS, "ours, too large", TooLarge)


@pytest.mark.usefixtures("too_large")
def test_steps_are_measured_in_turn(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    rows = measured(
        "step", tmp_path, "--only", "granite", "ours, not padded", "large", "--dtype", "bfloat16", "float32",
        "--batches", "2", "1", "--json", str(figures),
    )  # fmt: skip
    names = ("ours, not padded", "transformers' Granite Speech", "ours, too large")
    assert [row["system"] for row in rows] == 2 * [
        f"{name} ({dtype})" for dtype in ("bfloat16", "float32") for name in names
    ]
    ours, granite, large = rows[3:6]
    # 13 and 7 vectors, and 12 tokens behind each with 3 - 1 of the target, packed.
    assert (ours["positions"], ours["real"]) == ("48", "48")
    # 12 tokens more before the speech and one more behind; each clip has its vectors, and the short one its padding.
    assert (granite["positions"], granite["real"]) == (str(2 * (12 + 12 + 12 + 3)), str(2 * (12 + 12 + 3) + 12 + 6))
    assert ours["float32's by it"] == "1.0x" and rows[0]["float32's by it"].endswith("x")
    assert ours["wait s"] == "0" != ours["step s"]
    assert large["positions"] == "out of memory" and large["step s"] == "-"
    (alone, *_) = json.loads(figures.read_text())["results"][6:]
    assert (alone["system"], alone["clips"], alone["positions"], alone["real_positions"]) == (names[0], 1, 27, 27)


def test_the_parts_of_a_step_are_those_that_run(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    measured("step", tmp_path, "--only", "not padded", "ours, cached", "--json", str(figures))
    found: dict[str, dict[str, Any]] = {row["system"]: row for row in json.loads(figures.read_text())["results"]}
    cached, whole = found["ours, cached"], found["ours, not padded"]
    assert cached["parts"]["encoder"] == 0.0 < whole["parts"]["encoder"]
    for row in (cached, whole):
        assert set(row["parts"]) == {"encoder", "adapter", "LLM", "loss", "backward"}
        assert min(part for name, part in row["parts"].items() if name != "encoder") > 0
    assert whole["flops"] > cached["flops"] > 0
    assert cached["matrix_share"] > 0


def test_nothing_is_measured_inside_a_whole_step() -> None:
    class Hooked(Ours):
        def loss(self) -> Tensor:
            hooks.append(sum(len(part._forward_hooks) for part in (self.encoder, self.adapter, self.decoder)))
            return super().loss()

    hooks: list[int] = []
    system = Hooked("ours", Shared(WIDTHS["tiny"]), pad_to_30s=False)
    system.dtype = torch.float32
    found = measure([system], Clips([1.0], 3), rounds=2, report=lambda line: None)["ours (float32)"]
    assert hooks == [0, 0, 0, 3], "to warm up, two rounds, and one for the parts"
    assert len(found.seconds) == 2


def test_silence_behind_a_clip_is_no_real_position() -> None:
    clips, widths = Clips([1.0, 0.5], 3), WIDTHS["tiny"]
    pairs: list[tuple[System, int]] = [
        (Ours("ours", Shared(widths)), 12 + 2), (Voxtral(Shared(widths)), 12 + 12 + 3)
    ]
    for system, row in pairs:
        system.prepare(clips)
        assert (system.positions(), system.real_positions()) == (2 * (375 + row), 13 + 7 + 2 * row)


@pytest.mark.usefixtures("too_large")
def test_decoding_is_measured_in_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = measured("decode", tmp_path, "--only", "granite", "not padded", "large", "--batches", "2", "1")
    names = ["ours, not padded", "transformers' Granite Speech", "ours, too large"]
    assert [row["system"] for row in rows] == 2 * [f"{name} (float32)" for name in names]
    assert [row["tokens"] for row in rows] == 2 * ["6", "6", "-"]
    assert main(["bench", "decode", "--only", "nothing"]) == 2
    assert "--only: found nothing, expected words of ours" in capsys.readouterr().err
    assert main(["bench", "step", "--only", "nothing"]) == 2
    assert main(["bench", "step", "--batches", "0"]) == 2
    assert "--batches: found 0, expected at least 1" in capsys.readouterr().err
