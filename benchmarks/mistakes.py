"""How long a mistake takes until its line appears, and a lone clip until its text: user and wall seconds of whole
processes, each started afresh, in turns with what Python, PyTorch and fairseq2 take by themselves. Needs the demo.

    python benchmarks/mistakes.py demo [--repeat 3]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FLOORS = {
    "`import torch`": "import torch",
    "`import fairseq2.recipe.cli`": "import speechllm_plugin, fairseq2.recipe.cli",
}
"""What no command can be faster than that needs it; `speechllm_plugin` loads libsndfile for fairseq2."""


@dataclass
class Case:
    name: str
    command: list[str]
    expected: str
    """A part of what it says."""
    user: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def run(self) -> None:
        start = time.perf_counter()
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen([sys.executable, *self.command], stdout=output, stderr=output)
            _, _, usage = os.wait4(process.pid, 0)
            self.wall.append(time.perf_counter() - start)
            self.user.append(usage.ru_utime)
            output.seek(0)
            said = " ".join(output.read().decode().split())
        if self.expected not in said:
            raise SystemExit(f"{self.name}: expected {self.expected!r}, found {said[-500:]!r}")

    def row(self) -> str:
        return f"| {self.name} | {min(self.user):.2f} | {min(self.wall):.2f} |"


def cases(demo: Path, folder: Path) -> Iterator[Case]:
    (folder / "bad.tsv").write_text("id\taudio\n1\ta.wav\n")
    (folder / "empty").mkdir()
    model, manifests = "model.config_overrides", "dataset.config_overrides.manifests"
    right = [
        "model.arch=whisper_tiny_en.smollm2_135m.base", f"{model}.encoder.config.path={demo}/models/whisper-tiny.en",
        f"{model}.llm.config.path={demo}/models/smollm2-135m-instruct", f"{manifests}.train={demo}/data/train.tsv",
        f"{manifests}.dev={demo}/data/dev.tsv",
    ]  # fmt: skip
    recipe = ["-m", "speechllm_recipes", "recipe", "run", "speech_llm"]

    def train(*items: str) -> list[str]:
        return [*recipe, "train", str(folder / "run"), "--no-rich", "--config", *right, *items]

    yield Case("wrong key", train("model.typo=1"), "model.typo: found an unknown key")
    yield Case("wrong type", train("regime.num_steps=many"), "regime.num_steps: found 'many'")
    yield Case("wrong value", train("optimizer.config.lr=-1"), "optimizer.config.lr: found -1")
    yield Case("bad dtype", train(f"{model}.llm.config.dtype=bfloat17"), "llm.config.dtype: found 'bfloat17'")
    prompt = f"{model}.prompt.transcribe=say {{sorce}}"
    yield Case("placeholder of the prompt", train(prompt), "found placeholder {sorce}")
    yield Case("manifest that is missing", train(f"{manifests}.train={folder}/lost.tsv"), "found no such file")
    yield Case("column that is missing", train(f"{manifests}.dev={folder}/bad.tsv"), "expected also 'tgt_text'")
    yield Case(
        "two sections in conflict", train("regime.num_steps=9", "lr_scheduler.config.num_warmup_steps=9"),
        "expected less than `regime.num_steps`",
    )  # fmt: skip
    evaluate = [*recipe, "evaluate", str(folder / "evaluated"), "--checkpoint", str(folder / "empty")]
    yield Case("checkpoint without its files", evaluate, "checkpoint: found no model.yaml")
    window = (f"{model}.adapter.name=wlq_former", f"{model}.adapter.config={{ctc_frames: after, num_queries: 3}}")
    yield Case("adapter that does not go with the encoder", train(*window), "adapter.config.num_queries: found 3")
    yield from lone_clips(demo, folder)


def lone_clips(demo: Path, folder: Path) -> Iterator[Case]:
    clip = folder / "clip.wav"
    transcribe = ["-m", "speechllm_tools.cli", "transcribe", "--checkpoint"]
    of_run = [*transcribe, str(demo / "run")]
    yield Case("transcribe: file that is missing", [*of_run, str(folder / "lost.wav")], "found no such file")
    yield Case("transcribe: wrong key", [*of_run, "--set", "llm.nam=x", str(clip)], "llm.nam: found an unknown key")
    yield Case(
        "transcribe: checkpoint that is missing", [*transcribe, str(folder / "lost"), str(clip)], "checkpoint: found no"
    )
    yield Case("transcribe: 3 s of speech", [*of_run, str(clip)], "decoding as in the training run")


def cut_clip(demo: Path, file: Path) -> None:
    """3 s of the demo's test audio."""
    import numpy as np
    import soundfile

    samples = [soundfile.read(path)[0] for path in sorted((demo / "data/audio/test_seen").glob("*.flac"))[:2]]
    soundfile.write(file, np.concatenate(samples)[: 3 * 16000], 16000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="the folder of a demo that was trained")
    parser.add_argument("--repeat", type=int, default=3, help="the least of so many times (default: 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cut_clip(options.demo, folder / "clip.wav")
        floors = [Case(name, ["-c", statement], "") for name, statement in FLOORS.items()]
        all_cases = [Case("`python -c pass`", ["-c", "pass"], ""), *floors, *cases(options.demo.resolve(), folder)]
        for _ in range(options.repeat):
            for case in all_cases:
                case.run()
                print(case.row(), file=sys.stderr, flush=True)
    print("| mistake | user s | wall s |\n| --- | --- | --- |")
    print("\n".join(case.row() for case in all_cases))


if __name__ == "__main__":
    main()
