"""wav2vec 2.0, HuBERT and WavLM: transformers' own numbers for a clip alone, in any batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from speechllm_plugin.encoders.wav2vec2 import Wav2Vec2Config as EncoderConfig
from speechllm_plugin.encoders.wav2vec2 import Wav2Vec2SpeechEncoder, create_wav2vec2
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
)

# The released shapes: of the first a base model's, of the second a large one's.
BASE: dict[str, Any] = {"feat_extract_norm": "group", "conv_bias": False, "do_stable_layer_norm": False}
LARGE: dict[str, Any] = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}

MODELS = [
    pytest.param(Wav2Vec2Config, Wav2Vec2Model, BASE, id="wav2vec2 base"),
    pytest.param(Wav2Vec2Config, Wav2Vec2Model, LARGE, id="wav2vec2 large"),
    pytest.param(HubertConfig, HubertModel, BASE, id="hubert base"),
    pytest.param(HubertConfig, HubertModel, LARGE, id="hubert large"),
    pytest.param(HubertConfig, HubertModel, {**BASE, "conv_pos_batch_norm": True}, id="mhubert"),
    pytest.param(HubertConfig, HubertModel, {**BASE, "feat_proj_layer_norm": False}, id="hubert, plain projection"),
    pytest.param(WavLMConfig, WavLMModel, BASE, id="wavlm base"),
    # Distances beyond the last bucket are reached within 1 s.
    pytest.param(WavLMConfig, WavLMModel, {**LARGE, "num_buckets": 16, "max_bucket_distance": 20}, id="wavlm large"),
]


def write_model(path: Path, config_kls: Any, model_kls: Any, do_normalize: bool = True, **options: Any) -> Any:
    config = config_kls(**{
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
        "conv_dim": [16] * 7, "num_conv_pos_embedding_groups": 4, "mask_time_prob": 0.05, "vocab_size": 16, **options,
    })
    model = model_kls(config)
    randomise(model)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.fill_(0.3)
    model.save_pretrained(path)
    Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(path)
    return model.eval()


def encoder_of(path: Path, **options: Any) -> Wav2Vec2SpeechEncoder:
    return freeze(create_wav2vec2(EncoderConfig(path=str(path), **{"dtype": "float32", **options})))


@torch.no_grad()
def reference(model: Any, waveform: Tensor, path: Path) -> tuple[Tensor, ...]:
    """`[T, C]` after each layer, by transformers' own path for a clip alone."""
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(path)
    values = extractor(waveform.numpy(), sampling_rate=RATE, return_tensors="pt").input_values
    output = model(values, output_hidden_states=True)
    # transformers 5 gives the last layer's states before the norm that may follow.
    assert VERSION >= 5 or torch.equal(output.hidden_states[-1], output.last_hidden_state)
    return tuple(states[0] for states in (*output.hidden_states[:-1], output.last_hidden_state))


@pytest.mark.parametrize(("config_kls", "model_kls", "options"), MODELS)
def test_features_are_those_of_transformers_in_any_batch(
    config_kls: Any, model_kls: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    model = write_model(tmp_path, config_kls, model_kls, **options)
    encoder = encoder_of(tmp_path)
    lengths = [400, 720, 1_600, 4_321, 16_000, 24_001]
    features, found = encoder(*collate(lengths))
    for row, length in enumerate(lengths):
        expected = reference(model, clip(length), tmp_path)[-1]
        assert int(found[row]) == len(expected)
        assert (features[row, : len(expected)] - expected).abs().max() <= 1e-4, length
    check_batch_is_single(encoder, [1, 399, *lengths], 2e-5)


@pytest.mark.parametrize("options", [pytest.param(BASE, id="base"), pytest.param(LARGE, id="large")])
def test_any_layer_can_be_taken(options: dict[str, Any], tmp_path: Path) -> None:
    model = write_model(tmp_path, WavLMConfig, WavLMModel, **options)
    expected = reference(model, clip(8_000), tmp_path)
    fingerprints = {encoder_of(tmp_path).fingerprint()}
    for layer in (1, 2, 3):
        encoder = encoder_of(tmp_path, layer=layer)
        features, _ = encoder(*collate([8_000]))
        assert (features[0] - expected[layer]).abs().max() <= 1e-4
        assert len(encoder.model.encoder.layers) == layer
        fingerprints.add(encoder.fingerprint())
    assert len(fingerprints) == 4
    for layer in (0, 4):
        with pytest.raises(UserError, match=f"^encoder.config.layer: found {layer}, expected 1 to 3, the layers of "):
            encoder_of(tmp_path, layer=layer)


def test_clips_are_normalised_where_the_checkpoint_says_so(tmp_path: Path) -> None:
    write_model(tmp_path / "on", Wav2Vec2Config, Wav2Vec2Model, **LARGE)
    model = write_model(tmp_path / "off", Wav2Vec2Config, Wav2Vec2Model, do_normalize=False, **LARGE)
    waveforms, lengths = collate([8_000, 12_000])
    on, _ = encoder_of(tmp_path / "on")(waveforms, lengths)
    off, _ = encoder_of(tmp_path / "off")(waveforms, lengths)
    assert (off[1] - reference(model, waveforms[1], tmp_path / "off")[-1]).abs().max() <= 1e-4
    assert (on - off).abs().max() > 0.01
    forced = encoder_of(tmp_path / "off", normalize=True)
    assert torch.equal(forced(waveforms, lengths)[0], on)
    assert forced.fingerprint() != encoder_of(tmp_path / "off").fingerprint()
    (tmp_path / "off/preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="^encoder.config.path: cannot load .*preprocessor_config.json"):
        encoder_of(tmp_path / "off")


def test_lengths_are_those_of_transformers_for_every_duration(tmp_path: Path) -> None:
    """Of the layers only the lengths are looked at: the meta device computes nothing else."""
    model = write_model(tmp_path, Wav2Vec2Config, Wav2Vec2Model, **LARGE)
    encoder = encoder_of(tmp_path).to("meta")
    assert (encoder.dim, encoder.frame_rate, encoder.max_seconds) == (32, 50.0, None)
    for samples in range(RATE // 10, SECONDS_30 + 1, 5 * RATE // 8 + 1):
        with torch.no_grad():
            features, _ = encoder.encode(
                torch.zeros(1, samples, device="meta"), torch.zeros(1, dtype=torch.int64, device="meta")
            )
        assert features.size(1) == int(model._get_feat_extract_output_lengths(samples))


def test_a_fine_tuned_model_in_the_old_format_is_read_without_its_head(tmp_path: Path) -> None:
    """As most were published: a pickle, prefixed names, and weight normalisation under its former ones."""
    model = write_model(tmp_path, Wav2Vec2Config, Wav2Vec2ForCTC, **BASE)
    former = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    weights = load_file(tmp_path / "model.safetensors")
    for new, old in former.items():
        name = f"wav2vec2.encoder.pos_conv_embed.conv.{new}"
        weights[name.replace(new, old)] = weights.pop(name)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    features, _ = encoder_of(tmp_path)(*collate([8_000]))
    expected = reference(model.wav2vec2, clip(8_000), tmp_path)[-1]
    assert (features[0] - expected).abs().max() <= 1e-4


def test_models_that_are_none_of_these_are_refused(tmp_path: Path, tiny_whisper: Path) -> None:
    with pytest.raises(UserError, match="holds a model of type 'whisper', expected one of wav2vec2, hubert, wavlm$"):
        encoder_of(tiny_whisper)
    write_model(tmp_path, Wav2Vec2Config, Wav2Vec2Model, **LARGE)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "add_adapter": True}))
    with pytest.raises(UserError, match=r"shortens its output by layers of its own \(add_adapter\)"):
        encoder_of(tmp_path)


def test_bfloat16_is_near(tmp_path: Path) -> None:
    write_model(tmp_path, HubertConfig, HubertModel, **BASE)
    exact, _ = encoder_of(tmp_path)(*collate([8_000, 12_000]))
    near, _ = encoder_of(tmp_path, dtype="bfloat16")(*collate([8_000, 12_000]))
    assert near.dtype == torch.bfloat16
    assert (near.float() - exact).pow(2).mean().sqrt() < 0.1 * exact.pow(2).mean().sqrt()


@pytest.mark.parametrize(("config_kls", "model_kls", "options"), MODELS)
def test_the_device_is_never_waited_for(
    config_kls: Any, model_kls: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    write_model(tmp_path, config_kls, model_kls, **options)
    check_device_is_never_waited_for(encoder_of(tmp_path))
    check_created_on_the_device(lambda: encoder_of(tmp_path))
