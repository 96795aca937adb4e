"""Our own decoding and vLLM's side by side: the tokens of the same clips, how fast they come, and the memory.

    speechllm vllm install
    python benchmarks/vllm_engine.py --checkpoint demo/run --audio demo/data/audio/test_seen/*.flac --dtype float32

It starts vLLM's server itself. Both sides have their turns one after the other, so that what else the machine does
meets both; encoder and adapter run in this process for both. Exit status 1 where a text in float32 is not the same.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from speechllm_tools.numerics import use_recipe_numerics

from speechllm_plugin.inference.transcriber import Transcriber, load_speech_llm
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.tasks.answer import ANSWER
from speechllm_plugin.tasks.row_prompt import question

LONGEST_START = 900.0
STORY = "Tell a long story about this: <speech>"


@dataclass(frozen=True)
class Task:
    name: str
    instruction: str | None
    """None = the texts of the clips."""
    decoding: DecodingConfig


@dataclass(frozen=True)
class Side:
    name: str
    system: Transcriber
    processes: Sequence[psutil.Process]

    def write(self, files: Sequence[Path], task: Task, size: int) -> list[list[int]]:
        """The tokens of each file, so many files at once."""
        found = []
        for start in range(0, len(files), size):
            some = files[start : start + size]
            if task.instruction is None:
                batch = self.system.read(some, "en", None)
            else:
                batch = self.system.read(some, "en", None, ANSWER, question(task.instruction, "", (), ""))
            with torch.inference_mode():
                found += [row.tokens for row in self.system.model.generate(batch, task.decoding)[1]]
        return found

    def processor_seconds(self) -> float:
        times = [process.cpu_times() for process in self.processes]
        return sum(one.user + one.system for one in times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--audio", required=True, nargs="+", type=Path, help="clips")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the LLM, on both sides")
    parser.add_argument("--clips", type=int, default=32, help="clips that are written, the first of --audio")
    parser.add_argument("--answer", type=int, default=64, help="tokens of the long answers")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 32], help="clips at once")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    options = parser.parse_args()
    use_recipe_numerics()
    files = options.audio[: options.clips]
    overrides = {"llm.config.dtype": options.dtype, "encoder.config.dtype": "float32"}
    with tempfile.TemporaryFile() as log:
        port, server = start(options.checkpoint, options.dtype, log)
        try:
            url = f"http://127.0.0.1:{port}"
            served = load_speech_llm(options.checkpoint, overrides=overrides, engine="vllm", engine_url=url)
            here = psutil.Process()
            # Started by our command, whose place it took.
            tree = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
            ours = load_speech_llm(options.checkpoint, overrides=overrides)
            sides = [Side("ours", ours, [here]), Side("vLLM", served, [here, *tree])]
            texts = Task("texts", None, ours.decoding)
            plain = replace(ours.answering(options.answer), no_repeat_ngram_size=0, max_compression_ratio=None)
            tasks = [texts, Task(f"answers of {options.answer} tokens", STORY, plain)]
            same = compare(sides, files, tasks, max(options.sizes))
            measure(sides, files, tasks, options.sizes, options.rounds)
            tell_memory(options.checkpoint, overrides, url, files[0], tree)
        finally:
            server.terminate()
            server.wait(60)
    return 0 if same or options.dtype != "float32" else 1


def start(checkpoint: Path, dtype: str, log: object) -> tuple[int, subprocess.Popen[bytes]]:
    """:returns: the port of a server that answers, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "speechllm_tools.cli", "vllm", "serve", "--checkpoint", str(checkpoint),
               "--dtype", dtype, "--port", str(port), "--kv-gigabytes", "1"]  # fmt: skip
    begun = time.monotonic()
    server = subprocess.Popen(command, stdout=log, stderr=log)  # type: ignore[call-overload]
    while server.poll() is None and time.monotonic() < begun + LONGEST_START:
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                print(f"vLLM answers after {time.monotonic() - begun:.0f} s", flush=True)
                return port, server
        time.sleep(0.5)
    server.kill()
    os.lseek(log.fileno(), 0, os.SEEK_SET)  # type: ignore[attr-defined]
    raise SystemExit(f"vLLM did not start:\n{os.read(log.fileno(), 1 << 20).decode()[-3000:]}")  # type: ignore[attr-defined]


def compare(sides: Sequence[Side], files: Sequence[Path], tasks: Sequence[Task], many: int) -> bool:
    ours, served = sides
    all_same = True
    print(f"\n| {len(files)} clips | the same alone | the same, {many} at once | tokens of ours |")
    print("| --- | --- | --- | --- |")
    for task in tasks:
        expected = ours.write(files, task, many)
        counts = []
        for size in (1, many):
            found = served.write(files, task, size)
            counts.append(sum(mine == its for mine, its in zip(expected, found, strict=True)))
        all_same &= min(counts) == len(files)
        print(f"| {task.name} | {counts[0]} | {counts[1]} | {sum(map(len, expected))} |", flush=True)
    return all_same


def measure(
    sides: Sequence[Side], files: Sequence[Path], tasks: Sequence[Task], sizes: Sequence[int], rounds: int
) -> None:
    print("\n| | at once | side | clips a second | tokens a second | processor seconds a clip |")
    print("| --- | --- | --- | --- | --- | --- |")
    for task in tasks:
        for size in sizes:
            found: dict[str, list[tuple[float, float, int]]] = {side.name: [] for side in sides}
            for turn in range(rounds):
                for side in sides if turn % 2 == 0 else sides[::-1]:
                    found[side.name].append(timed(side, lambda side=side: side.write(files, task, size)))  # noqa: B023
            for name, turns in found.items():
                seconds, processor = (statistics.median(turn[place] for turn in turns) for place in (0, 1))
                tokens = turns[0][2] / seconds
                print(f"| {task.name} | {size} | {name} | {len(files) / seconds:.2f} | {tokens:.1f} | "
                      f"{processor / len(files):.3f} |", flush=True)  # fmt: skip


def timed(side: Side, write: Callable[[], list[list[int]]]) -> tuple[float, float, int]:
    """Seconds by the clock and of the processor, and the tokens."""
    begun, used = time.perf_counter(), side.processor_seconds()
    tokens = sum(map(len, write()))
    return time.perf_counter() - begun, side.processor_seconds() - used, tokens


def tell_memory(
    checkpoint: Path, overrides: dict[str, str], url: str, file: Path, tree: Sequence[psutil.Process]
) -> None:
    """Pages that processes share count for each by its share of them."""
    engines = ((None, None), ("transformers", None), ("vllm", url))
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        empty, own, served = (pool.apply(memory, (checkpoint, overrides, *engine, file)) for engine in engines)
    print("\n| memory | MB |\n| --- | --- |")
    print(f"| a process that has imported what it needs | {empty:.0f} |")
    print(f"| with the whole system | {own:.0f} |\n| with --engine vllm | {served:.0f} |")
    print(f"| vLLM's {len(tree)} processes | {sum(process.memory_full_info().pss for process in tree) / 1e6:.0f} |")


def memory(checkpoint: Path, overrides: dict[str, str], engine: str | None, url: str | None, file: Path) -> float:
    """Megabytes of a process of its own, once it has written a text."""
    if engine is not None:
        system = load_speech_llm(checkpoint, overrides=overrides, engine=engine, engine_url=url)  # type: ignore[arg-type]
        system.transcribe(file)
    return float(psutil.Process().memory_full_info().pss / 1e6)


if __name__ == "__main__":
    raise SystemExit(main())
