"""Whole recognisers in small: transformers' own classes with real tokenizers, as `save_pretrained` writes them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)

from tests.conftest import SENTENCES
from tests.plugin.encoders.test_seamless_m4t_v2 import write_model

_WHISPER_TOKENS = [
    "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>",
    "<|nospeech|>", "<|notimestamps|>",
]


def write_whisper(path: Path, *, multilingual: bool) -> Path:
    """A Whisper of width 32 that knows English, or also German."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    path.mkdir(exist_ok=True)
    bpe.model.save(str(path))
    tokenizer = WhisperTokenizerFast(
        str(path / "vocab.json"), str(path / "merges.txt"), additional_special_tokens=_WHISPER_TOKENS
    )
    tokenizer.save_pretrained(path)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in ["<|endoftext|>", *_WHISPER_TOKENS]}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]

    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer), num_mel_bins=80, d_model=32, encoder_layers=2, encoder_attention_heads=4,
            encoder_ffn_dim=64, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=64,
            max_target_positions=24, pad_token_id=end, bos_token_id=end, eos_token_id=end,
            decoder_start_token_id=start, init_std=0.4,
        )
    )
    with torch.no_grad():
        # Otherwise its own words drown what it hears.
        model.model.decoder.layers[0].encoder_attn.out_proj.weight.mul_(10)
    model.generation_config = GenerationConfig(
        max_length=24, pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start,
        is_multilingual=multilingual, no_timestamps_token_id=ids["<|notimestamps|>"], return_timestamps=False,
        # No control tokens in the text, and text at all.
        suppress_tokens=sorted(set(ids.values()) - {end}), begin_suppress_tokens=[end],
        **({"lang_to_id": {token: ids[token] for token in ("<|en|>", "<|de|>")},
            "task_to_id": {name: ids[f"<|{name}|>"] for name in ("translate", "transcribe")}} if multilingual else {}),
    )
    model.save_pretrained(path)
    return path


def write_seamless(path: Path) -> Path:
    """A whole SeamlessM4T v2 of width 32, vocoder and all, that knows English and German."""
    torch.manual_seed(0)
    write_model(path, eos_token_id=3, decoder_start_token_id=3, initializer_range=0.5)
    weights = load_file(path / "model.safetensors")
    weights["text_decoder.layers.0.cross_attention.out_proj.weight"] *= 30  # as above
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    special = ["<pad>", "<unk>", "<s>", "</s>", "__eng__", "__deu__"]
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=32, special_tokens=special))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=special[4:],
    )
    tokenizer.save_pretrained(path)
    GenerationConfig(
        max_length=20, pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3,
        text_decoder_lang_to_code_id={"eng": 4, "deu": 5}, suppress_tokens=[0, 1, 2, 4, 5],
        begin_suppress_tokens=[3],
    ).save_pretrained(path)
    return path


