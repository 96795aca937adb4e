"""Several splits in one run: each has its share, each of its clips the same, and a resumed run draws the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechllm_plugin.datasets.augmentation import AugmentationConfig
from speechllm_plugin.datasets.mixture import MixtureConfig
from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.errors import UserError

SIZES = {"asr": 16, "st": 4, "answers": 1}
WEIGHTS = MixtureConfig(by="weights", weights={"asr": 1, "st": 2, "answers": 4})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SpeechTextDataset:
    folder = tmp_path_factory.mktemp("mixture")
    soundfile.write(folder / "clip.wav", np.full(8000, 0.1), 16000)
    for split, size in SIZES.items():
        lines = [f"{split}{i}\t{folder / 'clip.wav'}\ttext {i}\t50" for i in range(size)]
        (folder / f"{split}.tsv").write_text("\n".join(["id\taudio\ttgt_text\tn_frames", *lines]) + "\n")
    return SpeechTextDataset(SpeechTextConfig(manifests={split: str(folder / f"{split}.tsv") for split in SIZES}))


def reader_of(dataset: SpeechTextDataset, mixture: MixtureConfig, **options: Any) -> SpeechTextReader:
    read = ReadOptions(limits=BatchLimits(3, None), shuffle_seed=5, max_seconds=30.0, mixture=mixture, **options)
    return SpeechTextReader(dataset.read_together(list(SIZES)), read)


def epoch(reader: SpeechTextReader) -> list[list[str]]:
    steps = [batch.ids for step in reader for batch in step]
    reader.reset()
    return steps


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [
        (MixtureConfig(), {"asr": 16, "st": 4, "answers": 1}),
        (MixtureConfig(by="temperature", temperature=1.0), {"asr": 16, "st": 4, "answers": 1}),
        (MixtureConfig(by="temperature", temperature=2.0), {"asr": 12, "st": 6, "answers": 3}),
        (MixtureConfig(by="temperature", temperature=1e9), {"asr": 7, "st": 7, "answers": 7}),
        (WEIGHTS, {"asr": 3, "st": 6, "answers": 12}),
    ],
)
def test_shares(dataset: SpeechTextDataset, mixture: MixtureConfig, expected: dict[str, int]) -> None:
    """Square roots of 16, 4 and 1 are 4, 2 and 1: of 21 clips 12, 6 and 3."""
    reader = reader_of(dataset, mixture)
    assert {split: quota for split, (_, quota) in reader.shares.items()} == expected
    for _ in range(2):
        seen = Counter(identity.rstrip("0123456789") for batch in epoch(reader) for identity in batch)
        assert seen == expected


def test_all_clips_of_a_split_are_seen_equally_often(dataset: SpeechTextDataset) -> None:
    """Of 16 clips three an epoch: in any 16 epochs each is seen three times; between two turns the order changes."""
    reader = reader_of(dataset, WEIGHTS)
    epochs = [epoch(reader) for _ in range(16)]
    asr = [identity for steps in epochs for batch in steps for identity in batch if identity.startswith("asr")]
    assert Counter(asr) == {f"asr{i}": 3 for i in range(16)}
    assert Counter(asr[:15]).most_common(1)[0][1] == 1
    assert epochs[0] != epochs[1]
    assert [epoch(other) for other in [reader_of(dataset, WEIGHTS)] for _ in range(3)] == epochs[:3]


def test_a_resumed_mixture_goes_on(dataset: SpeechTextDataset) -> None:
    whole = reader_of(dataset, WEIGHTS)
    expected = [batch for _ in range(3) for batch in epoch(whole)]
    reader = reader_of(dataset, WEIGHTS)
    epoch(reader)
    for _ in range(3):
        next(reader)
    state = reader.state_dict()
    resumed = reader_of(dataset, WEIGHTS)
    resumed.load_state_dict(state)
    assert [batch for _ in range(2) for batch in epoch(resumed)] == expected[reader.num_steps + 3 :]
    for other in (MixtureConfig(), MixtureConfig(by="weights", weights={"asr": 1, "st": 2, "answers": 3})):
        with pytest.raises(UserError, match="the checkpoint was written while reading .*mixture"):
            reader_of(dataset, other).load_state_dict(state)


def test_a_clip_that_is_seen_again_is_changed_anew(dataset: SpeechTextDataset) -> None:
    """Twelve times in an epoch: with four variants each three times."""
    augmentation = AugmentationConfig(probability=1.0, variants=4)
    reader = reader_of(dataset, WEIGHTS, augmentation=augmentation)
    keys = [clip.audio_key for step in reader for batch in step for clip in batch if clip.id == "answers0"]
    assert sorted(Counter(keys).values()) == [3, 3, 3, 3]


def test_one_clip_in_two_splits(tmp_path: Path) -> None:
    """To be transcribed in one and answered in the other: where one of the two is broken, the other is read."""
    soundfile.write(tmp_path / "clip.wav", np.full(8000, 0.1), 16000)
    header = "id\taudio\ttgt_text\tn_frames\ttask\n"
    (tmp_path / "asr.tsv").write_text(f"{header}same\tclip.wav\tone\t50\ttranscribe\n")
    (tmp_path / "answers.tsv").write_text(
        f"{header}same\tlost.wav\ttwo\t50\tanswer\nother\tclip.wav\ttwo\t50\tanswer\n"
    )
    manifests = {split: str(tmp_path / f"{split}.tsv") for split in ("asr", "answers")}
    rows = SpeechTextDataset(SpeechTextConfig(manifests=manifests)).read_together(["answers", "asr"])
    read = ReadOptions(limits=BatchLimits(1, None), shuffle_seed=5, max_seconds=30.0, on_error="skip")
    reader = SpeechTextReader(rows, read)
    seen = {(clip.id, clip.task.name) for step in reader for batch in step for clip in batch}
    assert seen == {("same", "transcribe"), ("other", "answer")}
    assert list(reader.skipped) == ["answers/same"]


@pytest.mark.parametrize(
    ("mixture", "line"),
    [
        (MixtureConfig(weights={"asr": 1.0}), "m.by: found 'size' beside weights, expected 'weights'"),
        (MixtureConfig(by="weights", weights={"asr": 0.0}), "m.weights.asr: found 0.0, expected a number above 0"),
        (MixtureConfig(by="temperature", temperature=float("nan")), "m.temperature: found nan, expected a number abo"),
    ],
)
def test_values_that_are_wrong(mixture: MixtureConfig, line: str) -> None:
    with pytest.raises(UserError, match=line):
        mixture.check("m")


def test_weights_that_are_not_of_the_splits() -> None:
    for weights in ({}, {"asr": 1.0}, {"asr": 1.0, "st": 1.0, "mt": 1.0}):
        with pytest.raises(UserError, match="mixture.weights: found .*, expected one for each split .*: asr, st"):
            MixtureConfig(by="weights", weights=weights).check_splits(["asr", "st"])
    with pytest.raises(UserError, match=r"split 'b' has a share of 1e-09 and none of the 6 clips of an epoch"):
        MixtureConfig(by="weights", weights={"a": 1.0, "b": 1e-9}).quotas({"a": 3, "b": 3})
