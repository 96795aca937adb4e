"""Writes answers for a judge, a model or a person; this package has no judge of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_tools.score.counts import Measured


def write_for_judge(file: Path, measured: Sequence[Measured]) -> None:
    """Writes a line of JSON for each answer of each system.

    :raises UserError: there are no answers.
    """
    lines = [
        json.dumps(
            {"id": row.id, "system": one.system.name, "question": row.transcript, "reference": row.reference,
             "references": row.accepted, "hypothesis": row.hypothesis},
            ensure_ascii=False,
        )
        for one in measured for rows in one.sets.values() for row in rows if row.scored_by == "answers"
    ]  # fmt: skip
    if not lines:
        raise UserError("--judge-jsonl: found no answers, expected rows of the task answer")
    write_text_atomically(file, "".join(f"{line}\n" for line in lines))
