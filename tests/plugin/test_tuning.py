"""What is trained of the pretrained parts: nothing else changes, a checkpoint holds it, and gradients are exact."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel, WavLMConfig, WavLMModel

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.datasets.files import batch_of_files
from speechllm_plugin.encoders.api import SpeechEncoder
from speechllm_plugin.encoders.seamless_m4t_v2 import SeamlessM4Tv2Config, create_seamless_m4t_v2
from speechllm_plugin.encoders.whisper import WhisperConfig, create_whisper
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.api import DecodingConfig, Llm
from speechllm_plugin.models.speech_llm.config import CtcConfig, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.layers import apply_ac_to_speech_llm
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.models.speech_llm.tuning import TunedWeights, TuningConfig
from speechllm_plugin.pretrained import freeze
from speechllm_plugin.prompts import PromptConfig, PromptRenderer
from speechllm_plugin.registry import structure
from speechllm_plugin.yaml_text import parse_yaml
from tests.plugin import test_seamless_encoder, test_w2v_bert_encoder, test_wav2vec2_encoder
from tests.plugin.encoder_checks import collate
from tests.plugin.llm_families import FAMILIES, load_family, own_loss, save_family

LORA = {"lora_rank": 4, "lora_alpha": 16.0}
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
LANGUAGES = [("en", "en"), ("en", "de"), ("fr", "fr"), ("en", "en")]
TEXTS = ["turn the light on", "play", "", "how long is the drive"]


def create(config: SpeechLlmConfig, tuning: dict[str, dict[str, Any]]) -> SpeechLlm:
    for part, values in tuning.items():
        setattr(config, f"{part}_tuning", TuningConfig(**values))
    torch.manual_seed(0)
    return create_speech_llm(config)


@pytest.fixture
def batch(tiny_manifest: Path) -> SpeechTextBatch:
    batch = batch_of_files([tiny_manifest / f"train_{i}.{('wav', 'flac')[i % 2]}" for i in range(4)], "en", None)
    batch.texts = batch.transcripts = TEXTS
    return batch


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


ENCODERS: dict[str, Callable[[Path], SpeechEncoder]] = {
    "hubert base": lambda path: _wav2vec2(path, HubertConfig, HubertModel, test_wav2vec2_encoder.BASE),
    "hubert large": lambda path: _wav2vec2(path, HubertConfig, HubertModel, test_wav2vec2_encoder.LARGE),
    "wavlm": lambda path: _wav2vec2(path, WavLMConfig, WavLMModel, test_wav2vec2_encoder.BASE),
    "w2v_bert": lambda path: test_w2v_bert_encoder.encoder_of(
        test_w2v_bert_encoder.write_model(path, **test_w2v_bert_encoder.ADAPTERS)
    ),
    "seamless_m4t_v2": lambda path: freeze(
        create_seamless_m4t_v2(
            SeamlessM4Tv2Config(path=str(test_seamless_encoder.write_model(path)), dtype="float32")
        )
    ),
}


def _wav2vec2(path: Path, config_kls: Any, model_kls: Any, options: dict[str, Any]) -> SpeechEncoder:
    test_wav2vec2_encoder.write_model(path, config_kls, model_kls, **options)
    return test_wav2vec2_encoder.encoder_of(path)


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


def wrap(part: SpeechEncoder | Llm) -> list[int]:
    """Activation checkpointing, with a list that gets an entry whenever a layer runs."""
    from fairseq2.models.utils.ac import apply_layerwise_ac

    runs: list[int] = []
    part.recomputes = True
    for layers in part.layer_lists():
        for layer in layers:
            layer.register_forward_pre_hook(lambda module, inputs: runs.append(1))
        apply_layerwise_ac(layers, 1)
    return runs


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
    loss, _ = llm.loss(prompts, speech, lengths, targets)
    rows = [own_loss(llm.model, prompts[i], speech[i, : lengths[i]], targets[i]) for i in range(4)]
    expected = torch.stack(rows).sum()
    torch.testing.assert_close(loss, expected, atol=1e-3, rtol=1e-5)
    found = gradients_of(loss, llm, speech)
    for gradient, wanted in zip(found, gradients_of(expected, llm, speech), strict=True):
        assert wanted.any()
        # By norm: single elements of mT5's are off by 1 % on some processors.
        assert (gradient - wanted).norm() < 5e-3 * wanted.norm() + 1e-4
    # Without gradients the prefix is cached, and the loss is the same.
    with torch.no_grad():
        torch.testing.assert_close(llm.loss(prompts, speech, lengths, targets)[0], loss, atol=1e-3, rtol=1e-5)


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
        loss, _ = llm.loss(prompts, speech, lengths, targets)
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
    assert ran == {"encoder": 2, "llm": 2}
    apply_ac_to_speech_llm(model, 1)
    assert list(model.state_dict()) == keys
    again, gradients_again = run()
    assert ran == {"encoder": 2 + 4, "llm": 2 + 4}
    assert torch.equal(again, loss)
    assert all(map(torch.equal, gradients, gradients_again))


@pytest.mark.parametrize(
    ("part", "tuning", "message"),
    [
        ("llm", {"lora_rank": 2, "lora_targets": ["*.q_proj", "*.query"]},
         "llm_tuning.lora_targets: '*.query' matches no linear layer; expected a pattern of names such as 'model."),
        ("llm", {"unfreeze": ["model.layers.9.*"]},
         "llm_tuning.unfreeze: 'model.layers.9.*' matches no weight; expected a pattern of names such as 'model."),
        ("encoder", {"unfreeze": ["encoder.layers.2.*"]},
         "encoder_tuning.unfreeze: 'encoder.layers.2.*' matches no weight; expected a pattern of names such as 'enc"),
    ],
)
def test_a_pattern_without_a_match(
    tiny_config: SpeechLlmConfig, part: str, tuning: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        create(tiny_config, {part: tuning})
    assert str(caught.value).startswith(message)


def test_weights_that_would_lose_updates(tiny_config: SpeechLlmConfig) -> None:
    tiny_config.llm.config["dtype"] = "bfloat16"  # type: ignore[index]
    with pytest.raises(UserError) as caught:
        create(tiny_config, {"llm": {"unfreeze": ["*.layers.1.*norm*"]}})
    assert str(caught.value) == (
        "llm_tuning.unfreeze: found 'model.model.layers.1.input_layernorm.weight', which is bfloat16, expected float32 "
        "(the part's config.dtype, without quantization): smaller types lose small updates"
    )


def test_updates_that_would_never_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lora_targets: found '.*_proj', a layer that WavLM's attention does not run"):
        TunedWeights(ENCODERS["wavlm"](tmp_path), TuningConfig(lora_rank=2), "encoder_tuning")


def test_an_attention_without_known_names(tiny_whisper: Path) -> None:
    encoder = freeze(create_whisper(WhisperConfig(path=str(tiny_whisper), dtype="float32")))
    for layer in encoder.encoder.layers:
        layer.self_attn = nn.Identity()
    with pytest.raises(UserError, match=r"^encoder_tuning\.lora_targets: found null, .* such as 'encoder\.lay"):
        TunedWeights(encoder, TuningConfig(lora_rank=2), "encoder_tuning")


def test_without_peft(tiny_config: SpeechLlmConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"^llm_tuning\.lora_rank: found 4, which needs peft, .*: pip install peft$"):
        create(tiny_config, {"llm": LORA})
    create(tiny_config, {"llm": {"unfreeze": ["*norm*"]}})


@pytest.mark.parametrize(
    ("values", "words"),
    [({"lora_rank": -1}, "lora_rank"), ({"lora_alpha": 0}, "lora_alpha"), ({"lora_dropout": 1.0}, "lora_dropout")],
)
def test_values_out_of_range(values: dict[str, Any], words: str) -> None:
    errors = list(TuningConfig(**values).problems())
    assert len(errors) == 1 and words in errors[0]
