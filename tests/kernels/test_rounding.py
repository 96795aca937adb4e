"""Half precision to the bit: what kernels read and write, and whole operators where float32 sums are exact."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels import cif_cases, ctc_collapse_cases
from tests.kernels.backends import DEVICE, FAST

HALVES = [torch.bfloat16, torch.float16]


def bits(tensor: Tensor) -> Tensor:
    """With one kind of NaN, and of zero."""
    tensor = tensor.detach().where(tensor == tensor, math.nan) + 0
    return tensor.view({2: torch.int16, 4: torch.int32}[tensor.element_size()]).cpu()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_kernels_read_and_write_numbers_as_pytorch_does(dtype: torch.dtype) -> None:
    """Every number of the dtype, and float32 at, below, above and between all that round to each; NaN, too."""
    pytest.importorskip("triton")
    from tests.kernels.casts import narrow_kernel, widen_kernel

    block = 4096
    half = torch.arange(1 << 16, dtype=torch.int32, device=DEVICE).to(torch.int16).view(dtype)
    wide = torch.empty(len(half), device=DEVICE)
    widen_kernel[(len(half) // block,)](half, wide, BLOCK=block)
    assert torch.equal(bits(wide), bits(half.float()))

    base = half.float().view(torch.int32)
    step = 1 << (15 if dtype == torch.bfloat16 else 12)
    for offset in (0, 1, step - 1, step, step + 1, 2 * step - 1):
        single = (base + offset).view(torch.float32)
        found = torch.empty(len(half), dtype=dtype, device=DEVICE)
        narrow_kernel[(len(half) // block,)](single, found, BLOCK=block)
        assert torch.equal(bits(found), bits(single.to(dtype))), offset


def draw(shape: tuple[int, ...], largest: float, dtype: torch.dtype) -> Tensor:
    """Sixteenths, as many as `largest` in either direction."""
    generator = torch.Generator().manual_seed(len(shape))
    return (torch.randint(-int(largest), int(largest) + 1, shape, generator=generator) / 16).to(DEVICE, dtype)


def assert_same_bits(name: str, value: Tensor, exact: Tensor) -> None:
    assert torch.equal(exact.float().double(), exact), f"{name} is not exact in float32"
    assert torch.equal(bits(value), bits(exact.to(value.dtype))), name


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("trained", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_exact_sums_of_cif_have_the_same_bits_everywhere(dtype: torch.dtype, trained: bool, backend: str) -> None:
    """Weights are eighths and frames full numbers of the dtype: many sums lie midway between two of its numbers."""
    alpha = torch.tensor([[2, 5, 3, 4, 1, 6, 8, 3], [0, 7, 7, 2, 8, 8, 0, 0], [3, 1, 4, 0, 0, 0, 0, 0]]) / 8
    # The targets scale the rows by 2, 1/2 and 1.
    targets = torch.tensor([8, 2, 1], device=DEVICE) if trained else None
    cotangent = draw((3, 8 if trained else 4, 3), 31, dtype)
    lengths = torch.tensor([8, 6, 3], device=DEVICE)
    arguments = (draw((3, 8, 3), 2 / torch.finfo(dtype).eps - 1, dtype), alpha.to(DEVICE, dtype), lengths)
    found, gradients = cif_cases.run(*arguments, cotangent=cotangent, target_lengths=targets, backend=backend)
    exact, exact_gradients = cif_cases.run(
        *arguments, cotangent=cotangent, target_lengths=targets, backend="reference", wide=True
    )
    assert_same_bits("seqs", found.seqs, exact.seqs)
    for name, gradient in gradients.items():
        assert gradient.dtype == dtype
        assert_same_bits(name, gradient, exact_gradients[name])
    for rounded in (exact.seqs, exact_gradients["dalpha"]):
        assert not torch.equal(rounded.to(dtype).double(), rounded), "nothing is rounded"


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("weighting", ["mean", "prob"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_exact_means_of_ctc_collapse_have_the_same_bits_everywhere(
    dtype: torch.dtype, weighting: Any, backend: str
) -> None:
    """Runs of 1, 2 and 4 frames, or probabilities of 1, 1/2 and 1/4 that sum to 1 in a run."""
    labels, ties = [1, 1, 0, 0, 0, 0, 3, 2], [1] * 8
    if weighting == "prob":
        # So many logits are equal, from that of the label on; the others are -inf.
        labels, ties = [1, 1, 0, 2, 2, 2, 3, 3], [2, 2, 1, 4, 4, 2, 2, 2]
    logits = torch.full((1, 8, 6), -math.inf)
    for frame, (label, count) in enumerate(zip(labels, ties, strict=True)):
        logits[0, frame, label : label + count] = 0.0
    h = draw((1, 8, 3), 2 / torch.finfo(dtype).eps - 1, dtype)
    inputs = (h, torch.tensor([8], device=DEVICE), logits.to(DEVICE, dtype))
    cotangent = draw((1, 4, 3), 31, dtype)
    found, gradients = ctc_collapse_cases.run(inputs, backend, (weighting, True, None), cotangent)
    exact, exact_gradients = ctc_collapse_cases.run(inputs, "reference", (weighting, True, None), cotangent, wide=True)
    assert_same_bits("seqs", found.seqs, exact.seqs)
    assert_same_bits("h", gradients["h"], exact_gradients["h"])
    assert not torch.equal(exact.seqs.to(dtype).double(), exact.seqs), "nothing is rounded"
