"""w2v-BERT 2.0: transformers' own numbers for a clip alone, in any batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertForCTC, Wav2Vec2BertModel

from speechllm_plugin.encoders.w2v_bert import W2vBertConfig, W2vBertSpeechEncoder, create_w2v_bert
from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained import freeze
from speechllm_plugin.workarounds.transformers_versions import VERSION
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

ADAPTERS: dict[str, Any] = {"add_adapter": True, "num_adapter_layers": 2, "output_hidden_size": 24}


def config_of(**options: Any) -> Wav2Vec2BertConfig:
    return Wav2Vec2BertConfig(**{
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "vocab_size": 16, "mask_time_prob": 0.05, "max_source_positions": 2000, **options,
    })


def write_model(path: Path, **options: Any) -> Path:
    model = Wav2Vec2BertModel(config_of(**options))
    randomise(model)
    model.save_pretrained(path)
    return path


def encoder_of(path: Path, **options: Any) -> W2vBertSpeechEncoder:
    return freeze(create_w2v_bert(W2vBertConfig(path=str(path), **{"dtype": "float32", **options})))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="as released"),
        pytest.param({"position_embeddings_type": "rotary"}, id="rotary positions"),
        pytest.param({"position_embeddings_type": "relative"}, id="Transformer-XL positions"),
        pytest.param({**ADAPTERS}, id="two adapters"),
        pytest.param({**ADAPTERS, "use_intermediate_ffn_before_adapter": True}, id="feed-forward before adapters"),
    ],
)
def test_features_are_those_of_transformers_in_any_batch(options: dict[str, Any], tmp_path: Path) -> None:
    path = write_model(tmp_path, **options)
    encoder, hf = encoder_of(path), Wav2Vec2BertModel.from_pretrained(path).eval()
    # Frames are even and odd in number, and either side of an adapter's step.
    lengths = [1_600, 4_321, 16_000, 16_160, 16_320, 40_000]
    features, found = encoder(*collate(lengths))
    for row, length in enumerate(lengths):
        with torch.no_grad():
            expected = hf(reference_fbank(clip(length)).unsqueeze(0)).last_hidden_state[0]
        assert int(found[row]) == len(expected)
        assert (features[row, : len(expected)] - expected).abs().max() <= 1e-4, length
    check_batch_is_single(encoder, [1, 560, *lengths], 1e-5)


@pytest.mark.skipif(VERSION >= 5, reason="transformers 5 looks into the mask of these layers")
def test_lengths_are_those_of_transformers_for_every_duration(tmp_path: Path) -> None:
    """Of the layers only the lengths are looked at: the meta device computes nothing else."""
    path = write_model(tmp_path, **ADAPTERS)
    encoder, hf = encoder_of(path).to("meta"), Wav2Vec2BertModel.from_pretrained(path)
    for samples in range(RATE // 10, SECONDS_30 + 1, 5 * RATE // 8 + 1):
        frames = (1 + (samples - 400) // 160) // 2
        with torch.no_grad():
            features, _ = encoder.encode(
                torch.zeros(1, samples, device="meta"), torch.zeros(1, dtype=torch.int64, device="meta")
            )
        assert features.size(1) == int(hf._get_feat_extract_output_lengths(torch.tensor(frames)))


def test_the_adapters_can_be_left_out(tmp_path: Path) -> None:
    path = write_model(tmp_path, **ADAPTERS)
    whole, plain = encoder_of(path), encoder_of(path, adapter=False)
    assert (whole.dim, whole.frame_rate) == (24, 12.5)
    assert (plain.dim, plain.frame_rate, plain.max_seconds) == (32, 50.0, None)
    assert whole.fingerprint() != plain.fingerprint()
    features, lengths = plain(*collate([16_000]))
    assert lengths.tolist() == [49]
    with torch.no_grad():
        hf = Wav2Vec2BertModel.from_pretrained(path, add_adapter=False).eval()
        expected = hf(reference_fbank(clip(16_000)).unsqueeze(0)).last_hidden_state
    assert (features - expected).abs().max() <= 1e-4


def test_a_fine_tuned_model_is_read_without_its_head(tmp_path: Path) -> None:
    """Its names have a prefix, and it was saved in shards."""
    model = Wav2Vec2BertForCTC(config_of(mask_time_prob=0.0))
    randomise(model)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    features, _ = encoder_of(tmp_path)(*collate([16_000]))
    with torch.no_grad():
        expected = model.wav2vec2_bert.eval()(reference_fbank(clip(16_000)).unsqueeze(0)).last_hidden_state
    assert (features - expected).abs().max() <= 1e-4


def test_a_checkpoint_with_other_features_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path, feature_projection_input_dim=80)
    with pytest.raises(UserError, match=f"^encoder.config.path: {path} takes features of width 80, expected 160$"):
        encoder_of(path)


def test_the_device_is_never_waited_for(tmp_path: Path) -> None:
    path = write_model(tmp_path, **ADAPTERS)
    check_device_is_never_waited_for(encoder_of(path))
    check_created_on_the_device(lambda: encoder_of(path))
