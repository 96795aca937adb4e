"""Data of the single utterances that the page shows."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiwer

from speechllm_plugin.scoring.normalizers import normalize_basic
from speechllm_plugin.scoring.report import Hypothesis, is_looping
from speechllm_plugin.scoring.wer import unit_of
from speechllm_plugin.scoring.wrong_language import wrong_language_share
from speechllm_tools.score.counts import Measured


def utterances(measured: Sequence[Measured], limit: int, audio: int) -> tuple[list[dict[str, Any]], int]:
    """The utterances with the most errors over all systems, worst first, and the number of all utterances.

    :param limit: number of utterances.
    :param audio: number of utterances whose sound is embedded.
    """
    found = []
    for label, rows in measured[0].sets.items():
        for place, row in enumerate(rows):
            outputs = [_output(one.sets[label][place]) for one in measured]
            found.append((row, label, outputs))
    found.sort(key=lambda item: -sum(output["rate"] for output in item[2]))
    root = _audio_root(measured[0])
    shown = []
    for number, (row, label, outputs) in enumerate(found[:limit]):
        shown.append({
            "id": row.id, "set": label, "seconds": row.duration, "reference": row.reference,
            "transcript": row.transcript if row.is_translation else "", "outputs": outputs,
            "audio": _sound(row, root) if number < audio and root is not None else None,
        })  # fmt: skip
    return shown, len(found)


def _output(row: Hypothesis) -> dict[str, Any]:
    """The hypothesis aligned with its reference word by word, with the kinds of its errors."""
    language = row.tgt_lang or row.src_lang
    texts = [normalize_basic(text, language).split() for text in (row.reference, row.hypothesis)]
    if unit_of(language) == "char":
        texts = [list("".join(words)) for words in texts]
    reference, hypothesis = texts
    aligned, errors = [], 0
    output = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    for chunk in output.alignments[0]:
        said = " ".join(reference[chunk.ref_start_idx : chunk.ref_end_idx])
        heard = " ".join(hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx])
        aligned.append([chunk.type[0], said, heard])  # kind: e (equal), s, d or i
        if chunk.type != "equal":
            errors += max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
    kinds = {chunk.type for chunk in output.alignments[0]} - {"equal"}
    kinds |= {"empty"} if not row.hypothesis.strip() else set()
    kinds |= {"looping"} if is_looping(row.hypothesis) else set()
    kinds |= {"wrong language"} if wrong_language_share([row.hypothesis], language) else set()
    return {"text": row.hypothesis, "aligned": aligned, "rate": errors / max(1, len(reference)), "kinds": sorted(kinds)}


def _audio_root(one: Measured) -> Path | None:
    """The folder that paths in the hypotheses are relative to: `audio_root` of the data set, or its manifest's
    folder."""
    for data in one.system.sets:
        try:
            made = json.loads((data.file.parent / "scores.json").read_text(encoding="utf-8"))["provenance"]
            dataset = (made.get("config") or {}).get("dataset") or {}
            root = (dataset.get("config_overrides") or {}).get("audio_root")
            return Path(root) if root else Path(made["manifests"][0]["path"]).parent
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            continue
    return None


def _sound(row: Hypothesis, root: Path) -> str | None:
    """16-bit wav at 16 kHz as a data URL; None if the sound can no longer be read."""
    import numpy as np
    import soundfile

    from speechllm_plugin.datasets.audio import SAMPLE_RATE, read_audio, resolve
    from speechllm_plugin.errors import UserError

    try:
        waveform = read_audio(resolve(row.source, root))
    except (UserError, OSError):
        return None
    stream = io.BytesIO()
    soundfile.write(stream, np.clip(waveform, -1, 1), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return "data:audio/wav;base64," + base64.b64encode(stream.getvalue()).decode()
