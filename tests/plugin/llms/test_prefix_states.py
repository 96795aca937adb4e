"""States of what precedes the speech: computed once for equal prompts, over all steps, and never those of other
weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from speechllm_plugin.llms import causal_llm
from speechllm_plugin.llms.causal import create_causal_llm
from speechllm_plugin.llms.causal_llm import CausalLlm, CausalLlmConfig
from speechllm_plugin.pretrained import freeze
from speechllm_plugin.prompts import PromptConfig, PromptRenderer, RenderedPrompt

LENGTHS = torch.tensor([3, 60, 2])


@pytest.fixture
def llm(tiny_llm: Path) -> CausalLlm:
    llm = freeze(create_causal_llm(CausalLlmConfig(path=str(tiny_llm), dtype="float32")))
    llm.prepare_training()  # whose trials are runs, too
    return llm


@contextmanager
def runs_of(llm: CausalLlm) -> Iterator[list[int]]:
    """The batch size of each run of the decoder."""
    runs: list[int] = []

    def note(module: torch.nn.Module, args: object, values: dict[str, torch.Tensor | None], output: object) -> None:
        given = values.get("input_ids")
        embeddings = values.get("inputs_embeds")
        known = given if given is not None else embeddings
        assert known is not None
        runs.append(known.size(0))

    handle = llm.decoder.register_forward_hook(note, with_kwargs=True)  # type: ignore[arg-type]
    yield runs
    handle.remove()


def prompts_of(llm: CausalLlm, *languages: tuple[str, str]) -> list[RenderedPrompt]:
    renderer = PromptRenderer(llm.tokenizer, PromptConfig(order="instruction_first"), chat=True)
    return [renderer.render(source, target) for source, target in languages]


def loss_of(llm: CausalLlm, prompts: list[RenderedPrompt], speech: torch.Tensor) -> torch.Tensor:
    return llm.loss(prompts, speech, LENGTHS, [[5, 6], [7], [8, 9, 10]]).sum()


def speech_of(llm: CausalLlm) -> torch.Tensor:
    return torch.randn(3, 60, llm.dim, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_a_prompt_is_run_once_over_all_steps(llm: CausalLlm) -> None:
    prompts = prompts_of(llm, ("en", "en"), ("en", "de"), ("en", "en"))
    with runs_of(llm) as runs:
        first = loss_of(llm, prompts, speech_of(llm))
        second = loss_of(llm, prompts, speech_of(llm))
    assert runs == [1, 1, 1, 1]  # each prompt, the rows as one sequence, the rows
    assert torch.equal(first, second)


def test_what_validation_keeps_serves_training(llm: CausalLlm) -> None:
    prompts = prompts_of(llm, *[("en", "en")] * 3)
    with torch.inference_mode():
        loss_of(llm, prompts, speech_of(llm))
    speech = speech_of(llm)
    loss_of(llm, prompts, speech).backward()
    assert speech.grad is not None and speech.grad.abs().sum() > 0


def test_other_weights_have_other_states(llm: CausalLlm) -> None:
    prompts = prompts_of(llm, *[("en", "en")] * 3)
    speech = speech_of(llm)
    before = loss_of(llm, prompts, speech)
    llm.to(torch.float64)
    assert loss_of(llm, prompts, speech.double()).item() == pytest.approx(before.item(), rel=1e-5)


def test_a_tuned_llm_keeps_nothing(llm: CausalLlm) -> None:
    prompts = prompts_of(llm, *[("en", "en")] * 3)
    llm.tuned = True
    with torch.no_grad(), runs_of(llm) as runs:
        before = loss_of(llm, prompts, speech_of(llm))
        next(llm.decoder.parameters()).mul_(1.5)
        assert not torch.equal(before, loss_of(llm, prompts, speech_of(llm)))
    assert runs == [1, 1, 1, 1]  # the prompt, the rows; the prompt again


def test_only_the_last_prefixes_are_kept(llm: CausalLlm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_llm, "MAX_PREFIXES", 2)
    for language in ("de", "fr", "it", "de"):
        prompts = prompts_of(llm, *[("en", language)] * 3)
        with runs_of(llm) as runs:
            loss_of(llm, prompts, speech_of(llm))
        assert runs == [1, 1], language  # `de` was forgotten for `it`
