"""Copies the files that a checkpoint in Hugging Face's format needs in another place."""

from __future__ import annotations

import shutil
from pathlib import Path

from huggingface_hub import snapshot_download

from speechllm_plugin.pretrained.source import Source
from speechllm_plugin.pretrained.weights import weight_files

SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "LICENSE*", "NOTICE*", "USE_POLICY*")
"""Configurations, the tokenizer, and the terms under which the weights may be passed on."""


def copy_checkpoint(source: Source, target: Path, *, weights: bool = True) -> None:
    """
    :param target: the folder to make.
    :param weights: False copies everything but the weights and the `config.json` that describes them.
    :raises UserError: the checkpoint cannot be read.
    """

    def files() -> list[Path]:
        wanted = set(weight_files(source.place).values()) if weights else set()
        folder = Path(source.place)
        if not source.is_directory:
            folder = Path(snapshot_download(source.place, allow_patterns=[*SMALL_FILES, *wanted]))
        found = {file for pattern in SMALL_FILES for file in folder.glob(pattern)}
        if not weights:
            found = {file for file in found if file.name != "config.json" and not file.name.endswith(".index.json")}
        return sorted(found | {folder / name for name in wanted})

    target.mkdir()
    for file in source.reading(files):
        shutil.copyfile(file, target / file.name)
