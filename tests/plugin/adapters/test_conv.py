"""The adapter `conv`, against convolutions of single rows without padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from speechllm_plugin.adapters.api import Adapter

LENGTHS = torch.tensor([1, 2, 4, 5, 23, 50])
VARIANTS: list[dict[str, Any]] = [
    {},
    {"kernel": 5, "stride": 3},
    {"num_convs": 1, "stride": 4},
    {"num_convs": 3, "kernel": 1},
    {"layers_before": 0, "layers_after": 3},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_rows_equal_plain_convolutions(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor], options: dict[str, Any]
) -> None:
    adapter, seqs = create_adapter("conv", **options).eval(), encoder_features(LENGTHS)
    kernel, stride, num_convs = (options.get(k, d) for k, d in [("kernel", 3), ("stride", 2), ("num_convs", 2)])
    output = adapter(seqs, LENGTHS, classify=lambda frames, embed: frames)
    assert len(adapter.convs) == num_convs
    for row, length in enumerate(LENGTHS.tolist()):
        one = torch.tensor([length])
        frames = adapter.layers_before(adapter.input_norm(adapter.input(seqs[row : row + 1, :length])), one)
        torch.testing.assert_close(output.frame_logits[row, :length], frames[0], atol=1e-5, rtol=1e-4)
        for i, block in enumerate(adapter.convs):
            weights = block.conv.weight, block.conv.bias
            convolved = F.conv1d(frames.transpose(1, 2), *weights, stride=stride, padding=kernel // 2)
            frames = block.norm(convolved.transpose(1, 2))
            frames = frames.relu() if i < num_convs - 1 else frames
        one = torch.tensor([frames.size(1)])
        assert output.lengths[row] == one == -(-length // stride**num_convs)
        expected = adapter.norm(adapter.output(adapter.layers_after(frames, one)))
        torch.testing.assert_close(output.seqs[row, : int(one)], expected[0], atol=1e-6, rtol=1e-4)


def test_ctc_can_score_the_final_frames(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor]
) -> None:
    adapter = create_adapter("conv", ctc_frames="after").eval()
    output = adapter(encoder_features(LENGTHS), LENGTHS, classify=lambda frames, embed: embed(frames))
    assert adapter.frame_stride == 4
    assert torch.equal(output.frame_lengths, output.lengths)
    for row, length in enumerate(output.lengths.tolist()):
        assert torch.equal(output.frame_logits[row, :length], output.seqs[row, :length])
