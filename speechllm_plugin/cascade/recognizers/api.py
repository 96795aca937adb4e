"""The contract of a speech recogniser."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from speechllm_plugin.registry import RECOGNIZERS as RECOGNIZERS


@dataclass(frozen=True)
class Recognized:
    text: str
    cut: bool
    """Whether the model's own limit of tokens ended it."""


class Recognizer(nn.Module):
    """A frozen model from speech to text in the same language, decoding greedily."""

    max_seconds: float | None
    """Longest clip taken, in seconds; None = any."""

    @abstractmethod
    def recognize(self, waveforms: Sequence[Tensor], languages: Sequence[str]) -> list[Recognized]:
        """Transcribes a batch; a clip gives the same text alone and in any batch.

        :param waveforms: float32 at 16 kHz, `[samples]` each, at most `max_seconds` long.
        :param languages: what is spoken, as in manifests.
        :raises UserError: the model does not know a language.
        """

    @abstractmethod
    def code(self, language: str) -> str:
        """The model's own code of a language, whatever manifests call it.

        :raises UserError: the model does not know it.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells this recogniser from another, for score files."""
