"""CIF: the fast backends against the reference: values, places and gradients by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from speechllm_kernels.cif import cif
from torch import Tensor

from tests.kernels.backends import DEVICE, FAST
from tests.kernels.cif_cases import CASES, OPTIONS, assert_agrees, assert_close, make_inputs, run


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("trained", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("case", CASES)
def test_backends_agree_with_the_reference(case: str, trained: bool, backend: str) -> None:
    h, alpha, lengths, targets = make_inputs(case)
    options = {"target_lengths": targets if trained else None}
    found = run(h, alpha, lengths, backend=backend, **options)
    assert_agrees(found, run(h, alpha, lengths, wide=True, backend="reference", **options))
    padding = torch.arange(h.shape[1], device=DEVICE) >= lengths[:, None]
    for name, gradient in found[1].items():
        assert (gradient[padding] == 0).all(), f"{name} of the padding"
    unused = torch.arange(found[0].seqs.shape[1], device=DEVICE) >= found[0].lengths[:, None]
    assert (found[0].seqs[unused] == 0).all()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("option", OPTIONS)
def test_options_agree_with_the_reference(option: str, backend: str) -> None:
    h, alpha, lengths, targets = make_inputs("ragged")
    options = {"target_lengths": targets if option == "eps" else None, **OPTIONS[option]}
    found = run(h, alpha, lengths, backend=backend, **options)
    assert_agrees(found, run(h, alpha, lengths, wide=True, backend="reference", **options))


@pytest.mark.full_chunks
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions_agree_with_the_reference(dtype: torch.dtype, backend: str) -> None:
    h, alpha, lengths, targets = make_inputs("ragged", dtype)
    found = run(h, alpha, lengths, target_lengths=targets, backend=backend)
    assert found[0].seqs.dtype == dtype and found[1]["dalpha"].dtype == dtype
    assert_agrees(found, run(h, alpha, lengths, wide=True, target_lengths=targets, backend="reference"))
    # The usual mixture: features in half precision, weights in single.
    found = run(h, alpha.float(), lengths, target_lengths=targets, backend=backend)
    assert found[1]["dalpha"].dtype == torch.float32
    assert_agrees(found, run(h, alpha, lengths, wide=True, target_lengths=targets, backend="reference"))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("dtype", "frames"), [(torch.bfloat16, 1021), (torch.float16, 1434)])
def test_half_precisions_are_summed_in_single(dtype: torch.dtype, frames: int, backend: Any) -> None:
    """As many equal weights, were they rounded to the dtype, would not sum to 1."""
    h = torch.ones(1, frames, 1, dtype=dtype, device=DEVICE)
    alpha = torch.full((1, frames), 0.3, device=DEVICE)
    one = torch.tensor([1], device=DEVICE)
    output = cif(h, alpha, one * frames, target_lengths=one, backend=backend)
    assert output.seqs.item() == 1


@pytest.mark.parametrize("rescale", ["renorm", "none"])
@pytest.mark.parametrize("trained", [False, True])
def test_triton_splits_long_rows(trained: bool, rescale: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks per row: the sums of each are shared through memory."""
    pytest.importorskip("triton")
    from speechllm_kernels.cif import triton_backward, triton_scan

    h, alpha, lengths, targets = make_inputs("ragged")
    options = {"target_lengths": targets if trained else None, "tail_rescale": rescale, "tail_threshold": 0.01}
    expected = run(h, alpha, lengths, wide=True, backend="reference", **options)
    monkeypatch.setattr(triton_scan, "CHUNK", 8)
    monkeypatch.setattr(triton_backward, "CHUNK", 8)
    assert_agrees(run(h, alpha, lengths, backend="triton", **options), expected)


@pytest.mark.parametrize("backend", FAST)
def test_only_one_input_requires_a_gradient(backend: Any) -> None:
    h, alpha, lengths, targets = make_inputs("ragged")
    _, both = run(h, alpha, lengths, target_lengths=targets, backend=backend)
    for name, leaf in (("dh", h), ("dalpha", alpha)):
        leaf.requires_grad_()
        output = cif(h, alpha, lengths, target_lengths=targets, backend=backend)
        generator = torch.Generator().manual_seed(1)
        (gradient,) = torch.autograd.grad(
            output.seqs, leaf, torch.randn(output.seqs.shape, generator=generator).to(DEVICE)
        )
        if name == "dalpha":
            gradient = gradient + (torch.arange(h.shape[1], device=DEVICE) < lengths[:, None]) / 8
        assert torch.allclose(gradient, both[name], rtol=1e-6, atol=1e-6), name
        leaf.requires_grad_(False)
    frozen = cif(h, alpha, lengths, backend=backend)
    assert not frozen.seqs.requires_grad and not frozen.alpha_sum.requires_grad


@pytest.mark.parametrize("backend", FAST)
def test_any_strides(backend: Any) -> None:
    h, alpha, lengths, targets = make_inputs("ragged")
    expected = run(h, alpha, lengths, target_lengths=targets, backend=backend)
    strided = (
        h.transpose(1, 2).contiguous().transpose(1, 2),
        torch.stack((alpha, alpha * 0), 2)[:, :, 0],
        torch.stack((lengths, lengths * 0), 1)[:, 0],
    )
    assert not any(tensor.is_contiguous() for tensor in strided)
    found = run(*strided, target_lengths=torch.stack((targets, targets), 1)[:, 0], backend=backend)
    assert_agrees(found, expected)
    # A gradient that is one number seen everywhere.
    h.requires_grad_()
    cif(h, alpha, lengths, target_lengths=targets, backend=backend).seqs.sum().backward()
    wide = h.detach().double().requires_grad_()
    cif(wide, alpha.double(), lengths, target_lengths=targets, backend="reference").seqs.sum().backward()
    assert h.grad is not None and wide.grad is not None
    assert_close("dh", h.grad, wide.grad, 3e-6)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("trained", [False, True], ids=["inference", "training"])
def test_a_batch_equals_its_rows_alone_and_repeats_itself(trained: bool, backend: Any) -> None:
    h, alpha, lengths, targets = make_inputs("ragged")

    cotangent = torch.randn(len(h), 13, h.shape[2], generator=torch.Generator().manual_seed(1)).to(DEVICE)

    def with_gradients(chosen: slice) -> list[Tensor]:
        frames = int(lengths[chosen].max())
        leaves = [tensor[chosen, :frames].detach().requires_grad_() for tensor in (h, alpha)]
        output = cif(
            *leaves,
            lengths[chosen],
            target_lengths=targets[chosen] if trained else None,
            max_output_length=13,
            backend=backend,
        )
        gradients = torch.autograd.grad(output.seqs, leaves, cotangent[chosen])
        return [output.seqs, output.fire_frames, output.alpha_sum, *gradients]

    batch = with_gradients(slice(None))
    for value, again in zip(batch, with_gradients(slice(None)), strict=True):
        assert torch.equal(value, again)
    for row, length in enumerate(lengths.tolist()):
        seqs, fires, sums, grad_h, grad_alpha = with_gradients(slice(row, row + 1))
        for value, expected in zip((seqs, fires, sums), batch, strict=False):
            assert torch.equal(value[0], expected[row])
        assert torch.equal(grad_h[0], batch[3][row, :length])
        if backend == "triton":
            assert torch.equal(grad_alpha[0], batch[4][row, :length])
        else:  # BLAS takes the products of a frame in an order that depends on its address.
            assert_close("dalpha", grad_alpha[0], batch[4][row, :length], 1e-6)
