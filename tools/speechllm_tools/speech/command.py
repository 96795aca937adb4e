"""Speech from any command of the user, such as piper, which is called once for each text."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from speechllm_plugin.datasets.audio import AudioError, read_audio, resolve
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_atomically
from speechllm_tools.prepare.storage import encode_flac
from speechllm_tools.shards.api import Machines, map_shards, shards_of
from speechllm_tools.speech.synthesis import Clip

_PLACES = re.compile(r"\{(out|text|voice)\}")
_TEXTS = 4
"""Texts in one shard of a process."""
_HOPELESS = 20
"""If none of the first texts, this many, is spoken, the command is wrong and not the texts."""
_TEMPORARY = ".speaking-"


@dataclass(frozen=True)
class TtsCommand:
    words: tuple[str, ...]
    """The words of the command, with `{out}` and optionally `{text}` and `{voice}` in them."""

    @staticmethod
    def parse(text: str, option: str) -> TtsCommand:
        """
        :param text: the command, which is split like in a shell but run without one.
        :raises UserError: this machine has no such command, or `{out}` is missing.
        """
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise UserError(f"{option}: found {text!r} ({error}), expected a command") from None
        if not words or shutil.which(words[0]) is None:
            raise UserError(f"{option}: found {(words or ('',))[0]!r}, expected a command of this machine")
        if not any("{out}" in word for word in words):
            raise UserError(f"{option}: found {text!r}, expected {{out}} in the place of the file to write")
        return TtsCommand(words)

    @property
    def names_voice(self) -> bool:
        return any("{voice}" in word for word in self.words)

    def filled(self, text: str, voice: str, out: Path) -> list[str]:
        """The words of one call; a text with spaces, quotes or braces stays one word and is not interpreted."""
        values = {"out": str(out), "text": text, "voice": voice}
        return [_PLACES.sub(lambda place: values[place[1]], word) for word in self.words]

    def speak(self, clip: Clip, folder: Path) -> str | None:
        """Writes the clip's FLAC file.

        :returns: why there is no file; None if it was written.
        """
        on_stdin = not any("{text}" in word for word in self.words)
        with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=folder) as place:
            out = Path(place).absolute() / "speech.wav"
            try:
                done = subprocess.run(
                    self.filled(clip.text, clip.voice, out), input=clip.text.encode() + b"\n" if on_stdin else b"",
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
                )  # fmt: skip
            except (OSError, ValueError) as error:  # a text that holds U+0000 or is longer than a command line
                return f"the command cannot be called: {error}"
            if done.returncode != 0:
                last = (done.stderr.decode(errors="replace").split("\n") or [""])
                said = next((line.strip() for line in reversed(last) if line.strip()), "no message")
                return f"the command ended with status {done.returncode}: {said[:200]}"
            try:
                samples = read_audio(resolve(str(out), Path(place)))
            except AudioError as error:
                return f"the command wrote no sound: {error}"
        write_atomically(folder / clip.file, encode_flac(samples))
        return None


def speak_all(
    command: TtsCommand, clips: Sequence[Clip], folder: Path, *, machines: Machines, progress: Callable[[int], None]
) -> dict[str, str]:
    """Writes all clips that do not exist yet.

    :param progress: called with the number of clips that are done.
    :returns: by file, why a clip has no sound.
    :raises UserError: the command speaks none of the first texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_TEMPORARY}*"):  # left by calls that were killed
        shutil.rmtree(left, ignore_errors=True)
    missing = [clip for clip in clips if not (folder / clip.file).is_file()]
    done = len(clips) - len(missing)
    progress(done)
    refused: dict[str, str] = {}
    speak = partial(_speak_some, command, folder.absolute())
    for some, reasons in map_shards(speak, shards_of(missing, _TEXTS), machines):
        refused |= reasons
        done += len(some)
        progress(done)
        if len(refused) >= _HOPELESS and done == len(refused):
            raise UserError(f"--tts: found that none of the first {done} texts was spoken "
                            f"({next(iter(refused.values()))}), expected a sound file at {{out}}")
    return refused


def _speak_some(command: TtsCommand, folder: Path, clips: Sequence[Clip]) -> dict[str, str]:
    reasons = {clip.file: command.speak(clip, folder) for clip in clips}
    return {file: reason for file, reason in reasons.items() if reason is not None}
