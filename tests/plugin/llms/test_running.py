"""Rows that come and go while others are written: none of them shows in the tokens of another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.batch import Batch
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.joining import PromptRow
from speechllm_plugin.prompts import PromptConfig, PromptRenderer
from tests.plugin.llm_families import load_family, save_family

LANGUAGES = [("en", "en"), ("en", "de"), ("de", "de"), ("de", "en"), ("en", "en"), ("en", "de"), ("de", "de")]
LENGTHS = [1, 9, 17, 4, 12, 2, 7]
LIMITS = [30, 4, 14, 22, 9, 25, 18]
PLAIN = DecodingConfig()
PENALTIES = DecodingConfig(no_repeat_ngram_size=2, repetition_penalty=1.2)
SAMPLES = DecodingConfig(temperature=0.9, top_k=50, top_p=0.95, seed=1)
CONFIGS = [PLAIN, PENALTIES, PLAIN, SAMPLES, PLAIN, SAMPLES, PENALTIES]
JOINS = {0: [0, 1], 2: [2], 5: [3, 4], 6: [5], 16: [6]}
"""The rows that join before a step."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(
    scope="module",
    params=[
        ("llama", "float32"), ("llama", "bfloat16"),
        ("gemma3", "float32"),  # a sliding window, which counts padding
        ("gemma2", "bfloat16"),  # the same, and eager attention
        ("mt5", "float32"), ("mt5", "bfloat16"),  # rows wait until none is written
    ],
    ids="-".join,
)  # fmt: skip
def llm(request: pytest.FixtureRequest, folder: Path) -> Llm:
    name, dtype = request.param
    return load_family(name, saved(name, folder), dtype)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def llama(request: pytest.FixtureRequest, folder: Path) -> Llm:
    return load_family("llama", saved("llama", folder), request.param)


@cache
def saved(name: str, folder: Path) -> Path:
    return save_family(name, folder / name)


@pytest.fixture
def widths(llama: Llm) -> Iterator[list[tuple[int, int]]]:
    """Rows and keys of each step."""
    seen: list[tuple[int, int]] = []

    def see(module: object, inputs: object, options: dict[str, Tensor]) -> None:
        inputs_embeds, mask = (options.get(name) for name in ("inputs_embeds", "attention_mask"))
        if inputs_embeds is not None and inputs_embeds.size(1) == 1 and mask is not None and mask.dim() == 2:
            seen.append((mask.size(0), mask.size(1)))

    hook = llama.decoder.register_forward_pre_hook(see, with_kwargs=True)  # type: ignore[union-attr, operator]
    yield seen
    hook.remove()


def add(batch: Batch, llm: Llm, rows: list[int], limits: list[int] = LIMITS) -> dict[int, int]:
    """:returns: the rows by their numbers in the batch."""
    renderer = PromptRenderer(llm.tokenizer, PromptConfig(order="instruction_first"), chat=llm.chat)
    scale = llm.embedding_table.float().pow(2).mean().sqrt()
    speech = scale * torch.randn(len(LENGTHS), max(LENGTHS), llm.dim, generator=torch.Generator().manual_seed(5))
    found: dict[int, int] = {}
    for config in (PLAIN, PENALTIES, SAMPLES):
        alike = [row for row in rows if CONFIGS[row] == config]
        if alike:
            numbers = batch.add(
                llm.prompt_rows(
                    [renderer.render(*LANGUAGES[row]) for row in alike], speech[alike],
                    torch.tensor([LENGTHS[row] for row in alike]),
                ),
                keys=[f"clip {row}" for row in alike], limits=[limits[row] for row in alike], config=config,
            )  # fmt: skip
            found.update(zip(numbers, alike, strict=True))
    return found


def batch_of(llm: Llm) -> Batch:
    return llm.running_batch(PromptRenderer(llm.tokenizer, PromptConfig(), chat=llm.chat).end_of_turn)


def alone(llm: Llm, row: int, limits: list[int] = LIMITS) -> Generated:
    batch = batch_of(llm)
    add(batch, llm, [row], limits)
    (found,) = batch.finish().values()
    return found


def test_rows_that_join_give_the_tokens_that_they_give_alone(llm: Llm) -> None:
    batch, names, found = batch_of(llm), dict[int, int](), dict[int, Generated]()
    for step in range(200):
        names.update(add(batch, llm, JOINS.get(step, [])))
        found.update((names[number], row) for number, row in batch.step().items())
        if len(found) == 7:
            break
    assert not len(batch) and batch.step() == {}
    expected = [alone(llm, row) for row in range(7)]
    assert [found[row] for row in range(7)] == expected
    assert len({tuple(row.tokens) for row in expected}) == 7, "equal texts would not show a mixed-up row"
    assert max(len(row.tokens) for row in expected) > 20


def test_a_row_that_is_dropped_leaves_its_place(llm: Llm) -> None:
    batch = batch_of(llm)
    names, found = add(batch, llm, [0, 2, 3]), dict[int, Generated]()
    for _ in range(2):
        found.update(batch.step())
    names.update(add(batch, llm, [4, 5]))
    for row in (2, 5):  # one that is written, and one that has just joined
        batch.drop(next(number for number, other in names.items() if other == row))
    assert len(batch) == 3 - len(found)
    found.update(batch.finish())
    assert {names[number]: text for number, text in found.items()} == {row: alone(llm, row) for row in (0, 3, 4)}


def test_a_short_text_does_not_wait_for_a_long_one(llama: Llm, widths: list[tuple[int, int]]) -> None:
    limits = [120, 2, 2, 2, 2, 2, 2]
    assert len(alone(llama, 0, limits).tokens) > 60
    widths.clear()
    batch, ended = batch_of(llama), list[int]()
    names = add(batch, llama, [0], limits)
    for step in range(200):
        if step in (3, 12):
            names.update(add(batch, llama, [1, 4] if step == 3 else [2], limits))
        ended += [names[number] for number in batch.step()]
        if step == 11:
            assert sorted(ended) == [1, 4], "short ones are told late"
        if not len(batch):
            break
    assert ended[-1] == 0 and ended[2] == 2
    rows = [count for count, _ in widths]
    assert max(rows) > 1 and rows[-20:] == [1] * 20, "rows that have ended stay, or none has joined"


def test_what_is_kept_is_as_long_as_the_longest_row_that_is_left(llama: Llm, widths: list[tuple[int, int]]) -> None:
    """A server's batch may never end: otherwise its keys would grow for ever."""
    batch, limits = batch_of(llama), [12] * 7
    names = add(batch, llama, [4], limits)
    turns, ended = [2, 1, 6, 5, 3] * 3, 0
    for row in turns:
        for _ in range(6):
            ended += len(batch.step())
        names.update(add(batch, llama, [row], limits))
        assert len(batch) >= 1
    assert ended + len(batch.finish()) == 1 + len(turns)
    prompt = max(len(row.prefix) + len(row.embeddings) for row in rows_of(llama))
    assert max(size for _, size in widths) <= prompt + 2 * max(limits) < prompt + 6 * len(turns)


def rows_of(llm: Llm) -> list[PromptRow]:
    renderer = PromptRenderer(llm.tokenizer, PromptConfig(order="instruction_first"), chat=llm.chat)
    speech = torch.zeros(len(LENGTHS), max(LENGTHS), llm.dim)
    return llm.prompt_rows([renderer.render(*pair) for pair in LANGUAGES], speech, torch.tensor(LENGTHS))


def test_a_row_that_cannot_be_read_changes_nothing(llama: Llm) -> None:
    batch = batch_of(llama)
    names = add(batch, llama, [0, 3])
    batch.step()
    too_narrow = PromptRow(torch.zeros(3, llama.dim - 1, dtype=llama.embedding_table.dtype))
    with pytest.raises(RuntimeError):
        batch.add([rows_of(llama)[1], too_narrow], keys=["1", "x"], limits=[3, 3], config=PLAIN)
    assert len(batch) == 2
    names.update(add(batch, llama, [4]))
    found = {names[number]: row for number, row in batch.finish().items()}
    assert found == {row: alone(llama, row) for row in (0, 3, 4)}


def test_beams_and_tokens_share_a_batch(llama: Llm) -> None:
    beams = replace(PLAIN, beam_size=3)
    rows = rows_of(llama)
    expected = {}
    for row, config in ((0, PLAIN), (1, beams), (2, beams), (3, PLAIN)):
        batch = batch_of(llama)
        (number,) = batch.add([rows[row]], keys=[str(row)], limits=[8], config=config)
        expected[row] = batch.finish()[number]
    batch = batch_of(llama)
    names = dict(zip(batch.add([rows[0]], keys=["0"], limits=[8], config=PLAIN), [0], strict=True))
    batch.step()
    names.update(zip(batch.add(rows[1:3], keys=["1", "2"], limits=[8, 8], config=beams), [1, 2], strict=True))
    names.update(zip(batch.add([rows[3]], keys=["3"], limits=[8], config=PLAIN), [3], strict=True))
    assert {names[number]: row for number, row in batch.finish().items()} == expected
