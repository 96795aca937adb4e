"""The guard against made-up texts: for silence and noise an LLM writes what is likely in its training data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.prompts import RenderedPrompt

_BLOCK = 1600
"""Samples of 0.1 s at 16 kHz: shorter than a syllable, longer than a click."""


def find_no_speech(
    llm: Llm,
    prompts: Sequence[RenderedPrompt],
    speech: Tensor,
    lengths: Tensor,
    generated: Sequence[Generated],
    waveforms: Sequence[Tensor | None],
    config: DecodingConfig,
) -> dict[int, str]:
    """The rows whose text `config.no_speech_level` or `config.no_speech_probability` takes away, each with the reason.

    :param speech: `[B, T, dim]` with `lengths` `[B]`.
    :param waveforms: `[samples]` of each row, for the level.
    """
    found: dict[int, str] = {}
    for row, hypothesis in enumerate(generated):
        if not hypothesis.tokens:
            continue
        if config.no_speech_level is not None:
            if (waveform := waveforms[row]) is None:
                raise ValueError("the level of a clip whose features are cached is not known")
            if (level := loudness(waveform)) < config.no_speech_level:
                found[row] = f"level {level:.1f} dB"
                continue
        if config.no_speech_probability is not None:
            # Each row alone, so that the result does not depend on its batch.
            own = slice(row, row + 1)
            loss, count = llm.loss(prompts[own], speech[own, : int(lengths[row])], lengths[own], [hypothesis.tokens])
            if (probability := math.exp(-float(loss) / count)) < config.no_speech_probability:
                found[row] = f"probability {probability:.3f}"
    return found


def loudness(waveform: Tensor) -> float:
    """Root mean square of the loudest 0.1 s, in dB; 0 = full scale, -inf = digital silence.

    :param waveform: float, `[samples]` at 16 kHz.
    """
    if not waveform.numel():
        return -math.inf
    power = float(torch.stack([block.pow(2).mean() for block in waveform.float().split(_BLOCK)]).max())
    return 10 * math.log10(power) if power > 0 else -math.inf
