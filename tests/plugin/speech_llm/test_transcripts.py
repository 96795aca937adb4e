"""Translations and answers without a transcript: no silent target of CTC or CIF."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.models.speech_llm.config import CtcConfig, PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.ctc_head import LlmEmbeddingCtcHead
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.prompts import PromptConfig
from speechllm_plugin.tasks.translate import TRANSLATE
from tests.plugin.speech_llm.systems import batches_of

SIZES = {"dim": 16, "num_heads": 2, "ffn_dim": 32, "dropout": 0.0}


def create(config: SpeechLlmConfig) -> SpeechLlm:
    torch.manual_seed(0)
    model = create_speech_llm(config).train()
    if isinstance(model.ctc, LlmEmbeddingCtcHead):
        model.ctc.set_vocabulary(range(6, 320))
    return model


@pytest.fixture
def mixed(tiny_manifest: Path) -> SpeechTextBatch:
    """Twelve clips, longest first; the third and the last are translations without a transcript."""
    batch = batches_of(tiny_manifest / "train.tsv")[0]
    for row in (2, 11):
        batch.clips[row].task, batch.clips[row].target_lang = TRANSLATE, "de"
    return batch


KNOWN = [row for row in range(12) if row not in (2, 11)]


@pytest.mark.parametrize("classifier", ["linear", "llm_embedding"])
@pytest.mark.parametrize("adapter", ["cif", "ctc", "base"])
def test_they_add_to_the_llms_loss_alone(
    tiny_config: SpeechLlmConfig, mixed: SpeechTextBatch, adapter: str, classifier: str
) -> None:
    tiny_config.adapter = PartSection(name=adapter, config=SIZES)
    tiny_config.ctc = CtcConfig(weight=0.1, classifier=classifier, no_transcript="leave_out")  # type: ignore[arg-type]
    model = create(tiny_config)
    loss = model(mixed)
    alone = [model(mixed.row(index)) for index in range(12)]
    assert loss.lm is not None
    torch.testing.assert_close(loss.lm, torch.cat([one.lm for one in alone]), atol=1e-2, rtol=1e-4)
    known = [alone[index] for index in KNOWN]
    torch.testing.assert_close(loss.ctc.loss, sum(one.ctc.loss for one in known), atol=1e-2, rtol=1e-4)
    assert loss.ctc.num_labels == sum(one.ctc.num_labels for one in known)
    assert loss.ctc.infeasible == sum(one.ctc.infeasible for one in known)
    for name, value in loss.adapter.items():
        torch.testing.assert_close(value, sum(one.adapter[name] for one in known), atol=1e-2, rtol=1e-4)
    for index in (2, 11):
        assert alone[index].ctc.loss == 0 and alone[index].ctc.num_labels == 0
        assert all(value == 0 for value in alone[index].adapter.values())
    # A transcript brings them back.
    mixed.clips[2].transcript = mixed.clips[2].text
    assert model(mixed).ctc.num_labels > loss.ctc.num_labels


def test_cif_then_counts_its_own_weights(tiny_config: SpeechLlmConfig, mixed: SpeechTextBatch) -> None:
    tiny_config.adapter = PartSection(name="cif", config={**SIZES, "token_weight": 0.5})
    tiny_config.ctc = CtcConfig(no_transcript="leave_out")
    model = create(tiny_config)
    speech = model.adapt(mixed, [None] * 12)
    features, lengths = model.features.of(mixed)
    frames = model.adapter.layers_before(model.adapter.project_in(features, lengths), lengths)
    weights = model.adapter.weights(frames, lengths)
    sums = torch.stack([row[:length].sum() for row, length in zip(weights, lengths, strict=True)])
    assert speech.lengths.tolist() == sums.round().long().clamp(min=1).tolist()
    assert speech.losses["quantity"].tolist() == [0.0] * 12
    loss = model(mixed)
    assert loss.token is not None and loss.token.infeasible <= 10


@pytest.mark.parametrize(
    ("target", "text", "transcript", "answer", "spoken"),
    [
        ("en", "play", "", None, "play"), ("en", "play", "Play!", None, "Play!"), ("de", "spiel", "", None, None),
        ("de", "spiel", "play", None, "play"), ("en", "it rains", "", "<speech>", None),
        ("en", "it rains", "weather?", "<speech>", "weather?"), ("de", "", "", None, ""),
    ],
)
def test_what_is_said(target: str, text: str, transcript: str, answer: str | None, spoken: str | None) -> None:
    assert PromptConfig(answer=answer).task_of("en", target).spoken(text, transcript) == spoken
