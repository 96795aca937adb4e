"""Parts of encoder and LLM that are trained: what is saved, moved and computed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speechllm_plugin.configuration.structure import structure
from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.encoders.api import SpeechEncoder
from speechllm_plugin.encoders.whisper import WhisperConfig, create_whisper
from speechllm_plugin.files.yaml_text import parse_yaml
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.config import CtcConfig, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.models.speech_llm.tuning import TunedWeights
from speechllm_plugin.models.speech_llm.tuning_config import TuningConfig
from speechllm_plugin.pretrained import freeze
from tests.plugin.encoder_checks import collate
from tests.plugin.tuning.models import ENCODERS, LORA, create, wrap

WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "LoRA on the LLM": {"llm": LORA},
    "LoRA on the encoder": {"encoder": LORA},
    "a layer of the LLM": {"llm": {"unfreeze": ["model.model.layers.1.*"]}},
    "the LLM's embeddings, which are its head": {"llm": {"unfreeze": ["*lm_head*"]}},
    "norms of the encoder": {"encoder": {"unfreeze": ["*layer_norm*", "encoder.conv?.*"]}},
    # The layers with updates hold some of the weights.
    "all of both, LoRA as well": {"llm": {**LORA, "unfreeze": ["*"]}, "encoder": {**LORA, "unfreeze": ["*.layers.*"]}},
}
DECODING = DecodingConfig(extra_tokens=6, tokens_per_second=2.0)


def step(model: SpeechLlm, optimizer: torch.optim.Optimizer, batch: SpeechTextBatch, lm: bool = True) -> float:
    loss = model(batch, lm=lm)
    optimizer.zero_grad()
    (loss.total / loss.num_targets).backward()
    optimizer.step()
    return loss.total.item()


@pytest.mark.parametrize("way", WAYS)
def test_only_what_is_tuned_is_trained_saved_and_given_back(
    tiny_config: SpeechLlmConfig, batch: SpeechTextBatch, tmp_path: Path, way: str
) -> None:
    if "which are its head" in way:
        tiny_config.llm.config = {"path": _tied(tiny_config, tmp_path), "dtype": "float32"}
    model = create(tiny_config, WAYS[way])
    assert set(model.tuned) == set(WAYS[way])
    # Each once, and each the very object that its part computes with.
    trained = list(model.parameters())
    assert len(set(trained)) == len(trained) == len(model.state_dict())
    assert {name.split(".")[0] for name in model.state_dict()} == {"adapter", "tuned"}
    parts = {"encoder": model.encoder, "llm": model.llm}
    own = {weight for part in parts.values() for weight in part.parameters()}
    assert {weight for weight in own if weight.requires_grad} == set(model.tuned.parameters()) != set()
    frozen = [weight for weight in own if not weight.requires_grad]

    model.train()
    before = [weight.detach().clone() for weight in [*frozen, *trained]]
    optimizer = torch.optim.AdamW(trained, lr=5e-3)
    losses = [step(model, optimizer, batch)]
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name
    losses += [step(model, optimizer, batch) for _ in range(5)]
    assert losses[-1] < losses[0]
    changed = [not torch.equal(*pair) for pair in zip(before, [*frozen, *trained], strict=True)]
    assert changed == [False] * len(frozen) + [True] * len(trained)

    said = model.eval().generate(batch, DECODING)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    saved = json.dumps(dataclasses.asdict(model.config))
    other = create(structure(SpeechLlmConfig, parse_yaml(saved), "model"), {}).eval()
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert other.generate(batch, DECODING) == said
    assert torch.equal(other(batch).total, model(batch).total)
    with torch.no_grad():  # what is held is what decodes
        for weight in other.tuned.parameters():
            weight.add_(torch.randn_like(weight))
    assert other.generate(batch, DECODING) != said


def _tied(config: SpeechLlmConfig, folder: Path) -> str:
    """The tests' LLM with one table for words in and out."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = config.llm.config["path"]  # type: ignore[index]
    model = AutoModelForCausalLM.from_pretrained(path, tie_word_embeddings=True)
    model.save_pretrained(folder / "tied")
    AutoTokenizer.from_pretrained(path).save_pretrained(folder / "tied")
    return str(folder / "tied")


def test_updates_begin_as_nothing(tiny_config: SpeechLlmConfig, batch: SpeechTextBatch) -> None:
    plain = create(dataclasses.replace(tiny_config), {})(batch).total
    with_updates = create(tiny_config, {"llm": LORA, "encoder": LORA})(batch).total
    torch.testing.assert_close(with_updates, plain, atol=1e-4, rtol=1e-6)


def test_only_the_dropout_of_updates_follows_training(tiny_config: SpeechLlmConfig, batch: SpeechTextBatch) -> None:
    tuning = {**LORA, "lora_dropout": 0.5, "unfreeze": ["*norm*"]}
    model = create(tiny_config, {"llm": tuning, "encoder": tuning})
    for part in (model.encoder, model.llm):
        for module in part.modules():
            for name in ("dropout", "layerdrop", "activation_dropout", "attention_dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.5)  # whatever a checkpoint says
    with torch.no_grad():
        for weight in model.tuned.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    model.train()
    for part, updates in ((model.encoder, 8), (model.llm, 8)):
        training = [module for module in part.modules() if module.training]
        assert len(training) == updates and all(isinstance(module, nn.Dropout) for module in training)
    assert not torch.equal(model(batch).total, model(batch).total)
    model.eval()
    assert not any(module.training for part in (model.encoder, model.llm) for module in part.modules())
    assert torch.equal(model(batch).total, model(batch).total)


def test_moves_keep_part_and_holder_one(tiny_config: SpeechLlmConfig) -> None:
    model = create(tiny_config, {"llm": LORA, "encoder": {"unfreeze": ["*norm*"]}})
    for place in (torch.float64, "meta"):
        model.to(place)
        own = {weight for part in (model.encoder, model.llm) for weight in part.parameters()}
        assert set(model.tuned.parameters()) <= own
        assert {weight.dtype for weight in own} == {torch.float64}
    assert {weight.device.type for weight in own} == {"meta"}


def test_a_step_on_ctc_alone_reaches_every_weight(tiny_config: SpeechLlmConfig, batch: SpeechTextBatch) -> None:
    """Data parallelism waits for a gradient of each."""
    tiny_config.ctc = CtcConfig(weight=0.1)
    model = create(tiny_config, {"llm": LORA, "encoder": LORA}).train()
    model(batch, lm=False).total.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert "tuned.llm" not in name or not weight.grad.any()
    assert any(weight.grad.any() for weight in model.tuned["encoder"].parameters())  # type: ignore[union-attr]


def test_updates_are_float32_beside_a_bfloat16_part(tiny_config: SpeechLlmConfig, batch: SpeechTextBatch) -> None:
    tiny_config.encoder.config["dtype"] = tiny_config.llm.config["dtype"] = "bfloat16"  # type: ignore[index]
    model = create(tiny_config, {"llm": LORA, "encoder": LORA}).train()
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    for part in (model.encoder, model.llm):
        assert {weight.dtype for weight in part.parameters() if not weight.requires_grad} == {torch.bfloat16}
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = [step(model, optimizer, batch) for _ in range(6)]
    assert losses[-1] < losses[0]
    assert len(model.eval().generate(batch, DECODING)[0]) == 4


def outputs_of(model: SpeechLlm, part: SpeechEncoder | Llm, run: Callable[[], object]) -> set[torch.dtype]:
    """The dtypes in which the queries of a part come."""
    found: set[torch.dtype] = set()
    layers = [module for name, module in part.named_modules() if name.endswith("q_proj")]
    hooks = [layer.register_forward_hook(lambda module, inputs, output: found.add(output.dtype)) for layer in layers]
    run()
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("tuned", [False, True])
def test_tuned_float32_weights_compute_as_autocast_says(
    tiny_config: SpeechLlmConfig, batch: SpeechTextBatch, tuned: bool
) -> None:
    tuning = {"unfreeze": ["*norm*"]}
    model = create(tiny_config, {"llm": tuning, "encoder": tuning} if tuned else {})
    exact = model(batch)
    for part in (model.encoder, model.llm):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert outputs_of(model, part, lambda: model(batch)) == {torch.bfloat16 if tuned else torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(batch)
        # The LLM decodes the same in training as afterwards.
        assert outputs_of(model, model.llm, lambda: model.generate(batch, DECODING)) == {torch.float32}
    loss.total.backward()
    assert abs(loss.total - exact.total) / loss.num_targets < 0.1
    for name, weight in model.named_parameters():
        assert weight.dtype == weight.grad.dtype == torch.float32, name  # type: ignore[union-attr]


def test_the_input_of_an_encoder_does_not_follow_autocast(tiny_whisper: Path) -> None:
    encoder = freeze(create_whisper(WhisperConfig(path=str(tiny_whisper), dtype="float32", pad_to_30s=False)))
    TunedWeights(encoder, TuningConfig(lora_rank=2), "encoder_tuning")
    mels: list[Tensor] = []
    encoder.encoder.conv1.register_forward_pre_hook(lambda module, inputs: mels.append(inputs[0]))
    encoder(*collate([8000]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder(*collate([8000]))
    assert torch.equal(*mels)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_is_tuned(name: str, tmp_path: Path) -> None:
    """LoRA beside every projection of the attention, and every weight that is run: a gradient reaches each."""
    encoder = ENCODERS[name](tmp_path)
    lora = {} if name == "wavlm" else LORA
    weights = TunedWeights(encoder, TuningConfig(**lora, unfreeze=["*"]), "encoder_tuning")
    attentions = sum(type(module).__name__.endswith("Attention") for module in encoder.modules())
    assert len([key for key in weights.state_dict() if "lora_A" in key]) == (4 * attentions if lora else 0)
    with torch.no_grad():
        for key, weight in weights.named_parameters():
            if "lora_B" in key:
                weight.add_(0.1 * torch.randn_like(weight))
    plain, _ = encoder(*collate([6000, 9000]))
    plain.square().sum().backward()
    for key, weight in weights.named_parameters():
        # A key's bias never changes a softmax.
        assert weight.grad is not None and (weight.grad.any() or "k_proj" in key or "linear_k" in key), key
    # The same numbers with every layer computed again.
    gradients = [weight.grad for weight in weights.parameters()]
    encoder.zero_grad()
    wrap(encoder)
    again, _ = encoder(*collate([6000, 9000]))
    again.square().sum().backward()
    assert torch.equal(again, plain)
    for (key, weight), gradient in zip(weights.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, msg=key)
