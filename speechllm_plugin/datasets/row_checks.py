"""Checks of all rows before the first step, so that no row ends a run after hours."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from speechllm_plugin.datasets.audio import AudioError, duration
from speechllm_plugin.datasets.manifest_row import seconds_of
from speechllm_plugin.datasets.utterances import Utterance, Utterances
from speechllm_plugin.errors import UserError
from speechllm_plugin.log import log

_COMPARED = 8
"""Rows whose `n_frames`, or `duration`, is compared with the audio."""
# Shorter clips tell little: a frame is a window of 25 ms, and at least one is counted.
_COMPARED_SECONDS = 0.5
_EXPECTED = {
    "n_frames": "10 ms frames, or samples at 16 kHz with dataset.config_overrides.n_frames_unit=samples",
    "duration": "seconds",
}


def check_languages(
    utterances: Utterances,
    needed: Callable[[Utterance], Mapping[str, str]],
    check: Callable[[str], object],
) -> None:
    """
    :param needed: gives the languages of a row that must be known, by `source` and `target`. It depends on the row's
        `asked`, and on whether it has an instruction of its own.
    :param check: raises `UserError` for a language that is unknown.
    :raises UserError: for the first row with such a language.
    """
    for utterance in utterances.firsts():
        for name, language in needed(utterance).items():
            try:
                check(language)
            except UserError as error:
                where = f"{utterance.name}, {utterance.origin_of(name)}"
                raise UserError(f"{where}: {str(error).removeprefix('language: ')}") from error


def check_n_frames(utterances: Utterances) -> None:
    """Compares the lengths of some rows with the headers of their audio, since manifests of fairseq's raw-waveform mode
    count samples in `n_frames`.

    :raises UserError: the lengths are in another unit.
    """
    stated = utterances.take(np.flatnonzero(utterances.n_frames))
    found: list[tuple[float, Utterance, float, float]] = []
    for utterance in stated[:: max(1, len(stated) // _COMPARED)][:_COMPARED]:
        try:
            seconds = duration(utterance.source())
        except AudioError:
            continue
        if seconds >= _COMPARED_SECONDS:
            by_manifest = seconds_of(utterance.row.n_frames or 0)
            found.append((by_manifest / seconds, utterance, by_manifest, seconds))
    if not found:
        return
    ratio, utterance, by_manifest, seconds = sorted(found, key=lambda row: row[0])[len(found) // 2]
    column = utterance.row.length_from
    line = (
        f"{utterance.name}, column {column!r}: found a length of {by_manifest:.2f} s, but the audio lasts "
        f"{seconds:.2f} s, expected {_EXPECTED[column]}"
    )
    off = max(ratio, 1 / ratio)
    # A frame is 160 samples. Where frames are taken for samples, most clips get one frame, the shortest length. A
    # duration may be in milliseconds, or in samples.
    in_other_unit = 160 / 1.3 < off < 160 * 1.3 if column == "n_frames" else off > 100
    if in_other_unit or utterance.row.n_frames == 1:
        raise UserError(line)
    if off > 2:
        log.warning("{}; batches and hours are reckoned from it.", line)
