"""The parts of a system as pure functions of tensors, for programs that run graphs."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from speechllm_plugin.encoders.api import SpeechEncoder
from speechllm_plugin.models.speech_llm.ctc_head import LlmEmbeddingCtcHead
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.tensors.logits import whole
from speechllm_plugin.tensors.masks import stack_frames


class EncoderGraph(nn.Module):
    """Turns audio into features."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param waveforms: `[B, samples]`, float32 at 16 kHz, zeros beyond each length.
        :param lengths: `[B]`, int64, samples.
        :returns: features `[B, T, C]`, float32, and their lengths.
        """
        features, lengths = self.encoder.encode(waveforms, lengths)
        return features.float(), lengths.clone()


class AdapterGraph(nn.Module):
    """Turns features into speech embeddings, with the CTC head where the adapter compresses by it."""

    words: Tensor

    def __init__(self, system: SpeechLlm) -> None:
        super().__init__()
        self.adapter = system.adapter
        self.frame_stack = system.config.frame_stack
        self.ctc = system.ctc if system.adapter.needs_classifier else None
        words = None
        if isinstance(self.ctc, LlmEmbeddingCtcHead):
            # Only the rows of the LLM's table that are labels.
            words = system.llm.embed(self.ctc.label_tokens()).detach().float()
        self.register_buffer("words", words, persistent=False)

    def forward(self, features: Tensor, feature_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param features: `[B, T, C]`, float32, with lengths `[B]`, int64.
        :returns: `[B, U, llm_dim]`, float32, zeros beyond each length, and the lengths.
        """
        stacked, lengths = stack_frames(features, feature_lengths, self.frame_stack)
        output = self.adapter(stacked, lengths, None, None if self.ctc is None else self._classify)
        # Cloned, so that the output has a name of its own where it would be the input's lengths.
        return output.seqs, output.lengths.clone()

    def _classify(self, frames: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
        assert self.ctc is not None
        return whole(self.ctc(frames, embed, lambda _: self.words))
