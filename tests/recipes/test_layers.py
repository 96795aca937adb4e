"""Activation checkpointing and compilation change what a step costs, never its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.commands import Commands, System, metrics

ADAPTER = {
    "name": "base",
    "config": {"num_layers": 2, "dim": 16, "num_heads": 2, "ffn_dim": 32, "dropout": 0.5},
}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "checkpointed": {"trainer__activation_checkpointing": {"mode": "layerwise"}},
    "every second": {"trainer__activation_checkpointing": {"mode": "layerwise", "every_nth_layer": 2}},
    # The backend that traces and then runs PyTorch's own operators: no compiler is needed.
    "compiled": {"model__compile": True, "model__compile_options": {"backend": "aot_eager"}},
}


@pytest.fixture(scope="module")
def runs(commands: Commands, system: System, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("layers")
    for way, changes in WAYS.items():
        file = system.write(
            folder / f"{way}.yaml", model__config_overrides__adapter=ADAPTER, regime__num_steps=4,
            regime__score_metric=None, dataset__valid_splits=[], **changes,
        )
        commands.recipe("train", folder / way, "--config-file", file).ok()
    return {way: folder / way for way in WAYS}


@pytest.mark.parametrize("way", ["checkpointed", "every second"])
def test_checkpointing_gives_the_same_numbers(runs: dict[str, Path], way: str) -> None:
    # With dropout: the recomputation draws what the forward pass drew.
    assert metrics(runs[way], "train") == metrics(runs["plain"], "train")


def test_compiled_layers_give_nearly_the_same_numbers(runs: dict[str, Path]) -> None:
    for found, expected in zip(metrics(runs["compiled"], "train"), metrics(runs["plain"], "train"), strict=True):
        assert found == pytest.approx(expected, rel=1e-3)
