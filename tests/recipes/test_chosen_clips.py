"""Which clips of a split a run reads, by the keys of `dataset`."""

from __future__ import annotations

from pathlib import Path

import soundfile

from tests.commands import Commands, System


def test_lengths_and_a_sample_to_validate_on(commands: Commands, system: System, tmp_path: Path) -> None:
    seconds = sorted(soundfile.info(file).duration for file in system.corpus.glob("train_*.*"))
    config = system.write(
        tmp_path / "config.yaml", dataset__min_seconds=seconds[0] + 0.001, dataset__max_seconds=seconds[-1] - 0.001,
        dataset__too_long="skip", dataset__valid_clips=2, dataset__batching="random", regime__num_steps=4,
    )
    output = commands.recipe("train", tmp_path / "run", "--config-file", config).ok().output
    assert f"Split train: {len(seconds) - 2} clips" in output and "2 left out" in output
    assert "2 clips are left out: 1 shorter than" in output
    assert "Split dev: 2 clips" in output
    wrong = ["--config-file", config, "--config", "dataset.min_seconds=20", "dataset.max_seconds=20"]
    line = commands.recipe("train", tmp_path / "other", *wrong).user_error()
    assert line == "dataset.max_seconds: found 20, expected more than `min_seconds` (20)"
