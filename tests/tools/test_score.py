"""`speechllm score`: hypotheses of any system, in one table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from speechllm_plugin.scoring.report import Hypothesis, read_hypotheses, write_hypotheses
from speechllm_plugin.scoring.wer import word_errors
from speechllm_plugin.scoring.wrong_language import wrong_language_share
from tests.commands import Commands

ENGLISH = ["Turn on the light in the kitchen.", "What's the weather like today?", "Play some quiet music, please."]
GERMAN = ["Mach das Licht in der Küche an.", "Wie ist das Wetter heute?", "Spiel bitte leise Musik."]


def rows(heard: list[str], written: list[str]) -> list[Hypothesis]:
    """Transcriptions and translations of three clips."""
    asr = [Hypothesis(f"en{i}", ENGLISH[i], heard[i], "a.wav", 2.0, "en", "en", ENGLISH[i]) for i in range(3)]
    st = [Hypothesis(f"de{i}", GERMAN[i], written[i], "a.wav", 2.0, "en", "de", ENGLISH[i]) for i in range(3)]
    return [*asr, *st]


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    good = rows([ENGLISH[0], "whats the weather like", ENGLISH[2]], GERMAN)
    bad = rows(["turn the light", "", "play music " * 20], [GERMAN[0], ENGLISH[1], "Spiel Musik."])
    write_hypotheses(tmp_path / "good/test/hypotheses.tsv", good)
    # The order of the rows is not that of the other run.
    write_hypotheses(tmp_path / "bad/test/hypotheses.tsv", bad[::-1])
    (tmp_path / "bad/test/scores.json").write_text(json.dumps({"scores": {"cut_hypotheses": 1}}))
    return tmp_path / "good", tmp_path / "bad"


def found(commands: Commands, *arguments: object) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(commands.speechllm("score", *arguments, "--json").ok().stdout)
    return loaded


def test_runs_are_scored_by_every_metric_and_compared(commands: Commands, runs: tuple[Path, Path]) -> None:
    result = found(commands, *runs, "--baseline", "bad", "--metrics", "wer", "wer_clips", "cer", "bleu", "chrf", "ter",
                   "--normalizers", "none", "verdini")  # fmt: skip
    good, bad = (result["systems"][name] for name in ("good", "bad"))
    heard = ENGLISH[0], "whats the weather like", ENGLISH[2]
    for normalizer in ("none", "verdini"):
        expected = 100 * word_errors(ENGLISH, heard, normalizer).wer
        assert good["scores"][f"wer:{normalizer}"]["en"]["score"] == pytest.approx(expected)
    assert good["scores"]["wer:verdini"]["en"]["score"] == pytest.approx(100 / 17)  # "today" alone
    assert good["scores"]["wer_clips:verdini"]["en"]["score"] == pytest.approx(100 / 5 / 3)
    assert good["scores"]["bleu"]["en-de"]["score"] == pytest.approx(100)
    assert good["scores"]["ter"]["en-de"]["score"] == 0
    assert bad["cut"] == {"test": 1}
    counts = bad["counts"]
    assert counts["en"]["empty"] == pytest.approx(1 / 3) and counts["en"]["looping"] == pytest.approx(1 / 3)
    assert counts["en-de"]["wrong_language"] == pytest.approx(1 / 3)
    assert counts["en-de"]["wrong_language_references"] == 0
    compared = {(each["metric"], each["set"]): each for each in result["comparisons"]}
    assert set(compared) == {(metric, "en") for metric in ("wer:none", "wer:verdini", "wer_clips:none",
                                                           "wer_clips:verdini", "cer:none", "cer:verdini")} | {
        (metric, "en-de") for metric in ("bleu", "chrf", "ter")}  # fmt: skip
    assert all((each["first"], each["second"]) == ("good", "bad") for each in compared.values())
    assert compared["bleu", "en-de"]["difference"] > 0 > compared["wer:none", "en"]["difference"]
    assert {each["method"] for each in compared.values()} == {"randomization"}


def test_the_printed_table_tells_how_sure_it_is(commands: Commands, runs: tuple[Path, Path]) -> None:
    text = commands.speechllm("score", *runs, "--baseline", "bad").ok().stdout
    assert "bleu (higher is better)  en-de" in text and "wer:verdini (lower is better)" in text
    assert "p=" in text and " *" in text  # three clips show nothing
    assert "the intervals of 3 segments hold the truth in about 78 % of sets" in text
    assert "bad: 1 hypotheses of test were cut off at the length limit" in text


def test_marks_in_references_are_told(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "hyp.txt").write_text("it is\nyes\n", encoding="utf-8")
    (tmp_path / "ref.txt").write_text("it is [noise]\n[noise] yes\n", encoding="utf-8")
    arguments = ("--references", tmp_path / "ref.txt", "--direction", "en", "--metrics", "wer")
    result = commands.speechllm("score", f"sys={tmp_path / 'hyp.txt'}", *arguments).ok()
    assert result.stderr.splitlines() == [
        "speechllm score: references of hyp: found marks of noises in 2 of 2 texts, first in 1: 'it is [noise]'; they "
        "are scored as they are"
    ]


def test_directions_are_averaged(commands: Commands, tmp_path: Path) -> None:
    write_hypotheses(tmp_path / "run/de/hypotheses.tsv", rows(ENGLISH, GERMAN)[3:])
    french = [replace(row, tgt_lang="fr", hypothesis="Non.") for row in rows(ENGLISH, GERMAN)[3:]]
    write_hypotheses(tmp_path / "run/fr/hypotheses.tsv", french)
    entry = found(commands, tmp_path / "run", "--metrics", "bleu")["systems"]["run"]["scores"]["bleu"]
    assert list(entry) == ["en-de", "en-fr", "average"]
    assert entry["average"]["score"] == pytest.approx((entry["en-de"]["score"] + entry["en-fr"]["score"]) / 2)
    assert entry["average"]["segments"] == 6


def test_one_direction_in_two_sets_keeps_them_apart(commands: Commands, tmp_path: Path) -> None:
    for name in ("seen", "new"):
        write_hypotheses(tmp_path / f"run/{name}/hypotheses.tsv", rows(ENGLISH, GERMAN)[:3])
    entry = found(commands, tmp_path / "run", "--metrics", "wer")["systems"]["run"]["scores"]["wer:basic"]
    assert list(entry) == ["new/en", "seen/en", "average"]


def test_text_of_another_system_stands_in_the_same_table(commands: Commands, runs: tuple[Path, Path]) -> None:
    folder = runs[0].parent
    own = [row for row in read_hypotheses(runs[0] / "test/hypotheses.tsv") if row.is_translation]
    write_hypotheses(folder / "st.tsv", own)
    (folder / "other.txt").write_text("".join(f"{text}\n" for text in GERMAN))
    result = found(commands, folder / "st.tsv", folder / "other.txt", "--references", folder / "st.tsv", "--metrics",
                   "chrf", "--pairs")  # fmt: skip
    assert result["systems"]["other"]["scores"] == result["systems"]["st"]["scores"]
    assert [each["p"] for each in result["comparisons"]] == [1.0]
    # Plain text beside plain text, without anything of ours.
    (folder / "references.txt").write_text("".join(f"{text}\n" for text in GERMAN))
    alone = found(commands, "mine=" + str(folder / "other.txt"), "--references", folder / "references.txt",
                  "--direction", "en-de", "--metrics", "chrf")  # fmt: skip
    assert alone["systems"]["mine"]["scores"]["chrf"]["en-de"]["score"] == 100
    (folder / "other.txt").write_text("one line\n")
    error = commands.speechllm("score", folder / "other.txt", "--references", folder / "references.txt").user_error()
    assert error == f"{folder}/other.txt: found 1 hypotheses, expected 3, as many as {folder}/references.txt has lines"


def test_hearing_to_translates_files_are_read_by_name(commands: Commands, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs/some_system/fleurs/en-de.jsonl"
    manifest = tmp_path / "manifests/fleurs/en-de.jsonl"
    for file in (outputs, manifest):
        file.parent.mkdir(parents=True)
    base = [{"dataset_id": "fleurs", "sample_id": i, "src_lang": "en", "tgt_lang": "de"} for i in range(3)]
    outputs.write_text("".join(json.dumps({**one, "output": text}) + "\n"
                               for one, text in zip(base, GERMAN, strict=True)))  # fmt: skip
    manifest.write_text("".join(
        json.dumps({**one, "src_audio": "/a.wav", "src_ref": source, "tgt_ref": text, "benchmark_metadata": {}}) + "\n"
        for one, source, text in list(zip(base, ENGLISH, GERMAN, strict=True))[::-1]
    ))  # fmt: skip
    for path in (outputs.parents[1], outputs):
        result = found(commands, path, "--metrics", "bleu")
        (name, system), = result["systems"].items()
        assert name in ("some_system", "en-de")
        assert system["scores"]["bleu"]["en-de"]["score"] == pytest.approx(100)


def test_seeds_are_spread(commands: Commands, runs: tuple[Path, Path]) -> None:
    result = found(commands, *runs, "--seeds", "--metrics", "bleu")
    scores = [result["systems"][name]["scores"]["bleu"]["en-de"]["score"] for name in ("good", "bad")]
    assert result["seeds"]["bleu"]["en-de"]["mean"] == pytest.approx(sum(scores) / 2)
    assert "bleu, over seeds" in commands.speechllm("score", *runs, "--seeds", "--metrics", "bleu").ok().stdout


def test_other_clips_are_an_error(commands: Commands, runs: tuple[Path, Path]) -> None:
    file = runs[1] / "test/hypotheses.tsv"
    kept = [row for row in read_hypotheses(file) if row.id != "de1"]
    write_hypotheses(file, kept)
    assert commands.speechllm("score", *runs).user_error() == (
        "bad, en-de: found 2 clips, expected the 3 of good: systems are compared on the same clips (only one of them "
        "has 'de1')"
    )
    write_hypotheses(file, [row for row in kept if not row.is_translation])
    error = commands.speechllm("score", *runs).user_error()
    assert error == "bad: found hypotheses of en, expected en, en-de, as good has"


def test_other_references_are_an_error(commands: Commands, runs: tuple[Path, Path]) -> None:
    file = runs[1] / "test/hypotheses.tsv"
    changed = [replace(row, reference="Other.") if row.id == "en0" else row for row in read_hypotheses(file)]
    write_hypotheses(file, changed)
    error = commands.speechllm("score", *runs).user_error()
    assert error == f"bad, en, id en0: found the reference 'Other.', expected {ENGLISH[0]!r}, as good has"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["none"], "none: found no such file or directory, expected hypotheses"),
        (["good", "--baseline", "bad"], "--baseline, --pairs: found one run, expected two or more"),
        (["good", "bad", "--baseline", "x"], "--baseline: found 'x', expected one of good, bad"),
        (["good", "good"], "RUN: found two systems named 'good', expected NAME=good for one of them"),
        (["good", "--resamples", "5"], "--resamples: found 5, expected at least 100"),
        (["good", "--seeds"], "--seeds: found one run, expected two or more"),
    ],
)
def test_mistakes_are_one_line(
    commands: Commands, runs: tuple[Path, Path], arguments: list[str], error: str
) -> None:
    assert commands.at(runs[0].parent).speechllm("score", *arguments).user_error() == error


def test_the_language_of_a_text_is_told() -> None:
    assert wrong_language_share([*GERMAN, *ENGLISH, ""], "de") == 0.5
    assert wrong_language_share(["Ja."], "de") == 0.0  # too short to tell
    assert wrong_language_share(["你好,很高兴认识你。"], "zh") == 0.0
    assert wrong_language_share([""], "de") is None
    assert wrong_language_share(GERMAN, "xx") is None


def answers(texts: list[str]) -> list[Hypothesis]:
    asked = ["Where is it?", "Who wrote it?", "Tell a story."]
    references = ["in the kitchen", "Anna Seghers", ""]
    return [
        Hypothesis(f"q{i}", references[i], texts[i], "a.wav", 2.0, "en", "en", asked[i], task="answer")
        for i in range(3)
    ]


def test_answers_are_scored_and_exported_for_a_judge(commands: Commands, tmp_path: Path) -> None:
    write_hypotheses(tmp_path / "ours/test/hypotheses.tsv",
                     answers(["The kitchen.", "I'm sorry, I can't.", "Once upon a time"]))
    write_hypotheses(tmp_path / "theirs/test/hypotheses.tsv", answers(["In the kitchen", "Seghers", "No"]))
    # What the LLM itself answers to the text.
    written = [("q0", "kitchen"), ("q1", "Anna Seghers wrote it"), ("q2", "Once upon a time")]
    rows = "".join(f"{name}\ta.wav\t{text}\n" for name, text in written)
    (tmp_path / "answers.tsv").write_text(f"id\taudio\ttgt_text\n{rows}")
    judge = tmp_path / "judge.jsonl"
    result = found(commands, tmp_path / "ours", tmp_path / "theirs", "--answers", tmp_path / "answers.tsv",
                   "--judge-jsonl", judge)  # fmt: skip
    ours, theirs = (
        {metric: entry["en (answer)"]["score"] for metric, entry in result["systems"][name]["scores"].items()}
        for name in ("ours", "theirs")
    )
    # The story has no reference.
    assert ours == pytest.approx({"exact": 0, "f1": 100 * (2 / 3 + 0) / 2, "refusals": 100 / 3, "words": 10 / 3,
                                  "agreement": 200 / 3, "agreement_f1": 200 / 3})  # fmt: skip
    assert theirs == pytest.approx({"exact": 50, "f1": 100 * (1 + 2 / 3) / 2, "refusals": 0, "words": 5 / 3,
                                    "agreement": 0, "agreement_f1": 100 * (2 / 3 + 2 / 5) / 3})  # fmt: skip
    lines = [json.loads(line) for line in judge.read_text().splitlines()]
    assert len(lines) == 6
    assert lines[0] == {"id": "q0", "system": "ours", "question": "Where is it?", "reference": "in the kitchen",
                        "references": ["in the kitchen"], "hypothesis": "The kitchen."}  # fmt: skip
    table = commands.speechllm("score", tmp_path / "ours", "--metrics", "exact", "words").ok().stdout
    assert "exact (higher is better)" in table and "words  " in table and "words (" not in table
    error = commands.speechllm("score", tmp_path / "ours", "--metrics", "wer").user_error()
    assert error == ("--metrics: found wer, expected one for the answers of ours (of exact, f1, refusals, words, "
                     "agreement, agreement_f1)")  # fmt: skip
    (tmp_path / "answers.tsv").write_text("id\taudio\ttgt_text\nq0\ta.wav\tkitchen\n")
    error = commands.speechllm("score", tmp_path / "ours", "--answers", tmp_path / "answers.tsv").user_error()
    assert error.startswith("--answers: found no answer of 2 ids, the first 'q1'")


def test_several_right_answers(commands: Commands, tmp_path: Path) -> None:
    """Of our own files, of a manifest beside others' hypotheses, and for a judge."""
    right = [("in the kitchen", "the kitchen"), ("Anna Seghers", "Seghers")]
    rows = [replace(row, references=(other,)) for row, (_, other) in
            zip(answers(["The kitchen.", "Seghers", "Once"]), right, strict=False)]  # fmt: skip
    write_hypotheses(tmp_path / "ours/test/hypotheses.tsv", rows)
    header = "id\taudio\ttgt_text\tsrc_lang\ttgt_lang\ttask\treferences\n"
    (tmp_path / "gold.tsv").write_text(header + "".join(
        f"q{i}\ta.wav\t{first}\ten\ten\tanswer\t{json.dumps([other])}\n" for i, (first, other) in enumerate(right)
    ))  # fmt: skip
    (tmp_path / "theirs.tsv").write_text("id\thypothesis\nq0\tkitchen\nq1\tWho knows\n")
    judge = tmp_path / "judge.jsonl"
    result = found(commands, tmp_path / "ours", tmp_path / "theirs.tsv", "--references", tmp_path / "gold.tsv",
                   "--metrics", "exact", "--judge-jsonl", judge)  # fmt: skip
    scores = {name: one["scores"]["exact"]["en (answer)"]["score"] for name, one in result["systems"].items()}
    assert scores == {"ours": 100.0, "theirs": 50.0}
    assert json.loads(judge.read_text().splitlines()[0])["references"] == list(right[0])
    write_hypotheses(tmp_path / "ours/test/hypotheses.tsv", [rows[0], replace(rows[1], references=())])
    error = commands.speechllm("score", tmp_path / "ours", tmp_path / "theirs.tsv", "--references",
                               tmp_path / "gold.tsv").user_error()  # fmt: skip
    assert "id q1: found the reference 'Anna Seghers; Seghers', expected 'Anna Seghers', as ours has" in error


def test_what_the_llm_answers_in_writing_is_a_system_too(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "ours/test/hypotheses.tsv"
    write_hypotheses(file, answers(["The kitchen.", "Who knows", "Once"]))
    header = "id\taudio\ttgt_text\tsrc_lang\ttgt_lang\ttask\n"
    rows = [f"q{i}\ta.wav\t{text}\ten\ten\tanswer\n" for i, text in enumerate(["In the kitchen", "Seghers", "No"])]
    (tmp_path / "written.tsv").write_text(header + "".join(rows))
    # Without languages and task of its own: those of the references.
    (tmp_path / "other.tsv").write_text("id\thypothesis\n" + "".join(f"q{i}\tAnna Seghers\n" for i in range(3)))
    result = found(commands, tmp_path / "ours", tmp_path / "written.tsv", tmp_path / "other.tsv", "--references", file,
                   "--metrics", "exact")  # fmt: skip
    scores = {name: one["scores"]["exact"]["en (answer)"]["score"] for name, one in result["systems"].items()}
    assert scores == {"ours": 0.0, "written": 50.0, "other": 50.0}
