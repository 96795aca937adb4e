"""What fits a GPU, and what is advised where nothing does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from speechllm_plugin.cost.autograd_memory import Kept
from speechllm_plugin.cost.estimate import LOGITS_BYTES, Cost, Work
from speechllm_plugin.cost.gpu_memory import room_for

GB = 1_000_000_000


def cost(kept: float, recomputed: float, ctc: float = 0.0) -> Cost:
    """With weights of 20 GB."""
    none = Work(0, 0, 0)
    llm = Work(0, round(kept * GB), round(recomputed * GB))
    return Cost(none, none, Work(0, round(ctc * GB), round(ctc * GB)), llm, 18 * GB, 2 * GB)


@pytest.mark.parametrize(
    ("memory", "recompute", "fits", "expected"),
    [
        (120, False, 10, "10 clips take 100.0 GB, within 90% of its 120.0 GB: without activation checkpointing"),
        (80, True, 10, "10 clips take 100.0 GB, with activation checkpointing 30.0 GB, within 90% of its 80.0 GB"),
        # 8 would fit, but not make 40 clips of whole batches that are no larger: 8 x 5 does.
        (31.2, True, 8, "8 would fit; dataset.batch_size=8 trainer.grad_accumulation.num_batches=5 makes the same"),
        (30.1, True, 7, "7 would fit; dataset.batch_size=5 trainer.grad_accumulation.num_batches=8 makes the same"),
        (22, True, 0, "not even one clip is within 90% of its 22.0 GB"),
    ],
)
def test_what_fits(memory: float, recompute: bool, fits: int, expected: str) -> None:
    room = room_for(cost(8.0, 1.0), 10, round(memory * GB))
    assert (room.recompute, room.fits) == (recompute, fits)
    assert expected in room.describe(accumulate=4)


def test_ctc_takes_no_more_than_its_pieces() -> None:
    found = cost(8.0, 1.0, ctc=1.2)
    assert found.gpu_bytes(1) == 20 * GB + 8 * GB + 1.2 * GB
    assert found.gpu_bytes(10) == 20 * GB + 80 * GB + LOGITS_BYTES


def test_layers_that_are_run_again_keep_their_inputs_and_one_of_them_all() -> None:
    """Three layers of two products: each keeps the input of both, and the ReLU's result is the second's input."""
    layers = [nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8)) for _ in range(3)]
    model = nn.Sequential(*layers)
    kept = Kept(model, layers)
    with kept:
        hidden = torch.randn(5, 8, requires_grad=True) * 1.0
        model(hidden)
    row = 4 * 5
    assert kept.total == 3 * row * (8 + 32)
    assert kept.recomputed == 3 * row * 8 + row * (8 + 32)
