"""SHA-256 of whole files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from speechllm_plugin.errors import UserError


def sha256_of(path: Path) -> str:
    """The hash of a file's content, in hexadecimal.

    :raises UserError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}), expected a readable file") from None
    return digest.hexdigest()
