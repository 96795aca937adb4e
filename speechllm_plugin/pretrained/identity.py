"""The identity of a pretrained part's weights, in whichever place they are: it differs for other weights of one shape.

It is a hash over the names, shapes and precisions of a checkpoint's weights and over a slice of each, for which
kilobytes of gigabytes are read. The same weights in another folder or in other shards have the same identity; a
fine-tuned model, and one that was converted to another precision, have others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from speechllm_plugin.errors import UserError
from speechllm_plugin.log import log
from speechllm_plugin.pretrained.hub import snapshot
from speechllm_plugin.pretrained.weights import read_samples

if TYPE_CHECKING:
    from speechllm_plugin.models.speech_llm.config import PartSection

_ATTRIBUTE = "_speechllm_identity"


def hash_weights(path: str, files: Mapping[str, str]) -> str:
    """
    :param path: a hub id or a local directory.
    :param files: the file of each weight to include, as `weights.weight_files` gives it.
    :returns: 16 hexadecimal digits.
    """
    total = hashlib.sha256()
    for name, sample in sorted(read_samples(path, files).items()):
        total.update(f"{name}:{hashlib.sha256(sample).hexdigest()};".encode())
    return total.hexdigest()[:16]


def mark(model: nn.Module, identity: str) -> None:
    """Stores the identity of a loaded model in it."""
    setattr(model, _ATTRIBUTE, identity)


def identity_of(part: nn.Module) -> str | None:
    """Identity of the model in a part; None where `speechllm_plugin.pretrained` did not load it."""
    found = [getattr(module, _ATTRIBUTE) for module in part.modules() if hasattr(module, _ATTRIBUTE)]
    return "+".join(found) or None


def check_identity(kind: str, section: PartSection, part: nn.Module, *, other_weights: bool) -> None:
    """Compares the loaded weights with those that a checkpoint was trained with; fills in `section.weights` where
    nothing was recorded.

    :param kind: "encoder" or "llm".
    :param other_weights: whether a difference is only a warning.
    :raises UserError: the weights are others.
    """
    found, recorded = identity_of(part), section.weights
    if recorded is None:
        section.weights = found
    elif found not in (None, recorded):
        message = (
            f"{kind}.config.path: found other weights in {getattr(section.config, 'path', 'it')} than the checkpoint "
            f"was trained with ({found}, expected {recorded})"
        )
        if not other_weights:
            raise UserError(f"{message}; give the path of those, or set other_weights=true to use these")
        log.warning("{}; they are used, as other_weights says.", message)


def source_identity(path: str) -> dict[str, object]:
    """A description that differs between versions of a checkpoint, without reading its weights.

    For a local directory it has names, sizes and modification times of the weight files; for the hub, the id and, after
    a download, the commit.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        found = snapshot(path)
        return {"path": path} if found is None else {"path": path, "commit": found.name}
    files = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.bin"))
    return {"files": [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]}
