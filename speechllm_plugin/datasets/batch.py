"""A clip with its task and its texts, and a batch of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from speechllm_plugin.datasets.feature_masks import FeatureMasks
from speechllm_plugin.tasks.api import Task
from speechllm_plugin.tasks.row_prompt import NOTHING, RowPrompt
from speechllm_plugin.tensors.streams import ahead

_TENSORS = ("waveform", "features")
"""The tensors of a clip."""


@dataclass(kw_only=True)
class Clip:
    """One row of a manifest, or one file, from reading to its score."""

    id: str
    row: int
    """Place in its split, to put results back in order."""
    task: Task
    source_lang: str
    target_lang: str
    """Equal to the source language for speech recognition."""
    text: str = ""
    """What the LLM should answer; empty where unknown."""
    transcript: str = ""
    """What is said, in the language of the speech; empty where the manifest has no `src_text`."""
    references: tuple[str, ...] = ()
    """Other texts that are equally right."""
    asks: RowPrompt = NOTHING
    """The prompt of the clip's own row, beside the task."""
    draw: str = ""
    """Key by which one of several instructions of the task is drawn; empty = the first."""
    audio: str
    """The audio as its manifest names it."""
    audio_key: str
    """Identity of the audio, for the feature cache."""
    seconds: float
    """Duration."""
    waveform: Tensor | None = None
    """Float32 at 16 kHz, `[samples]`; None where there are `features`."""
    features: Tensor | None = None
    """Cached encoder features, `[T, C]`."""
    masks: FeatureMasks | None = None
    """Gaps in the clip's encoder features in training."""
    earlier: Sequence[Clip] = ()
    """The speech of earlier turns, in the order of `asks.heard`."""

    @property
    def spoken(self) -> str | None:
        """See `Task.spoken`."""
        return self.task.spoken(self.text, self.transcript)


class SpeechTextBatch:
    """Clips in the order of their rows. Audio is ragged: padding is the encoder's business.

    Lists such as `seconds` are made from the clips at each call: to change a value, change it in its clip.
    """

    def __init__(self, clips: Sequence[Clip], *, counted: bool = True) -> None:
        """
        :param counted: False for a batch that only keeps this process in step with the others: it is run, and no result
            counts it.
        """
        self.clips = list(clips)
        self.counted = counted
        self._buffers: dict[str, Tensor] = {}
        """The pinned buffers that `pin` fills, by the name of the tensor."""
        self.came_ahead = False
        """Whether the tensors were made under `tensors.streams.ahead`."""

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    def row(self, index: int) -> SpeechTextBatch:
        """One clip as a batch of its own."""
        return SpeechTextBatch([self.clips[index]], counted=self.counted)

    def with_earlier(self) -> SpeechTextBatch:
        """Everything to encode: the clips, followed by the earlier speech of each clip."""
        batch = SpeechTextBatch([*self.clips, *(one for clip in self.clips for one in clip.earlier)])
        batch.came_ahead = self.came_ahead
        return batch

    def waveform(self, index: int) -> Tensor:
        """The waveform of one clip, which has no cached features."""
        if (waveform := self.clips[index].waveform) is None:
            raise ValueError(f"{self.clips[index].id}: the batch holds cached features, but the model has no cache")
        return waveform

    def pin(self) -> None:
        """Puts the tensors of all clips into one pinned buffer, from which they are copied to a device in the
        background. This takes longer than the copy, so that a reading thread should do it."""
        for name in _TENSORS:
            if rows := self._held(name):
                self._buffers[name] = _join(rows).pin_memory()

    def to(self, device: torch.device, *, non_blocking: bool = False) -> None:
        """Moves the tensors in place, as fairseq2's trainer expects, with one copy for all clips."""
        for name in _TENSORS:
            rows = self._held(name)
            if not rows or all(row.device == device for row in rows):
                continue
            buffer = self._buffers.pop(name, None)
            flat = _join(rows) if buffer is None else buffer
            copy = partial(flat.to, device, non_blocking=non_blocking)
            moved = ahead(copy, device)
            parts = moved.split([row.numel() for row in rows])
            views = iter([part.view(row.shape) for part, row in zip(parts, rows, strict=True)])
            for clip in self.with_earlier():
                if getattr(clip, name) is not None:
                    setattr(clip, name, next(views))
            self.came_ahead = True

    def _held(self, name: str) -> list[Tensor]:
        return [tensor for clip in self.with_earlier() if (tensor := getattr(clip, name)) is not None]

    @property
    def ids(self) -> list[str]:
        return [clip.id for clip in self.clips]

    @property
    def rows(self) -> list[int]:
        return [clip.row for clip in self.clips]

    @property
    def seconds(self) -> list[float]:
        return [clip.seconds for clip in self.clips]

    @property
    def all_seconds(self) -> list[float]:
        """Seconds of all clips and of their earlier speech."""
        return [clip.seconds + sum(one.seconds for one in clip.earlier) for clip in self.clips]

    @property
    def texts(self) -> list[str]:
        return [clip.text for clip in self.clips]

    @property
    def transcripts(self) -> list[str]:
        return [clip.transcript for clip in self.clips]

    @property
    def waveforms(self) -> list[Tensor | None]:
        return [clip.waveform for clip in self.clips]

    @property
    def features(self) -> list[Tensor | None]:
        return [clip.features for clip in self.clips]


def _join(rows: Sequence[Tensor]) -> Tensor:
    return torch.cat([row.flatten() for row in rows])
