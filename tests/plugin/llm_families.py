"""Small checkpoints of every family of LLMs, in their real formats: transformers' own classes and `save_pretrained`,
tokenizers of the family's kind trained on the spot, and chat templates of the family's structure."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sentencepiece
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaTokenizerFast,
    GenerationConfig,
    LlamaConfig,
    LlamaTokenizerFast,
    MistralConfig,
    MT5Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2TokenizerFast,
    Qwen3Config,
    T5Config,
    T5TokenizerFast,
)

from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.causal import create_causal_llm
from speechllm_plugin.llms.causal_llm import CausalLlmConfig
from speechllm_plugin.llms.encoder_decoder import EncoderDecoderLlmConfig, create_encoder_decoder_llm
from speechllm_plugin.pretrained import freeze
from speechllm_plugin.prompts import RenderedPrompt
from speechllm_plugin.tensors.precision import Dtype

CORPUS = [
    "turn the kitchen light on", "what is the weather in Berlin today", "set a timer for ten minutes",
    "can you transcribe English?", "can you translate from English to German?", "how long is the drive to the station",
    "Wie wird das Wetter morgen in Köln?", "remind me to water the plants; read the last message again",
]
SPELT_CONTROLS = [
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>",
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]", "<bos>", "<eos>", "<pad>",
    "<start_of_turn>", "<end_of_turn>", "<extra_id_0>",
]
"""Every control token of every family: a transcript may hold any of them."""

# The structure of each family's template: which roles exist, where the system's text goes, what closes a turn.
LLAMA_TEMPLATE = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}{% set turns = messages[1:] %}
{%- else %}{% set system = '' %}{% set turns = messages %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Today: ' + strftime_now('%d %b %Y') + '\\n\\n' + system + '<|eot_id|>' }}
{%- for turn in turns %}
{{- '<|start_header_id|>' + turn.role + '<|end_header_id|>\\n\\n' + turn.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
MISTRAL_TEMPLATE = """{%- if messages[0].role == 'system' %}
{%- set system = messages[0].content + '\\n\\n' %}{% set turns = messages[1:] %}
{%- else %}{% set system = '' %}{% set turns = messages %}{% endif %}
{{- bos_token }}
{%- for turn in turns %}
{%- if (turn.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- if turn.role == 'user' %}{{ '[INST] ' + system + turn.content + '[/INST]' }}
{%- else %}{{ ' ' + turn.content + eos_token }}{% endif %}
{%- endfor %}"""
QWEN_TEMPLATE = """{%- for turn in messages %}
{{- '<|im_start|>' + turn.role + '\\n' }}
{%- if turn.role == 'assistant' and thinks %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{{- turn.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if thinks and enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""
GEMMA_TEMPLATE = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for turn in messages %}
{%- set role = 'model' if turn.role == 'assistant' else turn.role %}
{{- '<start_of_turn>' + role + '\\n' + turn.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""


@cache
def _byte_level() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


@cache
def _sentencepiece(kind: str, controls: tuple[str, ...], symbols: tuple[str, ...]) -> bytes:
    """A model file. The ends of `</s>` and the like are pieces of their own, as in a corpus with markup: what is
    converted from it has a merge for the whole."""
    model = io.BytesIO()
    ids = {name: controls.index(token) for name, token in
           (("pad_id", "<pad>"), ("bos_id", "<s>"), ("bos_id", "<bos>"), ("eos_id", "</s>"), ("eos_id", "<eos>"),
            ("unk_id", "<unk>")) if token in controls}
    pieces = {name.replace("_id", "_piece"): controls[place] for name, place in ids.items()}
    absent = {name: -1 for name in ("pad_id", "bos_id") if name not in ids}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*CORPUS, *["x/s> xeos> xend_of_turn> x/INST]"] * 20, *map(" ".join, SPELT_CONTROLS)]),
        model_writer=model, model_type=kind, vocab_size=120 if kind == "unigram" else 500, character_coverage=1.0,
        # transformers has it for BPE only.
        byte_fallback=kind == "bpe", hard_vocab_limit=False, user_defined_symbols=list(symbols), minloglevel=2,
        split_by_unicode_script=False, normalization_rule_name="nmt_nfkc" if kind == "unigram" else "identity",
        **ids, **pieces, **absent,
    )
    return model.getvalue()


def _from_sentencepiece(
    kls: Any, kind: str, controls: tuple[str, ...], symbols: tuple[str, ...], **options: Any
) -> Any:
    with TemporaryDirectory() as folder:
        file = Path(folder) / ("spiece.model" if kls is T5TokenizerFast else "tokenizer.model")
        file.write_bytes(_sentencepiece(kind, controls, symbols))
        # By the folder: transformers 5 ignores the file as an argument.
        return kls.from_pretrained(folder, **options)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    controls = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
                "<|eot_id|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_level()), bos_token=controls[0], eos_token=controls[-1],
        chat_template=LLAMA_TEMPLATE,
    )
    tokenizer.add_tokens([AddedToken(token, special=True) for token in controls])
    return tokenizer


def qwen_tokenizer(*, thinks: bool = False) -> PreTrainedTokenizerFast:
    tokenizer = Qwen2TokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_level()), eos_token="<|im_end|>", pad_token="<|endoftext|>",
        unk_token=None, bos_token=None, additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=("{% set thinks = true %}" if thinks else "") + QWEN_TEMPLATE,
    )
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    return tokenizer


def mistral_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = _from_sentencepiece(
        LlamaTokenizerFast, "bpe", ("<unk>", "<s>", "</s>"), ("[INST]", "[/INST]"), legacy=False,
        chat_template=MISTRAL_TEMPLATE,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["[INST]", "[/INST]"]})
    return tokenizer


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    return _from_sentencepiece(
        GemmaTokenizerFast, "bpe", ("<pad>", "<eos>", "<bos>", "<unk>"), ("<start_of_turn>", "<end_of_turn>"),
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"], chat_template=GEMMA_TEMPLATE,
    )


def t5_tokenizer() -> PreTrainedTokenizerFast:
    return _from_sentencepiece(T5TokenizerFast, "unigram", ("<pad>", "</s>", "<unk>"), (), extra_ids=3, legacy=True)


@dataclass(frozen=True)
class Family:
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    config_kls: type[PretrainedConfig]
    config: dict[str, Any] = field(default_factory=dict)
    end_of_turn: str = "</s>"
    stops: tuple[str, ...] = ()
    """What generation_config.json names."""
    generation: dict[str, Any] = field(default_factory=dict)
    """What else it holds."""
    chat: bool = True


_DECODER: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "initializer_range": 0.3,
}
_T5: dict[str, Any] = {
    "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "initializer_factor": 1.0,
    "decoder_start_token_id": 0, "dropout_rate": 0.1,
}
_LLAMA: dict[str, Any] = {"tokenizer": llama_tokenizer, "config_kls": LlamaConfig, "end_of_turn": "<|eot_id|>"}
_QWEN: dict[str, Any] = {"end_of_turn": "<|im_end|>", "stops": ("<|im_end|>", "<|endoftext|>")}
_GEMMA: dict[str, Any] = {
    "tokenizer": gemma_tokenizer, "end_of_turn": "<end_of_turn>", "stops": ("<eos>", "<end_of_turn>")
}  # fmt: skip

FAMILIES: dict[str, Family] = {
    "mistral": Family(mistral_tokenizer, MistralConfig, {**_DECODER, "sliding_window": None}, "</s>", ("</s>",)),
    "llama": Family(
        **_LLAMA, config={**_DECODER, "tie_word_embeddings": False},
        stops=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        generation={"do_sample": True, "temperature": 0.6, "top_p": 0.9},
    ),
    "llama_tied": Family(
        **_LLAMA, config={**_DECODER, "tie_word_embeddings": True},
        stops=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    "qwen2": Family(
        qwen_tokenizer, Qwen2Config, {**_DECODER, "tie_word_embeddings": True}, **_QWEN,
        generation={"do_sample": True, "repetition_penalty": 1.5, "temperature": 0.7, "top_k": 20},
    ),
    "qwen3": Family(
        lambda: qwen_tokenizer(thinks=True), Qwen3Config, {**_DECODER, "head_dim": 16},
        **_QWEN, generation={"do_sample": True, "temperature": 5.0, "top_k": 20, "top_p": 0.95},
    ),
    "gemma2": Family(
        config_kls=Gemma2Config,
        config={**_DECODER, "sliding_window": 12, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 1.0},
        **_GEMMA,
    ),
    "gemma3": Family(
        config_kls=Gemma3TextConfig,
        config={**_DECODER, "sliding_window": 12, "query_pre_attn_scalar": 8, "sliding_window_pattern": 2},
        **_GEMMA, generation={"do_sample": True, "cache_implementation": "hybrid"},
    ),
    # SmolLM2: Llama's layers with Qwen's kind of tokenizer.
    "smollm2": Family(
        qwen_tokenizer, LlamaConfig, {**_DECODER, "tie_word_embeddings": True}, **_QWEN,
    ),
    "mt5": Family(
        t5_tokenizer, MT5Config, {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, "</s>",
        ("</s>",), chat=False,
    ),
    # T5 1.0: one table for words in and out, whose outputs are scaled; layers without gates.
    "t5_tied": Family(
        t5_tokenizer, T5Config, {**_T5, "feed_forward_proj": "relu", "tie_word_embeddings": True}, "</s>", ("</s>",),
        chat=False,
    ),
}


def save_family(name: str, folder: Path, *, sharded: bool = False) -> Path:
    """Writes a checkpoint in bfloat16 as the hub has them, with weights that differ enough for rounding never to
    decide a hypothesis."""
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    stops = [tokenizer.convert_tokens_to_ids(token) for token in family.stops]
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": stops[0], "pad_token_id": tokenizer.pad_token_id}
    # Rows beyond the tokenizer, as mT5 and Qwen have them.
    config = family.config_kls(vocab_size=len(tokenizer) + 5, **family.config, **ids)
    torch.manual_seed(3)
    kls = AutoModelForCausalLM if family.chat else AutoModelForSeq2SeqLM
    model = kls.from_config(config)
    if not family.chat:
        _sharpen(model)
    model.generation_config = GenerationConfig(**{**ids, "eos_token_id": stops, **family.generation})
    if not family.chat:
        model.generation_config.decoder_start_token_id = config.decoder_start_token_id
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="40KB" if sharded else "5GB")
    tokenizer.save_pretrained(folder)
    assert (folder / "model.safetensors.index.json").exists() == sharded
    return folder


def _sharpen(model: torch.nn.Module) -> None:
    """T5's own initialisation leaves all hypotheses alike."""
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=1.0 if "shared" in name or "lm_head" in name else 0.3)


def load_family(name: str, folder: Path, dtype: Dtype = "float32") -> Llm:
    if FAMILIES[name].chat:
        return freeze(create_causal_llm(CausalLlmConfig(path=str(folder), dtype=dtype)))
    assert dtype != "float16"
    return freeze(create_encoder_decoder_llm(EncoderDecoderLlmConfig(path=str(folder), dtype=dtype)))


def own_loss(model: Any, prompt: RenderedPrompt, speech: Tensor, target: list[int]) -> Tensor:
    """transformers' own loss of one row, in nats: one pass over everything, labels at the target, nothing cached."""
    embed = model.get_input_embeddings()
    inputs = [embed(torch.tensor(prompt.before, dtype=torch.long)), speech.to(embed.weight.dtype)]
    if model.config.is_encoder_decoder:
        inputs.append(embed(torch.tensor(prompt.after, dtype=torch.long)))
        labels = torch.tensor(target)
    else:
        inputs.append(embed(torch.tensor([*prompt.after, *target])))
        labels = torch.cat([torch.full((sum(map(len, inputs)) - len(target),), -100), torch.tensor(target)])
    joined = torch.cat(inputs).unsqueeze(0)
    return model(inputs_embeds=joined, labels=labels.unsqueeze(0), use_cache=False).loss * len(target)
