"""Features in the cache are those of the first pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from speechllm_plugin.datasets.augmentation import AugmentationConfig
from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.encoders.feature_cache import FeatureCache
from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from tests.plugin.speech_llm.systems import batches_of, create


def cache_of(model: SpeechLlm, folder: Path) -> FeatureCache:
    return FeatureCache(folder, model.encoder.fingerprint(), model.encoder.feature_dtype)


def features_of(model: SpeechLlm, batch: SpeechTextBatch) -> list[Tensor]:
    features, lengths = model.features.of(batch)
    assert features.dtype == torch.float32
    return [row[:length] for row, length in zip(features, lengths.tolist(), strict=True)]


def test_cached_features_are_those_of_the_first_pass(
    model: SpeechLlm, tiny_manifest: Path, tmp_path: Path
) -> None:
    """To the bit, in whatever batches: the second epoch sees what the first saw."""
    whole = batches_of(tiny_manifest / "train.tsv")[0]
    uncached = dict(zip(whole.ids, features_of(model, whole), strict=True))
    model.features.cache = cache_of(model, tmp_path)
    seen: dict[str, Tensor] = {}
    for batch_size in (5, 12, 1):
        for batch in batches_of(tiny_manifest / "train.tsv", batch_size=batch_size, find=model.features.find):
            cached = [features is not None for features in batch.features]
            assert cached == [bool(seen) and batch_size != 5] * len(batch)
            assert cached == [waveform is None for waveform in batch.waveforms]
            for identity, features in zip(batch.ids, features_of(model, batch), strict=True):
                assert torch.equal(features, seen.setdefault(identity, features)), identity
                torch.testing.assert_close(features, uncached[identity], atol=1e-5, rtol=1e-5)
    assert len(seen) == 12


def test_a_changed_file_is_encoded_again(model: SpeechLlm, tmp_path: Path) -> None:
    model.features.cache = cache_of(model, tmp_path / "cache")
    (tmp_path / "all.tsv").write_text("id\taudio\ttgt_text\na\ta.wav\tplay\n")
    lengths = []
    for samples in (8000, 16000):
        soundfile.write(tmp_path / "a.wav", torch.linspace(-0.5, 0.5, samples).numpy(), 16000)
        batch = batches_of(tmp_path / "all.tsv", find=model.features.find)[0]
        assert batch.features == [None]
        lengths.append(len(features_of(model, batch)[0]))
    assert lengths == [25, 50]


@pytest.mark.parametrize("damage", ["cut off", "one bit"])
def test_a_clip_whose_features_are_damaged_is_encoded_again(
    model: SpeechLlm, tiny_manifest: Path, tmp_path: Path, damage: str
) -> None:
    cache = model.features.cache = cache_of(model, tmp_path)
    manifest = tiny_manifest / "dev.tsv"
    before = features_of(model, batches_of(manifest, find=model.features.find)[0])
    (pack,) = tmp_path.rglob("*.pack")
    data = bytearray(pack.read_bytes())
    if damage == "cut off":
        del data[-10:]
    else:
        data[50] ^= 1
    pack.write_bytes(data)
    batch = batches_of(manifest, find=model.features.find)[0]
    assert sum(features is None for features in batch.features) == 1
    after = features_of(model, batch)
    assert all(map(torch.equal, before, after))
    # And mended, also for processes to come.
    for one in (cache, cache_of(model, tmp_path)):
        assert all(features is not None for features in batches_of(manifest, find=one.get)[0].features)


def test_other_encoders_share_no_features(
    model: SpeechLlm, tiny_config: SpeechLlmConfig, tiny_manifest: Path, tmp_path: Path
) -> None:
    model.features.cache = cache_of(model, tmp_path)
    model.features.of(batches_of(tiny_manifest / "dev.tsv", find=model.features.find)[0])
    tiny_config.encoder.config.pad_to_30s = True  # type: ignore[attr-defined]
    other = cache_of(create(tiny_config), tmp_path)
    assert batches_of(tiny_manifest / "dev.tsv", find=other.get)[0].features == [None] * 4


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^dataset\.feature_cache: cannot write .*file: "):
        FeatureCache(tmp_path / "file", "x", torch.float32)


def test_cached_features_without_a_cache_are_refused(
    model: SpeechLlm, tiny_manifest: Path, tmp_path: Path
) -> None:
    cache = model.features.cache = cache_of(model, tmp_path)
    model.features.of(batches_of(tiny_manifest / "dev.tsv", find=cache.get)[0])
    model.features.cache = None
    with pytest.raises(ValueError, match="the batch holds cached features, but the model has no cache"):
        model.features.of(batches_of(tiny_manifest / "dev.tsv", find=cache.get)[0])


def test_gaps_are_put_into_features_whatever_they_come_from(
    model: SpeechLlm, tiny_manifest: Path, tmp_path: Path
) -> None:
    """What is kept has none, and a batch is masked as its clips alone."""
    config = AugmentationConfig(time_masks=2, channel_masks=1)
    manifest = tiny_manifest / "train.tsv"

    def masked(batch: SpeechTextBatch, turn: int) -> list[Tensor]:
        for clip in batch:
            clip.masks = config.masks(clip.id, turn)
        return features_of(model, batch)

    (whole,) = batches_of(manifest)
    plain = features_of(model, whole)
    first, other = masked(whole, 0), masked(whole, 1)
    assert not any(map(torch.equal, plain, first)) and not all(map(torch.equal, first, other))
    cache = model.features.cache = cache_of(model, tmp_path)
    masked(batches_of(manifest, find=cache.get)[0], 1)
    (cached,) = batches_of(manifest, find=cache.get)
    assert None not in cached.features
    for row, (again, features) in enumerate(zip(masked(cached, 0), first, strict=True)):
        torch.testing.assert_close(again, features, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(features_of(model, cached.row(row))[0], features, atol=1e-5, rtol=1e-5)
