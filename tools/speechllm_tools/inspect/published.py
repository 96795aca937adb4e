"""The figures of arXiv 2409.17044 for its adapters, which are printed beside our own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """A row of table II, in millions of parameters. Neither projection is counted there."""

    length: float | None
    """The length adapter; None where the table has one figure for both."""
    modality: float


SIZES = {
    "base": Size(0.0, 28.35),
    "conv": Size(25.20, 28.35),
    "cif": Size(28.15, 28.35),
    "ctc": Size(25.20, 28.35),
    "wlq_former": Size(None, 33.09),
}
"""Table II. CTC and CIF are counted with a head over Mistral's vocabulary."""

SIZE_NOTES = {
    "conv": "the published 25.20 M equals CTC's to the digit and matches no two stride-2 convolutions of width 768",
    "cif": "published for Mistral's vocabulary: the CTC head grows with the LLM's",
    "ctc": "published for Mistral's vocabulary: the CTC head grows with the LLM's",
}


@dataclass(frozen=True)
class Rate:
    """A cell of table I, which the paper estimates on the test sets after training."""

    compression: int
    """Encoder frames for each output vector."""
    hertz: float
    """Output vectors per second."""


RATES = {
    "seamless_m4t_v2": {
        "base": Rate(1, 6.25),
        "cif": Rate(3, 2.08),
        "conv": Rate(4, 1.56),
        "ctc": Rate(2, 3.12),
        "wlq_former": Rate(2, 3.12),
    },
    "whisper_large_v3": {
        "base": Rate(1, 50.0),
        "cif": Rate(25, 2.00),
        "conv": Rate(4, 12.5),
        "ctc": Rate(13, 3.85),
        "wlq_former": Rate(16, 3.12),
    },
}
"""Table I."""


def closest_encoder(frame_rate: float) -> str:
    """The paper's encoder whose rates are used for an encoder that is not in the paper."""
    return "seamless_m4t_v2" if frame_rate < 25 else "whisper_large_v3"
