"""`speechllm manifest phrases`: lists of phrases for each row, and `speechllm score --phrases`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speechllm_plugin.scoring.report import Hypothesis, write_hypotheses
from tests.commands import Commands
from tests.tools.corpora.layouts import manifest, rows_of, write_lines

SAID = [
    "call Siobhan Kavanagh tomorrow", "play Rachmaninoff", "navigate to Llanfairpwll", "what time is it",
    "ask Siobhan for the report",
]
NAMES = ["Siobhan Kavanagh", "Siobhan", "Rachmaninoff", "Llanfairpwll"]
OTHERS = [f"{first}{last}" for first in ("Bo", "Ka", "Mi", "Zu", "Te") for last in ("ran", "lis", "vor", "dun", "mek")]
HEARD = [
    "call Shivon Cavanaugh tomorrow", "play rack man in off", "navigate to Clan fair pull", "what time is it",
    "ask Siobhan for the report",
]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A manifest, a list of names, and a first pass."""
    rows = [f"u{i}\tclips/u{i}.wav\t{text}\ten\ten" for i, text in enumerate(SAID)]
    test = write_lines(tmp_path / "test.tsv", ["id\taudio\ttgt_text\tsrc_lang\ttgt_lang", *rows])
    names = write_lines(tmp_path / "names.txt", [*NAMES, *OTHERS])
    heard = tmp_path / "first/test/hypotheses.tsv"
    write_hypotheses(heard, [
        Hypothesis(f"u{i}", SAID[i], text, f"clips/u{i}.wav", 1.0, "en", "en") for i, text in enumerate(HEARD)
    ])  # fmt: skip
    return test, names, heard


def contexts(path: Path) -> list[set[str]]:
    return [set(filter(None, row["context"].split(", "))) for row in rows_of(path)]


def test_own_phrases_stand_among_distractors_that_follow_from_id_and_seed(
    files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    test, names, _ = files

    def write(name: str, *more: object) -> list[dict[str, str]]:
        manifest("phrases", test, "--list", names, "--output", tmp_path / name, *more).ok()
        return rows_of(tmp_path / name)

    write("own.tsv")
    own = contexts(tmp_path / "own.tsv")
    assert own == [{"Siobhan Kavanagh", "Siobhan"}, {"Rachmaninoff"}, {"Llanfairpwll"}, set(), {"Siobhan"}]
    first = write("ten.tsv", "--distractors", 10)
    for found, said in zip(contexts(tmp_path / "ten.tsv"), own, strict=True):
        assert said <= found and len(found) == len(said) + 10
    assert len({row["context"] for row in first}) == len(first)
    assert write("again.tsv", "--distractors", 10) == first
    assert write("other.tsv", "--distractors", 10, "--seed", 3) != first
    # A row's draw does not depend on the rows beside it.
    write_lines(test, [line for number, line in enumerate(test.read_text().splitlines()) if number != 1])
    assert write("less.tsv", "--distractors", 10) == first[1:]
    story = json.loads((tmp_path / "ten.json").read_text())
    assert story["phrases"] == {"rows": 5, "rows_with_own": 4, "own": 5, "list": 29}


def test_a_first_pass_finds_names_that_it_heard_wrongly(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    test, names, heard = files
    result = manifest("phrases", test, "--list", names, "--first-pass", heard, "--top", 3, "--output",
                      tmp_path / "found.tsv").ok()  # fmt: skip
    found = contexts(tmp_path / "found.tsv")
    assert all(len(context) == 3 for context in found)
    assert "Siobhan Kavanagh" in found[0] and "Rachmaninoff" in found[1] and "Siobhan" in found[4]
    assert "Llanfairpwll" in found[2]
    story = json.loads((tmp_path / "found.json").read_text())["phrases"]
    assert story["heard"] == 1 and story["retrieved"] >= 4
    assert f"recall of the 3 most alike: {story['retrieved'] / 5:.1%} of what is said; the first pass itself wrote " \
           "20.0%" in result.stdout  # fmt: skip


def test_rare_words_of_a_corpus_are_a_list_that_scores(
    files: tuple[Path, Path, Path], tmp_path: Path, commands: Commands
) -> None:
    test, _, heard = files
    manifest("phrases", test, "--rare-in", test, "--common", 1, "--write-list", tmp_path / "rare.txt", "--output",
             tmp_path / "rare.tsv").ok()  # fmt: skip
    rare = (tmp_path / "rare.txt").read_text().split()
    assert "rachmaninoff" in rare and "siobhan" not in rare  # said twice, and so the most frequent
    result = commands.speechllm("score", heard.parents[1], "--phrases", tmp_path / "names.txt", "--normalizers",
                                "basic", "--metrics", "wer", "b_wer", "u_wer", "--json").ok()  # fmt: skip
    scores = json.loads(result.stdout)["systems"]["first"]["scores"]
    found = {metric: scores[f"{metric}:basic"]["en"]["score"] for metric in ("wer", "b_wer", "u_wer")}
    # Four of five words of names are wrong, and the five words beside them that the first pass made of them.
    assert found["b_wer"] == pytest.approx(100 * 4 / 5) and found["u_wer"] == pytest.approx(100 * 5 / 13)
    assert found["wer"] == pytest.approx(100 * 9 / 18)


def test_mistakes_are_one_line(files: tuple[Path, Path, Path], tmp_path: Path, commands: Commands) -> None:
    test, names, heard = files

    def error(*more: object) -> str:
        return manifest("phrases", test, "--output", tmp_path / "o.tsv", *more).user_error()

    assert error("--list", names, "--distractors", 28).startswith("--distractors: found 28, expected at most 27")
    assert "expected one" in error("--list", names, "--distractors", 1, "--first-pass", heard)
    write_hypotheses(heard, [Hypothesis("else", "a", "b", "c.wav", 1.0, "en", "en")])
    assert error("--list", names, "--first-pass", heard) == (
        f"{test}, line 2, column 'id': found 'u0', expected an id of {heard}"
    )
    assert commands.speechllm("score", heard, "--metrics", "b_wer").user_error() == (
        "--metrics: found b_wer without --phrases, expected the list of phrases"
    )
    assert not (tmp_path / "o.tsv").exists()
