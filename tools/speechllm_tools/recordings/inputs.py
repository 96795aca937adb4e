"""Finds the inputs to transcribe: files, the files of directories, the rows of manifests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from speechllm_plugin.datasets.audio import AudioError, AudioSource, count_channels, resolve
from speechllm_plugin.datasets.manifest import read_manifest
from speechllm_plugin.errors import UserError

SUFFIXES = frozenset({
    "3g2", "3gp", "aac", "ac3", "aif", "aifc", "aiff", "amr", "ape", "asf", "au", "avi", "awb", "caf", "dts", "eac3",
    "flac", "flv", "gsm", "m4a", "m4b", "m4v", "mka", "mkv", "mov", "mp2", "mp3", "mp4", "mpc", "mpeg", "mpg", "oga",
    "ogg", "ogv", "opus", "rf64", "snd", "sph", "spx", "ts", "tta", "voc", "w64", "wav", "wave", "weba", "webm", "wma",
    "wmv", "wv",
})  # fmt: skip
"""Endings of files with sound in a directory. For a file that is named, its bytes decide."""


@dataclass(frozen=True)
class Input:
    name: str
    """The user's name for it: a path, or a row's id."""
    audio: str
    root: Path
    place: str
    """Path of its text in an output directory, without the ending: `talks/monday`."""
    source_lang: str = ""
    target_lang: str = ""
    """Language of the text; both languages are empty where the command line gives them."""
    channel: int | None = None

    def source(self, channel: int | None) -> AudioSource:
        """
        :param channel: channel on the command line; a manifest's own channel takes precedence.
        :raises AudioError: there is no such file.
        """
        return resolve(self.audio, self.root, channel if self.channel is None else self.channel)

    def channels(self) -> int:
        """
        :raises AudioError: the file cannot be read.
        """
        return count_channels(resolve(self.audio, self.root))


def find_inputs(names: Sequence[str], audio_root: Path | None) -> tuple[list[Input], int]:
    """
    :param names: files, directories, and manifests, which end in `.tsv`.
    :param audio_root: folder that a manifest's paths start from; None = the manifest's own.
    :returns: the inputs in order, and the number of other files in the directories.
    :raises UserError: a manifest is wrong, or a directory holds no sound.
    """
    inputs: list[Input] = []
    passed_over = 0
    for name in names:
        path = Path(name)
        if path.is_dir():
            found, others = _of_directory(path)
            if not found:
                raise UserError(f"{name}: found {others} files and none with sound, expected some ({_suffixes()})")
            inputs += found
            passed_over += others
        elif path.suffix.lower() == ".tsv":
            inputs += _of_manifest(path, audio_root)
        else:
            inputs.append(Input(name, name, Path(), PurePath(name).stem))
    return inputs, passed_over


def missing_files(inputs: Sequence[Input]) -> dict[str, AudioError]:
    """Errors of the inputs whose files do not exist, by name; no file is opened."""
    missing = {}
    for item in inputs:
        try:
            item.source(None)
        except AudioError as error:
            missing[item.name] = error
    return missing


def check_places(inputs: Sequence[Input]) -> None:
    """Checks that each text has a file of its own inside an output directory.

    :raises UserError: two texts have the same file, or a file would lie outside.
    """
    seen: dict[str, str] = {}
    for item in inputs:
        parts = PurePath(item.place).parts
        if (
            not parts
            or PurePath(item.place).is_absolute()
            or ".." in parts
            or parts[0].startswith(".")
            or not item.place.isprintable()
        ):
            raise UserError(f"{item.name}: found {item.place!r}, expected a name for a file in --output")
        if item.place in seen:
            raise UserError(
                f"{item.name}: its text would have the same name in --output as that of {seen[item.place]}, expected "
                "names that differ in more than their endings; give a manifest with an id for each"
            )
        seen[item.place] = item.name


def _of_directory(folder: Path) -> tuple[list[Input], int]:
    found, others = [], 0
    for file in _files(folder):
        if file.suffix.lower().removeprefix(".") in SUFFIXES:
            place = file.relative_to(folder).with_suffix("").as_posix()
            found.append(Input(str(file), str(file), Path(), place))
        else:
            others += 1
    return found, others


def _files(folder: Path) -> Iterator[Path]:
    """The files of a folder in the order of their names, without those of hidden folders."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent, name)


def _of_manifest(path: Path, audio_root: Path | None) -> list[Input]:
    root = path.parent if audio_root is None else audio_root
    return [
        Input(row.id, row.audio, root, row.id, row.src_lang, row.tgt_lang, row.channel)
        for row in read_manifest(path, require_text=False, empty_text=True)
    ]


def _suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))
