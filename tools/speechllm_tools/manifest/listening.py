"""Transcribes the clips of a manifest by a trained system's CTC head, as a first pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speechllm_plugin.datasets.audio import AudioError, resolve
from speechllm_plugin.errors import UserError
from speechllm_plugin.inference.transcriber import load_speech_llm
from speechllm_tools.manifest.rows import Row
from speechllm_tools.numerics import use_recipe_numerics
from speechllm_tools.progress import ProgressLine

BATCH_SIZE = 8


def listen(checkpoint: Path, rows: Sequence[Row], root: Path) -> dict[str, str]:
    """
    :param root: folder that relative paths of the rows start from.
    :returns: the text of each row, by its id.
    :raises UserError: the system has no CTC head, or a clip cannot be read.
    """
    use_recipe_numerics()
    system = load_speech_llm(checkpoint)
    heard: dict[str, str] = {}
    with ProgressLine("listening") as line:
        for start in range(0, len(rows), BATCH_SIZE):
            line.update(f"{start:,}/{len(rows):,} clips", start / len(rows))
            batch = rows[start : start + BATCH_SIZE]
            try:
                texts = system.hear([resolve(row.get("audio"), root, _channel(row)) for row in batch])
            except AudioError as error:
                raise UserError(f"{batch[0].manifest}, lines {batch[0].line} to {batch[-1].line}: {error}") from error
            heard.update(zip((row.get("id") for row in batch), texts, strict=True))
        line.update(f"{len(rows):,}/{len(rows):,} clips", 1.0)
    return heard


def _channel(row: Row) -> int | None:
    """
    :raises UserError: the channel is no number.
    """
    if not (text := row.get("channel")):
        return None
    if not (text.isascii() and text.isdigit() and int(text)):
        raise UserError(row.wrong("channel", "the number of a channel, from 1 on"))
    return int(text)
