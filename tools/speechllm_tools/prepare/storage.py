"""Writes clips as FLAC files of 16 kHz, or into zip archives whose entries a manifest addresses by their bytes."""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import soundfile

from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.files.atomic import sync_files, write_atomically
from speechllm_tools.prepare.writing import told

_LOCAL_HEADER = 30
# Names of files are limited to 255 bytes; a number distinguishes long ones.
_LONGEST_NAME = 150


def encode_flac(samples: npt.NDArray[np.float32]) -> bytes:
    """
    :param samples: ``[samples]`` at 16 kHz; values beyond full scale are clipped.
    """
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def file_name(number: int, identity: str, suffix: str) -> str:
    """A file name for the clip `identity`, which may have any characters; `number` makes the name unique."""
    return f"{number:03d}-{quote(identity, safe=' ')[:_LONGEST_NAME].replace(' ', '_')}{suffix}"


def suffix_of(name: str, data: bytes) -> str:
    """The ending of a sound file's name, chosen by its first bytes if the name has none."""
    if match := re.search(r"\.\w{2,4}$", name):
        return match[0].lower()
    kinds = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg"}
    return kinds.get(data[:4], ".mp3")


class Store:
    """Stores the clips of a chunk as files in a folder, or in archives of at most `limit` bytes.

    No file has its final name before `close`, and a chunk that is stored again replaces its earlier files.

    :param folder: folder of all chunks.
    :param limit: most bytes of an archive; ``None`` = files.
    """

    def __init__(self, folder: Path, chunk: int, limit: int | None) -> None:
        self._folder, self._chunk, self._limit = folder, chunk, limit
        self._archives: list[tuple[Path, Path]] = []
        """Temporary and final names."""
        self._archive: zipfile.ZipFile | None = None
        self._size = 0
        self._has_files = False

    def add(self, name: str, data: bytes) -> str:
        """Stores a clip, and returns its place in the form of a manifest.

        :raises UserError: the place cannot be written.
        """
        if self._limit is None:
            path = self._folder / f"{self._chunk:05d}" / name
            write_atomically(path, data, sync=False)
            self._has_files = True
            return str(path)
        with told(self._folder):
            # The archive has the name twice, and at most 200 bytes of headers.
            size = len(data) + 2 * len(name) + 200
            if self._archive is None or self._size + size > self._limit:
                self._begin()
            assert self._archive is not None
            self._size += size
            # The time is fixed, so that the same clips make the same archive.
            entry = zipfile.ZipInfo(name)
            self._archive.writestr(entry, data)
            file = self._archive.fp
            assert file is not None
            end = file.tell()
            file.seek(entry.header_offset)
            header = file.read(_LOCAL_HEADER)
            file.seek(end)
            return f"{self._archives[-1][1]}:{entry.header_offset + data_offset(header)}:{len(data)}"

    def close(self) -> None:
        """
        :raises UserError: the place cannot be written.
        """
        with told(self._folder):
            if self._has_files:
                sync_files(self._folder)
            if self._archive is not None:
                self._archive.close()
            for temporary, final in self._archives:
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, final)

    def _begin(self) -> None:
        if self._archive is not None:
            self._archive.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        final = self._folder / f"{self._chunk:05d}-{len(self._archives)}.zip"
        temporary = final.with_name(f".{final.name}.part")
        self._archives.append((temporary, final))
        self._archive = zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED)
        self._size = 0


def data_offset(header: bytes) -> int:
    """Where the data of an archive's entry begins, counted from its local header.

    :param header: the first 30 bytes of the local header. It has the lengths of name and extra field, which may differ
        from those in the central directory.
    """
    name, extra = struct.unpack("<HH", header[26:30])
    return _LOCAL_HEADER + int(name) + int(extra)
