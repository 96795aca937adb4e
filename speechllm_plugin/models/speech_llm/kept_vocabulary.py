"""The sentencepiece vocabulary of a CTC head, kept beside the checkpoints, so that it moves with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechllm_plugin.files.atomic import write_atomically
from speechllm_plugin.log import log

FILE = "ctc_vocabulary.model"
"""Name of the file in a run's `checkpoints`."""


def keep_vocabulary(vocabulary: str | None, directory: Path) -> None:
    """Copies a vocabulary, whose file has been read already, to the checkpoints of its run.

    :raises UserError: the place cannot be written.
    """
    kept = directory / FILE
    if vocabulary is None or not (source := Path(vocabulary)).is_file() or source.resolve() == kept.resolve():
        return
    data = source.read_bytes()
    if not kept.is_file() or kept.read_bytes() != data:
        write_atomically(kept, data)


def kept_vocabulary(values: Mapping[str, Any], directory: Path) -> str | None:
    """The vocabulary of a checkpoint; None where it has none, or where an earlier version kept no copy.

    :param values: the model's configuration, as plain values.
    """
    ctc = values.get("ctc")
    needs_one = isinstance(ctc, Mapping) and ctc.get("vocabulary") is not None
    return str(directory / FILE) if needs_one and (directory / FILE).is_file() else None


def use_kept_vocabulary(overrides: object, directory: Path) -> None:
    """Makes a resumed run read its own copy where the file of its configuration is gone.

    :param overrides: the configuration's `model.config_overrides`, changed in place.
    """
    ctc = overrides.get("ctc") if isinstance(overrides, Mapping) else None
    if not isinstance(ctc, dict) or (kept := kept_vocabulary({"ctc": ctc}, directory)) is None:
        return
    if not Path(str(ctc["vocabulary"])).is_file():
        log.info("{} is gone; the vocabulary of CTC is read from {}.", ctc["vocabulary"], kept)
        ctc["vocabulary"] = kept
