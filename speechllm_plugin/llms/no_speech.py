"""The guard against made-up texts: for silence and noise an LLM writes a text that is likely in its training data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.prompts import RenderedPrompt
from speechllm_plugin.tensors.logits import Logits

_BLOCK = 1600
"""Samples of 0.1 s at 16 kHz: shorter than a syllable, longer than a click."""


def find_no_speech(
    llm: Llm,
    prompt: RenderedPrompt,
    speech: Tensor,
    length: Tensor,
    hypothesis: Generated,
    waveform: Tensor | None,
    blank_share: float | None,
    config: DecodingConfig,
) -> str:
    """Why `config.no_speech_*` takes a clip's text away; empty = it does not.

    :param speech: `[1, T, dim]`, `length` `[1]` on the host.
    :param waveform: `[samples]`, for the level.
    :param blank_share: see `blank_shares`; None without a CTC head.
    """
    if not hypothesis.tokens:
        return ""
    if config.no_speech_level is not None:
        if waveform is None:
            raise ValueError("the level of a clip whose features are cached is not known")
        if (level := loudness(waveform)) < config.no_speech_level:
            return f"level {level:.1f} dB"
    least = config.no_speech_blank_share
    if least is not None and blank_share is not None and blank_share >= least:
        return f"blank share {blank_share:.3f}"
    if config.no_speech_probability is not None:
        known = hypothesis.log_probability
        if known is None:
            known = -float(llm.loss([prompt], speech, length, [hypothesis.tokens]))
        if (probability := math.exp(known / len(hypothesis.tokens))) < config.no_speech_probability:
            return f"probability {probability:.3f}"
    return ""


def blank_shares(frame_logits: Logits, frame_lengths: Tensor) -> list[float]:
    """The share of each clip's frames whose likeliest label is the blank.

    :param frame_logits: `[B, T, labels]`; label 0 is the blank.
    :param frame_lengths: `[B]`, on the host.
    """
    best = frame_logits.argmax(dim=-1) if isinstance(frame_logits, Tensor) else frame_logits.best()
    blank = (best == 0).cpu()
    return [int(row[:length].sum()) / length for row, length in zip(blank, frame_lengths.tolist(), strict=True)]


def loudness(waveform: Tensor) -> float:
    """Root mean square of the loudest 0.1 s, in dB; 0 = full scale, -inf = digital silence.

    :param waveform: float, `[samples]` at 16 kHz.
    """
    if not waveform.numel():
        return -math.inf
    power = float(torch.stack([block.pow(2).mean() for block in waveform.float().split(_BLOCK)]).max())
    return 10 * math.log10(power) if power > 0 else -math.inf
