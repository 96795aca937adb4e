"""What `ctc_collapse` gives."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class CtcCollapseOutput(NamedTuple):
    """Collapsed sequences, and where each vector came from. All integers are int64."""

    seqs: Tensor
    """[B, U, C] in the dtype of `h`; exactly 0 beyond a row's length."""

    lengths: Tensor
    """[B] vectors of each row."""

    labels: Tensor
    """[B, U] label of each vector (of its first run where the cap merged several); -1 beyond the length."""

    starts: Tensor
    """[B, U] first frame of each vector; 0 beyond the length."""

    ends: Tensor
    """[B, U] frame after the last one of each vector; 0 beyond the length. Dropped blanks between merged runs lie
    inside the span and have no weight."""

    merged: Tensor
    """[B] runs that the cap merged away: runs minus vectors."""

    frame_labels: Tensor
    """[B, T] label of each frame; -1 in the padding."""

    host_lengths: Tensor | None = None
    """[B] `lengths` on the host, where U was learnt from them; None where nothing was read."""
