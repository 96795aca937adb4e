"""Joins clips that a corpus has in pieces into files of their own, over processes; existing files stay."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from speechllm_plugin.datasets.audio import AudioError, read_audio, resolve
from speechllm_plugin.files.atomic import write_atomically
from speechllm_tools.prepare.storage import encode_flac
from speechllm_tools.progress import ProgressLine
from speechllm_tools.shards.api import machines_of, map_shards


def join_clips(clips: Mapping[Path, Sequence[Path]], options: argparse.Namespace) -> set[Path]:
    """
    :param clips: the file of each clip, FLAC of 16 kHz, and its pieces in order.
    :param options: options that choose the machines.
    :returns: the clips with a piece that cannot be read.
    :raises UserError: the place cannot be written.
    """
    unreadable: set[Path] = set()
    with ProgressLine("joining") as line:
        tasks = [(file, list(pieces)) for file, pieces in clips.items()]
        for done, ((file, _), joined) in enumerate(map_shards(join_clip, tasks, machines_of(options)), start=1):
            if not joined:
                unreadable.add(file)
            line.update(f"{done:,}/{len(tasks):,} clips", done / len(tasks))
    return unreadable


def join_clip(task: tuple[Path, list[Path]]) -> bool:
    """:returns: whether all its pieces could be read."""
    file, pieces = task
    if file.is_file():
        return True
    try:
        samples = [read_audio(resolve(str(piece), Path())) for piece in pieces]
    except AudioError:
        return False
    write_atomically(file, encode_flac(np.concatenate(samples)), sync=False)
    return True
