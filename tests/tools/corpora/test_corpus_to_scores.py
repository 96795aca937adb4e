"""From corpora as they are downloaded to scores: both corpora of arXiv 2409.17044, with real speech, in small."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from speechllm_tools.speech.espeak import Espeak

from tests.commands import Commands, System, metrics
from tests.tools.corpora.layouts import manifest, rows_of, write_covost2, write_lines, write_mustc

SPLITS = {"covost2": ("train", "dev", "test"), "mustc": ("train", "dev", "tst-COMMON")}


def speech(espeak: Espeak, text: str, voice: str, rate: int) -> np.ndarray:
    samples = espeak.speak(text, voice=voice, words_per_minute=160, pitch=50).astype(np.float32) / 32768
    resampled: np.ndarray = soxr.resample(samples, espeak.sample_rate, rate)
    return resampled


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both in their layouts; every clip and every segment says what its transcript says."""
    root, espeak = tmp_path_factory.mktemp("corpora"), Espeak()
    write_covost2(root / "covost2")
    for clip in (root / "covost2").rglob("*.mp3"):
        _, _, lang, split = clip.stem.split("_")
        voice = {"en": "en-US"}.get(lang, lang)
        soundfile.write(clip, speech(espeak, f"Sentence {split}.", voice, 48000), 48000)
    # A clip that is listed, and was never downloaded.
    (root / "covost2/it/clips/common_voice_it_train.mp3").unlink()
    write_mustc(root / "mustc")
    first, second = (speech(espeak, text, "en-US", 16000) for text in ("First.", "Second."))
    pause = np.zeros(4000, np.float32)
    for talk in (root / "mustc").rglob("*.wav"):
        soundfile.write(talk, np.concatenate([pause, first, pause, second]), 16000)
    ends = [len(pause), len(pause) + len(first) + len(pause)]
    for table in (root / "mustc").rglob("*.yaml"):
        # The later segment first, and it runs over the end of the talk, as some of the release do.
        times = [(ends[1] / 16000, len(second) / 16000 + 0.5), (ends[0] / 16000, len(first) / 16000)]
        write_lines(table, [f"- {{duration: {seconds:.6f}, offset: {start:.6f}, rW: 9, speaker_id: spk.1, uW: 0, "
                            "wav: ted_1.wav}" for start, seconds in times])  # fmt: skip
        for text in table.parent.glob("*.??"):
            write_lines(text, ["Second.", "First."])
    return root


def test_both_corpora_are_prepared_trained_on_and_scored(
    commands: Commands, system: System, corpora: Path, tmp_path: Path
) -> None:
    manifests = {}
    for name, splits in SPLITS.items():
        told = manifest(name, corpora / name, "--preset", "verdini", "--output", tmp_path / name).ok().stdout
        assert ("no such audio file; first:" in told) == (name == "covost2")
        assert ("segments clipped to the end of their file" in told) == (name == "mustc")
        for split in splits:
            manifest("validate", tmp_path / name / f"{split}.tsv").ok()
        manifests |= {f"{name}-{split}": str(tmp_path / name / f"{split}.tsv") for split in splits}
    assert {key: len(rows_of(Path(file))) for key, file in manifests.items()} == {
        # Five directions and five languages; without the Italian clip.
        "covost2-train": 8, "covost2-dev": 10, "covost2-test": 10,
        # Four directions of two segments, and the transcripts of one.
        "mustc-train": 10, "mustc-dev": 10, "mustc-tst-COMMON": 10,
    }  # fmt: skip
    config = system.write(
        tmp_path / "config.json", dataset__config_overrides={"manifests": manifests},
        dataset__train_split=["covost2-train", "mustc-train"], dataset__valid_splits=["covost2-dev", "mustc-dev"],
        dataset__batch_size=6, dataset__feature_cache=str(tmp_path / "features"), regime__num_steps=20,
        regime__validate_every_n_steps=20, regime__checkpoint_every_n_steps=20,
    )  # fmt: skip
    commands.speechllm("cache", "build", "--config-file", config, "--workers", 1).ok()
    commands.recipe("train", tmp_path / "run", "--config-file", config).ok()
    losses = [line["NLL Loss"] for line in metrics(tmp_path / "run", "train")]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    tests = ["covost2-test", "mustc-tst-COMMON"]
    commands.recipe(
        "evaluate", tmp_path / "scores", "--checkpoint", tmp_path / "run", "--config", f"dataset.splits={tests}",
        f"dataset.config_overrides.manifests={json.dumps(manifests)}",
    ).ok()  # fmt: skip
    for split in tests:
        scores = json.loads((tmp_path / "scores" / split / "scores.json").read_text())["scores"]
        rows = Counter(row["src_lang"] == row["tgt_lang"] for row in rows_of(Path(manifests[split])))
        assert (scores["asr"]["utterances"], scores["st"]["utterances"]) == (rows[True], rows[False])
