"""Augmentation: what is drawn, what it does to the samples, and how the reader uses it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from speechllm_plugin.datasets.augmentation import SAMPLE_RATE, Augmentation, AugmentationConfig, augment, draw
from speechllm_plugin.datasets.feature_masks import FeatureMasks, mask_features
from speechllm_plugin.datasets.manifest import ManifestRow, write_manifest
from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.encoders.feature_cache import FeatureCache

ALWAYS = AugmentationConfig(probability=1.0)


@pytest.fixture
def speech() -> np.ndarray:
    """A second of a tone with a tenth of a second of digital silence before and two tenths behind."""
    tone = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(SAMPLE_RATE) / SAMPLE_RATE + 1.0)
    return np.pad(tone, (1600, 3200)).astype(np.float32)


def level(samples: np.ndarray) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(samples.astype(np.float64) ** 2)) + 1e-12))


def band(samples: np.ndarray, low: float, high: float) -> float:
    """Energy between two frequencies."""
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    return float(spectrum[(hertz >= low) & (hertz < high)].sum())


def test_without_augmentation_no_clip_changes() -> None:
    assert all(draw(AugmentationConfig(), str(key), 30.0) is None for key in range(100))


def test_the_probability_is_the_share_of_changed_clips() -> None:
    changed = sum(draw(AugmentationConfig(probability=0.6), str(key), 30.0) is not None for key in range(2000))
    assert 1100 < changed < 1300


def test_equal_keys_give_equal_changes_and_others_differ() -> None:
    drawn = [draw(ALWAYS, f"2:{key}:0", 30.0) for key in range(50)]
    assert drawn == [draw(ALWAYS, f"2:{key}:0", 30.0) for key in range(50)]
    assert len({one.key for one in drawn if one is not None}) == 50


def test_draws_have_every_kind_of_change_within_the_limits() -> None:
    drawn = [one for key in range(2000) if (one := draw(ALWAYS, str(key), 30.0)) is not None]
    for name in ("cut_front", "cut_back", "pink", "telephone"):
        assert 0.05 < np.mean([getattr(one, name) for one in drawn]) < 0.6
    assert 1.8 < max(one.front for one in drawn) <= 2.0
    assert 1.8 < max(one.back for one in drawn) <= 2.0
    noises = [one.noise_db for one in drawn if one.noise_db is not None]
    assert 20 <= min(noises) < 21 and 49 < max(noises) <= 50 and 900 < len(noises) < 1100
    assert all(abs(one.gain_db) <= 10 for one in drawn)
    assert not any(one.cut_front and one.front for one in drawn)


def test_a_clip_never_grows_beyond_its_room() -> None:
    drawn = [one for key in range(500) if (one := draw(ALWAYS, str(key), 0.5)) is not None]
    assert max(one.added_seconds for one in drawn) == pytest.approx(0.5)
    assert all(one.added_seconds == 0 for key in range(500) if (one := draw(ALWAYS, str(key), -0.01)) is not None)


def test_silence_is_put_at_both_ends_and_the_speech_stays(speech: np.ndarray) -> None:
    longer = augment(speech, Augmentation(front=0.5, back=0.25))
    assert longer.dtype == np.float32 and len(longer) == len(speech) + 8000 + 4000
    assert not longer[:8000].any() and not longer[-4000:].any()
    np.testing.assert_array_equal(longer[8000:-4000], speech)


def test_cut_ends_begin_and_end_with_the_speech(speech: np.ndarray) -> None:
    cut = augment(speech, Augmentation(cut_front=True, cut_back=True))
    assert abs(len(cut) - SAMPLE_RATE) < 32 and abs(cut[0]) > 0.001
    assert len(augment(speech, Augmentation(cut_front=True))) == pytest.approx(len(speech) - 1600, abs=16)


@pytest.mark.parametrize("pink", [False, True])
def test_noise_has_the_asked_ratio_to_the_speech_and_lies_over_the_silence_too(speech: np.ndarray, pink: bool) -> None:
    tone = speech[1600:17600]
    noisy = augment(tone, Augmentation(noise_db=20.0, pink=pink, back=2.0, seed=3))
    assert level(noisy[-30000:]) == pytest.approx(level(tone) - 20, abs=2.5)
    again = augment(tone, Augmentation(noise_db=20.0, pink=pink, back=2.0, seed=3))
    np.testing.assert_array_equal(noisy, again)
    slope = band(noisy[-30000:], 100, 1000) / band(noisy[-30000:], 4000, 4900)
    assert slope > 5 if pink else 0.5 < slope < 2


def test_gain_changes_the_level_and_never_clips(speech: np.ndarray) -> None:
    assert level(augment(speech, Augmentation(gain_db=-10))) == pytest.approx(level(speech) - 10, abs=0.01)
    assert np.abs(augment(speech, Augmentation(gain_db=40))).max() == pytest.approx(1.0)


def test_a_telephone_carries_its_band_alone() -> None:
    noise = np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE).astype(np.float32) * 0.1
    heard = augment(noise, Augmentation(telephone=True))
    assert len(heard) == len(noise)
    assert band(heard, 500, 3300) > 0.8 * band(noise, 500, 3300)
    assert band(heard, 3600, 8000) < 0.01 * band(noise, 3600, 8000)
    assert band(heard, 10, 100) < 0.05 * band(noise, 10, 100)


def test_silence_alone_stays_silence() -> None:
    nothing = np.zeros(1600, dtype=np.float32)
    for changes in (Augmentation(cut_front=True, cut_back=True, gain_db=6), Augmentation(noise_db=20),
                    Augmentation(telephone=True)):
        assert not augment(nothing, changes).any()


@pytest.mark.parametrize(("values", "message"), [
    ({"probability": 1.5}, "probability: found 1.5, expected between 0 and 1"),
    ({"telephone": -0.1}, "telephone: found -0.1, expected between 0 and 1"),
    ({"silence_seconds": float("nan")}, "silence_seconds: found nan, expected between 0 and 60"),
    ({"noise_db": (50.0, 20.0)}, "noise_db: found (50.0, 20.0), expected two rising numbers"),
    ({"variants": 0}, "variants: found 0, expected at least 1"),
    ({"speed": [1.0, 3.0]}, "speed: found [1.0, 3.0], expected numbers from 0.5 to 2"),
    ({"time_masks": -1}, "time_masks: found -1, expected 0 or more"),
    ({"time_mask_share": 0.0}, "time_mask_share: found 0.0, expected above 0 and at most 1"),
    ({"time_mask_seconds": float("nan")}, "time_mask_seconds: found nan, expected a number above 0"),
])  # fmt: skip
def test_settings_out_of_range_are_named(values: dict[str, object], message: str) -> None:
    (problem,) = AugmentationConfig(**values).problems()  # type: ignore[arg-type]
    assert message in problem


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = []
    for i in range(6):
        samples = np.random.default_rng(i).standard_normal(8000 + 1600 * i) * 0.1
        soundfile.write(tmp_path / f"{i}.wav", samples, SAMPLE_RATE)
        rows.append(ManifestRow(id=str(i), audio=f"{i}.wav", n_frames=None, tgt_text="words", src_text="", speaker="",
                                src_lang="", tgt_lang="", line=0))
    write_manifest(tmp_path / "all.tsv", rows)
    return tmp_path / "all.tsv"


def reader_of(
    manifest: Path, config: AugmentationConfig, seed: int | None = 5, cache: FeatureCache | None = None
) -> SpeechTextReader:
    utterances = SpeechTextDataset(SpeechTextConfig(manifests={"all": str(manifest)})).read("all")
    options = ReadOptions(
        limits=BatchLimits(2, None), shuffle_seed=seed, max_seconds=30.0, augmentation=config
    )
    find = {} if cache is None else {"find_features": cache.get}
    return SpeechTextReader(utterances, options, **find)


def waveforms(reader: SpeechTextReader) -> dict[str, np.ndarray]:
    """Of one epoch."""
    heard: dict[str, np.ndarray] = {}
    for step in reader:
        for batch in step:
            for identity, waveform in zip(batch.ids, batch.waveforms, strict=True):
                assert waveform is not None
                heard[identity] = waveform.numpy()
    reader.reset()
    return heard


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_training_reads_changed_clips_and_evaluation_reads_them_as_they_are(manifest: Path) -> None:
    plain = waveforms(reader_of(manifest, AugmentationConfig()))
    assert same(waveforms(reader_of(manifest, ALWAYS, seed=None)), plain)
    changed = waveforms(reader_of(manifest, ALWAYS))
    assert not any(np.array_equal(changed[key], plain[key]) for key in plain)
    assert same(waveforms(reader_of(manifest, ALWAYS)), changed)
    assert same(waveforms(reader_of(manifest, ALWAYS, seed=6)), changed)
    assert not same(waveforms(reader_of(manifest, dataclasses.replace(ALWAYS, seed=1))), changed)


def test_each_epoch_has_its_variant_and_then_the_first_again(manifest: Path) -> None:
    reader = reader_of(manifest, dataclasses.replace(ALWAYS, variants=2))
    first, second, third = (waveforms(reader) for _ in range(3))
    assert not same(first, second) and same(first, third)


def test_cached_features_are_those_of_the_changed_clip(manifest: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(ALWAYS, variants=2)
    keys = []
    reader = reader_of(manifest, config, cache=FeatureCache(tmp_path / "cache", "encoder", torch.float32))
    for _ in range(3):
        keys.append({i: k for step in reader for b in step for i, k in ((clip.id, clip.audio_key) for clip in b)})
        reader.reset()
    assert keys[0] == keys[2] and not set(keys[0].values()) & set(keys[1].values())
    plain = reader_of(manifest, AugmentationConfig())
    unchanged = {k for step in plain for batch in step for k in (clip.audio_key for clip in batch)}
    assert not unchanged & {*keys[0].values(), *keys[1].values()}


def test_a_plan_counts_the_added_silence(manifest: Path) -> None:
    config = dataclasses.replace(ALWAYS, silence_seconds=20.0)
    utterances = SpeechTextDataset(SpeechTextConfig(manifests={"all": str(manifest)})).read("all")
    options = ReadOptions(
        limits=BatchLimits(6, 12.0), shuffle_seed=1, max_seconds=30.0, augmentation=config
    )
    batches = [batch for step in SpeechTextReader(utterances, options) for batch in step]
    for batch in batches:
        lengths = [len(waveform) / SAMPLE_RATE for waveform in batch.waveforms if waveform is not None]
        assert len(lengths) == 1 or max(lengths) * len(lengths) <= 12.0
    assert max(max(batch.seconds) for batch in batches) > 3


THREE_SPEEDS = AugmentationConfig(speed=[0.9, 1.0, 1.1], variants=3)


def test_each_speed_of_each_clip_once_in_as_many_epochs(manifest: Path) -> None:
    reader = reader_of(manifest, THREE_SPEEDS)
    plain = waveforms(reader_of(manifest, AugmentationConfig()))
    epochs = [waveforms(reader) for _ in range(4)]
    assert same(epochs[0], epochs[3]) and same(waveforms(reader_of(manifest, THREE_SPEEDS, seed=6)), epochs[0])
    for identity, samples in plain.items():
        sizes = sorted(len(heard[identity]) for heard in epochs[:3])
        assert sizes == [round(len(samples) / 1.1), len(samples), round(len(samples) / 0.9)]
    assert len({tuple(len(heard[identity]) / len(plain[identity]) for heard in epochs) for identity in plain}) > 1
    assert same(waveforms(reader_of(manifest, THREE_SPEEDS, seed=None)), plain)


def test_a_faster_clip_is_higher(speech: np.ndarray) -> None:
    tone = speech[1600:17600]
    fast = augment(tone, Augmentation(speed=1.1))
    assert len(fast) == round(len(tone) / 1.1)
    assert band(fast, 1090, 1110) > 0.99 * band(fast, 0, 8000)
    assert level(fast) == pytest.approx(level(tone), abs=0.1)


def test_a_plan_counts_the_speed_and_no_clip_outgrows_the_encoder(manifest: Path) -> None:
    """The clips last 0.5 to 1.0 s; the longest two would be too long if they were slower."""
    utterances = SpeechTextDataset(SpeechTextConfig(manifests={"all": str(manifest)})).read("all")
    options = ReadOptions(
        limits=BatchLimits(6, 2.0), shuffle_seed=1, max_seconds=1.02, augmentation=AugmentationConfig(speed=[0.9])
    )
    batches = [batch for step in SpeechTextReader(utterances, options) for batch in step]
    seconds = {clip.id: clip.seconds for batch in batches for clip in batch}
    for batch in batches:
        for clip in batch:
            assert clip.waveform is not None and len(clip.waveform) == round(clip.seconds * SAMPLE_RATE)
        assert len(batch) == 1 or max(batch.seconds) * len(batch) <= 2.0
    expected = [0.5 / 0.9, 0.6 / 0.9, 0.7 / 0.9, 0.8 / 0.9, 0.9 / 0.9, 1.0]
    assert [seconds[str(i)] for i in range(6)] == pytest.approx(expected)


def test_earlier_checkpoints_and_features_are_found() -> None:
    """What has been added since has no key where it does nothing."""
    assert AugmentationConfig().named() == {}
    assert set(AugmentationConfig(probability=0.5).named()) == {
        "probability", "silence_seconds", "noise_db", "gain_db", "telephone", "variants", "seed"
    }
    assert AugmentationConfig(time_masks=2).named()["time_masks"] == 2
    assert "speed" not in Augmentation(front=1.0).key and '"speed": 1.1' in Augmentation(speed=1.1).key


def masks_of(**values: Any) -> FeatureMasks:
    masks = AugmentationConfig(**values).masks("clip", 0)
    assert masks is not None
    return masks


def test_gaps_in_features_alone_and_in_a_batch() -> None:
    features = torch.randn(3, 200, 40, generator=torch.Generator().manual_seed(0)) + 5
    lengths = torch.tensor([200, 120, 60])
    features *= torch.arange(200)[None, :, None] < lengths[:, None, None]
    config = AugmentationConfig(time_masks=2, channel_masks=1)
    drawn = [config.masks(f"clip {row}", 0) for row in range(2)]
    masked = mask_features(features, lengths, [*drawn, None], frame_rate=50.0)
    assert torch.equal(masked[2], features[2])
    for row in range(2):
        length = int(lengths[row])
        alone = mask_features(features[row : row + 1, :length], lengths[row : row + 1], [drawn[row]], frame_rate=50.0)
        torch.testing.assert_close(masked[row, :length], alone[0])
        assert not masked[row, length:].any()
        is_gap = masked[row, :length] != features[row, :length]
        times, channels = is_gap.all(dim=1), is_gap.all(dim=0)
        assert 0 < times.sum() <= 2 * min(50, length * 0.2) and channels.sum() <= 4
        assert torch.equal(is_gap, times[:, None] | channels[None, :])
        masks = drawn[row]
        assert masks is not None
        for found, runs in zip((times, channels), masks.places(length, 40, 50.0), strict=True):
            assert set(found.nonzero().flatten().tolist()) == {place for run in runs for place in run}
        torch.testing.assert_close(masked[row, :length][times], features[row, :length].mean(0).expand(times.sum(), -1))
    assert config.masks("clip 0", 0) == drawn[0]
    others = [config.masks("clip 0", 1), config.masks("clip 1", 0), AugmentationConfig(time_masks=2).masks("clip 0", 0)]
    places = [one.places(200, 40, 50.0) for one in [drawn[0], *others] if one is not None]
    assert len({str(place) for place in places}) == 4


def test_gaps_are_as_wide_as_they_may_be() -> None:
    """Frames of 20 ms: a second is 50 of them, and a fifth of 100 is 20."""
    drawn = [masks_of(time_masks=1, channel_masks=1, seed=seed).places(1000, 40, 50.0) for seed in range(300)]
    assert max(len(time[0]) for time, _ in drawn) == 50 and min(len(time[0]) for time, _ in drawn) == 0
    assert max(len(channels[0]) for _, channels in drawn) == 4
    assert max(time[0].stop for time, _ in drawn) > 990 and min(time[0].start for time, _ in drawn) < 10
    short = [masks_of(time_masks=1, seed=seed).places(100, 40, 50.0)[0][0] for seed in range(300)]
    assert max(map(len, short)) == 20


def test_only_training_clips_have_gaps_and_each_epoch_has_others(manifest: Path) -> None:
    config = AugmentationConfig(time_masks=1)
    assert all(clip.masks is None for step in reader_of(manifest, config, seed=None) for b in step for clip in b)
    reader = reader_of(manifest, config)
    seeds = []
    for _ in range(2):
        seeds += [clip.masks.seed for step in reader for b in step for clip in b if clip.masks is not None]
        reader.reset()
    assert len(set(seeds)) == 12
