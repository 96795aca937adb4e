"""Recognition, translation and answers in one run, from a manifest each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import Commands, System, metrics

WEIGHTS = {"asr": 1, "st": 2, "answers": 1}


@pytest.fixture(scope="module")
def config(system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips in three splits; epochs of eight, of which two, four and two come from them."""
    folder = tmp_path_factory.mktemp("tasks")
    clips = [system.corpus / name for name in ("train_0.wav", "train_1.flac", "train_2.wav", "train_3.flac")]
    rows = {
        "asr": [(clip, "turn the light on", "en", "") for clip in clips],
        "st": [(clip, "mach das licht an", "de", "") for clip in clips[:3]],
        "answers": [(clips[0], "I can not do that", "en", "answer")],
    }
    rows["dev"] = [row for split in rows.values() for row in split[:1]]
    for split, own in rows.items():
        lines = [f"{split}{i}\t{clip}\t{text}\tturn the light on\ten\t{lang}\t{task}"
                 for i, (clip, text, lang, task) in enumerate(own)]
        header = "id\taudio\ttgt_text\tsrc_text\tsrc_lang\ttgt_lang\ttask"
        (folder / f"{split}.tsv").write_text("\n".join([header, *lines]) + "\n")
    return system.write(
        folder / "config.yaml",
        dataset__config_overrides={"manifests": {split: str(folder / f"{split}.tsv") for split in rows}},
        dataset__train_split=list(WEIGHTS),
        dataset__mixture={"by": "weights", "weights": WEIGHTS},
        dataset__batch_size=4,
        regime__num_steps=8,
        regime__score_metric="bleu",
    )


def test_each_task_is_reported_and_a_killed_run_goes_on(commands: Commands, config: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    log = commands.recipe("train", whole, "--config-file", config).ok().output
    line = "Mixture by weights, clips an epoch: asr 2 of 4 (25.0%, each 0.50 times), st 4 of 3 (50.0%, each 1.33 times)"
    assert line in log
    train, valid = metrics(whole, "train"), metrics(whole, "valid/dev")
    for first, second in zip(train[::2], train[1::2], strict=True):  # an epoch
        assert sum(line.get("Clips to translate", 0) for line in (first, second)) == 4
    for line in [*train, *valid]:
        tasks = {task: line[f"Clips to {task}"] for task in ("transcribe", "translate", "answer")}
        assert sum(tasks.values()) == line["Number of Examples"]
        losses = [line.get(f"NLL Loss of {task}") for task in tasks]
        assert [loss is not None for loss in losses] == [count > 0 for count in tasks.values()]
        known = [loss for loss in losses if loss is not None]
        assert min(known) <= line["NLL Loss"] <= max(known)
    for name in ("Word Error Rate (WER)", "BLEU", "chrF2", "Token F1 of answers (%)"):
        assert name in valid[-1]

    stop = (killed / "metrics/train.jsonl", '"Step": 5,')
    assert commands.recipe("train", killed, "--config-file", config, kill_when=stop).status == -9
    commands.recipe("train", killed, "--config-file", config).ok()
    assert metrics(killed, "train")[-2:] == train[-2:]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dataset.train_split=[asr, st]", ("dataset.mixture.weights: found asr, st, answers, expected", "asr, st")),
        ("dataset.train_split=[asr, st, asr]", ("train_split: found asr, st, asr", "names of splits, each once")),
        ("dataset.mixture.by=size", ("dataset.mixture.by: found 'size' beside weights",)),
        ("dataset.mixture.weights.st=-1", ("dataset.mixture.weights.st: found -1", "above 0")),
        ("dataset.mixture.weights.answers=0.01", ("'answers' has a share of", "none of the 8 clips")),
        ("dataset.mixture.by=luck", ("dataset.mixture.by: found 'luck', expected",)),
    ],
)
def test_a_mixture_that_is_wrong(
    commands: Commands, config: Path, tmp_path: Path, override: str, words: tuple[str, ...]
) -> None:
    line = commands.recipe("train", tmp_path / "run", "--config-file", config, "--config", override).user_error()
    for word in words:
        assert word in line
