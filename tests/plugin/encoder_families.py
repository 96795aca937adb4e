"""Small checkpoints of every family of encoders, in their real formats: transformers' own classes, `save_pretrained`,
and the preprocessor's file where the encoder reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    HubertConfig,
    HubertModel,
    PreTrainedModel,
    Wav2Vec2BertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from tests.plugin.encoder_checks import randomise
from tests.plugin.encoders.test_seamless_m4t_v2 import write_model as write_seamless
from tests.plugin.encoders.test_w2v_bert import config_of as w2v_bert_config
from tests.plugin.encoders.test_wav2vec2 import BASE, LARGE

_WAV2VEC2: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "conv_dim": [16] * 7,
    "num_conv_pos_embedding_groups": 4, "vocab_size": 16,
}


def _whisper() -> PreTrainedModel:
    """With its decoder, which is not ours to read, and the real 1500 positions."""
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=64, num_mel_bins=128, d_model=32, encoder_layers=2, encoder_attention_heads=4,
            encoder_ffn_dim=64, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=64, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, init_std=0.2, suppress_tokens=None,
            begin_suppress_tokens=None,
        )
    )


_MODELS: dict[str, Any] = {
    "whisper": _whisper,
    "w2v_bert": lambda: Wav2Vec2BertModel(w2v_bert_config()),
    "wav2vec2": lambda: Wav2Vec2Model(Wav2Vec2Config(**_WAV2VEC2, **LARGE)),
    "hubert": lambda: HubertModel(HubertConfig(**_WAV2VEC2, **BASE)),
    "wavlm": lambda: WavLMModel(WavLMConfig(**_WAV2VEC2, **LARGE, num_buckets=16, max_bucket_distance=20)),
}


def save_encoder(name: str, folder: Path, *, sharded: bool) -> Path:
    """Writes the checkpoint of a family, in several files and an index or in one file."""
    size = "100KB" if sharded else "5GB"
    torch.manual_seed(0)
    if name == "seamless_m4t_v2":
        write_seamless(folder, size)
    else:
        model = _MODELS[name]()
        if name != "whisper":
            randomise(model)
            Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
        model.save_pretrained(folder, max_shard_size=size)
    assert (folder / "model.safetensors.index.json").exists() == sharded
    return folder
