"""Writes the results as a table for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from speechllm_tools.bench.framework import Result
from speechllm_tools.bench.timing import BACKWARD, BOTH, FORWARD, Timer

DISTRIBUTIONS = ("torch", "triton", "numpy", "torch-cif")


def describe_machine(device: str) -> dict[str, Any]:
    return {
        "device": device,
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        # `speechllm` sets passive waiting; beside other work, times with spinning threads (ACTIVE) are not comparable.
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
    }


def describe_run(timer: Timer) -> dict[str, Any]:
    """The machine, the versions and the commit, for the JSON."""
    return {
        "machine": {**describe_machine(timer.device), "copy_bytes_per_second": timer.copy_bandwidth},
        "versions": {
            "python": platform.python_version(),
            "cuda": torch.version.cuda,
            **{name: _version(name) for name in DISTRIBUTIONS},
        },
        "commit": _commit(),
    }


def footer() -> str:
    """The line that ends a page of results."""
    names = ", ".join(f"{name} {_version(name)}" for name in ("torch", "transformers"))
    commit = (_commit() or "unknown").partition("-")
    return (
        f"{datetime.date.today()}, {_cpu_name()}, {torch.get_num_threads()} thread(s), {names}, commit "
        f"{commit[0][:12]}{commit[1]}{commit[2]}."
    )


def as_json(kernel: str, dimensions: Sequence[str], results: Sequence[Result], timer: Timer) -> dict[str, Any]:
    return {
        "benchmark": kernel,
        "dimensions": list(dimensions),
        **describe_run(timer),
        "results": [_plain(dataclasses.asdict(result)) for result in results],
    }


def _plain(value: Any) -> Any:
    """Plain values for JSON, which has no infinity: an error without a size (unequal integers, NaN) becomes null."""
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def table(dimensions: Sequence[str], results: Sequence[Result], timer: Timer) -> str:
    """One block of lines for each operation and case, one line for each implementation."""
    run = describe_run(timer)
    machine, versions = run["machine"], run["versions"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    lines = [
        f"{where}; torch {versions['torch']}, triton {versions['triton']}; "
        f"copy {machine['copy_bytes_per_second'] / 1e9:.1f} GB/s; share = least bytes / time / copy bandwidth"
    ]
    header = ("", "forward", "share", "forward+backward", "share", "backward", "share", "peak", "syncs", "faster than")
    blocks: dict[str, list[Result]] = {}
    for result in results:
        size = " ".join(f"{name}={number}" for name, number in zip(dimensions, result.shape, strict=True))
        blocks.setdefault(f"{result.operation}: {size} {result.dtype} {result.variant}", []).append(result)
    for title, block in blocks.items():
        rows = [header, *(_row(result) for result in block if result.figures)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines += ["", title]
        for row in rows if len(rows) > 1 else []:
            cells = [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)),
            ]
            lines.append(("  " + "  ".join([*cells, row[-1]])).rstrip())
        for result in block:
            lines += [f"  {note}" for note in _notes(result)]
    return "\n".join(lines)


def _row(result: Result) -> tuple[str, ...]:
    seconds, shares = result.figures["seconds"], result.shares
    cells = [result.implementation]
    for name in (FORWARD, BOTH, BACKWARD):
        modes = seconds.get(name, {})
        cells.append(
            " / ".join(f"{mode} {_time(modes[mode])}" if len(modes) > 1 else _time(modes[mode]) for mode in modes)
        )
        cells.append(f"{shares[name]:.0%}" if name in shares else "")
    peak = result.figures.get("peak_bytes", {})
    syncs = result.figures.get("host_syncs", {})
    cells.append(f"{max(peak.values()) / 2**20:.0f} MiB" if peak else "")
    cells.append("+".join(str(count) for count in syncs.values()))
    ratios = [
        f"{name} "
        + ", ".join(
            f"{ratio[part]:.2f}x {label}" for part, label in ((FORWARD, "fwd"), (BOTH, "fwd+bwd")) if part in ratio
        )
        for name, ratio in result.speedups.items()
    ]
    cells.append("; ".join(ratios))
    return tuple(cells)


def _notes(result: Result) -> list[str]:
    name = result.implementation
    notes = []
    if result.status == "FAILED":
        notes.append(f"{name}: FAILED: {result.message}")
    elif result.status == "absent":
        notes.append(f"{name}: absent: {result.message}")
    elif result.status == "differs":
        notes.append(f"{name}: timed although it differs from the reference: {result.message}")
    if result.graph_breaks:
        notes.append(f"{name}: {result.graph_breaks} graph breaks under torch.compile")
    if result.reproducible is False:
        notes.append(f"{name}: two runs gave different bits")
    for part, reason in result.figures.get("not_captured", {}).items():
        notes.append(f"{name}: {part} not captured in a CUDA graph: {reason}")
    kernels = result.figures.get("kernels", {})
    if kernels and not result.baseline:
        parts = sorted(kernels.items(), key=lambda item: -item[1]["seconds"])[:6]
        texts = [
            f"{key[:40]} {_time(value['seconds'])}" + (f" ({value['share']:.0%})" if "share" in value else "")
            for key, value in parts
        ]
        notes.append(f"{name}: GPU kernels: " + ", ".join(texts))
    return notes


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, marked when files differ from it; None for an installed package."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None
