"""Makes encoders, an LLM and clips to train on: real widths, random weights, nothing downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2SpeechEncoder
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.datasets.manifest import ManifestRow, frames_of, write_manifest
from speechllm_plugin.models.speech_llm.archs import ENCODER_ARCHS, LLM_ARCHS

SENTENCES = [
    "turn the kitchen light on", "what is the weather in berlin today", "set a timer for ten minutes",
    "play some quiet music", "call my sister tomorrow morning", "how long is the drive to the station",
]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
END = "<|im_end|>"

TINY: dict[str, dict[str, Any]] = {
    "whisper_large_v3": {
        "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "num_mel_bins": 80,
    },
    "seamless_m4t_v2": {
        "hidden_size": 32, "speech_encoder_layers": 2, "speech_encoder_attention_heads": 4,
        "speech_encoder_intermediate_size": 64,
    },
    "mistral_7b": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 64, "vocab_size": 512,
    },
}  # fmt: skip
"""Changes of a part's configuration for a tiny run, which only shows that the command works."""
TINY["llama31_8b"] = TINY["mistral_7b"]
_ENCODERS: dict[str, tuple[Any, str]] = {
    "whisper": (WhisperEncoder, "model.encoder."),
    "seamless_m4t_v2": (SeamlessM4Tv2SpeechEncoder, "speech_encoder."),
}
"""Class of each `model_type`, and the prefix of its weights in a checkpoint."""


def hf_config(kind: str, name: str, *, tiny: bool) -> PretrainedConfig:
    """:param kind: encoder or llm."""
    known = ENCODER_ARCHS if kind == "encoder" else LLM_ARCHS
    values = known[name].hf_config().to_dict() | (TINY[name] if tiny else {})
    return AutoConfig.for_model(**values)


def write_encoder(name: str, folder: Path, device: str, *, tiny: bool) -> Path:
    config = hf_config("encoder", name, tiny=tiny)
    kls, prefix = _ENCODERS[config.model_type]
    with torch.device(device):
        weights = kls(config).to(torch.bfloat16).state_dict()
    config.save_pretrained(folder)
    save_file({f"{prefix}{key}": value.contiguous() for key, value in weights.items()}, folder / "model.safetensors")
    return folder


def write_llm(name: str, folder: Path, device: str, *, tiny: bool) -> Path:
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    config = hf_config("llm", name, tiny=tiny)
    config.bos_token_id = config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
    with torch.device(device):
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|im_start|>", END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END, chat_template=TEMPLATE,
        additional_special_tokens=["<|im_start|>"],
    )  # fmt: skip


def write_clips(folder: Path, counts: Mapping[str, int], longest: float) -> dict[str, str]:
    """
    :param counts: number of clips of each split.
    :param longest: seconds of the longest clips; the shortest have 1.
    :returns: the manifest of each split.
    """
    generator, manifests = np.random.default_rng(0), {}
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        rows = []
        for number in range(count):
            seconds = round(float(generator.uniform(1.0, longest)), 2)
            times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
            place = number % len(SENTENCES)
            sound = 0.2 * np.sin(2 * np.pi * (200 + 90 * place) * times) + 0.01 * generator.standard_normal(len(times))
            name = f"{split}_{number}.wav"
            soundfile.write(folder / name, sound, SAMPLE_RATE)
            rows.append(ManifestRow(
                id=f"{split}_{number}", audio=name, n_frames=frames_of(len(times) / SAMPLE_RATE),
                tgt_text=SENTENCES[place], src_text="", speaker="", src_lang="en", tgt_lang="en", line=0,
            ))  # fmt: skip
        manifests[split] = str(folder / f"{split}.tsv")
        write_manifest(folder / f"{split}.tsv", rows)
    return manifests
