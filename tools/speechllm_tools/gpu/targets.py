"""The figures of a GPU beside the targets that this project has set itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from speechllm_tools.bench.peers import Voxtral

CIF_CASE = ("cif", (32, 1500, 1280, 375), "bf16", "full")
LABELS_CASE = ("labels", (8, 1500, 1280, 128256), "bf16", "full")
"""Operation, shape, precision and kind of data by which a kernel is judged."""
MATRIX_SHARE = 0.5
VOXTRAL_RATIO = 2.0
MEMORY_ERROR = 0.1
JUDGED_STEPS = ("ours, trimmed", "ours, not padded", "ours, cached")
"""The systems whose steps are judged. The others of ours are there to show what padding costs."""
_NOTHING = "not measured"


@dataclass(frozen=True)
class Verdict:
    target: str
    found: str
    reached: bool


@dataclass
class Section:
    """What a stage has found."""

    text: str
    """Its section of the page."""
    verdicts: list[Verdict] = field(default_factory=list)
    failed: bool = False
    """Whether some of it failed; the text says what."""


def kernel_verdicts(results: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """
    :param results: of the JSON documents of `speechllm bench cif` and `ctc-collapse`.
    """
    cif, labels = (_of_triton(results, *case) for case in (CIF_CASE, LABELS_CASE))
    found = {
        ("CIF's gather kernel", 0.85): _share_of_kernel(cif, "gather_kernel"),
        ("CIF's forward pass", 0.75): cif.get("shares", {}).get("forward"),
        ("CIF's backward pass", 0.70): cif.get("shares", {}).get("backward"),
        ("the labels of CTC's logits", 0.85): _share_of_kernel(labels, "ctc_label_frames_kernel"),
    }
    return [
        Verdict(
            f"{what}: {least:.0%} of the copy bandwidth or more", _NOTHING if share is None else f"{share:.0%}",
            share is not None and share >= least,
        )
        for (what, least), share in found.items()
    ]


def step_verdicts(results: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """
    :param results: of the JSON document of `speechllm bench step`, in one precision.
    """
    return [verdict for clips in sorted({row["clips"] for row in results}) for verdict in _of_steps(clips, results)]


def memory_verdict(ratios: Mapping[str, float | None]) -> Verdict:
    """
    :param ratios: of each system, the measured memory by the estimated; None where it could not be measured.
    """
    target = f"the memory of a step: within {MEMORY_ERROR:.0%} of its estimate, for each system"
    if missing := [name for name, ratio in ratios.items() if ratio is None]:
        return Verdict(target, f"{missing[0]}: {_NOTHING}", False)
    if not ratios:
        return Verdict(target, _NOTHING, False)
    name, ratio = max(((name, ratio) for name, ratio in ratios.items() if ratio), key=lambda pair: abs(pair[1] - 1))
    return Verdict(target, f"{name}: {ratio:.2f} of it", abs(ratio - 1) <= MEMORY_ERROR)


def table(verdicts: Sequence[Verdict]) -> str:
    rows = [f"| {one.target} | {one.found} | {'yes' if one.reached else 'NO'} |" for one in verdicts]
    return "\n".join(["| target | found | reached |", "| --- | --- | --- |", *rows])


def _of_steps(clips: int, results: Sequence[Mapping[str, Any]]) -> Iterator[Verdict]:
    """Of the steps with this number of clips."""
    rows = {row["system"]: row for row in results if row["clips"] == clips and not row["out_of_memory"]}
    ours = {name: rows.get(name) for name in JUDGED_STEPS}
    peer = rows.get(Voxtral.name)
    shares = {name: None if row is None else row["matrix_share"] for name, row in ours.items()}
    target = f"a step of {clips} clips: {MATRIX_SHARE:.0%} of the matrix rate or more"
    yield _least(target, shares, MATRIX_SHARE, "{:.0%}")
    ratios = {
        name: None if row is None or peer is None else _real_rate(row) / _real_rate(peer) for name, row in ours.items()
    }
    target = f"a step of {clips} clips: {VOXTRAL_RATIO:g} times Voxtral's real positions per second or more"
    yield _least(target, ratios, VOXTRAL_RATIO, "{:.1f} times")


def _least(target: str, values: Mapping[str, float | None], least: float, shown: str) -> Verdict:
    """Judges by the lowest of the values."""
    if missing := [name for name, value in values.items() if value is None]:
        return Verdict(target, f"{missing[0]}: {_NOTHING}", False)
    name, value = min(((name, value) for name, value in values.items() if value is not None), key=lambda pair: pair[1])
    return Verdict(target, f"{name}: {shown.format(value)}", value >= least)


def _real_rate(row: Mapping[str, Any]) -> float:
    return float(row["real_positions"] / row["seconds"])


def _of_triton(
    results: Sequence[Mapping[str, Any]], operation: str, shape: Sequence[int], dtype: str, variant: str
) -> Mapping[str, Any]:
    for result in results:
        key = (result["operation"], list(result["shape"]), result["dtype"], result["variant"])
        if key == (operation, list(shape), dtype, variant) and result["implementation"] == "triton":
            return result
    return {}


def _share_of_kernel(result: Mapping[str, Any], name: str) -> float | None:
    kernels = result.get("figures", {}).get("kernels", {})
    shares = (figures.get("share") for key, figures in kernels.items() if key.startswith(name))
    return next(shares, None)
