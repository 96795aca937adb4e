"""A reader of CTranslate2's ``model.bin``, without CTranslate2.

The layout, little-endian: u32 format version; the model specification's name; u32 its revision; u32 number of
variables; per variable a name, u8 rank, u32 per dimension, u8 data type, u32 size in bytes, the values in C order;
then u32 number of aliases, each a pair of names (alias, target). A name is u16 length, the final NUL included, and
that many bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from speechllm_plugin.errors import UserError

FORMAT_VERSION = 6

DTYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("i1"),
    2: np.dtype("<i2"),
    3: np.dtype("<i4"),
    4: np.dtype("<f2"),
}
"""The data type codes of format version 6 that have a counterpart in numpy; 5 is bfloat16."""


class CTranslate2FormatError(UserError):
    """A file is not the expected CTranslate2 model. The message names the file and what was found."""


@dataclass(frozen=True)
class CTranslate2Model:
    """The content of a ``model.bin``."""

    spec: str
    """Name of the model specification, such as ``WhisperSpec``."""

    revision: int
    """Revision of the specification."""

    variables: dict[str, npt.NDArray[Any]]
    """Read-only arrays by name; an alias has its target's array."""


def read_model(path: Path, *, spec: str) -> CTranslate2Model:
    """Read the model at ``path``, which must be of specification ``spec``.

    :raises CTranslate2FormatError: if the file is cut short or too long, is of another format version or
        specification, or holds a variable that cannot be read.
    """
    reader = _Reader(path, path.read_bytes())
    version = reader.unsigned("I", "the format version")
    if version != FORMAT_VERSION:
        raise reader.error(f"format version is {version}, expected {FORMAT_VERSION}")
    name = reader.name("the specification")
    if name != spec:
        raise reader.error(f"specification is {name!r}, expected {spec!r}")
    revision = reader.unsigned("I", "the revision")
    variables: dict[str, npt.NDArray[Any]] = {}
    for index in range(reader.unsigned("I", "the number of variables")):
        variable = reader.name(f"the name of variable {index}")
        variables[variable] = reader.array(variable)
    for index in range(reader.unsigned("I", "the number of aliases")):
        alias, target = reader.name(f"alias {index}"), reader.name(f"the target of alias {index}")
        if target not in variables:
            raise reader.error(f"alias {alias!r} is for {target!r}, which is not in the file")
        variables[alias] = variables[target]
    if reader.remaining:
        raise reader.error(f"{reader.remaining} bytes follow the end of the model")
    return CTranslate2Model(spec=name, revision=revision, variables=variables)


class _Reader:
    """Reads values one after the other from a file's bytes; every error names the file."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        self._data = memoryview(data)
        self._offset = 0

    @property
    def remaining(self) -> int:
        return len(self._data) - self._offset

    def error(self, message: str) -> CTranslate2FormatError:
        return CTranslate2FormatError(f"{self._path}: {message}")

    def take(self, size: int, what: str) -> memoryview:
        if size > self.remaining:
            raise self.error(f"cut short: {what} takes {size} bytes, {self.remaining} are left")
        start, self._offset = self._offset, self._offset + size
        return self._data[start : self._offset]

    def unsigned(self, code: str, what: str) -> int:
        return int(struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}"), what))[0])

    def name(self, what: str) -> str:
        raw = bytes(self.take(self.unsigned("H", what), what))
        if not raw.endswith(b"\0") or not raw[:-1].isascii():
            raise self.error(f"{what} is not a NUL-terminated ASCII string: {raw[:40]!r}")
        return raw[:-1].decode("ascii")

    def array(self, name: str) -> npt.NDArray[Any]:
        rank = self.unsigned("B", f"the rank of {name}")
        shape = tuple(self.unsigned("I", f"the shape of {name}") for _ in range(rank))
        code = self.unsigned("B", f"the data type of {name}")
        if code not in DTYPES:
            raise self.error(f"{name} has data type code {code}, expected one of {sorted(DTYPES)}")
        size, expected = self.unsigned("I", f"the size of {name}"), prod(shape) * DTYPES[code].itemsize
        if size != expected:
            raise self.error(f"{name} takes {size} bytes, expected {expected} for shape {shape} of {DTYPES[code]}")
        return np.frombuffer(self.take(size, name), dtype=DTYPES[code]).reshape(shape)
