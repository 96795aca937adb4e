"""When each word of a hypothesis was said.

Two sources, the better one first:

- a trained CTC head: the hypothesis is force-aligned with the frames (`alignment.forced`). It works with every adapter
  that gives the head frames, and aligns the text that the LLM wrote, even where CTC alone would write another.
- an adapter whose i-th vector stands for the i-th token (CIF): token and vector are matched in order, in proportion
  where their numbers differ.

Only transcripts have times of words. A translation puts words in another order, so it gets the span of its clip, and
so does an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from speechllm_plugin.adapters.api import AdapterOutput
from speechllm_plugin.alignment.forced import Piece, forced_alignment, lengthen, sounding
from speechllm_plugin.alignment.timed_text import Timed, TimedText
from speechllm_plugin.alignment.vectors import match_in_order
from speechllm_plugin.alignment.words import interpolate, segment, time_of, word_spans
from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.tensors.logits import first_frames
from speechllm_plugin.text.scripts import has_spaces

SOUNDS_ON = 0.3
"""Seconds by which a label is at most extended into the blanks after it, while there is sound. CTC's labels are spikes:
without this, one gap in forty within fluent speech would count as a pause."""


def tells_times(model: SpeechLlm) -> bool:
    """Whether a model can have a source of times; `check_timestamps` checks its output for a clip."""
    return model.ctc is not None or model.adapter.vector_per_token


def check_timestamps(model: SpeechLlm, speech: AdapterOutput) -> None:
    """
    :raises UserError: the model has neither source of times.
    """
    has_ctc = model.ctc is not None and speech.frame_logits is not None
    if not has_ctc and not (model.adapter.vector_per_token and speech.starts is not None):
        raise UserError(
            f"timestamps: found adapter {model.config.adapter.name!r} without a CTC head on its frames, expected one "
            "trained with model.config_overrides.ctc.weight above 0, or one with a vector for each token (cif)"
        )


def time_clip(model: SpeechLlm, batch: SpeechTextBatch, speech: AdapterOutput, row: int, text: str) -> TimedText:
    """
    :param speech: of `batch`, with its frames scored where the model has a CTC head.
    :param text: the hypothesis of one of its clips.
    """
    clip = batch.clips[row]
    seconds = clip.seconds
    whole = [Timed(text, 0.0, seconds)]
    if not text:
        return TimedText(text, whole, whole, 1.0)
    if not clip.task.writes_speech:
        return TimedText(text, whole, whole, 0.0)
    # Pieces as in the transcripts that CTC and CIF were trained on.
    tokens = [Piece(*piece) for piece in model.prompts.pieces(text)]
    waveform = clip.waveform
    assert waveform is not None
    pieces, spans = _piece_spans(model, speech, row, text, tokens, waveform)
    frame = 1.0 / model.frame_rate
    times = [None if span is None else (min(span[0] * frame, seconds), min(span[1] * frame, seconds)) for span in spans]
    units = word_spans(text, pieces, spaces=has_spaces(clip.source_lang))
    if not units:
        return TimedText(text, whole, whole, 0.0)
    words = [time_of(unit, pieces, times) for unit in units]
    placed = sum(word is not None for word in words) / len(words)
    timed = [
        Timed(text[start:end], *time)
        for (start, end), time in zip(units, interpolate(words, seconds), strict=True)
    ]
    return TimedText(text, timed, segment(text, timed, units), placed)


def _piece_spans(
    model: SpeechLlm, speech: AdapterOutput, row: int, text: str, tokens: list[Piece], waveform: Tensor
) -> tuple[list[Piece], Sequence[tuple[float, float] | None]]:
    """The pieces of the text and the encoder frames of each, from the first to one past the last."""
    seconds = len(waveform) / SAMPLE_RATE
    if model.ctc is not None and speech.frame_logits is not None and speech.frame_lengths is not None:
        pieces = model.ctc.pieces(text, tokens)
        stride = model.adapter.frame_stride
        rate = model.frame_rate / stride
        # Speech ends with the clip, even if the encoder has padded it.
        length = min(int(speech.frame_lengths[row]), math.ceil(seconds * rate))
        sound = sounding(waveform, length, rate)
        known = [piece.label for piece in pieces if piece.label is not None]
        spans = forced_alignment(first_frames(speech.frame_logits, row, length), known, sound)
        if spans is None:
            return pieces, [None] * len(pieces)
        found = iter(lengthen(spans, sound.tolist(), int(SOUNDS_ON * rate)))
        aligned = [None if piece.label is None else next(found) for piece in pieces]
        return pieces, [None if span is None else (span[0] * stride, span[1] * stride) for span in aligned]
    assert speech.starts is not None and speech.ends is not None
    length = int(speech.lengths[row])
    starts, ends = speech.starts[row, :length].tolist(), speech.ends[row, :length].tolist()
    return tokens, match_in_order(len(tokens), starts, ends)
