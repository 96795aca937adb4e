"""The sizes of the miniature's data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MiniatureConfig:
    """Size and randomness of the data: each sentence is a clip in each of the five languages."""

    train: int = 400
    """Sentences to train on: 2,000 clips of about 2 s."""

    dev: int = 8
    """Sentences to watch a training with."""

    test: int = 50
    """New sentences, by voices of the training."""

    seed: int = 2
    """Seed of everything random: sentences, voices, speeds, pitches."""
