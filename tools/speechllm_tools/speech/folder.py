"""A folder of spoken clips and their manifests, made once; an interrupted call is continued by the next one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import soundfile

from speechllm_plugin.datasets.manifest import ManifestRow, frames_of, read_manifest, seconds_of, write_manifest
from speechllm_plugin.errors import UserError
from speechllm_tools import completion
from speechllm_tools.progress import ProgressLine
from speechllm_tools.shards.api import Machines
from speechllm_tools.speech.synthesis import SAMPLE_RATE, Clip, synthesise

# Change this number when the same clips come to sound different.
_SYNTHESIS = 1


def write_spoken(
    folder: Path,
    plan: Mapping[str, Sequence[Clip]],
    manifests: Callable[[], Mapping[str, Sequence[ManifestRow]]],
    *,
    num_processes: int,
) -> None:
    """Speaks the clips of every split, then writes ``folder/{name}.tsv`` for each of the manifests.

    :param manifests: called once all clips exist; its result depends on the plan alone.
    :raises UserError: ``folder`` holds other files, or a clip has no words to say.
    """
    mark = completion.fingerprint(
        {
            "clips": {split: [asdict(clip) for clip in clips] for split, clips in plan.items()},
            "synthesis": _SYNTHESIS,
            "espeakng-loader": version("espeakng-loader"),
        }
    )
    if completion.is_completed(folder, mark):
        return
    completion.begin(folder, mark)
    clips = [clip for split in plan.values() for clip in split]
    with ProgressLine("speaking") as line:

        def progress(done: int) -> None:
            line.update(f"{done}/{len(clips)} clips", done / len(clips))

        refused = synthesise(clips, folder, Machines(workers=num_processes), progress=progress)
    if refused:
        raise UserError(next(iter(refused.values())))
    for partial in (folder / "audio").rglob("*.partial"):  # left by processes that were killed
        partial.unlink(missing_ok=True)
    for name, rows in manifests().items():
        write_manifest(folder / f"{name}.tsv", rows)
    completion.complete(folder, mark)


def spoken_frames(folder: Path, clip: Clip) -> int:
    """Length of an existing clip in 10 ms frames."""
    return frames_of(soundfile.info(folder / clip.file).frames / SAMPLE_RATE)


def summarise(folder: Path, names: Sequence[str]) -> dict[str, tuple[int, float, int]]:
    """Number of rows, hours and number of voices of each manifest."""
    summary = {}
    for name in names:
        rows = read_manifest(folder / f"{name}.tsv")
        hours = sum(seconds_of(row.n_frames or 0) for row in rows) / 3600
        summary[name] = (len(rows), hours, len({row.speaker for row in rows}))
    return summary
