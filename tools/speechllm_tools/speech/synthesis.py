"""Makes FLAC files from a list of clips, spoken by espeak-ng in several processes."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import soxr

from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_tools.shards.api import Machines, map_shards, shards_of
from speechllm_tools.speech.espeak import Espeak, NothingSaid

SAMPLE_RATE = 16000
"""Sample rate of the files in Hz, which is what speech encoders take."""

WORDS_PER_MINUTE, PITCH, SILENCE_MS = (140, 165), (42, 58), (60, 200)
"""Moderate ranges, close to those of people; the voices were chosen with them."""

BATCH_SIZE = 100
"""Clips of one process, which are repeatable only together; an interrupted batch is therefore made again."""


@dataclass(frozen=True)
class Clip:
    """A text to speak, how to speak it and the file to write."""

    file: str
    """Path of the FLAC file, relative to the folder of all clips."""

    text: str

    voice: str

    words_per_minute: int

    pitch: int

    silence_ms: int
    """Digital silence before the speech; espeak-ng leaves at most 60 ms, less than most recordings."""


def draw_clip(file: str, text: str, voice: str, generator: random.Random) -> Clip:
    """A clip with random speed, pitch and silence."""
    return Clip(
        file=file,
        text=text,
        voice=voice,
        words_per_minute=generator.randint(*WORDS_PER_MINUTE),
        pitch=generator.randint(*PITCH),
        silence_ms=generator.randint(*SILENCE_MS),
    )


def refusal_of(clip: Clip, folder: Path) -> Path:
    """The file that says why a clip has no sound."""
    return (folder / clip.file).with_suffix(".refused")


def synthesise(
    clips: Sequence[Clip], folder: Path, machines: Machines, *, progress: Callable[[int], None] = lambda done: None
) -> dict[str, str]:
    """Writes all ``clips`` to ``folder`` (16 bits, one channel), except batches whose files all exist.

    Each batch is spoken by a fresh process, since espeak-ng's state carries over from clip to clip: the files depend
    on the clips alone, not on the number of processes or on interruptions.

    :param progress: called from time to time with the number of clips that are done.
    :returns: by file, why a clip has no sound: its text has no words to say.
    :raises RuntimeError: a process failed, after printing the reason.
    """
    done, batches = 0, []
    for batch in shards_of(clips, BATCH_SIZE):
        if all((folder / clip.file).is_file() or refusal_of(clip, folder).is_file() for clip in batch):
            done += len(batch)
        else:
            batches.append(batch)
    for parent in {(folder / clip.file).parent for clip in clips}:
        parent.mkdir(parents=True, exist_ok=True)
    progress(done)
    for batch, _ in map_shards(partial(_speak_apart, folder.absolute()), batches, machines):
        done += len(batch)
        progress(done)
    refused = [(clip.file, refusal_of(clip, folder)) for clip in clips if not (folder / clip.file).is_file()]
    return {file: refusal.read_text(encoding="utf-8") for file, refusal in refused}


def _speak_apart(folder: Path, batch: Sequence[Clip]) -> None:
    # The server has loaded only this module and has no threads, so that a fork of it is quick and safe.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_speak_batch, args=(batch, folder), daemon=True)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"a speech synthesis process ended with status {process.exitcode}")


def _speak_batch(batch: Sequence[Clip], folder: Path) -> None:
    espeak = Espeak()
    for clip in batch:
        try:
            speech = espeak.speak(
                clip.text, voice=clip.voice, words_per_minute=clip.words_per_minute, pitch=clip.pitch
            )
        except NothingSaid as error:
            write_text_atomically(refusal_of(clip, folder), str(error))
            continue
        # Floats, because soxr dithers integers. (N) -> (N * 16000 / 22050)
        resampled = soxr.resample(speech.astype(np.float32), espeak.sample_rate, SAMPLE_RATE, quality="HQ")
        samples = np.pad(resampled, (clip.silence_ms * SAMPLE_RATE // 1000, 0)).round().clip(-32768, 32767)
        file = folder / clip.file
        # The name holds the process, because processes of a killed preparation may still finish their batches.
        partial = file.with_suffix(f".{os.getpid()}.partial")
        # Encoding in memory saves a quarter of the time, which soundfile spends waiting for the disk after each file.
        encoded = io.BytesIO()
        soundfile.write(encoded, samples.astype(np.int16), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        partial.write_bytes(encoded.getvalue())
        # A file under its final name is always complete.
        os.replace(partial, file)
