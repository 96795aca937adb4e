"""Copies what a checkpoint in Hugging Face's format needs to be loaded from another place."""

from __future__ import annotations

import shutil
from pathlib import Path

from huggingface_hub import snapshot_download

from speechllm_plugin.pretrained.explaining import explained
from speechllm_plugin.pretrained.hub import local_path
from speechllm_plugin.pretrained.weights import weight_files

SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "LICENSE*", "NOTICE*", "USE_POLICY*")
"""Configurations, the tokenizer, and the terms under which the weights may be passed on."""


def copy_checkpoint(path: str, target: Path, key: str, *, weights: bool = True) -> None:
    """
    :param path: a hub id or a local directory.
    :param target: a folder, which is made.
    :param key: the configuration key that holds `path`, for errors.
    :param weights: False copies all else, but for `config.json`, which describes them.
    :raises UserError: the checkpoint cannot be read.
    """

    def files() -> list[Path]:
        source = local_path(path, key)
        wanted = set(weight_files(source).values()) if weights else set()
        if not Path(source).is_dir():
            source = snapshot_download(source, allow_patterns=[*SMALL_FILES, *wanted])
        found = {file for pattern in SMALL_FILES for file in Path(source).glob(pattern)}
        if not weights:
            found = {file for file in found if file.name != "config.json" and not file.name.endswith(".index.json")}
        return sorted(found | {Path(source) / name for name in wanted})

    target.mkdir()
    for file in explained(key, path, files):
        shutil.copyfile(file, target / file.name)
