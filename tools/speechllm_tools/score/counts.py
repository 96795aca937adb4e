"""Counts of every metric for every system's hypotheses, by direction, with the clips in one order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.scoring import segments
from speechllm_plugin.scoring.phrase_lists import PhraseLists
from speechllm_plugin.scoring.report import Hypothesis, is_looping, score
from speechllm_plugin.scoring.segments import SegmentStatistics
from speechllm_plugin.scoring.wrong_language import wrong_language_share
from speechllm_tools.score.reading import System

Statistics = Callable[[Sequence[Hypothesis]], SegmentStatistics]

RECOGNITION: Mapping[str, Callable[[Sequence[Hypothesis], str], SegmentStatistics]] = {
    "wer": segments.error_statistics,
    "wer_clips": lambda rows, normalizer: segments.mean_over_clips(segments.error_statistics(rows, normalizer)),
    "cer": segments.character_statistics,
}
"""Metrics of transcriptions by name; each can be combined with any normaliser."""
TRANSLATION: Mapping[str, Statistics] = {
    "bleu": segments.bleu_statistics,
    "chrf": segments.chrf_statistics,
    "ter": segments.ter_statistics,
}
BIASING: Mapping[str, bool] = {"b_wer": True, "u_wer": False}
"""Metrics of transcriptions that need a list of phrases, by name: True counts the words in the list, False the
others."""
ANSWERS: Mapping[str, Statistics] = {
    "exact": lambda rows: segments.answer_statistics(rows, "exact", [row.accepted for row in rows]),
    "f1": lambda rows: segments.answer_statistics(rows, "f1", [row.accepted for row in rows]),
    "refusals": segments.refusal_statistics,
    "words": segments.length_statistics,
}
"""Metrics of answers by name."""
AGREEMENT: Mapping[str, str] = {"agreement": "exact", "agreement_f1": "f1"}
"""Metrics of answers that need other answers for comparison, by name, with the quantity that each counts."""
COMET = "comet"
METRICS = (*RECOGNITION, *BIASING, *TRANSLATION, *ANSWERS, *AGREEMENT, COMET)


@dataclass(frozen=True)
class Beside:
    """Inputs of metrics beside hypotheses and references."""

    phrases: PhraseLists | None = None
    """Input of the metrics in `BIASING`."""
    answers: Mapping[str, str] | None = None
    """Input of the metrics in `AGREEMENT`, by id."""


@dataclass(frozen=True)
class Measured:
    """The rows and statistics of one system."""

    system: System
    sets: dict[str, list[Hypothesis]]
    """Rows by label: `en-de`, or `dev/en-de` where a direction occurs in several sets of clips."""
    statistics: dict[str, dict[str, SegmentStatistics]] = field(default_factory=dict)
    """By metric (`wer:basic`, `bleu`) and label."""


def aligned(systems: Sequence[System]) -> list[Measured]:
    """The systems' clips, label by label, in the order of the first system.

    :raises UserError: two systems have different clips or different references.
    """
    repeated = any(count > 1 for system in systems for count in Counter(
        direction for data in system.sets for direction in {row.direction for row in data.rows}).values())
    measured = []
    for system in systems:
        sets: dict[str, list[Hypothesis]] = {}
        for data in system.sets:
            for row in data.rows:
                sets.setdefault(f"{data.name}/{row.direction}" if repeated else row.direction, []).append(row)
        measured.append(Measured(system, dict(sorted(sets.items()))))
    first = measured[0]
    for other in measured[1:]:
        if list(first.sets) != list(other.sets):
            raise UserError(
                f"{other.system.name}: found hypotheses of {', '.join(other.sets)}, expected {', '.join(first.sets)}, "
                f"as {first.system.name} has"
            )
        for label, rows in first.sets.items():
            other.sets[label] = _in_order(first.system.name, rows, other.system.name, other.sets[label], label)
    return measured


def _in_order(
    name: str, rows: Sequence[Hypothesis], other_name: str, others: Sequence[Hypothesis], label: str
) -> list[Hypothesis]:
    by_id = {row.id: row for row in others}
    found, expected = {row.id for row in others}, {row.id for row in rows}
    if found != expected or len(rows) != len(others):
        example = min(found ^ expected, default="one that is there twice")
        raise UserError(
            f"{other_name}, {label}: found {len(others):,} clips, expected the {len(rows):,} of {name}: systems are "
            f"compared on the same clips (only one of them has {example!r})"
        )
    ordered = [by_id[row.id] for row in rows]
    for row, other in zip(rows, ordered, strict=True):
        if row.accepted != other.accepted:
            found_one, expected_one = ("; ".join(one.accepted) for one in (other, row))
            raise UserError(
                f"{other_name}, {label}, id {row.id}: found the reference {found_one!r:.60}, expected "
                f"{expected_one!r:.60}, as {name} has"
            )
    return ordered


def measure(one: Measured, metrics: Sequence[str], normalizers: Sequence[str], beside: Beside) -> None:
    """Counts every metric except COMET."""
    for metric in metrics:
        for label, rows in one.sets.items():
            for name, statistics in _counted(metric, rows, normalizers, beside):
                one.statistics.setdefault(name, {})[label] = statistics


def _counted(
    metric: str, rows: Sequence[Hypothesis], normalizers: Sequence[str], beside: Beside
) -> Iterator[tuple[str, SegmentStatistics]]:
    """Counts of one metric under each of its names; empty if the metric does not apply to these rows."""
    scored_by = rows[0].scored_by
    if metric in TRANSLATION and scored_by == "translation":
        yield metric, TRANSLATION[metric](rows)
    elif metric in ANSWERS and scored_by == "answers":
        yield metric, ANSWERS[metric](rows)
    elif metric in AGREEMENT and scored_by == "answers" and beside.answers is not None:
        if missing := [row.id for row in rows if row.id not in beside.answers]:
            raise UserError(f"--answers: found no answer of {len(missing):,} ids, the first {missing[0]!r}; expected "
                            "one of every clip")
        others = [[answer] if (answer := beside.answers[row.id]).strip() else [] for row in rows]
        yield metric, segments.answer_statistics(rows, AGREEMENT[metric], others)
    elif metric in RECOGNITION and scored_by == "wer":
        for normalizer in normalizers:
            yield f"{metric}:{normalizer}", RECOGNITION[metric](rows, normalizer)
    elif metric in BIASING and scored_by == "wer" and beside.phrases is not None:
        for normalizer in normalizers:
            statistics = segments.biased_statistics(rows, normalizer, beside.phrases, in_list=BIASING[metric])
            yield f"{metric}:{normalizer}", statistics


def counts(rows: Sequence[Hypothesis]) -> dict[str, Any]:
    """Further counts: shares of all segments, and what was written for clips without speech."""
    language = rows[0].tgt_lang or rows[0].src_lang
    silent = [row for row in rows if not row.reference.strip()]
    return {
        "segments": len(rows),
        "empty": sum(not row.hypothesis.strip() for row in rows) / len(rows),
        "looping": sum(is_looping(row.hypothesis) for row in rows) / len(rows),
        "wrong_language": wrong_language_share([row.hypothesis for row in rows], language),
        "wrong_language_references": wrong_language_share([row.reference for row in rows], language),
        "silence": score(silent).get("silence") if silent else None,
    }
