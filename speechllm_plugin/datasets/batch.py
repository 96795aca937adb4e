"""A batch of clips with their texts."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class SpeechTextBatch:
    """Clips in the order of their rows. Audio is ragged: padding is the encoder's business."""

    ids: list[str]
    rows: list[int]
    """Each clip's place in its split, to put results back in order."""
    audio: list[str]
    """Each clip's audio as its manifest names it."""
    audio_keys: list[str]
    """Identity of each clip's audio, for the feature cache."""
    seconds: list[float]
    """Duration of each clip."""
    texts: list[str]
    """What the LLM should answer; empty where unknown."""
    transcripts: list[str]
    """What is said, in the language of the speech; empty where the manifest has no `src_text`."""
    source_langs: list[str]
    target_langs: list[str]
    """Equal to the source language for speech recognition."""
    waveforms: list[Tensor | None]
    """Float32 at 16 kHz, `[samples]`; None where `features` has the clip."""
    features: list[Tensor | None]
    """Cached encoder features, `[T, C]`."""
    counted: bool = True
    """False for a batch that only keeps this process in step with the others: it is run but enters no result."""

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, index: int) -> SpeechTextBatch:
        """One clip as a batch of its own."""
        lists = {field.name: value for field in fields(self) if isinstance(value := getattr(self, field.name), list)}
        changes: dict[str, Any] = {name: value[index : index + 1] for name, value in lists.items()}
        return replace(self, **changes)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> None:
        """Moves the tensors in place, as fairseq2's trainer wants it."""
        for tensors in (self.waveforms, self.features):
            tensors[:] = [None if x is None else x.to(device, non_blocking=non_blocking) for x in tensors]
