"""What a trace of PyTorch's profiler tells of steps."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from speechllm_tools.bench.step_gaps import read, table
from torch.profiler import ProfilerActivity, profile, record_function


def test_a_table_of_steps(tmp_path: Path) -> None:
    """Named as fairseq2 names them, two batches a step; after the first step nothing happens for a while."""
    matrix = torch.randn(256, 256)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for step in (7, 8, 9):
            with record_function(f"step_{step}"):
                for batch in range(2):
                    with record_function(f"step_{step}_{batch}_forward"):
                        time.sleep(0.02)
                        matrix = (matrix @ matrix).tanh()
                    with record_function(f"step_{step}_{batch}_backward"):
                        matrix = matrix @ matrix
                with record_function(f"step_{step}_optimizer"):
                    matrix = matrix / matrix.norm()
            if step == 7:
                time.sleep(0.1)
    profiler.export_chrome_trace(str(tmp_path / "trace.json.gz"))
    header, _, *rows = table(read(tmp_path / "trace.json.gz")).splitlines()
    names = header.strip("| ").split(" | ")
    assert names == [
        "step", "forward", "backward", "grad_norm", "optimizer", "rest", "until the next", "CPU idle", "longest pause",
    ]
    found = [dict(zip(names, row.strip("| ").split(" | "), strict=True)) for row in rows]
    assert [row["step"] for row in found] == ["7", "8"]  # what follows the last one is not known
    times = [{name: float(text.split()[0]) for name, text in row.items() if text.endswith("ms")} for row in found]
    assert all(row["forward"] >= 40.0 and row["grad_norm"] == 0.0 for row in times)
    assert times[0]["until the next"] >= 100.0 and times[0]["longest pause"] >= 100.0
    assert times[1]["longest pause"] >= 20.0
    assert all(0.0 < float(row["CPU idle"].rstrip("%")) < 100.0 for row in found)
