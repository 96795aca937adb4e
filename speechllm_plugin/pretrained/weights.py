"""Reads chosen weights of a checkpoint in Hugging Face's format, lazily and straight into the wanted precision.

Weights that have that precision already are views of the mapped safetensors or PyTorch file: nothing is copied, and the
processes of a node share one copy of the pages until they move the weights to their GPUs. Each process converts other
weights piece by piece and releases the pages that it has read. In both cases a process holds the bytes of the weights
that it keeps and one piece more, whatever the size of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from speechllm_plugin.pretrained.hub import NoSuchFileError, find_file, read_json

PIECE = 16 * 2**20
"""Bytes read between two releases of a mapped file."""

SAMPLE = 64
"""Values of each weight that `read_samples` takes."""

_CONVERTED = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
"""Precisions that are converted; integers and 8-bit floats belong to quantised models and stay."""


def weight_files(path: str) -> dict[str, str]:
    """The file of each weight of a checkpoint, by the weight's name; reads no weight.

    :param path: a hub id or a local directory.
    :raises OSError: there are no weights, or a file cannot be read.
    """
    file = find_file(
        path, "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin"
    )
    if file.suffix == ".json":
        files = read_json(file).get("weight_map")
        if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
            raise OSError(f"{file} has no weight_map, which names the file of each weight; download it again")
        return files
    return dict.fromkeys(_open(str(file)).names(), file.name)


def read_weights(path: str, files: Mapping[str, str], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Weights by name; only the shards that hold them are opened, or downloaded.

    :param files: the file of each wanted weight, as `weight_files` gives it.
    :param dtype: precision of floating-point weights; None = as they are stored.
    :raises OSError: a file is missing or is not whole.
    """
    weights: dict[str, Tensor] = {}
    for found, names in _shards(path, files):
        weights.update(_read_file(str(found), names, dtype))
    return weights


def check_files(path: str) -> None:
    """
    :param path: a local directory.
    :raises OSError: there are no weights, or a file of weights is missing or not whole.
    """
    for file, names in _shards(path, weight_files(path)):
        _open_for(str(file), names)


def _shards(path: str, files: Mapping[str, str]) -> Iterator[tuple[Path, list[str]]]:
    """Each file with its wanted weights."""
    for file in sorted(set(files.values())):
        try:
            found = find_file(path, file)
        except NoSuchFileError as error:
            raise OSError(f"found no {file}, which its index names; download it again") from error
        yield found, [name for name, its_file in files.items() if its_file == file]


def read_samples(path: str, files: Mapping[str, str]) -> dict[str, bytes]:
    """A sample of each weight, by name: its shape, its precision, and the first values of its middle row.

    :param files: the file of each weight, as `weight_files` gives it.
    :raises OSError: a file is missing or is not whole.
    """
    samples: dict[str, bytes] = {}
    for found, names in _shards(path, files):
        if found.suffix != ".safetensors" and not is_zipfile(found):
            # A file from before PyTorch 1.6 could only be read whole: its size stands for its weights.
            samples.update(dict.fromkeys(names, f"{found.stat().st_size}".encode()))
            continue
        opened = _open_for(str(found), names)
        for name in names:
            shape = opened.shape(name)
            samples[name] = f"{shape} {opened.dtype(name)} ".encode()
            if shape and 0 not in shape:
                row = opened.rows(name, shape[0] // 2, shape[0] // 2 + 1).flatten()[:SAMPLE]
                samples[name] += row.contiguous().view(torch.uint8).numpy().tobytes()
    return samples


def _read_file(file: str, names: list[str], dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    opened = _open_for(file, names)
    read = 0
    for name in names:
        shape, found = opened.shape(name), opened.dtype(name)
        if dtype in (None, found) or found not in _CONVERTED:
            yield name, opened.whole(name)
            continue
        weight = torch.empty(shape, dtype=dtype, device="cpu")
        rows = shape[0] if shape else 1
        row_bytes = max(1, weight.numel() // max(1, rows) * found.itemsize)
        step = max(1, PIECE // row_bytes)
        for start in range(0, rows, step):
            if read >= PIECE and opened.mapped:
                # A page that was read counts as this process's memory as long as its file is mapped.
                opened, read = _open(file), 0
            stop = min(rows, start + step)
            if shape:
                weight[start:stop] = opened.rows(name, start, stop)
            else:
                weight.copy_(opened.whole(name))
            read += (stop - start) * row_bytes
        yield name, weight


def _open_for(file: str, names: Sequence[str]) -> _Safetensors | _Pickle:
    opened = _open(file)
    absent = sorted(set(names) - set(opened.names()))
    if absent:
        raise OSError(f"{file} lacks {len(absent)} weights that the index places there, the first is {absent[0]!r}")
    return opened


class _Safetensors:
    mapped = True

    def __init__(self, file: str) -> None:
        try:
            self._file: Any = safe_open(file, framework="pt", device="cpu")
        except SafetensorError as error:
            raise _not_whole(file, error) from error

    def names(self) -> list[str]:
        return list(self._file.keys())

    def shape(self, name: str) -> list[int]:
        return list(self._file.get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        names = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        return names.get(self._file.get_slice(name).get_dtype(), torch.uint8)

    def whole(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        tensor: Tensor = self._file.get_slice(name)[start:stop]
        return tensor


class _Pickle:
    def __init__(self, file: str) -> None:
        # Files from before PyTorch 1.6 are no archives: they cannot be mapped and are read whole.
        self.mapped = is_zipfile(file)
        try:
            weights = torch.load(file, map_location="cpu", mmap=self.mapped, weights_only=True)
        except Exception as error:  # damaged bytes may raise any error
            raise _not_whole(file, error) from error
        if not isinstance(weights, dict) or not any(isinstance(weight, Tensor) for weight in weights.values()):
            raise OSError(f"{file} holds no weights by name, as torch.save(model.state_dict(), ...) would leave them")
        self._weights: dict[str, Tensor] = {
            name: weight for name, weight in weights.items() if isinstance(weight, Tensor)
        }

    def names(self) -> list[str]:
        return list(self._weights)

    def shape(self, name: str) -> list[int]:
        return list(self._weights[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._weights[name].dtype

    def whole(self, name: str) -> Tensor:
        return self._weights[name]

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        return self._weights[name][start:stop]


def _open(file: str) -> _Safetensors | _Pickle:
    return _Safetensors(file) if file.endswith(".safetensors") else _Pickle(file)


def _not_whole(file: str, error: Exception) -> OSError:
    reason = " ".join(str(error).split())[:150] or type(error).__name__
    return OSError(f"{file} is not a whole checkpoint file ({reason}); download it again")
