"""The adapter `subsample`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from speechllm_plugin.adapters.api import Adapter

LENGTHS = torch.tensor([1, 4, 5, 23])


@pytest.mark.parametrize(("ratio", "num_layers"), [(4, 2), (1, 1), (3, 0), (8, 1)])
def test_every_nth_frame_goes_through_the_layers(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor], ratio: int, num_layers: int
) -> None:
    adapter, seqs = create_adapter("subsample", ratio=ratio, num_layers=num_layers).eval(), encoder_features(LENGTHS)
    output = adapter(seqs, LENGTHS, classify=lambda frames, embed: embed(frames))
    assert len(adapter.layers.layers) == num_layers
    assert adapter.frame_stride == ratio and adapter.output_rate(50.0) == 50.0 / ratio
    for row, length in enumerate(LENGTHS.tolist()):
        kept = seqs[row : row + 1, list(range(0, length, ratio))]
        frames = adapter.layers(adapter.input_norm(adapter.input(kept)), torch.tensor([kept.size(1)]))
        expected = adapter.norm(adapter.output(frames))[0]
        assert output.lengths[row] == output.frame_lengths[row] == kept.size(1)
        torch.testing.assert_close(output.seqs[row, : kept.size(1)], expected, atol=1e-6, rtol=1e-4)
        assert torch.equal(output.frame_logits[row, : kept.size(1)], output.seqs[row, : kept.size(1)])
