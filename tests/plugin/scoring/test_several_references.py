"""Questions with several right answers: from the manifest's column to the score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from speechllm_plugin.datasets.manifest import ManifestRow, read_manifest, write_manifest
from speechllm_plugin.errors import UserError
from speechllm_plugin.scoring.report import Hypothesis, read_hypotheses, score, write_hypotheses
from speechllm_plugin.scoring.segments import answer_statistics

RIGHT = ("the \t1990s", "In 1992")
ROW = ManifestRow("a", "a.wav", 98, "1992", "When?", "", "en", "en", 2, task="answer", references=RIGHT)
ANSWER = Hypothesis("a", "1992", "In 1992.", "a.wav", 1.0, "en", "en", task="answer", references=RIGHT)


def test_they_survive_the_files(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.tsv", [ROW, replace(ROW, id="b", line=3, references=())])
    assert [row.references for row in read_manifest(tmp_path / "m.tsv")] == [RIGHT, ()]
    write_hypotheses(tmp_path / "h.tsv", [ANSWER])
    assert read_hypotheses(tmp_path / "h.tsv") == [ANSWER]


def test_the_nearest_counts() -> None:
    wrong = replace(ANSWER, id="b", hypothesis="nineties")
    other = replace(ANSWER, id="c", reference="", references=("Once",), hypothesis="once")
    scores = score([ANSWER, wrong, other])["answers"]
    assert scores["exact"] == scores["f1"] == pytest.approx(2 / 3) and scores["empty_references"] == 0
    assert score([replace(ANSWER, references=())])["answers"]["exact"] == 0
    rows = [ANSWER, wrong]
    assert answer_statistics(rows, "f1", [row.accepted for row in rows]).score == 50


@pytest.mark.parametrize(
    ("field", "task", "expected"),
    [
        ("Denver", "answer", 'a JSON list of answers, ["...", "..."], beside that of tgt_text'),
        ('"Denver"', "answer", "a JSON list of answers"),
        ('["Denver", 3]', "answer", "a JSON list of answers"),
        ('["Denver", " "]', "", "a JSON list of answers"),
        ('["Denver"]', "transcribe", "none: a text of the task 'transcribe' is compared with tgt_text alone"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, field: str, task: str, expected: str) -> None:
    path = tmp_path / "m.tsv"
    path.write_text(f"id\taudio\ttgt_text\ttask\treferences\nz\ta.wav\tx\t\t\na\ta.wav\tx\t{task}\t{field}\n")
    with pytest.raises(UserError) as caught:
        read_manifest(path)
    start = f"{path}, line 3, column 'references': found {field!r}, expected {expected}"
    assert str(caught.value).startswith(start) and "\n" not in str(caught.value)


def test_broken_ones_in_hypotheses_are_named(tmp_path: Path) -> None:
    write_hypotheses(tmp_path / "h.tsv", [ANSWER])
    (tmp_path / "h.tsv").write_text((tmp_path / "h.tsv").read_text().replace("[", "{"))
    with pytest.raises(UserError, match=r"h\.tsv, line 2, column 'references': found .* expected a JSON list of texts"):
        read_hypotheses(tmp_path / "h.tsv")
