"""LLMs whose rotary positions depend on the longest row of a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.decoding import Generated
from speechllm_plugin.llms.scaled_positions import unscaled_positions
from tests.plugin.llm_families import load_family, save_family
from tests.plugin.llms.test_running import JOINS, LIMITS, add, alone, batch_of, rows_of

KINDS: dict[str, dict[str, Any]] = {
    "dynamic": {"rope_type": "dynamic", "factor": 8.0},
    "longrope": {"rope_type": "longrope", "factor": 8.0, "short_factor": [1.0] * 16, "long_factor": [9.0] * 16},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("llama", tmp_path_factory.mktemp("scaled") / "llm")


def scaled(folder: Path, kind: str, dtype: str, edge: int) -> Llm:
    """:param edge: positions beyond which they change."""
    values = json.loads((folder / "config.json").read_text())
    half = values["head_dim"] // 2
    options = {name: value[:half] if isinstance(value, list) else value for name, value in KINDS[kind].items()}
    values["max_position_embeddings"] = edge
    if kind == "longrope":
        options["original_max_position_embeddings"] = values["original_max_position_embeddings"] = edge
    values["rope_scaling"] = options
    values.pop("rope_parameters", None)
    (folder / "config.json").write_text(json.dumps(values))
    return load_family("llama", folder, dtype)


def sizes_of(llm: Llm) -> list[int]:
    """Positions of each row with its longest text."""
    rows = rows_of(llm)
    return [len(row.prefix) + len(row.embeddings) + limit for row, limit in zip(rows, LIMITS, strict=True)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_row_changes_the_positions_of_another(folder: Path, kind: str, dtype: str) -> None:
    edge = sorted(sizes_of(load_family("llama", folder)))[3]
    llm = scaled(folder, kind, dtype, edge)
    assert 1 < sum(size >= edge for size in sizes_of(llm)) < 7
    expected = [alone(llm, row) for row in range(7)]
    batch, names, found = batch_of(llm), dict[int, int](), dict[int, Generated]()
    for step in range(200):
        names.update(add(batch, llm, JOINS.get(step, [])))
        found.update((names[number], row) for number, row in batch.step().items())
    assert [found[row].tokens for row in range(7)] == [row.tokens for row in expected]


@torch.no_grad()
def test_a_row_remembers_none_before_it(folder: Path) -> None:
    llm = scaled(folder, "dynamic", "float32", 30)
    assert min(sizes_of(llm)) > 30
    expected = [alone(llm, row) for row in range(7)]
    llm.model(inputs_embeds=torch.zeros(1, 700, llm.dim))  # type: ignore[attr-defined]
    assert [alone(llm, row) for row in range(7)] == expected


def test_other_positions_have_no_edge() -> None:
    assert unscaled_positions(LlamaConfig(max_position_embeddings=64)) is None
    linear = {"rope_type": "linear", "factor": 2.0}
    assert unscaled_positions(LlamaConfig(max_position_embeddings=64, rope_scaling=linear)) is None
