"""A batch of clips of several lengths: little padding is computed, and nothing else changes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from speechllm_plugin.encoders import passes
from speechllm_plugin.encoders.api import ENCODERS, SpeechEncoder
from speechllm_plugin.encoders.passes import split_by_length
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.tuning import TunedWeights
from speechllm_plugin.models.speech_llm.tuning_config import TuningConfig
from speechllm_plugin.pretrained import freeze
from tests.plugin.encoder_checks import RATE, collate, in_one_pass
from tests.plugin.encoder_families import save_encoder
from tests.plugin.speech_llm.systems import batches_of, create

FAMILIES = ["whisper", "seamless_m4t_v2", "w2v_bert", "wav2vec2", "hubert", "wavlm"]
LENGTHS = [2 * RATE, RATE // 2, 6 * RATE, RATE // 2 + 1_001, 2 * RATE + 3_000, RATE // 2]
PASSES = [[2], [4, 0], [3, 1, 5]]
"""The clips of each pass: of the longest, of two of 2 s, of three of half a second."""


def encoder_of(name: str, folder: Path, **options: Any) -> SpeechEncoder:
    part = ENCODERS.get("wav2vec2" if name in ("hubert", "wavlm") else name)
    values = {"path": str(save_encoder(name, folder, sharded=False)), "dtype": "float32", **options}
    if name == "whisper":
        values.setdefault("pad_to_30s", False)
    encoder: SpeechEncoder = freeze(part.build(part.config_kls(**values)))
    return encoder


class Layer:
    """The positions that have passed through an encoder's first layer, in each pass."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        (layer,) = [module for name, module in encoder.named_modules() if name.endswith("encoder.layers.0")]
        layer.register_forward_pre_hook(self._count, with_kwargs=True)
        self.positions: list[int] = []

    def _count(self, module: object, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        hidden: Tensor = inputs[0] if inputs else options["hidden_states"]
        self.positions.append(hidden.size(0) * hidden.size(1))

    def take(self) -> list[int]:
        found, self.positions = self.positions, []
        return found


@pytest.mark.parametrize(
    ("seconds", "least", "expected"),
    [
        pytest.param([4], 0, [[0]], id="one clip"),
        pytest.param([4, 4, 4], 0, [[0, 1, 2]], id="equal lengths"),
        pytest.param([0, 0], 0, [[0, 1]], id="nothing to hear"),
        pytest.param([9, 10, 9.5], 0, [[1, 2, 0]], id="a tenth is not reached: 1 of 30"),
        pytest.param([2, 4, 6, 10], 0, [[3], [2], [1], [0]], id="each worth a pass"),
        pytest.param([2, 4, 6, 10], 5, [[3], [2, 1, 0]], id="few worth 5 s: 12 s, then 4 s"),
        pytest.param([2, 4, 6, 10], 13, [[3, 2, 1, 0]], id="none worth 13 s"),
        pytest.param([1, 8, 1, 8, 1], 1, [[1, 3], [0, 2, 4]], id="two lengths, in their order"),
        pytest.param([20] * 4 + [1], 1, [[0, 1, 2, 3], [4]], id="a short one among long ones: 19 of 100"),
        pytest.param([20] * 20 + [1], 1, [[*range(21)]], id="a short one among many: 19 of 420"),
    ],
)
def test_a_pass_is_split_where_it_saves_enough(seconds: list[float], least: float, expected: list[list[int]]) -> None:
    assert split_by_length([int(length * RATE) for length in seconds], least * RATE) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_padding_is_not_computed_and_features_are_the_same(name: str, tmp_path: Path) -> None:
    encoder = encoder_of(name, tmp_path / name)
    expected, lengths = in_one_pass(encoder, LENGTHS)
    layer = Layer(encoder)
    features, found = encoder(*collate(LENGTHS))
    computed = layer.take()
    assert found.tolist() == lengths.tolist()
    torch.testing.assert_close(features, expected, atol=2e-5, rtol=0)
    again, _ = encoder(*collate(LENGTHS))
    assert torch.equal(again, features)

    # A pass is as long as its longest clip, and holds all of its own.
    layer.take()
    for row, length in enumerate(LENGTHS):
        alone, _ = encoder(*collate([length]))
        torch.testing.assert_close(features[row, : found[row]], alone[0], atol=2e-5, rtol=0)
    longest = dict(zip(LENGTHS, layer.take(), strict=True))
    assert computed == [len(clips) * longest[LENGTHS[clips[0]]] for clips in PASSES]
    in_one_pass(encoder, LENGTHS)
    (padded,) = layer.take()
    assert sum(computed) < 0.4 * padded


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_a_tuned_encoder_are_the_same(name: str, tmp_path: Path) -> None:
    encoder = encoder_of(name, tmp_path / name)
    weights = list(TunedWeights(encoder, TuningConfig(unfreeze=["*"]), "encoder_tuning").parameters())
    inputs, layer = collate(LENGTHS), Layer(encoder)
    directions = torch.randn(in_one_pass(encoder, LENGTHS)[0].shape, generator=torch.Generator().manual_seed(0))

    def gradients(features: Tensor) -> Tensor:
        found = torch.autograd.grad((features * directions).sum(), weights, materialize_grads=True, allow_unused=True)
        return torch.cat([gradient.flatten() for gradient in found])

    expected = gradients(encoder.encode(*inputs)[0])
    layer.take()
    found = gradients(encoder(*inputs)[0])
    assert len(layer.take()) == len(PASSES)
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def test_clips_padded_to_30_s_stay_in_one_pass(tmp_path: Path) -> None:
    encoder = encoder_of("whisper", tmp_path, pad_to_30s=True)
    layer = Layer(encoder)
    encoder(*collate(LENGTHS[1:3]))
    assert layer.take() == [2 * 1500]


def test_the_loss_of_a_system_and_its_gradients_are_the_same(
    tiny_config: SpeechLlmConfig, tiny_manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = create(tiny_config)
    layer = Layer(model.encoder)
    batch, results = batches_of(tiny_manifest / "train.tsv")[0], []
    for least in (passes.PASS_SECONDS, math.inf):
        monkeypatch.setattr(passes, "PASS_SECONDS", least)
        loss = model(batch).total
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        results.append((layer.take(), loss, torch.cat([gradient.flatten() for gradient in gradients])))
    (computed, loss, gradient), (padded, expected, wanted) = results
    assert len(computed) > len(padded) == 1 and sum(computed) < 0.8 * sum(padded)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert (gradient - wanted).norm() <= 1e-5 * wanted.norm()
