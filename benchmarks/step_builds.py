"""Training steps of two checkouts of this project, in turns: the recipe as it is, over the demo's models and clips of
2 to 10 s.

    git worktree add /tmp/before COMMIT
    python benchmarks/step_builds.py /tmp/before . --demo demo [--dtype float32 bfloat16]

Memory is what a process grows by from before its first step on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from speechllm_tools.bench.report import footer

STEPS, WARM = 7, 2
SECONDS = (2, 4, 6, 10)
TEXT = " ".join(["timer", "music", "lamp", "train", "seven", "green"] * 4)
SYSTEMS: dict[str, dict[str, Any]] = {"trimmed": {"trim": True}, "cached": {"pad_to_30s": False}}
"""Name -> keys of the encoder."""
_RATE = 16000


@dataclass(frozen=True)
class Found:
    seconds: float
    """Of a step, the median of those that are warm."""
    memory: int
    """In bytes."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout")
    parser.add_argument("after", type=Path, help="another")
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="folder of a demo, with its models and data")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    options = parser.parse_args()
    print("| clips | before: step | after: step | as fast | before: memory | after: memory | of it |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root, demo = Path(folder), options.demo.absolute()
        manifest = _write_clips(demo / "data", root)
        for dtype in options.dtype:
            for name in SYSTEMS:
                before, after = (
                    _train(build.absolute(), _config(demo, manifest, name, dtype, root / place), root)
                    for place, build in (("before", options.before), ("after", options.after))
                )
                print(
                    f"| {name} ({dtype}) | {before.seconds:.2f} s | {after.seconds:.2f} s | "
                    f"{before.seconds / after.seconds:.2f}x | {before.memory / 1e9:.2f} GB | "
                    f"{after.memory / 1e9:.2f} GB | {after.memory / before.memory:.2f} |", flush=True,
                )  # fmt: skip
    print(f"\n{footer()}")
    return 0


def _write_clips(data: Path, root: Path) -> Path:
    """Clips that are cut from one row of the demo's speech, which are one batch."""
    header, *rows = (data / "train.tsv").read_text(encoding="utf-8").splitlines()
    place = header.split("\t").index("audio")
    sound = np.concatenate([sf.read(data / row.split("\t")[place])[0] for row in rows[:60]])
    lines = ["id\taudio\ttgt_text\tsrc_lang\ttgt_lang"]
    for number, seconds in enumerate(SECONDS):
        start = number * max(SECONDS) * _RATE
        sf.write(root / f"{number}.wav", sound[start : start + seconds * _RATE], _RATE)
        lines.append(f"clip_{number}\t{root / f'{number}.wav'}\t{TEXT}\ten\ten")
    (root / "clips.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / "clips.tsv"


def _config(demo: Path, manifest: Path, name: str, dtype: str, folder: Path) -> dict[str, Any]:
    models = demo / "models"
    dataset: dict[str, Any] = {"config_overrides": {"manifests": {"train": str(manifest), "dev": str(manifest)}}}
    if name == "cached":
        dataset["feature_cache"] = str(folder / f"features-{dtype}")  # each build has its own
    return {
        "model": {
            "arch": "whisper_tiny_en.smollm2_135m.mlp",
            "config_overrides": {
                "encoder": {"config": {"path": str(models / "whisper-tiny.en"), "dtype": dtype, **SYSTEMS[name]}},
                "llm": {"config": {"path": str(models / "smollm2-135m-instruct"), "dtype": dtype}},
                "adapter": {"config": {"stack": 4, "hidden_dim": 576}},
            },
        },
        "dataset": {**dataset, "batch_size": len(SECONDS)},
        "trainer": {"grad_accumulation": {"num_batches": 1}},
        "lr_scheduler": {"config": {"num_warmup_steps": 2}},
        "regime": {
            "num_steps": STEPS + 1, "publish_metrics_every_n_steps": 1, "validate_after_n_steps": 1000,
            "validate_every_n_steps": 1000, "checkpoint_every_n_steps": 1000,
        },
    }  # fmt: skip


def _train(build: Path, config: dict[str, Any], root: Path) -> Found:
    """Until the last step to be measured has ended."""
    folder = Path(tempfile.mkdtemp(dir=root))
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    paths = os.pathsep.join(str(build / name) for name in ("", "kernels", "recipes", "tools"))
    command = ["recipe", "run", "speech_llm", "train", "--no-rich", folder / "run", "--config-file",
               folder / "config.json"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "speechllm_recipes", *map(str, command)], cwd=build, text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    start = peak = None
    log = []
    for line in process.stdout:
        log.append(line)
        if "Running on" in line and start is None:
            start = _memory(process.pid, "VmRSS")
        if f"Train Metrics (step {STEPS})" in line:
            peak = _memory(process.pid, "VmHWM")
            process.kill()
    process.wait()
    if start is None or peak is None:
        sys.exit(f"{build}: the training ended before step {STEPS}:\n{''.join(log[-20:])}")
    lines = (folder / "run/metrics/train.jsonl").read_text(encoding="utf-8").splitlines()
    return Found(statistics.median(json.loads(line)["Compute Time"] for line in lines[WARM:STEPS]), peak - start)


def _memory(process: int, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
