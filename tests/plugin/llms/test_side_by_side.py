"""Passes over several rows have the bits of passes over each, or are not made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speechllm_plugin.llms.causal import create_causal_llm
from speechllm_plugin.llms.causal_llm import CausalLlm, CausalLlmConfig
from speechllm_plugin.llms.side_by_side import SIZES, pass_rows
from speechllm_plugin.llms.states import length_of
from speechllm_plugin.pretrained import freeze

LENGTHS = [1, 16, 7, SIZES[-1] + 1, 40, 33, 480, 2, 50]
"""More than one pass takes, and a row that is longer than any."""
PREFIXES = [(5, 9, 3), (), (5, 9, 3), (4,), (), (7, 8), (5, 9, 3), (), (4,)]


@pytest.fixture
def llm(tiny_llm: Path) -> CausalLlm:
    return freeze(create_causal_llm(CausalLlmConfig(path=str(tiny_llm), dtype="bfloat16")))


@pytest.fixture
def sizes(llm: CausalLlm) -> Iterator[list[int]]:
    """Positions of each call of the decoder."""
    seen: list[int] = []

    def see(module: object, inputs: object, options: dict[str, Tensor]) -> None:
        if "inputs_embeds" in options:  # otherwise it is a prefix
            seen.append(options["inputs_embeds"].size(1))

    hook = llm.decoder.register_forward_pre_hook(see, with_kwargs=True)
    yield seen
    hook.remove()


def passed(llm: CausalLlm, rows: list[int]) -> list[tuple[Tensor, Any]]:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(length, llm.dim, generator=generator).bfloat16() for length in LENGTHS]
    states = {prefix: llm.prefix_states(prefix) for prefix in PREFIXES}
    with torch.no_grad():
        return pass_rows(llm, [inputs[row] for row in rows], [states[PREFIXES[row]] for row in rows])


def test_rows_have_the_bits_that_they_have_alone(llm: CausalLlm, sizes: list[int]) -> None:
    if llm.packs_to_the_bit < SIZES[-1]:
        pytest.skip("this machine sums in another order where there are more positions")
    alone = [passed(llm, [row])[0] for row in range(len(LENGTHS))]
    sizes.clear()
    together = passed(llm, list(range(len(LENGTHS))))
    assert sizes == [32, SIZES[-1] + 1, 96, SIZES[-1], 64], "not as few passes as there could be"
    for (hidden, states), (own, owns), length, prefix in zip(together, alone, LENGTHS, PREFIXES, strict=True):
        assert torch.equal(hidden, own) and len(hidden) == length
        assert length_of(states) == length + len(prefix)
        assert all(torch.equal(x, y) for x, y in zip(sum(states, []), sum(owns, []), strict=True))


@pytest.mark.parametrize(
    ("shows_from", "most", "passes"), [(384, 256, [256, 48, 480]), (32, 0, [40, 33, 50, 40, 33, 50, 40, 480])]
)
def test_passes_are_no_larger_than_keeps_bits(
    llm: CausalLlm, sizes: list[int], monkeypatch: pytest.MonkeyPatch, shows_from: int, most: int, passes: list[int]
) -> None:
    if llm.packs_to_the_bit < 256:
        pytest.skip("this machine sums in another order where there are more positions")
    linear = next(module for module in llm.decoder.modules() if isinstance(module, nn.Linear))

    def other_order(inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs, linear.weight) * (1 + (inputs.shape[-2] >= shows_from) * 2**-7)

    monkeypatch.setattr(linear, "forward", other_order)
    llm.bfloat16()  # it is tried anew
    assert llm.packs_to_the_bit == most
    rows = [4, 5, 8, 4, 5, 8, 4, 6]
    sizes.clear()
    together = passed(llm, rows)
    assert sizes == passes
    alone = [passed(llm, [row])[0] for row in rows]
    assert all(torch.equal(hidden, own) for (hidden, _), (own, _) in zip(together, alone, strict=True))
