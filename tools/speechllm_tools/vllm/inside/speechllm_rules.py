"""What `DecodingConfig` says against repetition, applied to the logits of a token, by the tokens of its text alone."""

from __future__ import annotations

from torch import Tensor


def process(ngram_size: int, penalty: float, text: list[int], logits: Tensor) -> Tensor:
    """
    :param ngram_size: no n-gram of this many tokens occurs twice; 0 = off.
    :param penalty: for tokens that the text has already; 1 = off.
    :param logits: of the token that follows `text`, `[V]`; changed in place.
    """
    if penalty != 1 and text:
        known = logits[text]
        logits[text] = (known * penalty).where(known < 0, known / penalty)
    if banned := _ends_of_repeats(ngram_size, text):
        logits[banned] = float("-inf")
    return logits


def _ends_of_repeats(size: int, text: list[int]) -> list[int]:
    """The tokens that would make the text's last n-gram one that it has already."""
    if size == 0 or len(text) < size:
        return []
    begun = text[len(text) - size + 1 :]
    return [
        text[place + size - 1] for place in range(len(text) - size + 1) if text[place : place + size - 1] == begun
    ]
