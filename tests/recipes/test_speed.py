"""Training on clips at several speeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from tests.commands import Commands, System, metrics

SPEEDS = (0.8, 0.9, 1.0)
STEPS = 12
"""Three epochs of twelve clips."""


def test_each_clip_is_heard_at_each_speed(commands: Commands, system: System, tmp_path: Path) -> None:
    config = system.write(
        tmp_path / "config.yaml",
        dataset__augmentation={"speed": list(SPEEDS), "variants": len(SPEEDS), "time_masks": 1},
        regime__num_steps=STEPS,
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    commands.recipe("train", whole, "--config-file", config).ok()
    lines = metrics(whole, "train")
    rows = SpeechTextDataset(SpeechTextConfig(manifests={"all": str(system.corpus / "train.tsv")})).read("all")
    recorded = sum(row.seconds() for row in rows)
    heard = [sum(line["Audio (s)"] for line in lines[start : start + 4]) for start in range(0, STEPS, 4)]
    assert sum(heard) == pytest.approx(sum(recorded / speed for speed in SPEEDS), rel=0.02)
    assert len({round(seconds, 1) for seconds in heard}) == 3
    # In the second epoch, so that the variant counts.
    result = commands.recipe(
        "train", killed, "--config-file", config, kill_when=(killed / "metrics/train.jsonl", '"Step": 7,')
    )
    assert result.status == -9
    commands.recipe("train", killed, "--config-file", config).ok()
    resumed = {line["Step"]: line for line in metrics(killed, "train")}
    assert list(resumed.values()) == lines
