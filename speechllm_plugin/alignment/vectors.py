"""The frames of each token where an adapter's i-th vector stands for the i-th token (CIF)."""

from __future__ import annotations

from collections.abc import Sequence


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
