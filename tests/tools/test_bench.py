"""`speechllm bench` end to end on tiny shapes, and the gate in front of every timing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from speechllm_tools.bench import plot, report
from speechllm_tools.bench.correctness import relative_error
from speechllm_tools.bench.framework import (
    TOLERANCES,
    Benchmark,
    Case,
    Implementation,
    Inputs,
    Operation,
    Outputs,
    needs_package,
    run_benchmark,
)
from speechllm_tools.bench.timing import Timer
from speechllm_tools.cli import main
from torch import Tensor

CASE = Case(shape=(2, 5, 3, 4), dtype=torch.float32, device="cpu")


def bench(*arguments: str) -> int:
    return main(["bench", "ctc-collapse", "--device", "cpu", "--seconds", "0.001", *arguments])


def test_writes_a_table_json_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    data, picture = tmp_path / "out.json", tmp_path / "out.png"
    only = ("--only", "torch", "triton", "torch.argmax", "index_add")
    shape = ("--shape", "2,20,8,50", "--dtype", "fp32", "bf16", "--variant", "ragged", "--threads", "1")
    assert bench(*shape, *only, "--no-gate-matrix", "--json", str(data), "--plot", str(picture)) == 0

    text = capsys.readouterr().out
    assert "collapse from logits, prob: B=2 T=20 C=8 V=50 bf16 ragged" in text
    assert "triton: absent: runs on cuda only" in text
    document = json.loads(data.read_text(encoding="utf-8"))
    assert document["benchmark"] == "ctc-collapse"
    assert document["machine"]["copy_bytes_per_second"] > 0 and document["machine"]["threads"] == 1
    assert document["versions"]["torch"] == torch.__version__.partition("+")[0]
    timed = [result for result in document["results"] if result["implementation"] == "torch"]
    assert {(result["dtype"], result["status"]) for result in timed} == {("fp32", "ok"), ("bf16", "ok")}
    for result in timed:
        assert result["shape"] == [2, 20, 8, 50]
        assert result["reproducible"] is True
        assert result["figures"]["seconds"]["forward"]["eager"] > 0
        assert result["shares"]["forward"] > 0
    assert any(result["speedups"] for result in timed)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_last_number_of_a_shape_may_be_left_out(tmp_path: Path) -> None:
    data = tmp_path / "out.json"
    assert bench("--shape", "1,3,2", "--only", "torch", "--no-gate-matrix", "--json", str(data)) == 0
    assert json.loads(data.read_text(encoding="utf-8"))["results"][0]["shape"] == [1, 3, 2, 32768]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "2,3"], "--shape: '2,3' found, whole numbers of at least 1 as B,T,C,V expected"),
        (["--shape", "2,0,4,8"], "--shape: '2,0,4,8' found"),
        (["--shape", "2,x,4,8"], "--shape: '2,x,4,8' found"),
        (["--only", "numpy"], "--only: 'numpy' found, one of "),
        (["--variant", "noisy"], "--variant: 'noisy' found, one of full, ragged"),
        (["--threads", "0"], "--threads: 0 found, at least 1 expected"),
        (["--json", "nowhere/out.json"], "--json: the folder of nowhere/out.json does not exist"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_bad_arguments_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(*arguments) == 2
    assert message in capsys.readouterr().err


def test_cuda_without_cuda(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert main(["bench", "ctc-collapse", "--device", "cuda"]) == 2
    assert "--device: cuda was asked for, but PyTorch sees no CUDA device" in capsys.readouterr().err


def test_a_plot_needs_matplotlib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: None)
    assert bench("--plot", "out.png") == 2
    assert "--plot: matplotlib is not installed" in capsys.readouterr().err


def double(inputs: Inputs) -> Outputs:
    return {"seqs": inputs["h"] * 2}


def wrong_value(inputs: Inputs) -> Outputs:
    return {"seqs": inputs["h"] * 2.001}


def wrong_gradient(inputs: Inputs) -> Outputs:
    h: Tensor = inputs["h"]
    return {"seqs": h.detach() * 2 + (h - h.detach())}


def broken(inputs: Inputs) -> Outputs:
    raise RuntimeError("no such thing\nand more")


def run_toy(run: Callable[[Inputs], Outputs], gate_cases: list[Case] | None = None, **options: Any) -> tuple[Any, str]:
    operation = Operation(
        name="double",
        make_inputs=lambda case: {"h": torch.randn(case.shape[:3], generator=torch.Generator().manual_seed(case.seed))},
        reference=double,
        implementations=[
            Implementation(name="good", run=double),
            Implementation(name="candidate", run=run, **options),
        ],
        floor_bytes=lambda inputs: (8, 8),
    )
    benchmark = Benchmark(
        dimensions=("B", "T", "C", "X"),
        last_dimension=lambda shape: 1,
        variants={"full": ""},
        cases=lambda device: [CASE],
        gate_cases=lambda device: [],
        operations=[operation],
    )
    timer = Timer("cpu", seconds=0.001)
    results = run_benchmark(benchmark, [CASE], timer, gate_cases=gate_cases or [], report=lambda line: None)
    by_name = {result.implementation: result for result in results}
    assert by_name["good"].status == "ok" and by_name["good"].figures
    return by_name["candidate"], report.table(benchmark.dimensions, results, timer)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (wrong_value, "seqs is off by 5.0e-04, dh is off by 5.0e-04 (allowed: 3e-06)"),
        (wrong_gradient, "dh is off by 5.0e-01 (allowed: 3e-06)"),
        (broken, "RuntimeError: no such thing"),
    ],
)
@pytest.mark.parametrize("gate_cases", [[], [CASE]], ids=["on the timed case", "in the gate"])
def test_what_is_wrong_is_not_timed(run: Callable[[Inputs], Outputs], message: str, gate_cases: list[Case]) -> None:
    result, table = run_toy(run, gate_cases)
    assert (result.status, result.message, result.figures) == ("FAILED", message, {})
    assert f"candidate: FAILED: {message}" in table


def test_a_baseline_that_differs_is_timed_and_named() -> None:
    result, table = run_toy(wrong_value, baseline=True)
    assert result.status == "differs" and result.figures
    assert "candidate: timed although it differs from the reference: seqs is off by 5.0e-04" in table
    assert re.search(r"candidate \d+\.\d\dx fwd, \d+\.\d\dx fwd\+bwd", table)


def test_an_absent_package_is_listed() -> None:
    result, table = run_toy(double, baseline=True, absent=needs_package("no_such_package", "no-such-package"))
    assert result.status == "absent"
    assert "candidate: absent: no-such-package is not installed" in table


def test_a_wrong_implementation_makes_the_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Too strict a tolerance makes the real implementations wrong."""
    monkeypatch.setitem(TOLERANCES, torch.bfloat16, 1e-9)
    assert bench("--shape", "2,20,8,50", "--dtype", "bf16", "--only", "torch", "--no-gate-matrix") == 1
    assert "torch: FAILED: " in capsys.readouterr().out


def test_relative_error() -> None:
    ones = torch.ones(2, 3)
    assert relative_error(ones * 1.5, ones) == pytest.approx(0.5)
    # Unused slots may be there or not; they count as zeros.
    assert relative_error(torch.ones(2, 2), ones) == pytest.approx(math.sqrt(1 / 3))
    assert relative_error(torch.full((2, 3), math.nan), ones) == math.inf
    assert relative_error(torch.tensor([1, 2]), torch.tensor([1, 2])) == 0
    assert relative_error(torch.tensor([1, 3]), torch.tensor([1, 2])) == math.inf
    assert relative_error(torch.tensor([1e-8]), torch.tensor([0.0])) == pytest.approx(1e-8)
