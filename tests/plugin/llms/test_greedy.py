"""Our own greedy search against transformers' `generate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from speechllm_plugin.llms.causal import create_causal_llm
from speechllm_plugin.llms.causal_llm import CausalLlm, CausalLlmConfig
from speechllm_plugin.llms.causal_rows import CausalRows
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.generation import Search, generate_rows
from speechllm_plugin.llms.greedy import GreedyLoop, Writing
from speechllm_plugin.llms.joining import PromptRow, pad_rows
from speechllm_plugin.llms.packing import MULTIPLE
from speechllm_plugin.pretrained import freeze

PREFIXES = [(5, 9, 3), (), (7,), (5, 9, 3), (2, 4, 8, 6)]
LENGTHS = [4, 11, 1, 7, 3]
LIMITS = [3, 30, 8, 1, 12]
DECODINGS = [
    DecodingConfig(),
    DecodingConfig(repetition_penalty=1.3, no_repeat_ngram_size=2),
    DecodingConfig(temperature=1.0, top_k=50, seed=4),
]


@pytest.fixture(scope="module")
def llm(tiny_llm: Path) -> CausalLlm:
    return freeze(create_causal_llm(CausalLlmConfig(path=str(tiny_llm), dtype="float32")))


@pytest.fixture
def shapes(llm: CausalLlm) -> Iterator[list[tuple[int, int]]]:
    """Rows and positions of each call of the decoder."""
    seen: list[tuple[int, int]] = []

    def see(module: object, inputs: object, options: dict[str, Tensor]) -> None:
        rows = options["input_ids"] if options.get("inputs_embeds") is None else options["inputs_embeds"]
        seen.append((rows.size(0), rows.size(1)))

    hook = llm.decoder.register_forward_pre_hook(see, with_kwargs=True)
    yield seen
    hook.remove()


def written(llm: CausalLlm, rows: list[Tensor], search: Search) -> list[Generated]:
    batch = llm.running_batch(search.end_of_turn)
    prompts = [PromptRow(row, prefix) for row, prefix in zip(rows, PREFIXES, strict=True)]
    numbers = batch.add(prompts, keys=search.keys, limits=search.limits, config=search.config)
    found = batch.finish()
    return [found[number] for number in numbers]


def rows_of(llm: CausalLlm) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.3 * torch.randn(length, llm.dim, generator=generator) for length in LENGTHS]


@pytest.mark.parametrize("config", DECODINGS, ids=["greedy", "without repetitions", "samples"])
@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
@torch.no_grad()
def test_the_tokens_are_those_of_generate(
    llm: CausalLlm, shapes: list[tuple[int, int]], config: DecodingConfig, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm, "packs", packs and llm.packs)
    rows, end = rows_of(llm), llm.tokenizer.eos_token_id
    search = Search([str(row) for row in range(5)], LIMITS, end, config)
    llm.prefix_cache(PREFIXES)  # whose states are known from now on
    shapes.clear()
    found = written(llm, rows, search)
    prompt, steps = shapes[0], shapes[1:]
    assert prompt == ((1, MULTIPLE * -(-sum(LENGTHS) // MULTIPLE)) if packs else (5, max(LENGTHS)))
    assert [size for _, size in steps] == [1] * len(steps)
    sizes = [size for size, _ in steps]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 5, "rows that have ended stay"
    whole = [torch.cat([llm.embed_ids(prefix), row]) for prefix, row in zip(PREFIXES, rows, strict=True)]
    inputs, mask = pad_rows(whole, "left")
    expected = generate_rows(
        llm.model, llm.tokenizer, {"inputs_embeds": inputs, "attention_mask": mask}, search
    )
    assert found == expected
    assert [len(row.tokens) for row in found] == LIMITS and found[3] == Generated(found[3].tokens, cut=True)


@pytest.mark.parametrize("config", DECODINGS, ids=["greedy", "without repetitions", "samples"])
@torch.no_grad()
def test_rows_go_on_from_what_they_have_as_if_they_had_just_written_it(
    llm: CausalLlm, shapes: list[tuple[int, int]], config: DecodingConfig
) -> None:
    search = Search([str(row) for row in range(5)], LIMITS, llm.tokenizer.eos_token_id, config)
    whole = [row.tokens for row in written(llm, rows_of(llm), search)]
    rows = CausalRows(llm, search.end_of_turn)
    rows.add([PromptRow(row, prefix) for row, prefix in zip(rows_of(llm), PREFIXES, strict=True)])
    rows.draft_states(range(5), [[]] * 5)  # reads the prompts
    some = {1: whole[1][:9], 0: [], 4: whole[4][:2]}
    shapes.clear()
    loop = GreedyLoop(llm.logits, rows.stops, llm.device)
    loop.add([Writing(row, search.only([row]), list(text)) for row, text in some.items()],
             rows.draft_states(list(some), list(some.values())))  # fmt: skip
    assert shapes == [(3, 10)], "the prompts are run again"
    ended = [row for _ in range(max(LIMITS)) if len(loop) for row in loop.step()]
    assert {row.number: row.text for row in ended} == {row: whole[row] for row in some}
