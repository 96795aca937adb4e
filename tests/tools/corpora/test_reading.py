"""Prepared corpora as the recipe reads them."""

from __future__ import annotations

from pathlib import Path

from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from tests.tools.corpora.layouts import manifest, write_covost2, write_mustc


def test_the_papers_training_data_is_read_whole(tmp_path: Path) -> None:
    """Both corpora as arXiv 2409.17044 takes them, as two manifests of a split and as their mix: mp3 files, and
    segments of talks that became archives."""
    write_covost2(tmp_path / "common-voice")
    write_mustc(tmp_path / "must-c")
    manifest("covost2", tmp_path / "common-voice", "--preset", "verdini", "--output", tmp_path / "covost").ok()
    manifest("mustc", tmp_path / "must-c", "--preset", "verdini", "--audio", "zip", "--output", tmp_path / "mustc").ok()
    both = [tmp_path / name / "train.tsv" for name in ("covost", "mustc")]
    manifest("mix", *both, "--output", tmp_path / "mix.tsv").ok()
    directions = []
    for manifests in ([str(path) for path in both], str(tmp_path / "mix.tsv")):
        utterances = SpeechTextDataset(SpeechTextConfig(manifests={"train": manifests})).read("train")
        options = ReadOptions(limits=BatchLimits(3, None), shuffle_seed=None, max_seconds=30.0)
        batches = [batch for step in SpeechTextReader(utterances, options) for batch in step]
        assert sum(map(len, batches)) == len(utterances) == 20
        for waveform in (waveform for batch in batches for waveform in batch.waveforms):
            assert waveform is not None and abs(len(waveform) - 8000) < 1200 and waveform.abs().max() > 0.2
        directions.append(sorted((one.source_lang, one.target_lang) for one in utterances))
    assert directions[0] == directions[1]
    assert {pair: directions[0].count(pair) for pair in (("en", "en"), ("en", "de"), ("de", "de"), ("en", "es"))} == {
        ("en", "en"): 3, ("en", "de"): 3, ("de", "de"): 1, ("en", "es"): 2,
    }  # fmt: skip
