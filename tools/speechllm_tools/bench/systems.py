"""Speech LLMs of equal widths with random weights: our own, and classes of transformers that a user might choose.

Each reads the same clips and is trained on the same number of target tokens. Encoder and LLM are frozen: a step trains
only the part between them.
"""

from __future__ import annotations

import argparse
import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    GraniteSpeechConfig,
    GraniteSpeechForConditionalGeneration,
    LlamaForCausalLM,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder as HfWhisperEncoder

from speechllm_plugin.adapters.api import ADAPTERS, AdapterShape
from speechllm_plugin.encoders.whisper import WhisperConfig as WhisperPartConfig
from speechllm_plugin.encoders.whisper import WhisperSpeechEncoder
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.causal import CausalLlm, CausalLlmConfig
from speechllm_plugin.llms.causal_checks import check_packing
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.llms.packing import MULTIPLE
from speechllm_plugin.prompts import RenderedPrompt

RATE = 16000
VOCABULARY = 49152
AUDIO = VOCABULARY - 1
"""Token that stands for a vector of audio."""
BEFORE, AFTER = 12, 12
"""Tokens of the prompt around the speech."""



@dataclass(frozen=True)
class Widths:
    """Widths of all systems, by the names in transformers' configurations of Whisper and of Llama."""

    what: str
    encoder: dict[str, Any]
    llm: dict[str, Any]


_LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
WIDTHS = {
    "small": Widths(
        "Whisper tiny's encoder, SmolLM2-135M's LLM",
        {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536},
        {**_LLAMA, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
         "intermediate_size": 1536, "tie_word_embeddings": True},
    ),
    "large": Widths(
        "Whisper large's encoder, Llama 3.1 8B's layers",
        {"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120},
        {**_LLAMA, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
         "intermediate_size": 14336, "tie_word_embeddings": False},
    ),
}  # fmt: skip
"""Widths by the values of `--widths`."""
QUERIES, WINDOW, STRIDE = 3, 15, 2
"""Granite Speech's queries for each window, the window in its encoder's frames, and mel frames in each of them."""


@dataclass(frozen=True)
class Clips:
    seconds: Sequence[float]
    target_tokens: int

    def waveforms(self) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([round(RATE * seconds) for seconds in self.seconds])
        generator = torch.Generator().manual_seed(0)
        noise = 0.1 * torch.randn(len(lengths), int(lengths.max()), generator=generator)
        return noise * (torch.arange(noise.size(1)) < lengths.unsqueeze(1)), lengths

    def tokens(self, count: int) -> list[int]:
        return [100 + i for i in range(count)]


class Shared:
    """The parts that systems are made with. On a GPU all systems share one LLM, since it would not hold one for
    each."""

    def __init__(self, widths: Widths) -> None:
        self.widths = widths
        self.llm = LlamaForCausalLM(AutoConfig.for_model(**widths.llm)).eval().requires_grad_(False)


class System:
    """A system to measure."""

    name: str
    dtype: torch.dtype
    encoder: nn.Module
    adapter: nn.Module
    llm: nn.Module

    @property
    def label(self) -> str:
        """Its name among systems of several precisions."""
        return label_of(self.name, self.dtype)

    @property
    def weight(self) -> Tensor:
        """A weight of the adapter, which tells the system's device and precision."""
        return next(self.adapter.parameters())

    def prepare(self, clips: Clips) -> None:
        """Makes a batch of the clips, which is not part of the step."""
        raise NotImplementedError

    def loss(self) -> Tensor:
        raise NotImplementedError

    def positions(self) -> int:
        """Positions of the LLM in a step, with padding."""
        raise NotImplementedError

    def decode(self, tokens: int) -> int:
        """:returns: the number of tokens that were written in all rows."""
        raise NotImplementedError


class Ours(System):
    def __init__(
        self, name: str, shared: Shared, *, cached: bool = False, packed: bool = True, stack: int = 4, **encoder: Any
    ) -> None:
        """
        :param cached: whether the features are on disk.
        :param packed: whether clips are packed into one sequence of the LLM without padding.
        :param stack: frames in a vector, for 12.5 vectors a second, like Voxtral's.
        :param encoder: keys of Whisper's configuration.
        """
        self.name, self._cached = name, cached
        widths = shared.widths
        config = WhisperConfig(**widths.encoder)
        self._encoder = WhisperSpeechEncoder(WhisperPartConfig(**encoder), config, HfWhisperEncoder(config)).eval()
        dim = widths.llm["hidden_size"]
        shape = AdapterShape(encoder_dim=widths.encoder["d_model"], llm_dim=dim, frame_rate=50.0)
        adapter = ADAPTERS.get("mlp")
        self.adapter = adapter.build(adapter.config_kls(stack=stack, hidden_dim=dim), shape)
        tokenizer: Any = SimpleNamespace(eos_token_id=None, bos_token_id=None)
        self._llm = CausalLlm(CausalLlmConfig(), shared.llm, tokenizer)
        self.encoder, self.llm = self._encoder, self._llm
        for part in (self.encoder, self.llm):
            part.requires_grad_(False)
        self._llm.packs = packed and check_packing(self._llm)

    def prepare(self, clips: Clips) -> None:
        waveforms, self._lengths = clips.waveforms()
        self._waveforms = waveforms.to(self.weight.device)
        self._prompts = [RenderedPrompt(tuple(clips.tokens(BEFORE)), tuple(clips.tokens(AFTER)))] * len(clips.seconds)
        self._targets = [clips.tokens(clips.target_tokens)] * len(clips.seconds)
        self._features = self._encode() if self._cached else None

    def _encode(self) -> tuple[Tensor, Tensor]:
        features, lengths = self._encoder(self._waveforms, self._lengths)
        return features.to(self.weight.dtype), lengths

    def _speech(self) -> tuple[Tensor, Tensor]:
        output = self.adapter(*(self._features or self._encode()))
        return output.seqs, output.lengths

    def loss(self) -> Tensor:
        losses = self._llm.loss(self._prompts, *self._speech(), self._targets)
        return losses.sum() / sum(map(len, self._targets))

    def positions(self) -> int:
        with torch.no_grad():
            lengths = self._speech()[1] + AFTER + len(self._targets[0]) - 1
        if self._llm.packs:
            return math.ceil(int(lengths.sum()) / MULTIPLE) * MULTIPLE
        return len(lengths) * int(lengths.max())

    def decode(self, tokens: int) -> int:
        with torch.no_grad():
            speech, lengths = self._speech()
            rows = self._llm.generate(
                self._prompts, speech, lengths, keys=[str(i) for i in range(len(lengths))],
                limits=[tokens] * len(lengths), end_of_turn=1, config=DecodingConfig(),
            )  # fmt: skip
        return sum(len(row.tokens) for row in rows)


class Peer(System):
    """A class of transformers."""

    model: Any

    def __init__(self, shared: Shared) -> None:
        self.model.language_model = self.llm = shared.llm
        self.model.config.text_config = shared.llm.config
        self.model.eval().requires_grad_(False)
        self.adapter.requires_grad_(True)

    def vectors(self, seconds: float) -> int:
        """Number of audio vectors in the prompt."""
        raise NotImplementedError

    def features(self, clips: Clips) -> dict[str, Tensor]:
        raise NotImplementedError

    def prepare(self, clips: Clips) -> None:
        prompts = [
            [*clips.tokens(BEFORE), *[AUDIO] * self.vectors(seconds), *clips.tokens(AFTER)] for seconds in clips.seconds
        ]
        target = clips.tokens(clips.target_tokens)
        rows = [[*prompt, *target] for prompt in prompts]
        size = max(map(len, rows))
        # The padding is on the left, as in their processors.
        def padded(values: list[list[int]], fill: int, size: int) -> Tensor:
            return torch.tensor([[fill] * (size - len(row)) + row for row in values])

        features = self.features(clips)
        self._batch = {
            "input_ids": padded(rows, 0, size), **features,
            "attention_mask": padded([[1] * len(row) for row in rows], 0, size),
            "labels": padded([[-100] * (len(row) - len(target)) + target for row in rows], -100, size),
        }
        size -= len(target)
        self._prompt = {
            "input_ids": padded(prompts, 0, size), **features,
            "attention_mask": padded([[1] * len(row) for row in prompts], 0, size),
        }
        for batch in (self._batch, self._prompt):
            batch.update({
                name: tensor.to(self.weight if tensor.is_floating_point() else self.weight.device)
                for name, tensor in batch.items()
            })

    def loss(self) -> Tensor:
        loss: Tensor = self.model(**self._batch, use_cache=False).loss
        return loss

    def positions(self) -> int:
        return self._batch["input_ids"].numel()

    def decode(self, tokens: int) -> int:
        with torch.no_grad():
            output = self.model.generate(
                **self._prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0
            )
        return len(output) * tokens


class Voxtral(Peer):
    name = "transformers' Voxtral"

    def __init__(self, shared: Shared) -> None:
        sizes = shared.widths.encoder
        encoder = {
            "hidden_size": sizes["d_model"], "intermediate_size": sizes["encoder_ffn_dim"],
            "num_hidden_layers": sizes["encoder_layers"], "num_attention_heads": sizes["encoder_attention_heads"],
            "num_mel_bins": 80,
        }  # fmt: skip
        self.model = VoxtralForConditionalGeneration(
            VoxtralConfig(audio_config=encoder, text_config=_one_layer(shared), audio_token_id=AUDIO)
        )
        self.encoder, self.adapter = self.model.audio_tower, self.model.multi_modal_projector
        super().__init__(shared)

    def vectors(self, seconds: float) -> int:
        return 375

    def features(self, clips: Clips) -> dict[str, Tensor]:
        return {"input_features": torch.randn(len(clips.seconds), 80, 3000)}


class Qwen2Audio(Peer):
    name = "transformers' Qwen2-Audio"

    def __init__(self, shared: Shared) -> None:
        encoder = {**shared.widths.encoder, "num_mel_bins": 80, "model_type": "qwen2_audio_encoder"}
        self.model = Qwen2AudioForConditionalGeneration(
            Qwen2AudioConfig(audio_config=encoder, text_config=_one_layer(shared), audio_token_index=AUDIO)
        )
        self.encoder, self.adapter = self.model.audio_tower, self.model.multi_modal_projector
        super().__init__(shared)

    def vectors(self, seconds: float) -> int:
        frames = (round(100 * seconds) - 1) // 2 + 1
        return (frames - 2) // 2 + 1

    def features(self, clips: Clips) -> dict[str, Tensor]:
        frames = torch.tensor([round(100 * seconds) for seconds in clips.seconds])
        mask = (torch.arange(3000) < frames.unsqueeze(1)).long()
        return {"input_features": torch.randn(len(frames), 80, 3000), "feature_attention_mask": mask}


class GraniteSpeech(Peer):
    name = "transformers' Granite Speech"

    def __init__(self, shared: Shared) -> None:
        sizes = shared.widths.encoder
        dim, heads = sizes["d_model"], sizes["encoder_attention_heads"]
        encoder = {
            "hidden_dim": dim, "num_layers": sizes["encoder_layers"], "num_heads": heads, "dim_head": dim // heads,
            "input_dim": 160,
        }  # fmt: skip
        projector = {
            "model_type": "blip_2_qformer", "hidden_size": dim, "num_hidden_layers": 2, "num_attention_heads": heads,
            "intermediate_size": sizes["encoder_ffn_dim"], "encoder_hidden_size": dim,
        }  # fmt: skip
        config = GraniteSpeechConfig(
            encoder_config=encoder, projector_config=projector, text_config=_one_layer(shared), audio_token_index=AUDIO,
            has_lora_adapter=False, downsample_rate=WINDOW // QUERIES, window_size=WINDOW,
        )  # fmt: skip
        self.model = GraniteSpeechForConditionalGeneration(config)
        self.encoder, self.adapter = self.model.encoder, self.model.projector
        super().__init__(shared)

    def vectors(self, seconds: float) -> int:
        frames = round(100 * seconds) // STRIDE
        return -(-frames // WINDOW) * QUERIES

    def features(self, clips: Clips) -> dict[str, Tensor]:
        longest = round(100 * max(clips.seconds)) // STRIDE
        most = max(map(self.vectors, clips.seconds))
        counts = torch.tensor([self.vectors(seconds) for seconds in clips.seconds])
        return {
            "input_features": torch.randn(len(clips.seconds), longest, 160),
            "input_features_mask": torch.arange(most) < counts.unsqueeze(1),
        }


def _one_layer(shared: Shared) -> dict[str, Any]:
    """Configuration of a small LLM, which the shared one replaces."""
    return {**shared.widths.llm, "num_hidden_layers": 1}


SYSTEMS: dict[str, Callable[[Shared], System]] = {
    "ours, padded to 30 s": lambda shared: Ours("ours, padded to 30 s", shared),
    "ours, trimmed": lambda shared: Ours("ours, trimmed", shared, trim=True),
    "ours, not padded": lambda shared: Ours("ours, not padded", shared, pad_to_30s=False),
    "ours, cached": lambda shared: Ours("ours, cached", shared, trim=True, cached=True),
    "ours, cached, padded rows": lambda shared: Ours(
        "ours, cached, padded rows", shared, trim=True, cached=True, packed=False
    ),
    Voxtral.name: Voxtral,
    Qwen2Audio.name: Qwen2Audio,
    GraniteSpeech.name: GraniteSpeech,
}
"""Makers of the systems by name; each takes seconds."""


def label_of(name: str, dtype: torch.dtype) -> str:
    return f"{name} ({name_of(dtype)})"


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def dtypes_of(options: argparse.Namespace, device: str) -> list[torch.dtype]:
    """What `--dtype` names, else bfloat16 on a GPU and float32 on a CPU."""
    names = options.dtype or ["bfloat16" if device == "cuda" else "float32"]
    return [getattr(torch, name) for name in dict.fromkeys(names)]


def systems_of(options: argparse.Namespace, device: str) -> list[System]:
    """
    :param options: options of `speechllm bench step` or `decode`.
    :returns: the systems that `--only` names, or all, in each precision.
    :raises UserError: an option is outside its range, or names no system.
    """
    if not all(0.5 <= seconds <= 30 for seconds in options.clips):
        raise UserError(f"--clips: found {options.clips}, expected lengths of 0.5 to 30 seconds")
    for name in ("tokens", "rounds"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name}: found {getattr(options, name)}, expected at least 1")
    words = [word.lower() for word in options.only or [""]]
    chosen = [make for name, make in SYSTEMS.items() if any(word in name.lower() for word in words)]
    if not chosen:
        raise UserError(f"--only: found {' '.join(options.only)}, expected words of {'; '.join(SYSTEMS)}")
    widths = WIDTHS[options.widths]
    return [
        system for dtype in dtypes_of(options, device) for system in _systems_in(dtype, widths, device, chosen)
    ]


def _systems_in(
    dtype: torch.dtype, widths: Widths, device: str, chosen: Sequence[Callable[[Shared], System]]
) -> list[System]:
    torch.manual_seed(0)
    own = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            shared = Shared(widths)
            systems = [make(shared if device == "cuda" else Shared(widths)) for make in chosen]
    finally:
        torch.set_default_dtype(own)
    for system in systems:
        system.dtype = dtype
    return systems


def clock() -> float:
    """The time in seconds, after the GPU, if there is one, has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def command_of(options: argparse.Namespace, device: str) -> str:
    """The command as a page of results shows it."""
    where = "--device cuda" if device == "cuda" else f"--threads {torch.get_num_threads()}"
    words = [f"speechllm bench {options.benchmark} {where} --rounds {options.rounds}"]
    if options.widths != "small":
        words.append(f"--widths {options.widths}")
    if options.dtype:
        words.append(f"--dtype {' '.join(options.dtype)}")
    if options.only:
        words.append(f"--only {shlex.join(options.only)}")
    return " ".join(words)
