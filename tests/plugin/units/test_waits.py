"""What a training step waits for on a GPU, by a device that stands in for one: see `tests/stand_in_device.py`."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq2.metrics import MetricBag

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.models.speech_llm.config import CtcConfig, PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.units.training import SpeechLlmTrainUnit
from tests.plugin.speech_llm.systems import batches_of, create
from tests.stand_in_device import DEVICE, moved, stand_in

SMALL = {"dim": 32, "num_heads": 4, "ffn_dim": 64, "dropout": 0.0}
ADAPTERS: dict[str, dict[str, Any]] = {
    "base": {**SMALL, "num_layers": 1},
    "cif": {**SMALL, "layers_before": 1, "layers_after": 1, "token_weight": 0.3},
    "conv": {**SMALL, "layers_before": 1, "layers_after": 1},
    "ctc": {**SMALL, "layers_before": 1, "layers_after": 1},
    "mlp": {"stack": 5, "hidden_dim": 48},
    "subsample": {**SMALL, "num_layers": 1},
    "wlq_former": {**SMALL, "num_layers": 2},
}


def unit_of(model: SpeechLlm) -> SpeechLlmTrainUnit:
    reader: Any = SimpleNamespace(tasks=["transcribe"], skipped={})
    return SpeechLlmTrainUnit(model, model, reader)


def step(model: SpeechLlm, batch: SpeechTextBatch, device: torch.device) -> float:
    """One as fairseq2's trainer makes it, up to the gradient; the second of a run, whose prompts are known.

    :returns: the loss by its metric.
    """
    unit, bag = unit_of(model), MetricBag(device)
    unit.prepare_metric_bag(bag)
    unit.set_step_nr(1)
    read: Any = batch
    if device.type == "cuda":
        read.pin()
    read.to(device, non_blocking=True)
    loss, _ = unit.process_batch(read, bag)
    loss.backward()
    model.zero_grad()
    return float(bag.metrics["nll_loss"].compute())


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
def test_a_step_waits_for_nothing_but_lengths_that_depend_on_the_sound(
    adapter: str, tiny_config: SpeechLlmConfig, tiny_manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config.adapter = PartSection(name=adapter, config=ADAPTERS[adapter])
    tiny_config.ctc = CtcConfig(weight=0.3, classifier="linear")
    model = create(tiny_config).train()
    batches = [batches_of(tiny_manifest / "train.tsv")[0] for _ in range(2)]
    expected = step(model, batches_of(tiny_manifest / "train.tsv")[0], torch.device("cpu"))
    with stand_in(monkeypatch) as device:
        moved(model)
        step(model, batches[0], DEVICE)
        device.reads.clear()
        device.waiting_copies.clear()
        found = step(model, batches[1], DEVICE)
        # What the metric's value itself is read by.
        assert device.reads == ["copy"] * (adapter == "ctc") + ["_local_scalar_dense"]
        assert device.waiting_copies == []
    assert math.isclose(found, expected, rel_tol=1e-5)
