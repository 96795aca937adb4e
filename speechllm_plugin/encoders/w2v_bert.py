"""w2v-BERT 2.0 (arXiv 2312.05187), a public stand-in for USM: a Conformer, 50 feature vectors a second.

The layers are transformers' own, but padding does not reach the frames of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Wav2Vec2BertConfig as HfWav2Vec2BertConfig
from transformers import Wav2Vec2BertModel

from speechllm_plugin.encoders.api import ENCODERS, SpeechEncoder
from speechllm_plugin.encoders.conformer import adapter_layer, use_relative_key_attention
from speechllm_plugin.encoders.fbank import StackedFbank, check_input_dim
from speechllm_plugin.pretrained import Source, load_config, load_submodule, source_identity
from speechllm_plugin.pretrained.part import cast
from speechllm_plugin.tensors.masks import length_mask, zero_padding
from speechllm_plugin.tensors.precision import Dtype, part_dtype


@dataclass(kw_only=True)
class W2vBertConfig:
    path: str = "facebook/w2v-bert-2.0"
    """Hugging Face hub id, or a local directory in the same format; a fine-tuned model's head is left out."""
    dtype: Dtype = "auto"
    """Precision of weights and features; the filter bank is computed in float64. `auto`: bfloat16 where the machine
    multiplies it, else float32."""
    adapter: bool = True
    """Run the layers that shorten the output, where the checkpoint has them; the released w2v-BERT 2.0 has none."""


class W2vBertSpeechEncoder(SpeechEncoder):
    """w2v-BERT 2.0, for clips of any length."""

    max_seconds = None

    def __init__(self, config: W2vBertConfig, hf_config: HfWav2Vec2BertConfig, model: Wav2Vec2BertModel) -> None:
        super().__init__()
        self.config = config
        self.model = model
        use_relative_key_attention(model.encoder.layers)
        self.fbank = StackedFbank()
        if not config.adapter:
            model.adapter = None
        self.dim = hf_config.hidden_size
        self.frame_rate = StackedFbank.frame_rate
        if model.adapter is not None:
            self.dim = hf_config.output_hidden_size
            self.frame_rate /= hf_config.adapter_stride**hf_config.num_adapter_layers

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        model, adapter = self.model, self.model.adapter
        fbank, lengths = self.fbank(waveforms, lengths)
        hidden, _ = model.feature_projection(fbank.to(model.feature_projection.projection.weight.dtype))
        mask = length_mask(lengths, hidden.size(1), hidden.device)
        hidden = model.encoder(hidden, attention_mask=mask.long()).last_hidden_state  # (B, T, C), 50 Hz
        if model.intermediate_ffn is not None:
            hidden = hidden + 0.5 * model.intermediate_ffn(hidden)
        if adapter is not None:
            if adapter.proj is not None and adapter.proj_layer_norm is not None:
                hidden = adapter.proj_layer_norm(adapter.proj(hidden))
            for layer in adapter.layers:
                hidden, lengths = adapter_layer(layer, hidden, lengths)
        return zero_padding(hidden, lengths), lengths

    def identity(self) -> dict[str, Any]:
        return {"encoder": "w2v_bert", "source": source_identity(self.config.path), **vars(self.config)}


def check_w2v_bert(config: W2vBertConfig) -> HfWav2Vec2BertConfig:
    """:raises UserError: there is no such checkpoint, or it is not one of w2v-BERT 2.0."""
    source = Source.of("encoder", config.path)
    hf_config = load_config(source, HfWav2Vec2BertConfig)
    check_input_dim(hf_config.feature_projection_input_dim, source)
    return hf_config


def outline_w2v_bert(
    config: W2vBertConfig, hf_config: HfWav2Vec2BertConfig, dtype: torch.dtype
) -> W2vBertSpeechEncoder:
    model: Any = Wav2Vec2BertModel(hf_config)
    return W2vBertSpeechEncoder(config, hf_config, cast(model, dtype))


def create_w2v_bert(config: W2vBertConfig) -> W2vBertSpeechEncoder:
    hf_config = check_w2v_bert(config)
    # The vector that masks spans in pretraining is not part of the encoder.
    hf_config.mask_time_prob = hf_config.mask_feature_prob = 0.0
    model = load_submodule(
        Wav2Vec2BertModel,
        hf_config,
        Source.of("encoder", config.path),
        prefix="wav2vec2_bert.",
        optional_prefix=True,
        ignored=("masked_spec_embed",),
        dtype=part_dtype(config),
    )
    return W2vBertSpeechEncoder(config, hf_config, model)


ENCODERS.register(
    "w2v_bert", W2vBertConfig, create_w2v_bert,
    outline=outline_w2v_bert, model_types=("wav2vec2-bert",), check=check_w2v_bert,
)  # fmt: skip
