"""From a list of clips to FLAC files, spoken by espeak-ng in several processes."""

from __future__ import annotations

import io
import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import soundfile
import soxr

from speechllm_tools.demo.espeak import Espeak

SAMPLE_RATE = 16000
"""Of the files, in Hz: the rate that speech encoders take."""

BATCH_SIZE = 100
"""Clips that one process speaks. It is the unit of repeatability, hence also of going on after an interruption."""


@dataclass(frozen=True)
class Clip:
    """What is to be said, how, and where to."""

    file: str
    """Path of the FLAC file, relative to the data folder."""

    text: str

    voice: str

    words_per_minute: int

    pitch: int

    silence_ms: int
    """Digital silence before the speech. espeak-ng itself leaves 60 ms at most, which few recordings do."""


def synthesise(
    clips: Sequence[Clip], folder: Path, *, num_processes: int, progress: Callable[[int], None] = lambda done: None
) -> None:
    """Write all ``clips`` to ``folder`` (16 bits, one channel). Batches whose files are all there are left alone.

    Each batch is spoken by a fresh process, since espeak-ng's state carries over from clip to clip: the files depend
    on the clips alone, not on the number of processes or on interruptions.

    :param progress: told now and then how many clips are there.
    :raises RuntimeError: if a process fails; it has printed why.
    """
    done, batches = 0, []
    for start in range(0, len(clips), BATCH_SIZE):
        batch = clips[start : start + BATCH_SIZE]
        if all((folder / clip.file).is_file() for clip in batch):
            done += len(batch)
        else:
            batches.append(batch)
    for parent in {(folder / clip.file).parent for clip in clips}:
        parent.mkdir(parents=True, exist_ok=True)
    # Forked from a server that has loaded this module and nothing else: quick, and no threads to be afraid of.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    running: list[tuple[ForkServerProcess, int]] = []
    try:
        while batches or running:
            progress(done)
            while batches and len(running) < num_processes:
                batch = batches.pop(0)
                process = context.Process(target=_speak_batch, args=(batch, folder), daemon=True)
                process.start()
                running.append((process, len(batch)))
            wait([process.sentinel for process, _ in running])
            for process, size in [entry for entry in running if entry[0].exitcode is not None]:
                if process.exitcode != 0:
                    raise RuntimeError(f"a speech synthesis process ended with status {process.exitcode}")
                running.remove((process, size))
                done += size
    finally:
        for process, _ in running:
            process.terminate()
            process.join()
    progress(done)


def _speak_batch(batch: Sequence[Clip], folder: Path) -> None:
    espeak = Espeak()
    for clip in batch:
        speech = espeak.speak(clip.text, voice=clip.voice, words_per_minute=clip.words_per_minute, pitch=clip.pitch)
        # Not as integers: those soxr would dither. (N) -> (N * 16000 / 22050)
        resampled = soxr.resample(speech.astype(np.float32), espeak.sample_rate, SAMPLE_RATE, quality="HQ")
        samples = np.pad(resampled, (clip.silence_ms * SAMPLE_RATE // 1000, 0)).round().clip(-32768, 32767)
        file = folder / clip.file
        # Named after the process: where a preparation was killed, its processes may still finish their batches.
        partial = file.with_suffix(f".{os.getpid()}.partial")
        # Through memory: soundfile waits for the disk at the end of each file that it writes, a quarter of the time.
        encoded = io.BytesIO()
        soundfile.write(encoded, samples.astype(np.int16), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        partial.write_bytes(encoded.getvalue())
        # A file under its own name is always whole.
        os.replace(partial, file)
