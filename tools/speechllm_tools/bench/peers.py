"""Classes of transformers that a user might choose."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GraniteSpeechConfig,
    GraniteSpeechForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
)

from speechllm_tools.bench.system import AFTER, BEFORE, VOCABULARY, Clips, Shared, System

AUDIO = VOCABULARY - 1
"""Token that stands for a vector of audio."""
QUERIES, WINDOW, STRIDE = 3, 15, 2
"""Granite Speech's queries for each window, the window in its encoder's frames, and mel frames in each of them."""


class Peer(System):
    """A class of transformers."""

    model: Any
    llm: Any

    def __init__(self, shared: Shared) -> None:
        self.model.language_model = self.llm = shared.llm
        self.model.config.text_config = shared.llm.config
        self.model.eval().requires_grad_(False)
        self.adapter.requires_grad_(True)

    def vectors(self, seconds: float) -> int:
        """Number of audio vectors in the prompt."""
        raise NotImplementedError

    def heard(self, seconds: float) -> int:
        """Those of them that hold some of the clip, not only of the silence behind it."""
        return self.vectors(seconds)

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

        self._silent = sum(self.vectors(seconds) - self.heard(seconds) for seconds in clips.seconds)
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

    @property
    def decoder(self) -> nn.Module:
        decoder: nn.Module = self.llm.get_decoder()
        return decoder

    def real_positions(self) -> int:
        return int(self._batch["attention_mask"].sum()) - self._silent

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

    def heard(self, seconds: float) -> int:
        return math.ceil(375 * seconds / 30)

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
