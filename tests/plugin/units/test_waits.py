"""What a training step waits for on a GPU, by a device that stands in for one: see `tests/stand_in_device.py`."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq2.metrics import MetricBag

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.encoders import passes
from speechllm_plugin.encoders.api import ENCODERS
from speechllm_plugin.encoders.feature_cache import FeatureCache
from speechllm_plugin.models.speech_llm.config import CtcConfig, PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.pretrained import freeze
from speechllm_plugin.prompts import PromptConfig, PromptRenderer
from speechllm_plugin.tasks.api import task_of_row
from speechllm_plugin.tensors.masks import length_mask
from speechllm_plugin.units.training import SpeechLlmTrainUnit
from tests.plugin.encoder_families import save_encoder
from tests.plugin.llm_families import load_family, save_family
from tests.plugin.speech_llm.systems import batches_of, create
from tests.stand_in_device import DEVICE, moved, stand_in

SMALL = {"dim": 32, "num_heads": 4, "ffn_dim": 64, "dropout": 0.0}
ADAPTERS: dict[str, dict[str, Any]] = {
    "base": {**SMALL, "num_layers": 1},
    "cif": {**SMALL, "layers_before": 1, "layers_after": 1, "token_weight": 0.3},
    "conv": {**SMALL, "layers_before": 1, "layers_after": 1},
    "ctc": {**SMALL, "layers_before": 1, "layers_after": 1},
    "mlp": {"stack": 5, "hidden_dim": 48},
    "subsample": {**SMALL, "num_layers": 1},
    "wlq_former": {**SMALL, "num_layers": 2},
}


class Run:
    """Steps as fairseq2's trainer makes them, up to the gradient."""

    def __init__(self, model: SpeechLlm, device: torch.device) -> None:
        reader: Any = SimpleNamespace(tasks=["transcribe"], skipped={})
        self.unit = SpeechLlmTrainUnit(model, model, reader)
        self.bag = MetricBag(device)
        self.unit.prepare_metric_bag(self.bag)
        self._model, self._device, self._number = model, device, 0

    def step(self, batch: SpeechTextBatch) -> None:
        read: Any = batch
        if self._device.type == "cuda":
            read.pin()  # as the reader does
        self._number += 1
        self.unit.set_step_nr(self._number)
        read.to(self._device, non_blocking=True)
        loss, _ = self.unit.process_batch(read, self.bag)
        loss.backward()
        self._model.zero_grad()

    def loss(self) -> float:
        return float(self.bag.metrics["nll_loss"].compute())


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
def test_a_step_waits_for_nothing_but_lengths_that_depend_on_the_sound(
    adapter: str, tiny_config: SpeechLlmConfig, tiny_manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config.adapter = PartSection(name=adapter, config=ADAPTERS[adapter])
    tiny_config.ctc = CtcConfig(weight=0.3, classifier="linear")
    model = create(tiny_config).train()
    batches = [batches_of(tiny_manifest / "train.tsv")[0] for _ in range(3)]
    run = Run(model, torch.device("cpu"))
    run.step(batches[0])
    with stand_in(monkeypatch) as device:
        moved(model)
        there = Run(model, DEVICE)
        there.step(batches[1])  # computes the states of the prompt
        device.reads.clear()
        device.waiting_copies.clear()
        there.step(batches[2])
        assert device.reads == (["copy"] if adapter == "ctc" else [])
        assert device.waiting_copies == []
        assert math.isclose(there.loss(), run.loss(), rel_tol=1e-5)


def test_cif_reads_the_number_of_vectors_of_a_clip_without_a_transcript(
    tiny_config: SpeechLlmConfig, tiny_manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as the clip's weights sum to, which decides shapes."""
    tiny_config.adapter = PartSection(name="cif", config=ADAPTERS["cif"])
    tiny_config.ctc = CtcConfig(weight=0.3, classifier="linear")
    model = create(tiny_config).train()
    batches = [batches_of(tiny_manifest / "train.tsv")[0] for _ in range(2)]
    for batch in batches:
        batch.clips[0].task = task_of_row("en", "de")
    with stand_in(monkeypatch) as device:
        moved(model)
        there = Run(model, DEVICE)
        there.step(batches[0])
        device.reads.clear()
        device.waiting_copies.clear()
        there.step(batches[1])
        assert (device.reads, device.waiting_copies) == (["copy"], [])


def test_features_are_read_for_the_cache_once_a_batch(
    tiny_config: SpeechLlmConfig, tiny_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = create(tiny_config).train()
    cache = model.features.cache = FeatureCache(tmp_path, "x", model.encoder.feature_dtype)
    manifest = tiny_manifest / "train.tsv"
    first, second = batches_of(manifest, batch_size=6)
    with stand_in(monkeypatch) as device:
        moved(model)
        there = Run(model, DEVICE)
        there.step(first)
        device.reads.clear()
        device.waiting_copies.clear()
        there.step(second)
        assert (device.reads, device.waiting_copies) == (["copy"], [])
    kept = {clip.id: clip.features for clip in batches_of(manifest, find=cache.get)[0]}
    alone = create(tiny_config)
    for batch in batches_of(manifest, batch_size=1):
        features, _ = alone.features.of(batch)
        torch.testing.assert_close(kept[batch.ids[0]], features[0])


@pytest.mark.parametrize("apart", [pytest.param(False, id="one pass"), pytest.param(True, id="a pass for each clip")])
@pytest.mark.parametrize("name", ["whisper", "seamless_m4t_v2", "w2v_bert", "wav2vec2", "hubert", "wavlm"])
def test_an_encoder_asks_its_device_nothing(
    name: str, apart: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if apart:
        monkeypatch.setattr(passes, "PASS_SECONDS_ON_GPU", 0.1)
    part = ENCODERS.get("wav2vec2" if name in ("hubert", "wavlm") else name)
    path = save_encoder(name, tmp_path / name, sharded=False)
    options = {"pad_to_30s": not apart} if name == "whisper" else {}
    encoder: Any = freeze(part.build(part.config_kls(path=str(path), dtype="float32", **options)))
    lengths = torch.tensor([16000, 9000, 12345])
    waveforms = torch.randn(3, 16000) * length_mask(lengths, 16000)
    expected, expected_lengths = encoder(waveforms, lengths)
    with stand_in(monkeypatch) as device:
        moved(encoder)
        there = waveforms.pin_memory().to(DEVICE, non_blocking=True)
        features, found = encoder(there, lengths)
        assert (device.reads, device.waiting_copies) == ([], [])
        assert found.device.type == "cpu" and torch.equal(found, expected_lengths)
        assert (features.cpu() - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3", "mt5"])
def test_the_loss_of_an_llm_asks_its_device_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers' own mask for `eager`, which Gemma 2 needs, copies two numbers.
    own = ["torch.tensor of ()"] * 2 if name == "gemma2" else []
    llm = load_family(name, save_family(name, tmp_path / name))
    renderer = PromptRenderer(llm.tokenizer, PromptConfig(order="instruction_first"), chat=llm.chat)
    # Prompts of several lengths.
    prompts = [renderer.render("en", language) for language in ("en", "de", "en")]
    targets = [renderer.encode_target(text) for text in ("turn the light on", "spielen", "how long is the drive")]
    lengths, speech = torch.tensor([3, 9, 5]), 0.1 * torch.randn(3, 9, llm.dim)
    expected = llm.loss(prompts, speech, lengths, targets)
    with stand_in(monkeypatch) as device:
        moved(llm)
        there = speech.pin_memory().to(DEVICE, non_blocking=True)
        llm.loss(prompts, there, lengths, targets)  # computes the states of the prompts
        device.reads.clear()
        device.waiting_copies.clear()
        found = llm.loss(prompts, there, lengths, targets)
        assert (device.reads, device.waiting_copies) == ([], own)
        assert (found.cpu() - expected).norm() < 1e-5 * expected.norm()


def test_a_loss_that_is_no_number_ends_the_run_one_batch_later(
    tiny_config: SpeechLlmConfig, tiny_manifest: Path
) -> None:
    model = create(tiny_config).train()
    first, second = batches_of(tiny_manifest / "train.tsv", batch_size=6)
    run = Run(model, torch.device("cpu"))
    bias = next(model.adapter.parameters())
    bias.data[0] = math.nan
    run.step(first)
    bias.data[0] = 0.0
    told = f"the loss is nan at step 1 for the utterances {', '.join(first.ids)}"
    with pytest.raises(FloatingPointError, match=told):
        run.step(second)
    run.unit.losses.check()  # has been told
    bias.data[0] = math.inf
    run.step(second)
    with pytest.raises(FloatingPointError, match=f"at step 3 for the utterances {', '.join(second.ids)}"):
        run.unit.losses.check()  # before a checkpoint
