"""Scores decoded utterances, and reads and writes the files of hypotheses and scores."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.files.records import Record
from speechllm_plugin.files.text_list import read_text_list, write_text_list
from speechllm_plugin.files.tsv import read_table, write_table
from speechllm_plugin.scoring.answers import exact_match, is_refusal, token_f1
from speechllm_plugin.scoring.bootstrap import rate_interval
from speechllm_plugin.scoring.translation import TranslationResult, chrf_score, pooled_bleu, translation_scores
from speechllm_plugin.scoring.wer import Unit, WerResult, count_units, error_rate, unit_of, word_errors
from speechllm_plugin.tasks.api import task_named, task_of_row
from speechllm_plugin.text.languages import direction_of
from speechllm_plugin.text.repetition import LOOP_RATIO, compression_ratio

_REQUIRED = ("id", "reference", "hypothesis", "source", "duration", "src_lang", "tgt_lang")
_COLUMNS = (*_REQUIRED, "transcript", "task", "references")


@dataclass(frozen=True)
class Hypothesis:
    """One decoded utterance."""

    id: str

    reference: str
    """The expected text; empty where the manifest has none."""

    hypothesis: str

    source: str
    """The audio, as the manifest names it."""

    duration: float
    """Length of the audio in seconds."""

    src_lang: str
    """Language of the speech; empty where it is not stated."""

    tgt_lang: str
    """Language of the text; empty, or any name of the language of the speech, means transcription."""

    transcript: str = ""
    """The transcript, which COMET compares a translation with; empty where it is unknown."""

    task: str = ""
    """Name of the task; empty where the languages decide it."""

    references: tuple[str, ...] = ()
    """Other answers that are as right as the reference."""

    @property
    def accepted(self) -> list[str]:
        """All right answers; empty where the manifest has no text."""
        return [text for text in (self.reference, *self.references) if text.strip()]

    @property
    def scored_by(self) -> str:
        """See :attr:`~speechllm_plugin.tasks.api.Task.scored_by`."""
        return task_of_row(self.src_lang, self.tgt_lang, self.task).scored_by

    @property
    def is_translation(self) -> bool:
        return self.scored_by == "translation"

    @property
    def direction(self) -> str:
        """The direction under which its scores are counted; see
        :func:`~speechllm_plugin.text.languages.direction_of`."""
        direction = direction_of(self.src_lang, self.tgt_lang)
        return f"{direction} ({self.task})" if self.scored_by == "answers" else direction


def write_hypotheses(path: Path | str, rows: Iterable[Hypothesis]) -> None:
    """Write a TSV with the columns id, reference, hypothesis, source, duration, src_lang, tgt_lang, transcript, task
    and references (a JSON list), whole or not at all. Tabs and line ends in texts become spaces; the duration has
    milliseconds.

    :raises UserError: the place cannot be written.
    """
    table = (
        (
            row.id, row.reference, row.hypothesis, row.source, f"{row.duration:.3f}", row.src_lang, row.tgt_lang,
            row.transcript, row.task, write_text_list(row.references),
        )
        for row in rows
    )
    write_table(Path(path), _COLUMNS, table)


def read_hypotheses(path: Path | str) -> list[Hypothesis]:
    """Reads a file of :func:`write_hypotheses`, also of earlier versions without the columns `transcript`, `task` and
    `references`.

    :raises UserError: with file, line and column, what was found and what was expected.
    """
    path = Path(path)
    rows = []
    for record in read_table(path, required=_REQUIRED):
        fields = {name: record.fields.get(name, "") for name in _COLUMNS}
        if fields["task"]:
            task_named(fields["task"], f"{path}, line {record.line}, column 'task'")
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
                transcript=fields["transcript"],
                task=fields["task"],
                references=references_of(path, record),
            )
        )
    return rows


def references_of(path: Path, record: Record) -> tuple[str, ...]:
    """The column `references` of a row.

    :raises UserError: it is no JSON list of texts.
    """
    field = record.fields.get("references", "")
    try:
        return read_text_list(field)
    except ValueError:
        raise UserError(
            f"{path}, line {record.line}, column 'references': found {field!r:.80}, expected a JSON list of texts"
        ) from None


def is_looping(text: str) -> bool:
    """Whether zlib shrinks a text more than 2.4 times, since it repeats itself (texts of 40 bytes or more)."""
    return compression_ratio(text) > LOOP_RATIO


def score(rows: Sequence[Hypothesis], wer_normalizer: str = "basic") -> dict[str, Any]:
    """Score transcriptions by errors and translations by BLEU and chrF.

    The result holds

    ``utterances``, ``seconds``, ``empty_hypotheses``, ``looping_hypotheses``
        counts over all rows (:func:`is_looping`).
    ``asr``
        where there are transcriptions: ``utterances``, ``empty_references`` (after normalisation: what is written for
        them counts as insertions), ``normalizer``, ``unit`` and the counts of
        :class:`~speechllm_plugin.scoring.wer.WerResult` over all of them, ``wer`` and its 95 % confidence interval
        ``wer_low``, ``wer_high`` (:func:`~speechllm_plugin.scoring.bootstrap.rate_interval`; ``None`` for few
        utterances). Languages without spaces count characters; ``unit`` is ``word``, ``char``, or ``mixed`` where each
        language counts its own.
    ``st``
        where there are translations: ``utterances``, ``empty_references`` and the scores of
        :class:`~speechllm_plugin.scoring.translation.TranslationResult`. Over several directions ``bleu`` and ``chrf``
        are of all rows as one corpus (n-grams for BLEU in each target language's own tokens; the signatures are all
        that occur), and ``bleu_mean``, ``chrf_mean`` the means of the directions' scores, each weighing the same.
    ``answers``
        where speech was answered: ``utterances``, ``empty_references``, ``exact`` and ``f1`` (0 to 1, means over the
        rows with a reference, of several the nearest; :mod:`~speechllm_plugin.scoring.answers`), ``refusals`` (a
        share), ``words`` (mean length) and ``chrf`` (against ``reference`` alone).
    ``silence``
        where there are empty references: ``clips``, ``seconds``, ``clips_with_words``, ``words`` that were written for
        them all the same, and ``words_per_minute`` of their sound. Characters in languages without spaces.
    ``directions``
        where there is more than one: the same two kinds of entry as ``asr`` and ``st``, by ``en`` or ``en-de``.

    :raises UserError: there are no rows, or no such normaliser.
    """
    if not rows:
        raise UserError("scoring: found no hypotheses, expected at least one")
    groups: dict[str, list[Hypothesis]] = {}
    for row in rows:
        groups.setdefault(row.direction, []).append(row)
    transcribed: dict[str, tuple[Unit, WerResult]] = {}
    translated: dict[str, TranslationResult] = {}
    answered: list[Hypothesis] = []
    for direction, group in sorted(groups.items()):
        if group[0].is_translation:
            translated[direction] = translation_scores(_references(group), _hypotheses(group), group[0].tgt_lang)
        elif group[0].scored_by == "answers":
            answered += group
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
        own = [row for direction in translated for row in groups[direction]]
        scores["st"] = _translation_scores(own, list(translated.values()))
    if answered:
        scores["answers"] = _answer_scores(answered)
    if silence := _silence_scores(groups, transcribed):
        scores["silence"] = silence
    if len(groups) > 1:
        each = {name: _transcription_scores([entry], wer_normalizer) for name, entry in transcribed.items()}
        st = {name: _translation_scores(groups[name], [result]) for name, result in translated.items()}
        scores["directions"] = {**each, **st}
    return scores


def write_scores(path: Path | str, scores: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Write ``{"scores": ..., "provenance": ...}`` as JSON, whole or not at all.

    JSON has no infinity: a rate without reference words is written as ``null``.

    :raises UserError: the place cannot be written.
    """
    content = {"scores": _finite(scores), "provenance": _finite(provenance)}
    write_text_atomically(Path(path), json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _score_transcription(rows: Sequence[Hypothesis], normalizer: str) -> tuple[Unit, WerResult]:
    """The unit and the counts of one language."""
    language = rows[0].src_lang
    unit = unit_of(language)
    return unit, word_errors(_references(rows), _hypotheses(rows), normalizer, unit, language)


def _transcription_scores(languages: Sequence[tuple[Unit, WerResult]], normalizer: str) -> dict[str, Any]:
    results = [result for _, result in languages]
    units = {unit for unit, _ in languages}
    errors = [count for result in results for count in result.utterance_errors]
    words = [count for result in results for count in result.utterance_words]
    low, high = rate_interval(errors, words) or (None, None)
    scores: dict[str, Any] = {
        "utterances": len(errors),
        "empty_references": words.count(0),
        "normalizer": normalizer,
        "unit": units.pop() if len(units) == 1 else "mixed",
    }
    for name in ("errors", "words", "substitutions", "deletions", "insertions"):
        scores[name] = sum(getattr(result, name) for result in results)
    return {**scores, "wer": error_rate(sum(errors), sum(words)), "wer_low": low, "wer_high": high}


def _translation_scores(rows: Sequence[Hypothesis], directions: Sequence[TranslationResult]) -> dict[str, Any]:
    """
    :param rows: the rows of all directions.
    """
    scores: dict[str, Any] = {
        "utterances": len(rows),
        "empty_references": sum(not row.reference.strip() for row in rows),
        "bleu": directions[0].bleu,
        "bleu_signature": ", ".join(sorted({direction.bleu_signature for direction in directions})),
        "chrf": directions[0].chrf,
        "chrf_signature": ", ".join(sorted({direction.chrf_signature for direction in directions})),
    }
    if len(directions) > 1:
        scores["bleu"] = pooled_bleu([direction.counts for direction in directions])
        scores["chrf"] = chrf_score(_references(rows), _hypotheses(rows))
        for name in ("bleu", "chrf"):
            scores[f"{name}_mean"] = sum(getattr(direction, name) for direction in directions) / len(directions)
    return scores


def _answer_scores(rows: Sequence[Hypothesis]) -> dict[str, Any]:
    """Scores of answers, without WER and BLEU, since an answer may be right in other words."""
    compared = [row for row in rows if row.accepted]
    exact = [exact_match(row.hypothesis, row.accepted) for row in compared]
    f1 = [token_f1(row.hypothesis, row.accepted, row.tgt_lang or row.src_lang) for row in compared]
    return {
        "utterances": len(rows),
        "empty_references": len(rows) - len(compared),
        "exact": sum(exact) / len(compared) if compared else math.nan,
        "f1": sum(f1) / len(compared) if compared else math.nan,
        "refusals": sum(is_refusal(row.hypothesis) for row in rows) / len(rows),
        "words": sum(
            count_units(row.hypothesis, "basic", unit_of(language := row.tgt_lang or row.src_lang), language)
            for row in rows
        ) / len(rows),
        "chrf": chrf_score(_references(rows), _hypotheses(rows)),
    }  # fmt: skip


def _silence_scores(
    groups: Mapping[str, Sequence[Hypothesis]], transcribed: Mapping[str, tuple[Unit, WerResult]]
) -> dict[str, Any] | None:
    """Scores of the texts for empty references; None where every reference has words."""
    clips: list[tuple[Hypothesis, int]] = []  # each with the number of words written
    for direction, group in groups.items():
        if direction in transcribed:
            result = transcribed[direction][1]
            # All errors against an empty reference are insertions.
            counts = zip(group, result.utterance_errors, result.utterance_words, strict=True)
            clips += [(row, errors) for row, errors, words in counts if not words]
        else:
            unit = unit_of(group[0].tgt_lang)
            quiet = [row for row in group if not row.reference.strip()]
            clips += [(row, count_units(row.hypothesis, "basic", unit, row.tgt_lang)) for row in quiet]
    if not clips:
        return None
    seconds, words = sum(row.duration for row, _ in clips), sum(count for _, count in clips)
    return {
        "clips": len(clips),
        "seconds": round(seconds, 3),
        "clips_with_words": sum(count > 0 for _, count in clips),
        "words": words,
        "words_per_minute": 60.0 * words / seconds if seconds else math.nan,
    }


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
