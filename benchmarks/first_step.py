"""The training recipe over manifests of more and more rows: what comes before its first step, the first checkpoint, and
a run that is killed and resumed against one that is not.

    python benchmarks/first_step.py demo/models/whisper-tiny.en demo/models/smollm2-135m [--rows 1000 1000000]

Tiny models show what the rows cost, large ones what that is beside a step. A resumed run that does not repeat the steps
of the other ends it with exit status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechllm_tools.bench.data_files import write_rows
from speechllm_tools.bench.report import footer

STEPS, CHECKPOINT, KILLED = 8, 4, 6
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Run:
    first_cpu: float = 0.0
    """Seconds of the processor until the first step is done, with imports."""
    first_wall: float = 0.0
    checkpoint_cpu: float = 0.0
    """That the first checkpoint takes before the training goes on."""
    megabytes: float = 0.0
    """The most that it had in memory."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path, help="a Whisper checkpoint")
    parser.add_argument("llm", type=Path, help="a Llama checkpoint")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 1_000_000])
    parser.add_argument("--root", metavar="DIR", help="where the rows are written")
    options = parser.parse_args()
    print("| rows | run | first step, processor | wall clock | first checkpoint, processor | memory |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    same = True
    with tempfile.TemporaryDirectory(dir=options.root) as folder:
        for rows in options.rows:
            root = Path(folder) / str(rows)
            config = root / "config.json"
            manifest, dev = write_rows(root / "train", rows), write_rows(root / "dev", 50)
            config.write_text(json.dumps(_config(options.encoder, options.llm, manifest, dev)))
            _tell(rows, "not killed", _run(config, root / "whole"))
            _run(config, root / "killed", kill_after=KILLED)
            _tell(rows, f"resumed after kill -9 in step {KILLED + 1}", _run(config, root / "killed"))
            whole, killed = (_steps(root / name) for name in ("whole", "killed"))
            same = same and whole == killed and len(whole) == STEPS
    print(f"\n{'All' if same else 'NOT all'} steps of the resumed runs are those of the others.\n\n{footer()}")
    return 0 if same else 1


def _config(encoder: Path, llm: Path, manifest: Path, dev: Path) -> dict[str, Any]:
    def part(path: Path) -> dict[str, Any]:
        return {"arch": None, "config": {"path": str(path.absolute()), "dtype": "float32"}}

    return {
        "model": {
            "arch": "whisper_tiny_en.smollm2_135m.mlp",
            "config_overrides": {
                "encoder": part(encoder), "llm": part(llm), "ctc": {"weight": 0.3},
                "adapter": {"config": {"stack": 2, "hidden_dim": 48}},
            },
        },
        "dataset": {
            "batch_size": 8, "max_batch_seconds": 60.0, "valid_decode": False,
            "config_overrides": {"manifests": {"train": str(manifest), "dev": str(dev)}},
        },
        "trainer": {"grad_accumulation": {"num_batches": 4}, "mixed_precision": {"mode": "off"}},
        "regime": {
            "num_steps": STEPS, "validate_every_n_steps": CHECKPOINT, "checkpoint_every_n_steps": CHECKPOINT,
            "publish_metrics_every_n_steps": 1, "score_metric": "nll_loss",
        },
    }  # fmt: skip


def _run(config: Path, output: Path, *, kill_after: int | None = None) -> Run:
    """
    :param kill_after: a step.
    """
    command = [sys.executable, "-m", "speechllm_recipes", "recipe", "run", "speech_llm", "train", str(output),
               "--no-rich", "--config-file", str(config)]  # fmt: skip
    run, lines, begin = Run(), [], 0.0
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "Preparing checkpoint" in line:
                begin = _processor(process.pid)
            elif "Checkpoint prepared" in line and not run.checkpoint_cpu:
                run.checkpoint_cpu = _processor(process.pid) - begin
            elif (match := re.search(r"Train Metrics \(step (\d+)\)", line)) is not None:
                run.megabytes = max(run.megabytes, _megabytes(process.pid))
                if not run.first_cpu:
                    run.first_cpu, run.first_wall = _processor(process.pid), time.perf_counter() - started
                if int(match[1]) == kill_after:
                    process.send_signal(signal.SIGKILL)
    if process.returncode != (0 if kill_after is None else -signal.SIGKILL):
        raise RuntimeError(f"the run ended with status {process.returncode}:\n{''.join(lines)}")
    return run


def _steps(run: Path) -> dict[int, dict[str, Any]]:
    """What was measured in each step, the last time that it was made."""
    lines = map(json.loads, (run / "metrics" / "train.jsonl").read_text().splitlines())
    return {
        line["Step"]: {key: value for key, value in line.items() if not re.search(r"Time|Memory|Rate|/s", key)}
        for line in lines
    }


def _processor(process: int) -> float:
    """Seconds, in user and system mode, of all its threads."""
    fields: Sequence[str] = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _megabytes(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)[0]) * 1024 / 1e6


def _tell(rows: int, name: str, run: Run) -> None:
    cells = (f"{rows:,}", name, f"{run.first_cpu:.1f} s", f"{run.first_wall:.1f} s",
             f"{run.checkpoint_cpu:.2f} s" if run.checkpoint_cpu else "", f"{run.megabytes:,.0f} MB")  # fmt: skip
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
