"""Every adapter inside the whole system: it trains on CTC alone and with the LLM, and decodes a batch as its clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.config import CtcConfig, PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.model import SpeechLlm

BERT = {"dim": 16, "num_heads": 2, "ffn_dim": 32, "dropout": 0.0}
CONFIGS: dict[str, dict[str, Any]] = {
    "base": {**BERT, "num_layers": 1},
    "cif": {**BERT, "layers_before": 1, "layers_after": 1},
    "conv": {**BERT, "layers_before": 1, "layers_after": 1},
    "ctc": {**BERT, "layers_before": 1, "layers_after": 1},
    "mlp": {"stack": 5, "hidden_dim": 32},
    "subsample": {**BERT, "num_layers": 1},
    "wlq_former": {**BERT, "num_layers": 2},
}


def create(config: SpeechLlmConfig, name: str) -> SpeechLlm:
    config.adapter = PartSection(name=name, config=CONFIGS[name])
    config.ctc = CtcConfig(weight=0.1)
    torch.manual_seed(0)
    return create_speech_llm(config)


def batches_of(manifest: Path, batch_size: int) -> list[SpeechTextBatch]:
    utterances = SpeechTextDataset(SpeechTextConfig(manifests={"all": str(manifest)})).read("all")
    options = ReadOptions(limits=BatchLimits(batch_size, None), shuffle_seed=None, max_seconds=30.0)
    return [batch for step in SpeechTextReader(utterances, options) for batch in step]


@pytest.mark.parametrize("name", CONFIGS)
def test_training_lowers_the_loss(tiny_config: SpeechLlmConfig, tiny_manifest: Path, name: str) -> None:
    model, batch = create(tiny_config, name).train(), batches_of(tiny_manifest / "train.tsv", 12)[0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for step in range(12):
        loss = model(batch, lm=step >= 2)
        optimizer.zero_grad()
        (loss.total / loss.num_targets).backward()
        # Data parallelism waits for a gradient of each parameter, also while CTC trains alone.
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
        optimizer.step()
        losses += [] if loss.lm is None else [loss.lm.sum().item()]
    assert loss.adapter.keys() == model.adapter.loss_weights.keys()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_decodes_as_its_clips_alone(tiny_config: SpeechLlmConfig, tiny_manifest: Path, name: str) -> None:
    model, config = create(tiny_config, name).eval(), DecodingConfig(extra_tokens=3)
    texts, generated = model.generate(batches_of(tiny_manifest / "test.tsv", 6)[0], config)[:2]
    for i, single in enumerate(batches_of(tiny_manifest / "test.tsv", 1)):
        alone, alone_generated = model.generate(single, config)[:2]
        assert (alone, alone_generated) == ([texts[i]], [generated[i]])
    assert len(set(texts)) > 1
