"""Gradients of tuned LLMs are transformers', also where layers run again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.tuning import TunedWeights
from speechllm_plugin.models.speech_llm.tuning_config import TuningConfig
from speechllm_plugin.prompts import PromptConfig, PromptRenderer
from speechllm_plugin.units.layers import apply_ac_to_speech_llm
from tests.plugin.llm_families import FAMILIES, load_family, own_loss, save_family
from tests.plugin.tuning.models import LORA, TEXTS, create, wrap

LANGUAGES = [("en", "en"), ("en", "de"), ("fr", "fr"), ("en", "en")]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = save_family(name, tmp_path_factory.mktemp(name))
        return folders[name]

    return folder


def inputs_of(llm: Llm) -> tuple[Any, Tensor, Tensor, list[list[int]]]:
    renderer = PromptRenderer(llm.tokenizer, PromptConfig(), chat=llm.chat)
    prompts = [renderer.render(*pair) for pair in LANGUAGES]
    rms = llm.embedding_table.detach().pow(2).mean().sqrt()
    speech = rms * torch.randn(4, 9, llm.dim, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([9, 1, 4, 6])
    return prompts, speech.requires_grad_(), lengths, [renderer.encode_target(text) for text in TEXTS]


def gradients_of(loss: Tensor, llm: Llm, speech: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [speech, *(weight for weight in llm.parameters() if weight.requires_grad)]))


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_those_of_transformers(name: str, folder_of: Callable[[str], Path]) -> None:
    """Through the whole prompt: what precedes the speech is not left out."""
    llm = load_family(name, folder_of(name))
    torch.manual_seed(0)
    weights = TunedWeights(llm, TuningConfig(lora_rank=2, unfreeze=["*norm*"]), "llm_tuning")
    attentions = sum(type(module).__name__.endswith("Attention") for module in llm.modules())
    layers = attentions // 2 if "5" in name else attentions  # T5's attention is wrapped in another
    assert len([key for key in weights.state_dict() if "lora_A" in key]) == 4 * layers
    with torch.no_grad():
        for key, weight in weights.named_parameters():
            if "lora_B" in key:
                weight.add_(0.1 * torch.randn_like(weight))
    prompts, speech, lengths, targets = inputs_of(llm)
    losses = llm.loss(prompts, speech, lengths, targets)
    rows = [own_loss(llm.model, prompts[i], speech[i, : lengths[i]], targets[i]) for i in range(4)]
    expected = torch.stack(rows).sum()
    torch.testing.assert_close(losses, torch.stack(rows), atol=1e-3, rtol=1e-5)
    found = gradients_of(losses.sum(), llm, speech)
    for gradient, wanted in zip(found, gradients_of(expected, llm, speech), strict=True):
        assert wanted.any()
        # By norm: single elements of mT5's are off by 1 % on some processors.
        assert (gradient - wanted).norm() < 5e-3 * wanted.norm() + 1e-4
    # Without gradients the prefix is cached, and the loss is the same.
    with torch.no_grad():
        torch.testing.assert_close(llm.loss(prompts, speech, lengths, targets), losses, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_layers_that_run_again_change_no_number(name: str, tuned: bool, folder_of: Callable[[str], Path]) -> None:
    llm = load_family(name, folder_of(name))
    if tuned:
        TunedWeights(llm, TuningConfig(lora_rank=2, lora_dropout=0.5), "llm_tuning").train()
    prompts, speech, lengths, targets = inputs_of(llm)
    decode = {"keys": list("abcd"), "limits": [6] * 4, "end_of_turn": 1, "config": DecodingConfig()}

    def run() -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(0)
        loss = llm.loss(prompts, speech, lengths, targets).sum()
        return loss.detach(), gradients_of(loss, llm, speech)

    loss, gradients = run()
    said = llm.generate(prompts, speech, lengths, **decode)  # type: ignore[arg-type]
    runs = wrap(llm)
    assert len(llm.layer_lists()) == (1 if FAMILIES[name].chat else 2)
    again, gradients_again = run()
    num_layers = sum(map(len, llm.layer_lists()))
    assert len(runs) == 2 * num_layers == (4 if FAMILIES[name].chat else 8)
    torch.testing.assert_close(again, loss, atol=1e-4, rtol=1e-6)
    for found, expected in zip(gradients_again, gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    if not tuned:
        assert llm.generate(prompts, speech, lengths, **decode) == said  # type: ignore[arg-type]


def test_checkpointing_reaches_the_whole_system(tiny_config: SpeechLlmConfig, batch: SpeechTextBatch) -> None:
    tuning = {**LORA, "lora_dropout": 0.5}
    model = create(tiny_config, {"llm": tuning, "encoder": tuning}).train()
    keys = list(model.state_dict())
    ran = {"encoder": 0, "llm": 0}
    for name, part in (("encoder", model.encoder), ("llm", model.llm)):
        for layer in part.layer_lists()[0]:
            layer.register_forward_pre_hook(lambda module, inputs, name=name: ran.update({name: ran[name] + 1}))

    def run() -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(0)
        loss = model(batch).total
        return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))

    loss, gradients = run()
    passes = ran["encoder"] // 2  # over clips of like length
    assert ran == {"encoder": 2 * passes, "llm": 2} and passes > 0
    apply_ac_to_speech_llm(model, 1)
    assert list(model.state_dict()) == keys
    again, gradients_again = run()
    assert ran == {"encoder": passes * (2 + 4), "llm": 2 + 4}
    assert torch.equal(again, loss)
    assert all(map(torch.equal, gradients, gradients_again))
