"""Reads a manifest by one reader and prints its cost as JSON: `python -m speechllm_tools.bench.data_readers`."""

from __future__ import annotations

import csv
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from speechllm_plugin.datasets.manifest import seconds_of

BATCH_SECONDS, BATCHES = 120.0, 4
"""Audio in a batch, and batches in a step."""

Batches = Iterator[list[torch.Tensor]]
"""Steps of batches of waveforms."""


def main(arguments: Sequence[str]) -> int:
    manifest, reader, what = Path(arguments[0]), arguments[1], arguments[2]
    read = READERS[reader]
    next(read(Path(arguments[3])))  # imports and setup are not measured
    before = _memory("VmRSS")
    _forget_the_peak()
    wall, processor = time.perf_counter(), time.process_time()
    batches = read(manifest)
    taken = [next(batches)] if what == "first" else list(batches)
    figures: dict[str, Any] = {
        "seconds": time.perf_counter() - wall,
        "processor": time.process_time() - processor,
        "megabytes": _memory("VmHWM") - before,
        "audio": sum(len(clip) for batch in taken for clip in batch) / 16000,
    }
    print(json.dumps(figures))
    return 0


def ours(manifest: Path) -> Batches:
    # Imported here, since importing fairseq2 takes seconds and the other readers do not need it.
    from speechllm_plugin.datasets.plan import BatchLimits
    from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
    from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset

    rows = SpeechTextDataset(SpeechTextConfig(manifests={"train": str(manifest)})).read("train")
    limits = BatchLimits(64, BATCH_SECONDS)
    options = ReadOptions(limits=limits, shuffle_seed=1, max_seconds=30.0, num_accumulate=BATCHES, num_threads=1)
    for step in SpeechTextReader(rows, options):
        for batch in step:
            yield [waveform for waveform in batch.waveforms if waveform is not None]


def plain_loop(manifest: Path) -> Batches:
    """The way of fairseq's reader of speech to text: rows as dictionaries, a list for each column, batches of similar
    lengths in random order. It checks nothing."""
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = [dict(row) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    audio = [str(manifest.parent / row["audio"]) for row in rows]
    columns = {name: [row[name] for row in rows] for name in ("id", "tgt_text", "src_text", "speaker", "tgt_lang")}
    lengths = np.array([seconds_of(int(row["n_frames"])) for row in rows])
    generator = np.random.default_rng(1)
    batches: list[list[int]] = [[]]
    for index in np.lexsort((generator.permutation(len(rows)), lengths)).tolist():
        if len(batches[-1]) == 64 or lengths[index] * (len(batches[-1]) + 1) > BATCH_SECONDS:
            batches.append([])
        batches[-1].append(index)
    assert len(columns["id"]) == len(audio)
    for number in generator.permutation(len(batches)).tolist():
        yield [torch.from_numpy(soundfile.read(audio[index], dtype="float32")[0]) for index in batches[number]]


def lhotse(manifest: Path) -> Batches:
    """lhotse's lazy manifest, dynamic buckets and own decoder. `cuts_of` has written the cuts before."""
    # Imported by name, since lhotse is a peer and not a dependency.
    cut_set, dataset = import_module("lhotse"), import_module("lhotse.dataset")
    cuts = cut_set.CutSet.from_jsonl_lazy(cuts_of(manifest))
    sampler = dataset.DynamicBucketingSampler(
        cuts, max_duration=BATCH_SECONDS, max_cuts=64, shuffle=True, seed=1, num_buckets=8, drop_last=False
    )
    for batch in sampler:
        yield [torch.from_numpy(cut.load_audio()[0]) for cut in batch]


def cuts_of(manifest: Path) -> Path:
    """Lhotse's manifest of the same rows."""
    path = manifest.with_suffix(".jsonl")
    if path.exists():
        return path
    with manifest.open(encoding="utf-8", newline="") as file, path.open("w", encoding="utf-8") as cuts:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            seconds = seconds_of(int(row["n_frames"]))
            source = {"type": "file", "channels": [0], "source": str(manifest.parent / row["audio"])}
            recording = {
                "id": row["id"], "sources": [source], "sampling_rate": 16000, "num_samples": round(16000 * seconds),
                "duration": seconds, "channel_ids": [0],
            }  # fmt: skip
            text = {"id": row["id"], "recording_id": row["id"], "start": 0.0, "duration": seconds, "channel": 0,
                    "text": row["tgt_text"], "language": row["tgt_lang"], "speaker": row["speaker"]}  # fmt: skip
            cut = {"id": row["id"], "start": 0.0, "duration": seconds, "channel": 0, "supervisions": [text],
                   "recording": recording, "type": "MonoCut"}  # fmt: skip
            cuts.write(json.dumps(cut) + "\n")
    return path


READERS: dict[str, Callable[[Path], Batches]] = {"speechllm": ours, "plain loop": plain_loop, "lhotse": lhotse}


def _forget_the_peak() -> None:
    """Makes Linux count the peak memory from here on."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def _memory(name: str) -> float:
    """Memory of this process in MB, by Linux: now (`VmRSS`), or its peak (`VmHWM`)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    return int(re.findall(rf"^{name}:\s*(\d+) kB", status.read_text(), re.MULTILINE)[0]) * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
