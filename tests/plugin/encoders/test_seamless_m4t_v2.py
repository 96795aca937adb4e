"""SeamlessM4T v2's speech encoder: transformers' own numbers for a clip alone, in any batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import SeamlessM4Tv2Config, SeamlessM4Tv2Model
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import (
    SeamlessM4Tv2SpeechEncoder as HfSpeechEncoder,
)

from speechllm_plugin.encoders.conformer import adapter_layer
from speechllm_plugin.encoders.fbank import StackedFbank, stacked_lengths
from speechllm_plugin.encoders.seamless_m4t_v2 import SeamlessM4Tv2Config as EncoderConfig
from speechllm_plugin.encoders.seamless_m4t_v2 import SeamlessM4Tv2SpeechEncoder, create_seamless_m4t_v2
from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained import freeze
from tests.plugin.encoder_checks import (
    RATE,
    SECONDS_30,
    check_batch_is_single,
    check_created_on_the_device,
    check_device_is_never_waited_for,
    clip,
    collate,
    randomise,
    reference_fbank,
)


def write_model(path: Path, max_shard_size: str = "5GB", **options: Any) -> Path:
    """A whole SeamlessM4T v2 of width 32, in float32: of the real one the speech encoder is a quarter."""
    config = SeamlessM4Tv2Config(**{
        "vocab_size": 32, "t2u_vocab_size": 32, "char_vocab_size": 32, "unit_hifi_gan_vocab_size": 32,
        "hidden_size": 32, "max_position_embeddings": 64, "encoder_layers": 1, "encoder_ffn_dim": 32,
        "encoder_attention_heads": 2, "decoder_layers": 1, "decoder_ffn_dim": 32, "decoder_attention_heads": 2,
        "t2u_encoder_layers": 1, "t2u_encoder_ffn_dim": 32, "t2u_encoder_attention_heads": 2, "t2u_decoder_layers": 1,
        "t2u_decoder_ffn_dim": 32, "t2u_decoder_attention_heads": 2, "t2u_variance_predictor_embed_dim": 16,
        "t2u_variance_predictor_hidden_dim": 16, "t2u_max_position_embeddings": 64, "unit_embed_dim": 16,
        "lang_embed_dim": 8, "spkr_embed_dim": 8, "upsample_initial_channel": 32, "vocoder_num_langs": 2,
        "vocoder_num_spkrs": 2, "variance_predictor_kernel_size": 3,
        # The speech encoder's shape in small; kernel, stride and relative positions are the real ones.
        "speech_encoder_layers": 2, "speech_encoder_attention_heads": 4, "speech_encoder_intermediate_size": 64,
        "num_attention_heads": 4, "intermediate_size": 64, **options,
    })
    model = SeamlessM4Tv2Model(config)
    randomise(model.speech_encoder)
    model.save_pretrained(path, max_shard_size=max_shard_size)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("seamless"))


def encoder_of(path: Path, **options: Any) -> SeamlessM4Tv2SpeechEncoder:
    return freeze(create_seamless_m4t_v2(EncoderConfig(path=str(path), **{"dtype": "float32", **options})))


def hf_encoder(path: Path) -> HfSpeechEncoder:
    return SeamlessM4Tv2Model.from_pretrained(path).speech_encoder.eval()


@torch.no_grad()
def reference(encoder: HfSpeechEncoder, waveform: Tensor) -> Tensor:
    """`[T, C]` of transformers' own path for a clip alone: nothing is padded, so nothing need be masked."""
    features: Tensor = encoder(reference_fbank(waveform).unsqueeze(0)).last_hidden_state
    return features[0]


@pytest.mark.parametrize("samples", [1600, 4_321, 40_000, 163_201])
def test_fbank_is_that_of_transformers(samples: int) -> None:
    expected = reference_fbank(clip(samples))
    found, lengths = StackedFbank()(*collate([samples]))
    assert lengths.tolist() == [len(expected)]
    assert found.dtype == torch.float32
    assert (found[0] - expected).abs().max() <= 1e-4


def test_fbank_of_a_batch_is_that_of_each_clip() -> None:
    """Of an odd number of frames the last one belongs to no vector, nor to what lies beyond."""
    samples = [40_000, 1_600, 4_240, 16_160]
    found, lengths = StackedFbank()(*collate(samples))
    assert lengths.tolist() == [124, 4, 12, 49]
    for row, size in enumerate(samples):
        alone, _ = StackedFbank()(*collate([size]))
        assert torch.equal(found[row, : alone.size(1)], alone[0])
        assert not found[row, alone.size(1) :].any()


def test_fbank_is_near_that_of_fairseq2() -> None:
    """Which works in float32: 1e-4 is beyond it."""
    audio = pytest.importorskip("fairseq2.data.audio")
    convert = audio.WaveformToFbankConverter(num_mel_bins=80, waveform_scale=2**15, standardize=True)
    noise = 0.1 * torch.randn(40_000, generator=torch.Generator().manual_seed(0))
    expected = convert({"waveform": noise.unsqueeze(0), "sample_rate": 16000.0})["fbank"]
    found, lengths = StackedFbank()(noise.unsqueeze(0), torch.tensor([40_000]))
    assert found.size(1) == int(lengths) == len(expected) // 2
    assert (found[0] - expected[: len(expected) // 2 * 2].reshape(-1, 160)).abs().max() <= 1e-3


def test_fbank_lengths_are_exact_from_a_tenth_of_a_second_to_thirty() -> None:
    """Against the number of frames that transformers' own loop makes; nothing is computed but lengths."""
    samples = torch.arange(RATE // 10, SECONDS_30 + 1, 37)
    fbank = StackedFbank().to("meta")
    for size in (int(samples[0]), 4_319, 4_320, 4_321, SECONDS_30):
        features, _ = fbank(torch.zeros(1, size, device="meta"), torch.zeros(1, dtype=torch.int64, device="meta"))
        assert features.size(1) == (1 + (size - 400) // 160) // 2
    lengths = stacked_lengths(samples)
    assert lengths.tolist() == [int(1 + np.floor((size - 400) / 160)) // 2 for size in samples.tolist()]


def test_short_and_silent_clips_are_finite() -> None:
    """Of one frame there is no variance, and of digital silence none but 0."""
    for samples in (1, 399, 400, 559, 560):
        found, lengths = StackedFbank()(*collate([samples]))
        assert lengths.tolist() == [1]
        assert found.isfinite().all()
    silence, _ = StackedFbank()(torch.zeros(1, RATE), torch.tensor([RATE]))
    assert silence.abs().max() <= 1e-6


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="as released"),
        # The released chunk, 20,000 vectors, is longer than any clip.
        pytest.param({"speech_encoder_chunk_size": 8, "speech_encoder_left_chunk_num": 1}, id="chunked attention"),
        pytest.param({"adaptor_kernel_size": 4, "adaptor_stride": 4, "num_adapter_layers": 2}, id="two adaptors"),
        pytest.param({"add_adapter": False}, id="no adaptor"),
    ],
)
def test_features_are_those_of_transformers_in_any_batch(options: dict[str, Any], tmp_path: Path) -> None:
    path = write_model(tmp_path, **options)
    encoder, hf = encoder_of(path), hf_encoder(path)
    # Frames are even and odd in number, and either side of an adaptor's step.
    lengths = [1_600, 4_321, 16_000, 16_160, 20_720, 20_880, 40_000]
    features, found = encoder(*collate(lengths))
    for row, length in enumerate(lengths):
        expected = reference(hf, clip(length))
        assert int(found[row]) == len(expected)
        assert (features[row, : len(expected)] - expected).abs().max() <= 1e-4, length
    check_batch_is_single(encoder, [1, 559, 560, 720, *lengths], 1e-5)


def test_transformers_itself_depends_on_the_batch(checkpoint: Path) -> None:
    """Why the adaptor is not run by transformers; when this fails, it can be."""
    model = hf_encoder(checkpoint)
    alone = reference_fbank(clip(16_000))
    padded = torch.nn.functional.pad(alone, (0, 0, 0, 100)).unsqueeze(0)
    mask = (torch.arange(padded.size(1)) < len(alone)).long().unsqueeze(0)
    with torch.no_grad():
        expected = model(alone.unsqueeze(0)).last_hidden_state
        found = model(padded, attention_mask=mask).last_hidden_state[:, : expected.size(1)]
    assert (found - expected).abs().max() > 0.01


def test_lengths_are_those_of_transformers_for_every_duration(checkpoint: Path) -> None:
    hf, ours = hf_encoder(checkpoint).adapter, encoder_of(checkpoint).encoder.adapter
    assert hf is not None and ours is not None
    samples = torch.arange(RATE // 10, SECONDS_30 + 1, RATE // 10)
    with torch.no_grad():
        for part in samples.split(100):
            frames = stacked_lengths(part)
            mask = (torch.arange(int(frames.max())) < frames.unsqueeze(1)).long()
            expected = hf.layers[0]._compute_sub_sample_lengths_from_attention_mask(mask)
            _, found = adapter_layer(ours.layers[0], torch.zeros(*mask.shape, 32), frames)
            assert found.tolist() == expected.long().tolist()
    assert int(found[-1]) == 188  # 30 s at 6.25 Hz, and one begun


def test_only_the_speech_encoder_is_read(checkpoint: Path, tmp_path: Path) -> None:
    path = write_model(tmp_path, max_shard_size="100KB")
    index = json.loads((path / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {file for name, file in index.items() if name.startswith("speech_encoder.")}
    for file in set(index.values()) - needed:
        (path / file).unlink()
    assert needed < set(index.values())
    waveforms, lengths = collate([RATE])
    assert torch.equal(encoder_of(path)(waveforms, lengths)[0], encoder_of(checkpoint)(waveforms, lengths)[0])


def test_shape_dtype_and_fingerprint(checkpoint: Path) -> None:
    encoder = encoder_of(checkpoint)
    assert (encoder.dim, encoder.frame_rate, encoder.max_seconds) == (32, 6.25, None)
    rounded = encoder_of(checkpoint, dtype="bfloat16")
    assert rounded.fingerprint() != encoder.fingerprint() == encoder_of(checkpoint).fingerprint()
    exact, _ = encoder(*collate([8_000, 12_000]))
    near, _ = rounded(*collate([8_000, 12_000]))
    assert near.dtype == torch.bfloat16
    assert (near.float() - exact).pow(2).mean().sqrt() < 0.05 * exact.pow(2).mean().sqrt()


def test_a_checkpoint_with_other_features_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path, feature_projection_input_dim=80)
    with pytest.raises(UserError, match=f"^encoder.config.path: {path} takes features of width 80, expected 160$"):
        encoder_of(path)


def test_the_device_is_never_waited_for(checkpoint: Path) -> None:
    check_device_is_never_waited_for(encoder_of(checkpoint))
    check_created_on_the_device(lambda: encoder_of(checkpoint))
