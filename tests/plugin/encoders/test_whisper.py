"""Whisper's encoder: transformers' own numbers, at any length and in any batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import WhisperConfig as HfWhisperConfig
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperModel
from transformers.modeling_outputs import BaseModelOutput

from speechllm_plugin.encoders.whisper import WhisperConfig, WhisperSpeechEncoder, create_whisper
from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained import freeze
from tests.plugin.encoder_checks import SECONDS_30 as WINDOW
from tests.plugin.encoder_checks import (
    check_batch_is_single,
    check_created_on_the_device,
    check_device_is_never_waited_for,
    clip,
    collate,
    randomise,
)


def encoder_of(path: Path, **options: Any) -> WhisperSpeechEncoder:
    return freeze(create_whisper(WhisperConfig(path=str(path), **{"dtype": "float32", **options})))


def frames_of(samples: int) -> int:
    """Feature vectors of a clip: two mel hops of 10 ms each, begun ones counted."""
    return -(-samples // 320)


def write_model(path: Path, **options: Any) -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    config = HfWhisperConfig(**{
        "vocab_size": 64, "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
        "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "decoder_start_token_id": 1, "init_std": 0.2, "suppress_tokens": None,
        "begin_suppress_tokens": None, **options,
    })
    model = WhisperForConditionalGeneration(config)
    model.save_pretrained(path)
    return model.eval()


@pytest.fixture(scope="module")
def whisper_128_mels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of large-v3, small."""
    path = tmp_path_factory.mktemp("whisper_128")
    write_model(path, num_mel_bins=128)
    return path


@pytest.mark.parametrize("num_mels", [80, 128])
def test_mels_and_features_are_those_of_transformers(
    num_mels: int, tiny_whisper: Path, whisper_128_mels: Path
) -> None:
    path = tiny_whisper if num_mels == 80 else whisper_128_mels
    encoder = encoder_of(path)
    lengths = [1, 4_321, 40_000, WINDOW]
    waveforms, sizes = collate(lengths)

    extractor = WhisperFeatureExtractor(feature_size=num_mels)
    expected_mels = torch.cat([
        extractor(clip(length).numpy(), sampling_rate=16000, return_tensors="pt").input_features for length in lengths
    ])
    mels, mel_lengths = encoder.mel_spectrogram(waveforms, sizes)
    assert mels.shape == (4, num_mels, 3000)
    assert mel_lengths.tolist() == [1, 28, 250, 3000]
    assert (mels - expected_mels).abs().max() <= 1e-5

    reference = WhisperModel.from_pretrained(path).encoder.eval()
    with torch.no_grad():
        expected = reference(expected_mels).last_hidden_state
    features, feature_lengths = encoder(waveforms, sizes)
    assert feature_lengths.tolist() == [1500] * 4
    assert features.shape == (4, 1500, 32)
    assert encoder.dim == 32
    assert (features - expected).abs().max() <= 1e-5


@torch.no_grad()
def test_a_transcription_through_the_encoder_is_that_of_transformers(tmp_path: Path) -> None:
    model = write_model(tmp_path, num_mel_bins=80, decoder_layers=2)
    randomise(model, scale=0.8)  # so large that what is heard decides what is said
    model.save_pretrained(tmp_path)
    model.generation_config.update(max_length=16)
    waveforms, lengths = collate([20_000, 48_000])
    extractor = WhisperFeatureExtractor(feature_size=80)
    mels = extractor(list(waveforms.numpy()), sampling_rate=16000, return_tensors="pt").input_features
    expected = model.generate(mels)
    features, _ = encoder_of(tmp_path)(waveforms, lengths)
    found = model.generate(encoder_outputs=BaseModelOutput(last_hidden_state=features))
    assert expected.tolist() == found.tolist()
    assert expected[0].tolist() != expected[1].tolist()


@pytest.mark.parametrize(
    ("num_mels", "positions", "decoder_layers"),
    [
        pytest.param(80, 1500, 2, id="up to large-v2"),
        pytest.param(128, 1500, 2, id="large-v3"),
        pytest.param(128, 1500, 1, id="turbo and distilled: few decoder layers"),
        pytest.param(80, 500, 2, id="another window: 10 s"),
    ],
)
def test_mels_and_window_are_those_of_the_checkpoint(
    num_mels: int, positions: int, decoder_layers: int, tmp_path: Path
) -> None:
    model = write_model(
        tmp_path, num_mel_bins=num_mels, max_source_positions=positions, decoder_layers=decoder_layers
    )
    encoder = encoder_of(tmp_path)
    window = positions / 50
    assert (encoder.dim, encoder.frame_rate, encoder.max_seconds) == (32, 50.0, window)
    features, lengths = encoder(*collate([16_000]))
    assert lengths.tolist() == [features.size(1)] == [positions]
    extractor = WhisperFeatureExtractor(feature_size=num_mels, chunk_length=int(window))
    mels = extractor(collate([16_000])[0][0].numpy(), sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = model.model.encoder(mels).last_hidden_state
    assert (features - expected).abs().max() <= 1e-5
    too_long = int(window * 16000) + 1
    with pytest.raises(UserError, match=f"expected at most {window:g} s, the window of the encoder"):
        encoder(torch.zeros(1, too_long), torch.tensor([too_long]))


def test_a_checkpoint_without_the_recognisers_head(tmp_path: Path) -> None:
    """As `WhisperModel` saves it: its names lack `model.`."""
    model = write_model(tmp_path / "whole")
    model.model.save_pretrained(tmp_path / "inner")
    expected, found = (encoder_of(tmp_path / name).state_dict() for name in ("whole", "inner"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("options", [{}, {"trim": True}, {"pad_to_30s": False}], ids=["padded", "trimmed", "short"])
def test_the_device_is_never_waited_for(options: dict[str, Any], tiny_whisper: Path) -> None:
    check_device_is_never_waited_for(encoder_of(tiny_whisper, **options))
    check_created_on_the_device(lambda: encoder_of(tiny_whisper, **options))


def test_without_padding_a_whole_window_is_the_same(tiny_whisper: Path) -> None:
    """The masked layers are transformers' own where there is nothing to mask.

    The last mel frames alone differ: one path mirrors the end of the window, the other sees silence behind it.
    """
    waveforms, lengths = collate([WINDOW])
    waveforms[:, -2000:] = 0.0
    padded, _ = encoder_of(tiny_whisper)(waveforms, lengths)
    short, found = encoder_of(tiny_whisper, pad_to_30s=False)(waveforms, lengths)
    assert found.tolist() == [1500]
    torch.testing.assert_close(short, padded, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"pad_to_30s": False}, id="unpadded"),
        pytest.param({"pad_to_30s": True, "trim": True}, id="trimmed"),
    ],
)
def test_a_clip_gives_the_same_features_alone_and_in_a_batch(options: dict[str, Any], tiny_whisper: Path) -> None:
    encoder = encoder_of(tiny_whisper, **options)
    # One sample; either side of a mel hop, of a feature vector and of an FFT window; a long one to be padded to.
    lengths = [1, 159, 160, 161, 320, 321, 399, 401, 12_345, 48_000]
    check_batch_is_single(encoder, lengths, 1e-5)
    features, found = encoder(*collate(lengths))
    assert found.tolist() == [frames_of(length) for length in lengths]
    assert features.shape == (len(lengths), frames_of(48_000), 32)


def test_trimming_only_cuts(tiny_whisper: Path) -> None:
    waveforms, lengths = collate([8_000, 20_001])
    whole, _ = encoder_of(tiny_whisper)(waveforms, lengths)
    cut, found = encoder_of(tiny_whisper, trim=True)(waveforms, lengths)
    assert found.tolist() == [25, 63]
    assert torch.equal(cut[0, :25], whole[0, :25])
    assert torch.equal(cut[1], whole[1, :63])


def test_lengths_are_exact_for_every_duration(tiny_whisper: Path) -> None:
    unpadded, trimmed = encoder_of(tiny_whisper, pad_to_30s=False), encoder_of(tiny_whisper, trim=True)
    lengths = [*range(1, 1000, 37), *range(15_840, 16_161, 40), *range(WINDOW - 640, WINDOW + 1, 160)]
    sizes = torch.tensor(lengths)
    # Lengths follow from the mels', which are cheap: a pass of each path shows that the features have them.
    for encoder in (unpadded, trimmed):
        _, mel_lengths = encoder.mel_spectrogram(torch.zeros(len(lengths), WINDOW), sizes)
        assert mel_lengths.tolist() == [-(-length // 160) for length in lengths]
    for length in (1, 319, 320, 321, 16_000, WINDOW - 161, WINDOW):
        for encoder in (unpadded, trimmed):
            features, found = encoder(clip(length).unsqueeze(0), torch.tensor([length]))
            assert found.tolist() == [features.size(1)] == [frames_of(length)]


def test_a_longer_clip_is_refused_not_cut(tiny_whisper: Path) -> None:
    for options in ({"pad_to_30s": True}, {"pad_to_30s": False}):
        with pytest.raises(ValueError, match=r"the audio lasts 30\.01 s, expected at most 30 s"):
            encoder_of(tiny_whisper, **options)(torch.zeros(1, WINDOW + 160), torch.tensor([WINDOW + 160]))


def test_autocast_does_not_change_the_features(tiny_whisper: Path) -> None:
    encoder = encoder_of(tiny_whisper, pad_to_30s=False)
    waveforms, lengths = collate([8_000, 12_000])
    plain, _ = encoder(waveforms, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast, _ = encoder(waveforms, lengths)
    assert torch.equal(plain, under_autocast)
    assert not plain.requires_grad


def test_bfloat16_computes_in_bfloat16_and_is_near(tiny_whisper: Path) -> None:
    waveforms, lengths = collate([8_000, 12_000])
    exact, _ = encoder_of(tiny_whisper, pad_to_30s=False)(waveforms, lengths)
    rounded, _ = encoder_of(tiny_whisper, pad_to_30s=False, dtype="bfloat16")(waveforms, lengths)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).pow(2).mean().sqrt() < 0.05 * exact.pow(2).mean().sqrt()


def test_all_that_changes_features_changes_the_fingerprint(tiny_whisper: Path, whisper_128_mels: Path) -> None:
    config = WhisperConfig(path=str(tiny_whisper), dtype="float32")
    changed = [
        config,
        dataclasses.replace(config, dtype="bfloat16"),
        dataclasses.replace(config, pad_to_30s=False),
        dataclasses.replace(config, trim=True),
        dataclasses.replace(config, path=str(whisper_128_mels)),
    ]
    fingerprints = [create_whisper(config).fingerprint() for config in changed]
    assert len(set(fingerprints)) == len(changed)
    assert create_whisper(config).fingerprint() == fingerprints[0]


@pytest.mark.parametrize(("tokens", "languages"), [(51864, ("en",)), (51865, None), (51866, None)])
def test_the_models_of_english_alone_are_told_by_their_vocabulary(
    tmp_path: Path, tokens: int, languages: tuple[str, ...] | None
) -> None:
    write_model(tmp_path, vocab_size=tokens)
    assert encoder_of(tmp_path).languages == languages
