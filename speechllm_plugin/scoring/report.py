"""From decoded utterances to a score file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from speechllm_plugin.datasets.tsv import read_table, write_table
from speechllm_plugin.errors import UserError
from speechllm_plugin.files import write_text_atomically
from speechllm_plugin.languages import direction_of, is_translation
from speechllm_plugin.repetition import LOOP_RATIO, compression_ratio
from speechllm_plugin.scoring.bootstrap import rate_interval
from speechllm_plugin.scoring.scripts import has_spaces
from speechllm_plugin.scoring.translation import translation_scores
from speechllm_plugin.scoring.wer import WerResult, error_rate, word_errors

_COLUMNS = ("id", "reference", "hypothesis", "source", "duration", "src_lang", "tgt_lang")


@dataclass(frozen=True)
class Hypothesis:
    """One decoded utterance."""

    id: str

    reference: str
    """Empty where the manifest has no text."""

    hypothesis: str

    source: str
    """The audio, as the manifest names it."""

    duration: float
    """Seconds."""

    src_lang: str
    """Language spoken; empty where not stated."""

    tgt_lang: str
    """Language written; the one spoken, by any of its names, or empty, means transcription."""

    @property
    def is_translation(self) -> bool:
        return is_translation(self.src_lang, self.tgt_lang)

    @property
    def direction(self) -> str:
        """What its scores are counted under; see :func:`~speechllm_plugin.languages.direction_of`."""
        return direction_of(self.src_lang, self.tgt_lang)


def write_hypotheses(path: Path | str, rows: Iterable[Hypothesis]) -> None:
    """Write a TSV with the columns id, reference, hypothesis, source, duration, src_lang, tgt_lang, whole or not at
    all. Tabs and line ends in texts become spaces; the duration has milliseconds.

    :raises UserError: the place cannot be written.
    """
    table = (
        (row.id, row.reference, row.hypothesis, row.source, f"{row.duration:.3f}", row.src_lang, row.tgt_lang)
        for row in rows
    )
    write_table(Path(path), _COLUMNS, table)


def read_hypotheses(path: Path | str) -> list[Hypothesis]:
    """Read what :func:`write_hypotheses` wrote.

    :raises UserError: with file, line and column, what was found and what was expected.
    """
    path = Path(path)
    rows = []
    for record in read_table(path, required=_COLUMNS):
        fields = {name: record.fields[name] for name in _COLUMNS}
        try:
            seconds = float(fields["duration"])
        except ValueError:
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds >= 0):
            raise UserError(
                f"{path}, line {record.line}, column 'duration': found {fields['duration']!r}, expected seconds"
            )
        rows.append(
            Hypothesis(
                id=fields["id"],
                reference=fields["reference"],
                hypothesis=fields["hypothesis"],
                source=fields["source"],
                duration=seconds,
                src_lang=fields["src_lang"],
                tgt_lang=fields["tgt_lang"],
            )
        )
    return rows


def is_looping(text: str) -> bool:
    """Whether a text repeats itself so much that zlib shrinks it more than 2.4 times (texts from 40 bytes on)."""
    return compression_ratio(text) > LOOP_RATIO


def score(rows: Sequence[Hypothesis], wer_normalizer: str = "basic") -> dict[str, Any]:
    """Score transcriptions by errors and translations by BLEU and chrF.

    The result holds

    ``utterances``, ``seconds``, ``empty_hypotheses``, ``looping_hypotheses``
        counts over all rows (:func:`is_looping`).
    ``asr``
        where there are transcriptions: ``utterances``, ``normalizer``, ``unit`` and the counts of
        :class:`~speechllm_plugin.scoring.wer.WerResult` over all of them, ``wer`` and its 95 % confidence interval
        ``wer_low``, ``wer_high`` (:func:`~speechllm_plugin.scoring.bootstrap.rate_interval`). Languages without
        spaces count characters; ``unit`` is ``word``, ``char``, or ``mixed`` where each language counts its own.
    ``st``
        where there are translations: ``utterances`` and the fields of
        :class:`~speechllm_plugin.scoring.translation.TranslationResult`. Over several directions, scores are the mean
        of theirs, each direction weighing the same, and the signatures are all that occur.
    ``directions``
        where there is more than one: the same two kinds of entry, by ``en`` or ``en-de``.

    :raises UserError: there are no rows, or no such normaliser.
    """
    if not rows:
        raise UserError("scoring: found no hypotheses, expected at least one")
    groups: dict[str, list[Hypothesis]] = {}
    for row in rows:
        groups.setdefault(row.direction, []).append(row)
    transcribed: dict[str, tuple[str, WerResult]] = {}
    translated: dict[str, dict[str, Any]] = {}
    for direction, group in sorted(groups.items()):
        if group[0].is_translation:
            translated[direction] = _score_translation(group)
        else:
            transcribed[direction] = _score_transcription(group, wer_normalizer)

    scores: dict[str, Any] = {
        "utterances": len(rows),
        "seconds": round(sum(row.duration for row in rows), 3),
        "empty_hypotheses": sum(not row.hypothesis.strip() for row in rows),
        "looping_hypotheses": sum(is_looping(row.hypothesis) for row in rows),
    }
    if transcribed:
        scores["asr"] = _transcription_scores(list(transcribed.values()), wer_normalizer)
    if translated:
        scores["st"] = _average_translations(list(translated.values()))
    if len(groups) > 1:
        each = {name: _transcription_scores([entry], wer_normalizer) for name, entry in transcribed.items()}
        scores["directions"] = {**each, **translated}
    return scores


def write_scores(path: Path | str, scores: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Write ``{"scores": ..., "provenance": ...}`` as JSON, whole or not at all.

    JSON has no infinity: a rate without reference words is written as ``null``.

    :raises UserError: the place cannot be written.
    """
    content = {"scores": _finite(scores), "provenance": _finite(provenance)}
    write_text_atomically(Path(path), json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _score_transcription(rows: Sequence[Hypothesis], normalizer: str) -> tuple[str, WerResult]:
    """The unit and the counts of one language."""
    unit: Literal["word", "char"] = "word" if has_spaces(rows[0].src_lang) else "char"
    return unit, word_errors(_references(rows), _hypotheses(rows), normalizer, unit)


def _score_translation(rows: Sequence[Hypothesis]) -> dict[str, Any]:
    result = translation_scores(_references(rows), _hypotheses(rows), rows[0].tgt_lang)
    return {"utterances": len(rows), **asdict(result)}


def _transcription_scores(languages: Sequence[tuple[str, WerResult]], normalizer: str) -> dict[str, Any]:
    results = [result for _, result in languages]
    units = {unit for unit, _ in languages}
    errors = [count for result in results for count in result.utterance_errors]
    words = [count for result in results for count in result.utterance_words]
    low, high = rate_interval(errors, words) or (None, None)
    scores: dict[str, Any] = {
        "utterances": len(errors),
        "normalizer": normalizer,
        "unit": units.pop() if len(units) == 1 else "mixed",
    }
    for name in ("errors", "words", "substitutions", "deletions", "insertions"):
        scores[name] = sum(getattr(result, name) for result in results)
    return {**scores, "wer": error_rate(sum(errors), sum(words)), "wer_low": low, "wer_high": high}


def _average_translations(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    average: dict[str, Any] = {"utterances": sum(entry["utterances"] for entry in entries)}
    for name in ("bleu", "chrf"):
        average[name] = sum(entry[name] for entry in entries) / len(entries)
        average[f"{name}_signature"] = ", ".join(sorted({entry[f"{name}_signature"] for entry in entries}))
    return average


def _references(rows: Sequence[Hypothesis]) -> list[str]:
    return [row.reference for row in rows]


def _hypotheses(rows: Sequence[Hypothesis]) -> list[str]:
    return [row.hypothesis for row in rows]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
