"""The reader of CTranslate2 files, on files that the test writes byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from speechllm_tools.demo.ctranslate2 import CTranslate2FormatError, read_model

CODES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}

ARRAYS: dict[str, npt.NDArray] = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([0.5, -2.0], dtype=np.float16),
    "flag": np.array(1, dtype=np.int8),  # rank 0: no dimensions at all
    "heads": np.array([6], dtype=np.int16),
    "count": np.array([-7, 7], dtype=np.int32),
    "empty": np.zeros((0, 4), dtype=np.float32),
}


def name(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def variable(key: str, array: npt.NDArray, code: int | None = None, size: int | None = None) -> bytes:
    shape = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    kind = CODES[array.dtype.name] if code is None else code
    return name(key) + shape + struct.pack("<BI", kind, array.nbytes if size is None else size) + array.tobytes()


def model(
    *, version: int = 6, spec: str = "TestSpec", variables: list[bytes] | None = None, alias: str = "matrix"
) -> bytes:
    body = [variable(key, array) for key, array in ARRAYS.items()] if variables is None else variables
    head = struct.pack("<I", version) + name(spec) + struct.pack("<II", 3, len(body))
    return head + b"".join(body) + struct.pack("<I", 1) + name("other") + name(alias)


def read(folder: Path, data: bytes) -> dict[str, npt.NDArray]:
    path = folder / "model.bin"
    path.write_bytes(data)
    return read_model(path, spec="TestSpec").variables


def test_arrays_come_back(tmp_path: Path) -> None:
    variables = read(tmp_path, model())
    assert list(variables) == [*ARRAYS, "other"]
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(variables[key], array)
        assert variables[key].dtype == array.dtype
    assert variables["other"] is variables["matrix"]


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    data = model()
    for length in range(len(data)):
        with pytest.raises(CTranslate2FormatError, match=r"model\.bin: cut short: .* takes \d+ bytes, \d+ are left"):
            read(tmp_path, data[:length])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (model(version=5), "format version is 5, expected 6"),
        (b"PK\x03\x04" + model(), "format version is 67324752, expected 6"),  # a zip file
        (model(spec="OtherSpec"), "specification is 'OtherSpec', expected 'TestSpec'"),
        (model(variables=[variable("w", ARRAYS["matrix"], code=5)]), "w has data type code 5, expected one of"),
        (
            model(variables=[variable("w", ARRAYS["matrix"], size=20)]),
            r"w takes 20 bytes, expected 24 for shape \(2, 3\) of float32",
        ),
        (model(alias="absent"), "alias 'other' is for 'absent', which is not in the file"),
        (model() + b"x", "1 bytes follow the end of the model"),
        (struct.pack("<IH", 6, 3) + b"abc", "the specification is not a NUL-terminated ASCII string"),
    ],
)
def test_another_file_is_one_clear_line(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(CTranslate2FormatError, match=message) as caught:
        read(tmp_path, data)
    assert "\n" not in str(caught.value)
