"""The numbers of arXiv 2409.17044: parameters (table II), output rates and compression (table I)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from speechllm_plugin.adapters.api import ADAPTERS, Adapter, AdapterShape
from speechllm_plugin.models.speech_llm.ctc_head import LinearCtcHead

MISTRAL_VOCABULARY = 32768


def paper_adapter(name: str, frame_rate: float = 50.0) -> Adapter:
    with torch.device("meta"):
        return ADAPTERS.get(name).build(ADAPTERS.config(name, None), AdapterShape(1280, 4096, frame_rate))


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def millions(parameters: int) -> float:
    return round(parameters / 1e6, 2)


def test_base_has_28_35_million() -> None:
    assert count(paper_adapter("base").layers) == 28_351_488


@pytest.mark.parametrize("name", ["conv", "cif", "ctc"])
def test_the_others_have_the_same_four_layers(name: str) -> None:
    adapter = paper_adapter(name)
    assert count(adapter.layers_before, adapter.layers_after) == 28_351_488


def test_ctc_adds_25_20_million() -> None:
    """A linear layer over Mistral's vocabulary; ours has one label more, the blank."""
    adapter = paper_adapter("ctc")
    with torch.device("meta"):
        head = LinearCtcHead(adapter.frame_dim, MISTRAL_VOCABULARY)
    published = 768 * MISTRAL_VOCABULARY + MISTRAL_VOCABULARY
    assert count(head) == published + 769
    assert millions(published) == millions(count(head)) == 25.20


def test_cif_adds_28_15_million() -> None:
    """The CTC layer, and 2.951 M to predict the weights; ours has a LayerNorm besides, as published in words."""
    weights = paper_adapter("cif").weights
    assert count(weights.conv, weights.output) == 2_950_657
    assert count(weights) == 2_950_657 + 2 * 768
    assert millions(768 * MISTRAL_VOCABULARY + MISTRAL_VOCABULARY + count(weights)) == 28.15


def test_conv_adds_3_54_million() -> None:
    """The table's 25.20 M are no two convolutions of width 768; see the adapter's docstring."""
    assert count(paper_adapter("conv").convs) == 2 * (768 * 768 * 3 + 768 + 2 * 768) == 3_543_552


def test_wlq_former_has_33_08_million() -> None:
    """33.09 M published; with the final LayerNorm at an LLM width of 4096 ours are as many."""
    adapter = paper_adapter("wlq_former")
    assert count(adapter.former) == 33_081_600
    assert abs(count(adapter.former) / 1e6 - 33.09) < 0.05
    assert millions(count(adapter.former, adapter.norm)) == 33.09


def test_subsample_has_half_of_base() -> None:
    assert count(paper_adapter("subsample").layers) == 28_351_488 // 2


@pytest.mark.parametrize(
    ("name", "frame_rate", "compression", "rate"),
    [
        ("base", 50.0, 1, 50.0),
        ("base", 6.25, 1, 6.25),
        ("conv", 50.0, 4, 12.5),
        ("conv", 6.25, 4, 1.5625),
        ("wlq_former", 50.0, 16, 3.125),
        ("wlq_former", 6.25, 2, 3.125),
    ],
)
def test_fixed_rates_are_the_published_ones(name: str, frame_rate: float, compression: int, rate: float) -> None:
    found = paper_adapter(name, frame_rate).output_rate(frame_rate)
    assert found == rate == frame_rate / compression
