"""Activation checkpointing and compilation change what a step costs, never its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from speechllm_plugin.models.speech_llm.config import PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.units.layers import compile_speech_llm
from tests.commands import Commands, System, metrics

ADAPTER = {
    "name": "base",
    "config": {"num_layers": 2, "dim": 16, "num_heads": 2, "ffn_dim": 32, "dropout": 0.5},
}
CHECKPOINTED: dict[str, Any] = {"trainer__activation_checkpointing": {"mode": "layerwise"}}
LORA = {"lora_rank": 2, "lora_dropout": 0.5}
TUNED: dict[str, Any] = {
    "model__config_overrides__encoder_tuning": LORA, "model__config_overrides__llm_tuning": LORA,
}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "checkpointed": CHECKPOINTED,
    "chosen by estimate": {"trainer__activation_checkpointing": {"memory_gb": 0.0005}},
    "not needed": {"trainer__activation_checkpointing": {"memory_gb": 10.0}},
    "every second": {"trainer__activation_checkpointing": {"mode": "layerwise", "every_nth_layer": 2}},
    "tuned": TUNED,
    "tuned, checkpointed": {**TUNED, **CHECKPOINTED},
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


@pytest.mark.parametrize(
    ("way", "reference", "tolerance"),
    [
        # The prompt before the speech is run with the rest instead of cached: rounding.
        ("checkpointed", "plain", 1e-4),
        ("every second", "plain", 1e-4),
        ("chosen by estimate", "checkpointed", 0.0),
        ("not needed", "plain", 0.0),
        # With a tuned LLM it never is cached.
        ("tuned, checkpointed", "tuned", 0.0),
    ],
)
def test_checkpointing_gives_the_same_numbers(
    runs: dict[str, Path], way: str, reference: str, tolerance: float
) -> None:
    # With dropout: the recomputation draws what the forward pass drew.
    lines = metrics(runs[way], "train")
    for found, expected in zip(lines, metrics(runs[reference], "train"), strict=True):
        assert found == pytest.approx(expected, rel=tolerance, abs=0.0)


def test_the_log_tells_the_estimate(runs: dict[str, Path]) -> None:
    found = {way: "".join(file.read_text() for file in (run / "logs").glob("*.log")) for way, run in runs.items()}
    assert "without activation checkpointing" in found["not needed"]
    assert "not even one clip is within 90% of its 0.0 GB" in found["chosen by estimate"]
    assert "Memory of a GPU" not in found["plain"]  # on a CPU


def test_compiled_layers_give_nearly_the_same_numbers(runs: dict[str, Path]) -> None:
    for found, expected in zip(metrics(runs["compiled"], "train"), metrics(runs["plain"], "train"), strict=True):
        assert found == pytest.approx(expected, rel=1e-3)


def test_the_adapters_layers_are_compiled_and_equal_ones_together(tiny_config: SpeechLlmConfig) -> None:
    """Nothing in a run's numbers tells whether anything was compiled."""
    tiny_config.adapter = PartSection(name="base", config={**ADAPTER["config"], "num_layers": 3})
    model = create_speech_llm(tiny_config).eval()
    features, lengths = torch.randn(2, 9, model.encoder.dim), torch.tensor([9, 5])
    expected = model.adapter(features, lengths, None).seqs
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    compile_speech_llm(model, backend=backend)
    torch.testing.assert_close(model.adapter(features, lengths, None).seqs, expected)
    assert len(graphs) == 1
