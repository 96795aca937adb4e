"""When each word of a hypothesis was said.

Two sources, the better one first:

- a trained CTC head: the hypothesis is force-aligned with the frames (Viterbi over CTC's states, as in
  arXiv 2007.09127), no label on a silent frame. It works with every adapter that shows its frames to the head, on the
  text that the LLM wrote, whatever CTC itself would have read.
- an adapter whose i-th vector stands for the i-th token (CIF): token and vector are matched in order, in proportion
  where their numbers differ.

Times are those of recognition. A translation puts words in another order, so it gets the span of its clip, and so does
an answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from speechllm_plugin.adapters.api import AdapterOutput
from speechllm_plugin.alignment.timed_text import Timed, TimedText
from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.ctc_head import Piece, frames_needed
from speechllm_plugin.tensors.logits import Logits, columns, first_frames
from speechllm_plugin.text.scripts import has_spaces

if TYPE_CHECKING:
    from speechllm_plugin.models.speech_llm.model import SpeechLlm

PAUSE = 0.5
"""Seconds of silence between two words that end a segment."""
LONGEST = 10.0
"""Seconds after which a segment ends at the next word, as subtitles do."""
SILENCE = 40.0
"""A frame this many decibels below the clip's loudest is silent. On synthetic speech this alone took the mean error of
word starts from 0.18 s to 0.13 s: CTC, which sees the whole clip, often puts a word into the silence before it."""
SOUNDS_ON = 0.3
"""Seconds that a label lasts at most into the blanks after it, while there is sound: CTC's labels are spikes, and
without this one gap in forty within fluent speech would pass for a pause."""
_SENTENCE_END = re.compile(r"[.?!…。？！][\"'”’)\]」』]*$")


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


def time_texts(
    model: SpeechLlm, batch: SpeechTextBatch, speech: AdapterOutput, texts: Sequence[str]
) -> list[TimedText]:
    """
    :param speech: of `batch`, with its frames scored where the model has a CTC head.
    :param texts: the hypotheses.
    """
    return [_time_text(model, batch, speech, row, text) for row, text in enumerate(texts)]


def _time_text(model: SpeechLlm, batch: SpeechTextBatch, speech: AdapterOutput, row: int, text: str) -> TimedText:
    clip = batch.clips[row]
    seconds = clip.seconds
    whole = [Timed(text, 0.0, seconds)]
    if not text:
        return TimedText(text, whole, whole, 1.0)
    if not clip.task.writes_speech:
        return TimedText(text, whole, whole, 0.0)
    # As in the transcripts that CTC and CIF were trained on.
    tokens = [Piece(*piece) for piece in model.prompts.pieces(text)]
    waveform = clip.waveform
    assert waveform is not None
    pieces, spans = _piece_spans(model, speech, row, text, tokens, waveform)
    frame = 1.0 / model.frame_rate
    times = [None if span is None else (min(span[0] * frame, seconds), min(span[1] * frame, seconds)) for span in spans]
    units = _units(text, pieces, spaces=has_spaces(clip.source_lang))
    if not units:
        return TimedText(text, whole, whole, 0.0)
    words = [_span_of(unit, pieces, times) for unit in units]
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
        # Speech ends with the clip, however far the encoder has padded it.
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


def sounding(waveform: Tensor, num_frames: int, rate: float) -> Tensor:
    """Which frames are not silent, bool `[num_frames]`.

    :param waveform: `[samples]` at 16 kHz.
    :param rate: frames per second.
    """
    size = round(SAMPLE_RATE / rate)
    samples = waveform[: num_frames * size].float().cpu()
    samples = F.pad(samples, (0, num_frames * size - len(samples)))
    power = samples.view(num_frames, size).pow(2).mean(dim=1)
    return power >= power.max() * 10 ** (-SILENCE / 10)


def forced_alignment(logits: Logits, labels: Sequence[int], sound: Tensor) -> list[tuple[int, int]] | None:
    """The likeliest way through CTC's states that spells the labels with as few of them on silent frames as can be.

    :param logits: of the frames, `[T, labels]`; label 0 is the blank.
    :param sound: which frames are not silent, bool `[T]`.
    :returns: the first frame of each label and one past its last; None where the frames are too few.
    """
    num_frames, num_states = len(sound), 2 * len(labels) + 1
    if not labels or frames_needed(labels) > num_frames:
        return None
    states = torch.zeros(num_states, dtype=torch.long)  # blank, label, blank, label, ..., blank
    states[1::2] = torch.tensor(labels)
    # The softmax's denominator is the same for every way.
    scores = columns(logits, states).double().cpu()  # (T, states)
    scores[:, 1::2] -= 1e6 * (~sound).unsqueeze(1)
    # The blank between two labels may be left out if they differ.
    may_skip = F.pad((states[2:] != states[:-2]) & (states[2:] != 0), (2, 0))
    best = torch.full((num_states,), -torch.inf, dtype=torch.float64)
    best[:2] = scores[0, :2]
    steps = torch.zeros(num_frames, num_states, dtype=torch.long)
    for t in range(1, num_frames):
        skipped = F.pad(best[:-2], (2, 0), value=-torch.inf).masked_fill(~may_skip, -torch.inf)
        best, steps[t] = torch.stack([best, F.pad(best[:-1], (1, 0), value=-torch.inf), skipped]).max(dim=0)
        best = best + scores[t]
    state = num_states - 1 if best[-1] >= best[-2] else num_states - 2
    path = [state]
    for row in reversed(steps[1:].tolist()):
        state -= row[state]
        path.append(state)
    path.reverse()
    spans: list[tuple[int, int]] = []
    for index in range(1, num_states, 2):
        first = path.index(index)
        spans.append((first, first + path.count(index)))
    return spans


def lengthen(spans: Sequence[tuple[int, int]], sound: Sequence[bool], most: int) -> list[tuple[int, int]]:
    """Lets each span go on over sounding frames until the next begins, by `most` frames at most."""
    following = [*(first for first, _ in spans[1:]), len(sound)]
    longer = []
    for (first, last), limit in zip(spans, following, strict=True):
        end = last
        while end < min(limit, last + most) and sound[end]:
            end += 1
        longer.append((first, end))
    return longer


def match_in_order(num_tokens: int, starts: Sequence[int], ends: Sequence[int]) -> list[tuple[float, float]]:
    """The frames of each token: those of its vector where the numbers are equal, in proportion where they are not.

    :param starts: first frame of each vector, `[U]`.
    :param ends: one past its last; the frame in which two vectors meet belongs to both.
    """

    def frame_at(place: float) -> float:
        vector = min(int(place), len(starts) - 1)
        return starts[vector] + (place - vector) * (ends[vector] - starts[vector])

    step = len(starts) / num_tokens
    return [(frame_at(i * step), frame_at((i + 1) * step)) for i in range(num_tokens)]


def _units(text: str, pieces: Sequence[Piece], *, spaces: bool) -> list[tuple[int, int]]:
    """Where the words of a text begin and end, in characters; without spaces, where its pieces do."""
    if spaces:
        return [match.span() for match in re.finditer(r"\S+", text)]
    units: list[tuple[int, int]] = []
    for piece in pieces:
        if text[piece.start : piece.end].isspace() or piece.start == piece.end:
            continue
        # A character of several bytes can be several pieces.
        if units and piece.start < units[-1][1]:
            units[-1] = (units[-1][0], max(piece.end, units[-1][1]))
        else:
            units.append((piece.start, piece.end))
    return units


def _span_of(
    unit: tuple[int, int], pieces: Sequence[Piece], times: Sequence[tuple[float, float] | None]
) -> tuple[float, float] | None:
    # A piece may begin with the space before its word: its last character tells where it belongs.
    own = [time for piece, time in zip(pieces, times, strict=True) if unit[0] < piece.end <= unit[1] and time]
    return (own[0][0], own[-1][1]) if own else None


def interpolate(words: Sequence[tuple[float, float] | None], seconds: float) -> list[tuple[float, float]]:
    """Puts the words without a time evenly between their neighbours."""
    placed: list[tuple[float, float]] = []
    index = 0
    while index < len(words):
        word = words[index]
        if word is not None:
            placed.append(word)
            index += 1
            continue
        last = index
        while last < len(words) and words[last] is None:
            last += 1
        start = placed[-1][1] if placed else 0.0
        following = words[last] if last < len(words) else None
        step = ((following[0] if following else seconds) - start) / (last - index)
        placed += [(start + i * step, start + (i + 1) * step) for i in range(last - index)]
        index = last
    return placed


def segment(text: str, words: Sequence[Timed], units: Sequence[tuple[int, int]]) -> list[Timed]:
    """
    :param units: the characters of each word in the text.
    """
    segments: list[Timed] = []
    first = 0
    for i, word in enumerate(words):
        following = words[i + 1] if i + 1 < len(words) else None
        if (
            following is None
            or following.start - word.end > PAUSE
            or following.end - words[first].start > LONGEST
            or _SENTENCE_END.search(word.text)
        ):
            segments.append(Timed(text[units[first][0] : units[i][1]], words[first].start, word.end))
            first = i + 1
    return segments
