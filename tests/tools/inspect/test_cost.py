"""FLOPs and memory, against sums by hand and a real backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from speechllm_plugin.cost.autograd_memory import Kept
from speechllm_plugin.cost.estimate import PROMPT_TOKENS
from speechllm_plugin.cost.skeleton import frozen_bytes
from speechllm_plugin.models.speech_llm.config import CtcConfig, SpeechLlmConfig, arch_config
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.prompts import RenderedPrompt
from speechllm_plugin.tensors.parameters import count_parameters
from tests.tools.inspect.systems import Inspect, small, unpadded


def test_encoder_flops_are_those_of_its_layers(inspect: Inspect) -> None:
    """2 per weight and frame, and 4 x T^2 x width of attention in each of 32 layers."""
    facts = inspect("whisper_large_v3.smollm2_135m.mlp")
    weights, attention = 2 * 636_968_960 * 1500, 4 * 1500**2 * 1280 * 32
    assert facts.cost.encoder.flops == pytest.approx(weights + attention, rel=0.01)
    assert facts.cost.encoder.kept_bytes == 1500 * 1280 * 4


def test_adapter_flops_are_those_of_its_layers(inspect: Inspect) -> None:
    facts = inspect(unpadded("base"), seconds=8.0)
    parameters = count_parameters(facts.skeleton.adapter)
    assert facts.cost.adapter.flops == pytest.approx(3 * (2 * parameters * 400 + 4 * 4 * 400**2 * 768), rel=0.01)


@pytest.mark.parametrize("adapter", ["cif", "ctc"])
def test_layers_after_a_compression_see_what_it_left(inspect: Inspect, adapter: str) -> None:
    """Half of the layers at 400 frames, half at a few."""
    base = inspect(unpadded("base"), seconds=8.0).cost.adapter.flops
    assert 0.45 * base < inspect(unpadded(adapter), seconds=8.0).cost.adapter.flops < 0.65 * base


def test_llm_flops_are_those_of_its_layers(inspect: Inspect) -> None:
    """Forward, and backward through what is frozen: 2 + 2 per weight and token; attention 4 + 8."""
    facts = inspect("seamless_m4t_v2.mistral_7b.base", seconds=30.0, target_tokens=20)
    tokens = 188 + PROMPT_TOKENS + 20
    table = 32768 * 4096
    layers = 7_248_023_552 - 2 * table
    expected = 4 * layers * tokens + 4 * table * 20 + 12 * tokens**2 * 4096 * 32
    assert facts.cost.llm.flops == pytest.approx(expected, rel=0.01)


def test_a_teacher_costs_a_forward_pass(inspect: Inspect) -> None:
    """And the student's head once more, forward and backward."""
    arch = "seamless_m4t_v2.mistral_7b.base"
    config = arch_config(arch)
    config.distillation.weight = 0.5
    alone, taught = (inspect(system, target_tokens=20).cost.llm for system in (arch, config))
    table = 32768 * 4096
    tokens, layers = PROMPT_TOKENS + 20 + 20, 7_248_023_552 - 2 * table
    expected = 2 * layers * tokens + 4 * tokens**2 * 4096 * 32 + (2 + 4) * table * 20
    assert taught.flops - alone.flops == pytest.approx(expected, rel=0.01)
    assert taught.kept_bytes - alone.kept_bytes == 2 * 4 * 20 * 32768


def test_llm_flops_equal_those_of_a_real_backward_pass(inspect: Inspect, tiny_config: SpeechLlmConfig) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = small(tiny_config, "mlp")
    config.llm.config["attention"] = "eager"  # type: ignore[index] (whose products are plain ones)
    facts = inspect(config)
    model: Any = create_speech_llm(config).llm.requires_grad_(False)
    rows = torch.randn(1, facts.clip.vectors + PROMPT_TOKENS + 8, 32, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model.head(model.decoder(inputs_embeds=rows, use_cache=False).last_hidden_state[:, -8:]).sum().backward()
    # The rotary embedding's frequencies get no gradient: 2 % here, nothing at width 4096.
    assert facts.cost.llm.flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_what_the_llm_keeps_is_what_its_loss_keeps(inspect: Inspect, tiny_config: SpeechLlmConfig) -> None:
    facts = inspect(small(tiny_config, "mlp"), seconds=4.0)
    llm = create_speech_llm(tiny_config).llm
    vectors = facts.clip.vectors
    speech = torch.randn(2, vectors, 32, requires_grad=True)
    prompt = RenderedPrompt(before=(), after=tuple(range(PROMPT_TOKENS)))
    kept = Kept(llm)
    with kept:  # two of a length would need no mask, and attention then keeps less
        llm.loss([prompt] * 2, speech, torch.tensor([vectors, vectors - 1]), [list(range(8))] * 2)
    assert facts.cost.llm.kept_bytes == pytest.approx(kept.total / 2, rel=0.05)


def test_the_ctc_head_is_counted(inspect: Inspect) -> None:
    facts = inspect("seamless_m4t_v2.mistral_7b.ctc", seconds=30.0)
    assert facts.cost.ctc.flops == 3 * 2 * 188 * 768 * 32769
    assert facts.cost.ctc.kept_bytes == 2 * 188 * 32769 * 4
    assert inspect("seamless_m4t_v2.mistral_7b.base", seconds=30.0).cost.ctc.flops == 0


def test_the_ctc_head_is_counted_for_the_vectors_it_scores_too(
    inspect: Inspect, tiny_config: SpeechLlmConfig
) -> None:
    """`token_weight`: the head's second pass, over one vector for each of 8 tokens; without it 100 frames."""
    without = inspect(small(tiny_config, "cif")).cost.ctc
    both = inspect(small(tiny_config, "cif", token_weight=0.3)).cost.ctc
    assert both.flops == without.flops * 108 / 100
    assert both.kept_bytes == without.kept_bytes * 108 / 100


def test_the_ctc_head_is_counted_for_final_vectors(inspect: Inspect, tiny_config: SpeechLlmConfig) -> None:
    """7 windows of 16 frames, the last of 4, give 14."""
    config = small(tiny_config, "wlq_former", num_queries=2, ctc_frames="after")
    config.ctc = CtcConfig(weight=0.1)
    facts = inspect(config)
    head: Any = facts.skeleton.ctc
    assert facts.cost.ctc.kept_bytes == 2 * 14 * head.classifier.out_features * 4


def test_memory_is_the_sum_of_what_is_held(inspect: Inspect) -> None:
    facts = inspect("seamless_m4t_v2.mistral_7b.base", seconds=30.0, target_tokens=20)
    cost = facts.cost
    assert cost.frozen_bytes == 2 * (635_046_720 + 7_248_023_552)
    assert cost.trained_bytes == 16 * count_parameters(facts.skeleton.adapter)
    assert cost.gpu_bytes(7) == cost.frozen_bytes + cost.trained_bytes + 7 * cost.sample_bytes
    # Per token and layer at least: queries and what attention gives, keys and values, and three of the feed-forward.
    tokens, layer = 188 + PROMPT_TOKENS + 20, 2 * (2 * 4096 + 2 * 1024 + 3 * 14336)
    assert 32 * tokens * layer < cost.llm.kept_bytes < 2 * 32 * tokens * layer


def test_attention_that_keeps_its_scores_takes_more(inspect: Inspect) -> None:
    kept = {}
    for attention in ("sdpa", "eager"):
        config = arch_config("whisper_tiny_en.smollm2_135m.mlp")
        config.llm.config["attention"] = attention  # type: ignore[index]
        kept[attention] = inspect(config).cost.llm.kept_bytes
    tokens = 300 + PROMPT_TOKENS + 8
    assert kept["eager"] - kept["sdpa"] > 30 * 9 * tokens**2 * 2


def test_quantised_weights_take_fewer_bytes(inspect: Inspect) -> None:
    """All of Mistral but embeddings, head and norms is in linear layers."""
    sizes = {}
    for quantization in ("none", "int8", "nf4"):
        config = arch_config("seamless_m4t_v2.mistral_7b.base")
        config.llm.config["quantization"] = quantization  # type: ignore[index]
        sizes[quantization] = frozen_bytes(inspect(config).skeleton)
    linear = 7_248_023_552 - 2 * 32768 * 4096 - 65 * 4096
    assert sizes["none"] - sizes["int8"] == linear
    assert sizes["none"] - sizes["nf4"] == pytest.approx(linear * 1.484, rel=0.001)
