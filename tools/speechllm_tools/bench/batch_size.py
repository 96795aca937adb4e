"""Checks whether the text of a clip depends on its batch, and compares the time of a batch with its clips one by
one."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from speechllm_plugin.datasets.audio import SAMPLE_RATE, read_audio, resolve
from speechllm_plugin.datasets.manifest import read_manifest
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.inference.transcriber import Transcriber, load_speech_llm
from speechllm_tools.bench.report import describe_machine

DTYPES = ("bfloat16", "float32")
_COLUMNS = ("encoder and LLM", "clips", "texts that depend on the batch", "batches (s)", "one by one (s)", "ratio")


def run(options: argparse.Namespace, device: str, *, report: Callable[[str], None]) -> int:
    """Prints a row for each precision; exit status 1 where a text depends on its batch."""
    for name in ("clips", "batch_size", "beam_size"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}: found {getattr(options, name)}, expected at least 1")
    sources = [resolve(row.audio, options.manifest.parent) for row in read_manifest(options.manifest)[: options.clips]]
    sounds = [read_audio(source) for source in sources]
    if not options.no_hard_clips:
        sounds += hard_clips(sounds)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.wav" for number in range(len(sounds))]
        for file, sound in zip(files, sounds, strict=True):
            soundfile.write(file, sound, SAMPLE_RATE, subtype="FLOAT")
        for dtype in DTYPES:
            report(f"batch-size: {dtype} ...")
            overrides = {"encoder.config.dtype": dtype, "llm.config.dtype": dtype}
            system = load_speech_llm(options.checkpoint, device=device, overrides=overrides)
            rows.append({"dtype": dtype, "clips": len(files), **measure(system, files, options)})
    print(table(rows))
    if options.json is not None:
        document = {"benchmark": "batch-size", "machine": describe_machine(device), "results": rows,
                    "batch_size": options.batch_size, "beam_size": options.beam_size}
        write_text_atomically(options.json, json.dumps(document, indent=1) + "\n")
    return int(any(row["differing"] for row in rows))


def hard_clips(sounds: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Eight clips on which a system is unsure: noise, silence, and speech unlike that of training."""
    rng, quiet = np.random.default_rng(0), np.zeros(5 * SAMPLE_RATE, dtype=np.float32)
    hum = 0.1 * np.sin(2 * np.pi * 50 * np.arange(len(quiet)) / SAMPLE_RATE)
    first, second = sounds[0], sounds[-1]
    made = [rng.normal(0, 0.05, len(quiet)), hum, quiet, np.concatenate([first, first]), np.concatenate([first, quiet]),
            np.concatenate([quiet[:9600], first]), np.concatenate([first, quiet[:8000], second]), 0.02 * second]
    return [sound.astype(np.float32) for sound in made]


def measure(system: Transcriber, files: Sequence[Path], options: argparse.Namespace) -> dict[str, float]:
    """Measures in CPU time, which other work on the machine does not change, or in wall time on a GPU."""
    decoding = replace(system.decoding, beam_size=options.beam_size)
    clock = time.process_time if next(system.model.parameters()).device.type == "cpu" else time.perf_counter
    system.transcribe(files[:1], decoding=decoding)  # a warm-up
    start = clock()
    together = [text for names in _chunks(files, options.batch_size) for text in
                system.transcribe(names, decoding=decoding)]
    middle = clock()
    alone = [system.transcribe([name], decoding=decoding)[0] for name in files]
    return {
        "differing": sum(one != other for one, other in zip(together, alone, strict=True)),
        "batch_seconds": middle - start,
        "alone_seconds": clock() - middle,
    }


def table(rows: Sequence[dict[str, object]]) -> str:
    """The table in Markdown."""
    lines: list[Sequence[object]] = [_COLUMNS, ["---"] * len(_COLUMNS)]
    for row in rows:
        batch, alone = float(str(row["batch_seconds"])), float(str(row["alone_seconds"]))
        lines.append((row["dtype"], row["clips"], row["differing"], f"{batch:.1f}", f"{alone:.1f}",
                      f"{batch / alone:.2f}"))
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _chunks(files: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(files), size):
        yield files[start : start + size]
