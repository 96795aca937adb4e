"""The guard against made-up texts: for silence and noise an LLM writes a text that is likely in its training data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.prompts import RenderedPrompt
from speechllm_plugin.tensors.logits import Logits

_BLOCK = 1600
"""Samples of 0.1 s at 16 kHz: shorter than a syllable, longer than a click."""


def find_no_speech(
    llm: Llm,
    prompts: Sequence[RenderedPrompt],
    speech: Tensor,
    lengths: Tensor,
    generated: Sequence[Generated],
    waveforms: Sequence[Tensor | None],
    blank_shares: Sequence[float] | None,
    config: DecodingConfig,
) -> dict[int, str]:
    """The rows whose text the keys `config.no_speech_*` empty, each with the reason.

    :param speech: `[B, T, dim]` with `lengths` `[B]`, on the host.
    :param waveforms: the audio of each row, `[samples]`, for its level.
    :param blank_shares: see `blank_shares`; None without a CTC head.
    :raises UserError: there is no CTC head for `config.no_speech_blank_share`.
    """
    if config.no_speech_blank_share is not None and blank_shares is None:
        raise UserError(
            f"decoding.no_speech_blank_share: found {config.no_speech_blank_share}, expected null: no CTC head scores "
            "the frames"
        )
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
        least = config.no_speech_blank_share
        if least is not None and blank_shares is not None and (share := blank_shares[row]) >= least:
            found[row] = f"blank share {share:.3f}"
            continue
        if config.no_speech_probability is not None:
            known = hypothesis.log_probability
            if known is None:
                # Each row is scored alone, so that the result does not depend on its batch.
                own = slice(row, row + 1)
                loss = llm.loss(prompts[own], speech[own, : int(lengths[row])], lengths[own], [hypothesis.tokens])
                known = -float(loss)
            if (probability := math.exp(known / len(hypothesis.tokens))) < config.no_speech_probability:
                found[row] = f"probability {probability:.3f}"
    return found


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
