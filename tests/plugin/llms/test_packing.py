"""The attention of LLMs that are packed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from speechllm_plugin.llms.packing import NAMES, PackedRow, PackedRows

attend = ALL_ATTENTION_FUNCTIONS[NAMES["sdpa"]]


def layer() -> nn.Module:
    module = nn.Module()
    module.is_causal, module.num_key_value_groups = True, 2
    return module


def inputs(size: int, dtype: torch.dtype, kept: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (1, 4, size, 8), (1, 2, kept + size, 8), (1, 2, kept + size, 8)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def gradients(values: list[Tensor], output: Tensor) -> list[Tensor]:
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(output.dtype)
    return list(torch.autograd.grad((output * weights).sum(), values))


def test_gradients_of_half_precision_are_float32s_on_a_cpu() -> None:
    half = inputs(13, torch.bfloat16)
    full = [value.detach().float().requires_grad_() for value in half]
    found, expected = (attend(layer(), *values, None)[0] for values in (half, full))
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected.bfloat16())
    for one, other in zip(gradients(half, found), gradients(full, expected), strict=True):
        assert torch.equal(one, other.bfloat16())


def test_a_row_has_the_gradients_that_it_has_alone() -> None:
    """Rows of 5 and 7 positions behind two prefixes of 3 and 4; 4 positions fill the sequence up."""
    kept = 7
    values = inputs(16, torch.float32, kept)
    prefixes, own = [slice(0, 3), slice(3, 7)], [slice(0, 5), slice(5, 12)]
    rows = [PackedRow(prefix, place) for prefix, place in zip(prefixes, own, strict=True)]
    output = attend(layer(), *values, None, packed_rows=PackedRows(rows, kept, 16))[0]
    expected = torch.zeros_like(output)
    for row in rows:
        keys = torch.cat([torch.arange(kept)[row.prefix], kept + torch.arange(16)[row.own]])
        mask = torch.arange(len(keys)) <= torch.arange(len(keys))[row.prefix.stop - row.prefix.start :, None]
        query, key, value = values[0][:, :, row.own], values[1][:, :, keys], values[2][:, :, keys]
        alone = attend(layer(), query, key, value, mask[None, None])
        expected = expected.slice_scatter(alone[0], 1, row.own.start, row.own.stop)
    assert torch.allclose(output, expected, atol=1e-6)
    for one, other in zip(gradients(values, output), gradients(values, expected), strict=True):
        assert torch.allclose(one, other, atol=1e-6) and one.any()
