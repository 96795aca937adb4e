"""An hour of speech against a minute of it, against its own pieces as a batch, and beside other programs.

    python benchmarks/long_recording.py --checkpoint demo/run --manifest demo/data/test_unseen.tsv --work /tmp/hour \
        --pipeline demo/models/whisper-tiny.en --faster-whisper PYTHON MODEL

The talk is made of the manifest's clips in a random order, with pauses of 0 to 5 s between them, some of noise and some
of chords. A second one, of at most ten minutes, has no pauses, so that its pieces overlap. Of both, the words in pauses
and those that are doubled or lost at cuts are counted by their times. Each program runs in a process of its own, one
after the other, with one thread: processor time and the most memory that it held are the system's own count of it.
`--faster-whisper` takes an interpreter that has the package, and a model's folder in CTranslate2's format; `--pipeline`
a Whisper checkpoint for transformers' pipeline.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jiwer
import numpy as np
import numpy.typing as npt
import soundfile
from joined_words import Span, count_words

from speechllm_plugin.datasets.audio import SAMPLE_RATE, read_audio, resolve
from speechllm_plugin.models.speech_llm.checkpoint_files import find_checkpoint
from speechllm_plugin.recordings.cutting import CutConfig, piece_lengths
from speechllm_plugin.recordings.hearing import Hearing
from speechllm_plugin.scoring.normalizers import normalize_basic

FASTER_WHISPER = """
import sys
from faster_whisper import BatchedInferencePipeline, WhisperModel
model = WhisperModel(sys.argv[1], device="cpu", compute_type="int8", cpu_threads=1, num_workers=1)
batch = {"batch_size": 8} if sys.argv[3] == "batched" else {}
transcribe = BatchedInferencePipeline(model).transcribe if batch else model.transcribe
print(*[part.text for part in transcribe(sys.argv[2], language="en", beam_size=1, **batch)[0]])
"""
PIPELINE = """
import soundfile, sys, torch
from transformers import pipeline
torch.set_num_threads(1)
listen = pipeline("automatic-speech-recognition", sys.argv[1], chunk_length_s=30, batch_size=8, device="cpu")
samples, rate = soundfile.read(sys.argv[2], dtype="float32")  # a path would need the command ffmpeg
print(listen({"raw": samples, "sampling_rate": rate})["text"])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--manifest", required=True, nargs="+", type=Path)
    parser.add_argument("--work", required=True, type=Path, help="folder for the talks and their pieces")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--pipeline", metavar="MODEL")
    parser.add_argument("--faster-whisper", nargs=2, metavar=("PYTHON", "MODEL"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    short, _ = talk(options.manifest, 1, options.work / "minute.flac")
    long, clips = talk(options.manifest, options.minutes, options.work / "talk.flac")
    dense, dense_clips = talk(options.manifest, min(options.minutes, 10), options.work / "dense.flac", pauses=False)
    pieces = cut(options.checkpoint, long, options.work / "pieces")
    dense_pieces = cut(options.checkpoint, dense, options.work / "dense_pieces")
    # Words with times in all: for these the CTC head reads each piece, which takes its share.
    ours = [sys.executable, "-m", "speechllm_tools.cli", "transcribe", "--checkpoint", options.checkpoint,
            "--timestamps", "words"]  # fmt: skip
    runs = {
        "a minute": [*ours, short],
        "the talk": [*ours, long],
        "a talk without pauses": [*ours, dense],
        f"its {len(pieces)} pieces as files, in batches": [*ours, options.work / "pieces"],
    }
    talks = {"the talk": (clips, pieces), "a talk without pauses": (dense_clips, dense_pieces)}
    if options.faster_whisper is not None:
        python, model = options.faster_whisper
        runs["faster-whisper, batches of 8"] = [python, "-c", FASTER_WHISPER, model, long, "batched"]
        runs["faster-whisper, one by one"] = [python, "-c", FASTER_WHISPER, model, long, "alone"]
    if options.pipeline is not None:
        runs["transformers' pipeline, batches of 8"] = [sys.executable, "-c", PIPELINE, options.pipeline, long]
    print("| | processor time (s) | by the clock (s) | most memory (MB) | WER |\n| --- | ---: | ---: | ---: | ---: |")
    counted = ["| | pieces | words | in a pause | doubled at a cut | lost at a cut | lost elsewhere |",
               "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for name, command in runs.items():
        processor, clock, memory, lines = measured(command)
        said, places = talks.get(name, (clips, None))
        text, found = " ".join(clip.text for clip in said), " ".join(line.split("\t")[-1] for line in lines)
        words = jiwer.wer(normalize_basic(text), normalize_basic(found)) if name != "a minute" else None
        print(f"| {name} | {processor:.0f} | {clock:.0f} | {memory:.0f} | "
              f"{'' if words is None else f'{words:.3f}'} |", flush=True)
        if places is not None:
            counts = count_words(list(map(word_of, lines)), said, places)
            counted.append(f"| {name} | {len(places)} | {counts.words} | {counts.in_pauses} | {counts.doubled} | "
                           f"{counts.lost} | {counts.lost_elsewhere} |")
    print("", *counted, sep="\n")


def word_of(line: str) -> Span:
    _, start, end, text = line.split("\t")
    return Span(text, float(start), float(end))


def talk(manifests: Sequence[Path], minutes: float, path: Path, *, pauses: bool = True) -> tuple[Path, list[Span]]:
    """The same for the same clips, with what is said in it."""
    rows = []
    for manifest in manifests:
        with open(manifest, encoding="utf-8", newline="") as file:
            rows += [(manifest.parent, row) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    rng, said, whole = random.Random(0), list[Span](), round(60 * minutes * SAMPLE_RATE)
    left = whole
    noise = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16") as file:
        for folder, row in endless(rows, rng):
            clip = read_audio(resolve(row["audio"], folder))
            pause = silence(rng, noise) if pauses else np.zeros(0, np.float32)
            if len(clip) + len(pause) > left:
                break
            start = (whole - left) / SAMPLE_RATE
            said.append(Span(row["tgt_text"], start, start + len(clip) / SAMPLE_RATE))
            left -= len(clip) + len(pause)
            file.write(clip)
            file.write(pause)
        file.write(np.zeros(left, np.float32))
    return path, said


def endless(rows: Sequence[tuple[Path, dict[str, str]]], rng: random.Random) -> Iterator[tuple[Path, dict[str, str]]]:
    while True:
        yield from rng.sample(rows, len(rows))


def silence(rng: random.Random, noise: np.random.Generator) -> npt.NDArray[np.float32]:
    samples = np.zeros(round(rng.uniform(0, 5) * SAMPLE_RATE), np.float32)
    kind, seconds = rng.random(), np.arange(len(samples)) / SAMPLE_RATE
    if kind < 0.15:
        samples += noise.normal(0, 0.01, len(samples)).astype(np.float32)
    elif kind < 0.3:
        samples += sum(0.03 * np.sin(2 * np.pi * pitch * seconds) for pitch in (220, 277, 330)).astype(np.float32)
    return samples


def cut(checkpoint: Path, file: Path, folder: Path) -> list[tuple[float, float]]:
    """Writes the pieces that `transcribe` makes of a file; returns where each begins and ends, in seconds."""
    folder.mkdir(exist_ok=True)
    found = find_checkpoint(checkpoint)
    whole, longest = piece_lengths(30.0, found.longest_clip())
    places = []
    for piece in Hearing(resolve(str(file), Path()), whole, CutConfig(longest=longest)):
        places.append((piece.start / SAMPLE_RATE, (piece.start + len(piece.samples)) / SAMPLE_RATE))
        soundfile.write(folder / f"piece{len(places):05}.wav", piece.samples, SAMPLE_RATE)
    return places


def measured(command: Sequence[object]) -> tuple[float, float, float, list[str]]:
    """Processor seconds, seconds by the clock, megabytes, and what was printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]}: exit status {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - start, usage.ru_maxrss / 1024, lines


if __name__ == "__main__":
    main()
