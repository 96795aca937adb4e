"""The loop that writes the rows of an encoder-decoder LLM, against transformers' `generate`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.llms.encoder_decoder import EncoderDecoderLlm, EncoderDecoderRows
from speechllm_plugin.llms.generation import Search, generate_rows
from speechllm_plugin.llms.greedy import GreedyLoop, Writing
from speechllm_plugin.llms.joining import PromptRow, pad_rows
from tests.plugin.llm_families import load_family, save_family
from tests.plugin.llms.test_greedy import DECODINGS, LENGTHS, LIMITS


@pytest.fixture(scope="module", params=["mt5", "t5_tied"])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EncoderDecoderLlm:
    llm = load_family(request.param, save_family(request.param, tmp_path_factory.mktemp("llm") / "llm"))
    assert isinstance(llm, EncoderDecoderLlm)
    return llm


@pytest.mark.parametrize("config", DECODINGS, ids=["greedy", "without repetitions", "samples"])
@torch.no_grad()
def test_the_tokens_are_those_of_generate(llm: EncoderDecoderLlm, config: DecodingConfig) -> None:
    end = llm.tokenizer.eos_token_id
    scale = llm.embedding_table.pow(2).mean().sqrt()
    generator = torch.Generator().manual_seed(0)
    rows = [scale * torch.randn(length, llm.dim, generator=generator) for length in LENGTHS]
    search = Search([str(row) for row in range(5)], LIMITS, end, config, llm.start_token)
    shapes: list[tuple[int, int]] = []

    def see(module: object, inputs: object, options: dict[str, Tensor]) -> None:
        shapes.append((options["input_ids"].size(0), options["input_ids"].size(1)))

    hook = llm.model.get_decoder().register_forward_pre_hook(see, with_kwargs=True)
    batch = llm.running_batch(end)
    numbers = batch.add([PromptRow(row) for row in rows], keys=search.keys, limits=LIMITS, config=config)
    by_number = batch.finish()
    found = [by_number[number] for number in numbers]
    hook.remove()
    assert {size for _, size in shapes} == {1}
    sizes = [size for size, _ in shapes]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 5, "rows that have ended stay"
    inputs, mask = pad_rows(rows, "right")
    inputs_of = {"inputs_embeds": inputs, "attention_mask": mask}
    assert found == generate_rows(llm.model, llm.tokenizer, inputs_of, search)
    assert max(len(row.tokens) for row in found) > 9
    # A row goes on from what it has as if it had just written it, and gives alone what it gave beside the others.
    longest = max(range(5), key=lambda row: len(found[row].tokens))
    own = EncoderDecoderRows(llm, end)
    own.add([PromptRow(row) for row in rows])
    text = found[longest].tokens
    for some, states in (
        (text[:9], own.draft_states([longest], [text[:9]])), (text[:0], own.states([longest]))
    ):  # fmt: skip
        loop, row = GreedyLoop(llm.logits, own.stops, own.device), Writing(0, search.only([longest]), list(some))
        loop.add([row], states)
        while len(loop):
            loop.step()
        assert row.text == text
