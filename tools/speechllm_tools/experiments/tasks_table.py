"""The table of `speechllm tasks`: a row for each system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from speechllm_plugin.scoring.table import format_wer

CONDITIONS = {
    "names": "no list",
    "names_alone": "their list",
    "names_among": "among others",
    "names_heard": "the likeliest of all",
}
"""Test split of names -> what its prompts hold, in words."""
_COLUMNS = (
    "system", "WER of transcripts (%)", "same answer (%)", "token F1 (%)", "chrF", "other instruction: token F1 (%)",
    *(f"names, {condition}: WER (B, U)" for condition in CONDITIONS.values()),
)  # fmt: skip


def row(
    name: str, scores: Mapping[str, Mapping[str, Any]], names: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """
    :param scores: of the splits `transcripts`, `answers` and `unseen`.
    :param names: `wer`, `b_wer` and `u_wer` of those of `CONDITIONS` that the system was tested under.
    """
    answers = scores["answers"]["answers"]
    spelt = [
        "{wer:.1f} ({b_wer:.1f}, {u_wer:.1f})".format(**names[split]) if split in names else "-" for split in CONDITIONS
    ]
    return [
        name,
        format_wer(scores["transcripts"]["asr"]),
        *(f"{100 * answers[key]:.1f}" for key in ("exact", "f1")),
        f"{answers['chrf']:.1f}",
        f"{100 * scores['unseen']['answers']['f1']:.1f}",
        *spelt,
    ]


def table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [_COLUMNS, ["---"] * len(_COLUMNS), *rows])
