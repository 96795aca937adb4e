"""Speech in a language that the encoder was not pretrained on is told, and counted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from speechllm_recipes.speech_llm.common import warn_of_languages

from speechllm_plugin.datasets.manifest import ManifestRow, write_manifest
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.datasets.utterances import Utterances


@pytest.fixture
def utterances(tmp_path: Path) -> Utterances:
    languages = ("en", "de", "en-US", "fr", "de")
    rows = [
        ManifestRow(id=str(i), audio="a.wav", n_frames=50, tgt_text="x", src_text="", speaker="", src_lang=language,
                    tgt_lang=language, line=0)
        for i, language in enumerate(languages)
    ]
    write_manifest(tmp_path / "train.tsv", rows)
    return SpeechTextDataset(SpeechTextConfig(manifests={"train": str(tmp_path / "train.tsv")})).read("train")


def test_other_languages_are_counted(utterances: Utterances, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fairseq2"):
        warn_of_languages("train", utterances, ("en",))
    (record,) = caplog.records
    assert record.getMessage() == (
        "Split train: 3 of 5 clips are in a language that the speech encoder was not pretrained on (de: 2, fr: 1), "
        "which knows en alone."
    )


@pytest.mark.parametrize("known", [None, ("en", "de", "fr")])
def test_nothing_is_said_of_languages_that_it_knows(
    utterances: Utterances, caplog: pytest.LogCaptureFixture, known: tuple[str, ...] | None
) -> None:
    warn_of_languages("train", utterances, known)
    assert not caplog.records
