"""Clips without speech: the guard that leaves their texts empty, and training on them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.datasets.manifest import read_manifest
from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.llms.no_speech import loudness
from speechllm_plugin.models.speech_llm.config import CtcConfig, PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.ctc_head import LinearCtcHead
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.tensors.logits import whole

SIZES = {"dim": 16, "num_heads": 2, "ffn_dim": 32, "layers_before": 1, "layers_after": 1}


def read_batch(manifest: Path) -> SpeechTextBatch:
    """The twelve training clips; the second as still as a quiet room, the third without any sound."""
    utterances = SpeechTextDataset(SpeechTextConfig(manifests={"all": str(manifest)})).read("all")
    options = ReadOptions(limits=BatchLimits(12, None), shuffle_seed=None, max_seconds=30.0)
    batch = next(SpeechTextReader(utterances, options))[0]
    for row, scale in ((1, 1e-4), (2, 0.0)):
        waveform = batch.waveforms[row]
        assert waveform is not None
        batch.clips[row].waveform = waveform * scale
    return batch


@pytest.fixture
def batch(tiny_manifest: Path) -> SpeechTextBatch:
    return read_batch(tiny_manifest / "train.tsv")


@pytest.fixture
def model(tiny_config: SpeechLlmConfig) -> SpeechLlm:
    torch.manual_seed(0)
    return create_speech_llm(tiny_config).eval()


def test_the_level_is_that_of_the_loudest_tenth_of_a_second() -> None:
    sine = torch.sin(torch.arange(16000) * 0.5)
    assert loudness(sine) == pytest.approx(-3.01, abs=0.05)
    assert loudness(torch.cat([torch.zeros(160_000), sine / 10])) == pytest.approx(-23.01, abs=0.05)
    assert loudness(torch.zeros(100)) == loudness(torch.zeros(0)) == -math.inf


@torch.inference_mode()
def test_quiet_clips_have_no_text(model: SpeechLlm, batch: SpeechTextBatch) -> None:
    config = DecodingConfig(tokens_per_second=4.0)
    texts, _ = model.generate(batch, config)
    assert all(texts)
    found, generated = model.generate(batch, replace(config, no_speech_level=-60.0))
    assert found == [texts[0], "", "", *texts[3:]]
    reasons = [row.no_speech for row in generated]
    assert reasons[1].startswith("level -9") and reasons[2] == "level -inf dB" and not any(reasons[3:])


@torch.inference_mode()
def test_texts_that_the_llm_hardly_believes_are_left_out(model: SpeechLlm, batch: SpeechTextBatch) -> None:
    """The probability is the geometric mean of what a softmax gives each token after those before it."""
    config = DecodingConfig(tokens_per_second=4.0, temperature=3.0)
    texts, generated = model.generate(batch, config)
    speech = model.adapt(batch)
    prompt = model.prompts.render("en", "en")
    expected = []
    for row, hypothesis in enumerate(generated):
        own = speech.seqs[row, : int(speech.lengths[row])]
        table = model.llm.embedding_table
        parts = [table[list(prompt.before)], own, table[list(prompt.after)], table[hypothesis.tokens]]
        logits = model.llm.model(inputs_embeds=torch.cat(parts).unsqueeze(0)).logits[0]
        logits = logits[-len(hypothesis.tokens) - 1 : -1]
        chosen = logits.log_softmax(-1)[range(len(hypothesis.tokens)), hypothesis.tokens]
        expected.append(float(chosen.mean().exp()))
    middle = sorted(expected)[5:7]
    threshold = sum(middle) / 2
    found, _ = model.generate(batch, replace(config, no_speech_probability=threshold))
    assert found == [text if own > threshold else "" for text, own in zip(texts, expected, strict=True)]
    assert found.count("") == 6


@pytest.mark.parametrize("adapter", ["mlp", "cif", "ctc"])
def test_a_clip_without_words_trains_too(tiny_config: SpeechLlmConfig, batch: SpeechTextBatch, adapter: str) -> None:
    if adapter != "mlp":
        token_weight = {"token_weight": 0.3} if adapter == "cif" else {}
        tiny_config.adapter = PartSection(name=adapter, config={**SIZES, **token_weight})
    tiny_config.ctc = CtcConfig(weight=0.3, classifier="linear")
    torch.manual_seed(0)
    model = create_speech_llm(tiny_config).train()
    batch.clips[1].text = batch.clips[1].transcript = ""
    loss = model(batch)
    # Its one target is the end of the answer.
    assert loss.num_targets == sum(len(model.prompts.encode_target(text)) for text in batch.texts)
    loss.total.backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert loss.total.isfinite() and gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_an_empty_text_is_a_mistake_unless_it_is_said_to_be_silence(tmp_path: Path) -> None:
    file = tmp_path / "m.tsv"
    file.write_text("id\taudio\ttgt_text\na\ta.wav\t\nb\tb.wav\thello\n")
    with pytest.raises(UserError, match=r"'tgt_text': found '', .*dataset\.config_overrides\.empty_text=silence"):
        read_manifest(file)
    assert [row.tgt_text for row in read_manifest(file, empty_text=True)] == ["", "hello"]
    # Any other field, and the column itself, are still needed.
    file.write_text("id\taudio\ttgt_text\na\t\thello\n")
    with pytest.raises(UserError, match="'audio': found '', expected some text$"):
        read_manifest(file, empty_text=True)
    file.write_text("id\taudio\na\ta.wav\n")
    with pytest.raises(UserError, match="expected also 'tgt_text'"):
        read_manifest(file, empty_text=True)


@torch.inference_mode()
def test_clips_that_ctc_reads_as_blank_have_no_text(tiny_config: SpeechLlmConfig, batch: SpeechTextBatch) -> None:
    tiny_config.adapter = PartSection(name="base", config={"dim": 16, "num_heads": 2, "num_layers": 1})
    tiny_config.ctc = CtcConfig(weight=1.0)
    torch.manual_seed(0)
    model = create_speech_llm(tiny_config).eval()
    assert isinstance(model.ctc, LinearCtcHead)
    frame_logits = model.adapt(batch, score_frames=True).frame_logits
    assert frame_logits is not None
    untrained = whole(frame_logits)
    # About half of the frames become blank.
    model.ctc.classifier.bias.data[0] += (untrained[..., 1:].amax(-1) - untrained[..., 0]).median()
    config = DecodingConfig(tokens_per_second=4.0)
    texts, _ = model.generate(batch, config)
    speech = model.adapt(batch, score_frames=True)
    assert speech.frame_logits is not None and speech.frame_lengths is not None
    shares = [
        sum(int(frame.argmax()) == 0 for frame in logits[:length]) / length
        for logits, length in zip(whole(speech.frame_logits), speech.frame_lengths.tolist(), strict=True)
    ]
    threshold = sorted(shares)[9]
    assert min(shares) < threshold
    found, generated = model.generate(batch, replace(config, no_speech_blank_share=threshold))
    assert found == ["" if share >= threshold else text for share, text in zip(shares, texts, strict=True)]
    assert [bool(row.no_speech) for row in generated] == [share >= threshold for share in shares]


def test_the_share_of_blanks_needs_a_ctc_head(model: SpeechLlm, batch: SpeechTextBatch) -> None:
    with pytest.raises(UserError, match=r"decoding.no_speech_blank_share: found 1.0, expected null"):
        model.generate(batch, DecodingConfig(tokens_per_second=1.0, no_speech_blank_share=1.0))
