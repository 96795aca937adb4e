"""`speechllm tasks`: its names, its table, and what it refuses; the training itself is the recipe's."""

from __future__ import annotations

from pathlib import Path

import pytest
from speechllm_tools.cli import main
from speechllm_tools.experiments import names, tasks
from speechllm_tools.experiments.tasks_table import CONDITIONS, row, table

from speechllm_plugin.datasets.manifest import read_manifest
from speechllm_plugin.scoring.report import Hypothesis, write_hypotheses
from tests.conftest import SENTENCES
from tests.tools.corpora.layouts import write_lines

pytest.importorskip("espeakng_loader")


def test_names_of_the_test_are_not_those_of_the_training(tmp_path: Path) -> None:
    files = names.write_names(tmp_path, {names.TRAIN: 12, names.TEST: 8})
    trained, tested = (set(files[split].read_text().split()) for split in (names.TRAIN, names.TEST))
    assert len(trained) == 600 and len(tested) == 100 and not trained & tested
    for split, count, own in ((names.TRAIN, 12, trained), (names.TEST, 8, tested)):
        rows = read_manifest(tmp_path / f"{split}.tsv")
        assert len(rows) == count
        for one in rows:
            assert {*one.tgt_text.split()} & own and not {*one.tgt_text.split()} & (trained | tested) - own
            assert (tmp_path / one.audio).is_file()
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.flac")}
    names.write_names(tmp_path, {names.TRAIN: 12, names.TEST: 8})
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.flac")} == before


def test_the_table_has_a_row_for_each_system(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("daper\nsotrin\n")
    said = {"names": "call dapper", "names_alone": "call daper", "names_among": "call sotrin",
            "names_heard": "call daper"}
    for split, text in said.items():
        write_hypotheses(tmp_path / split / "hypotheses.tsv",
                         [Hypothesis("a", "call daper", text, "a.wav", 1.0, "en", "en", task="transcribe")])
    spelt = tasks._spelt(tmp_path, list(CONDITIONS), tmp_path / "names.txt")
    answers = {"exact": 0.07, "f1": 0.5, "chrf": 43.1}
    scores = {"transcripts": {"asr": {"wer": 0.05, "wer_low": None, "wer_high": None}}, "answers": {"answers": answers},
              "unseen": {"answers": {"f1": 0.25}}}  # fmt: skip
    full = row("answers", scores, spelt)
    assert full[2:] == ["7.0", "50.0", "43.1", "25.0", "50.0 (100.0, 0.0)", "0.0 (0.0, 0.0)", "50.0 (100.0, 0.0)",
                        "0.0 (0.0, 0.0)"]
    cascade = row("cascade", scores, {"names": spelt["names"]})
    assert cascade[-3:] == ["-", "-", "-"]
    lines = table([full, cascade]).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1


def test_what_was_made_with_other_numbers_is_told(
    tiny_llm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers and lists as the commands write them; of a training what its configuration says."""
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "models").mkdir()
    folder, rows = tmp_path / "tasks", [f"c{number}\tc{number}.flac\t{text}" for number, text in enumerate(SENTENCES)]
    for split in ("train", "test_seen"):
        write_lines(tmp_path / f"data/{split}.tsv", ["id\taudio\ttgt_text", *rows])
    folder.mkdir()
    asked = tasks._first(tmp_path / "data/train.tsv", 5, folder / "train.asked.tsv")
    answered = ("manifest", "answer", asked, "--llm", tiny_llm, "--llm-config", "dtype=float32", "--max-tokens", 3,
                "--keep-cut", "--output", folder / "train.tsv")  # fmt: skip
    tasks._tool(*answered)
    (tmp_path / "names.txt").write_text("light\ntimer\n")
    tasks._lists(asked, tmp_path / "names.txt", 1, folder / "names_train.tsv")
    write_lines(folder / "answers/config.yaml", ["regime: {num_steps: 40}"])

    def told(**numbers: int) -> str:
        options = {"answers": 5, "names": 5, "steps": 40, **numbers}
        arguments = [str(word) for name, number in options.items() for word in (f"--{name}", number)]
        assert main(["tasks", "--root", str(tmp_path), *arguments]) == 2
        return capsys.readouterr().err.splitlines()[-1].removeprefix("speechllm tasks: error: ")

    end = f" from an earlier call; without {folder} all is made anew"
    assert told(answers=6) == f"--answers: found 6, expected 5, as {folder}/train.json has it{end}"
    assert told(names=7) == f"--names: found 7, expected 5, as {folder}/names_train.json has it{end}"
    assert told(steps=50) == f"--steps: found 50, expected 40, as {folder}/answers/config.yaml has it{end}"
    # With the same numbers the next thing is done, for which the LLM of the demo is not here.
    assert told() == "`speechllm manifest answer` ended with status 2"
    # More than there are is all of them.
    tasks._tool(*answered[:2], tmp_path / "data/test_seen.tsv", *answered[3:-1], folder / "test.tsv")
    assert told(tested=7) == f"--tested: found 7, expected 8, as {folder}/test.json has it{end}"
    assert told(tested=100) == told()


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "--root", str(tmp_path)]) == 2
    assert f"--root: found no trained system in {tmp_path}, expected what" in capsys.readouterr().err
    assert main(["tasks", "--names", "1"]) == 2
    assert "--names: found 1, expected at least 2" in capsys.readouterr().err
