"""Our own systems."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as HfWhisperEncoder

from speechllm_plugin.adapters.api import ADAPTERS, AdapterShape
from speechllm_plugin.encoders.whisper import WhisperConfig as WhisperPartConfig
from speechllm_plugin.encoders.whisper import WhisperSpeechEncoder
from speechllm_plugin.llms.causal_checks import check_packing
from speechllm_plugin.llms.causal_llm import CausalLlm, CausalLlmConfig
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.llms.packing import MULTIPLE
from speechllm_plugin.prompts import RenderedPrompt
from speechllm_tools.bench.system import AFTER, BEFORE, Clips, Shared, System


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
        self.name, self._cached, self._rate = name, cached, 50.0 / stack
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
        self._seconds = clips.seconds
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

    @property
    def decoder(self) -> nn.Module:
        return self._llm.decoder

    def positions(self) -> int:
        lengths = self._row_lengths(self._speech_lengths())
        if self._llm.worth_packing([torch.empty(length, 0) for length in lengths]):
            return math.ceil(sum(lengths) / MULTIPLE) * MULTIPLE
        return len(lengths) * max(lengths)

    def real_positions(self) -> int:
        heard = [math.ceil(self._rate * seconds) for seconds in self._seconds]
        return sum(self._row_lengths(list(map(min, self._speech_lengths(), heard))))

    def _speech_lengths(self) -> list[int]:
        with torch.no_grad():
            lengths: list[int] = self._speech()[1].tolist()
        return lengths

    def _row_lengths(self, speech: list[int]) -> list[int]:
        return [length + AFTER + len(self._targets[0]) - 1 for length in speech]

    def decode(self, tokens: int) -> int:
        with torch.no_grad():
            speech, lengths = self._speech()
            rows = self._llm.generate(
                self._prompts, speech, lengths, keys=[str(i) for i in range(len(lengths))],
                limits=[tokens] * len(lengths), end_of_turn=1, config=DecodingConfig(),
            )  # fmt: skip
        return sum(len(row.tokens) for row in rows)
