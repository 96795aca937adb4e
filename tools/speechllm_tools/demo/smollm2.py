"""SmolLM2-135M-Instruct (arXiv:2502.02737) as an ordinary Hugging Face checkpoint, converted from its GGUF file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from speechllm_plugin.errors import UserError

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
END_OF_TURN = "<|im_end|>"


def write_smollm2(sources: Mapping[str, Path], folder: Path) -> None:
    """Write model (bfloat16), generation settings, tokenizer with its chat template, and licence to ``folder``.

    :param sources: the GGUF file and ``LICENSE``.
    :raises UserError: the loaded model is not SmolLM2.
    """
    gguf = sources[GGUF_FILE]
    tokenizer = read_tokenizer(gguf)
    # bfloat16 has more digits than the 4-bit weights had.
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        raise UserError(f"{gguf}: found an output layer of its own, expected the input embeddings")
    if len(tokenizer) != model.config.vocab_size:
        raise UserError(f"{gguf}: found {len(tokenizer)} tokens and {model.config.vocab_size} embeddings")
    if tokenizer.eos_token != END_OF_TURN:
        raise UserError(f"{gguf}: found {tokenizer.eos_token!r} as the end of a turn, expected {END_OF_TURN!r}")
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.copyfile(sources["LICENSE"], folder / "LICENSE")


def read_tokenizer(gguf: Path) -> PreTrainedTokenizerFast:
    """The byte-level BPE tokenizer inside a GGUF file of the SmolLM family, with its chat template.

    It is built from the file's own tables. transformers' conversion of GGUF tokenizers takes every Llama for a
    SentencePiece model, which splits numbers otherwise, ends a turn with another token and adds a token to each text.

    :raises UserError: if the file describes another kind of tokenizer.
    """
    fields = GGUFReader(gguf).fields

    def value(key: str) -> Any:
        if key not in fields:
            raise UserError(f"{gguf}: no field {key!r}")
        return fields[key].contents()

    kind = (value("tokenizer.ggml.model"), value("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise UserError(f"{gguf}: tokenizer is {kind}, expected ('gpt2', 'smollm')")
    tokens: list[str] = value("tokenizer.ggml.tokens")
    types: list[int] = value("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
    backend = Tokenizer(BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    # The pre-tokeniser "smollm": each digit is a piece of its own, everything else is as in GPT-2.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind == TokenType.CONTROL
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens[value("tokenizer.ggml.bos_token_id")],
        eos_token=tokens[value("tokenizer.ggml.eos_token_id")],
        unk_token=tokens[value("tokenizer.ggml.unknown_token_id")],
        pad_token=tokens[value("tokenizer.ggml.padding_token_id")],
        chat_template=value("tokenizer.chat_template"),
        model_max_length=value("llama.context_length"),
        clean_up_tokenization_spaces=False,
    )
