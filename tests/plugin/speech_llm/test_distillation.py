"""The LLM given the transcript teaches the LLM given the speech."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import speechllm_plugin.tensors.logits
from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.texts_as_speech import embed_texts
from speechllm_plugin.models.speech_llm.config import CtcConfig, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.distillation import distill
from speechllm_plugin.models.speech_llm.distillation_config import DistillationConfig
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.prompts import PromptConfig, PromptRenderer
from speechllm_plugin.tasks.api import task_named
from tests.plugin.llm_families import load_family, save_family
from tests.plugin.speech_llm.systems import batches_of, create

LLAMA, MT5 = "llama", "mt5"


@pytest.fixture
def rows(tiny_manifest: Path) -> SpeechTextBatch:
    """Two transcriptions and two translations, whose second has no transcript."""
    first, second, *_, third, fourth = batches_of(tiny_manifest / "test.tsv")[0].clips
    clips = sorted([first, second, third, fourth], key=lambda clip: clip.source_lang != clip.target_lang)
    clips[2] = dataclasses.replace(clips[2], transcript="turn the light on")
    assert [bool(clip.spoken) for clip in clips] == [True, True, True, False]
    return SpeechTextBatch(clips)


@pytest.fixture(scope="module", params=[LLAMA, MT5])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Llm:
    return load_family(request.param, save_family(request.param, tmp_path_factory.mktemp(request.param)))


def written_states(
    llm: Llm, prompts: PromptRenderer, rows: SpeechTextBatch, targets: list[list[int]], words: str | None
) -> Tensor:
    """States of the LLM that is given each transcript in writing, or other words."""
    rendered = [
        prompts.render_text(
            clip.source_lang, clip.target_lang, words or clip.spoken or "x", clip.task, clip.asks, clip.draw
        )
        for clip in rows
    ]
    texts, lengths = embed_texts(llm, [ids for _, ids in rendered])
    return llm.target_states([prompt for prompt, _ in rendered], texts, lengths, targets)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_divergence_is_that_of_the_distributions(
    llm: Llm, rows: SpeechTextBatch, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = PromptRenderer(llm.tokenizer, PromptConfig(), chat=llm.chat)
    targets = [prompts.encode_target(text) for text in rows.texts]
    config = DistillationConfig(weight=1.0, temperature=temperature)
    teacher = written_states(llm, prompts, rows, targets, None)
    none = distill(llm, prompts, rows.clips, teacher, targets, config)
    assert none is not None and none.rows == [0, 1, 2]
    assert none.divergence.abs().max() < 1e-4

    states = written_states(llm, prompts, rows, targets, "set a timer").detach().requires_grad_()
    found = distill(llm, prompts, rows.clips, states, targets, config)
    assert found is not None and found.num_targets == sum(map(len, targets[:3]))
    p = (llm.logits(teacher).float() / temperature).softmax(dim=1)
    q = (llm.logits(states).float() / temperature).softmax(dim=1)
    each = (p * (p.log() - q.log())).sum(dim=1).split([len(target) for target in targets])
    expected = torch.stack([row.sum() for row in each[:3]])
    assert (expected > 0.01).all()
    torch.testing.assert_close(found.divergence, expected, atol=1e-4, rtol=1e-4)

    (gradient,) = torch.autograd.grad(found.divergence.sum(), states)
    monkeypatch.setattr(speechllm_plugin.tensors.logits, "LOGITS_AT_A_TIME", 6 * llm.vocabulary_size)
    pieces = distill(llm, prompts, rows.clips, states, targets, config)
    assert pieces is not None
    torch.testing.assert_close(torch.autograd.grad(pieces.divergence.sum(), states)[0], gradient)


def system(tiny_config: SpeechLlmConfig, **values: Any) -> SpeechLlm:
    tiny_config.distillation = DistillationConfig(**values)
    return create(tiny_config).eval()


def test_the_loss_is_a_mixture(tiny_config: SpeechLlmConfig, rows: SpeechTextBatch) -> None:
    tiny_config.ctc = CtcConfig(no_transcript="leave_out")
    plain = system(tiny_config)(rows)
    loss = system(tiny_config, weight=0.25, temperature=3.0)(rows)
    assert plain.distilled is None
    torch.testing.assert_close(loss.lm, plain.lm)
    taught = 0.75 * loss.lm[:3].sum() + 0.25 * 9.0 * loss.distilled.divergence.sum()
    torch.testing.assert_close(loss.total, taught + loss.lm[3])
    loss.total.backward()


def test_clips_of_other_tasks_have_no_teacher(tiny_config: SpeechLlmConfig, rows: SpeechTextBatch) -> None:
    tiny_config.ctc = CtcConfig(no_transcript="leave_out")
    rows.clips[2] = dataclasses.replace(rows.clips[2], task=task_named("answer", "task"))
    loss = system(tiny_config, weight=0.25, tasks=["answer"])(rows)
    assert loss.distilled.rows == [2]
    taught = 0.75 * loss.lm[2] + 0.25 * loss.distilled.divergence.sum()
    torch.testing.assert_close(loss.total, taught + loss.lm[[0, 1, 3]].sum())
    assert system(tiny_config, weight=0.25, tasks=["translate"])(rows).distilled is None


def test_an_adapter_learns_from_its_teacher_alone(tiny_config: SpeechLlmConfig, rows: SpeechTextBatch) -> None:
    """With a weight of 1 it sees no target, and still comes nearer to what the LLM says of the text."""
    model = system(tiny_config, weight=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    taught = SpeechTextBatch(rows.clips[:3])
    losses = []
    for _ in range(30):
        loss = model(taught)
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        optimizer.step()
        losses.append(loss.distilled.divergence.sum().item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"weight": 1.5}, "distillation.weight: found 1.5, expected 0 to 1"),
        ({"weight": 0.5, "temperature": 0.0}, "distillation.temperature: found 0.0, expected a number above 0"),
        ({"tasks": ["answers"]}, "distillation.tasks: found answers, expected null or some of answer, trans"),
        ({"tasks": []}, "distillation.tasks: found none, expected null or some of answer, transcribe, translate"),
    ],
)
def test_values_that_are_wrong(tiny_config: SpeechLlmConfig, values: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        system(tiny_config, **values)
