"""Clips with prompts of their own, in writing and in speech, in every adapter before both kinds of LLMs: a batch is its
clips alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.datasets.earlier import read_earlier
from speechllm_plugin.encoders import whisper
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.config import CtcConfig, PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.tasks.row_prompt import RowPrompt, Turn
from tests.plugin.adapters.test_system import CONFIGS
from tests.plugin.llm_families import save_family
from tests.plugin.speech_llm.systems import batches_of
from tests.plugin.unsure_llm import save_unsure

YES = Turn("assistant", "it is on")
ASKS = (
    RowPrompt(),
    RowPrompt("Which {city}? <speech> now", "Köln; Bonn", (Turn("user", "turn it on"), YES)),
    RowPrompt("<speech>", history=(Turn("user", "Where? <speech> or not", "train_4.wav"), YES)),
    RowPrompt(context="a long list of names " * 4),
    RowPrompt("what else?", history=(
        Turn("user", "<speech>", "train_5.flac"), YES, Turn("user", "in writing"), YES,
        Turn("user", "and this", "train_6.wav:1600:8000", "hm"), YES,
    )),
    RowPrompt("<speech>"),
)  # fmt: skip


@pytest.fixture(scope="session")
def unsure(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_unsure(tiny_llm, tmp_path_factory.mktemp("unsure") / "llm")


@pytest.fixture(scope="session")
def mt5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("mt5", tmp_path_factory.mktemp("mt5") / "llm")


def create(config: SpeechLlmConfig, adapter: str, llm: Path | None) -> SpeechLlm:
    """:param llm: encoder-decoder; None = the causal one."""
    config.adapter = PartSection(name=adapter, config=CONFIGS[adapter])
    config.ctc = CtcConfig(weight=0.1, classifier="llm_embedding" if llm is None else "linear")
    if llm is not None:
        config.llm = PartSection(name="encoder_decoder", config={"path": str(llm), "dtype": "float32"})
    torch.manual_seed(0)
    return create_speech_llm(config)


def asking(manifest: Path) -> SpeechTextBatch:
    """Six clips, each asked otherwise."""
    (batch, *_) = batches_of(manifest / "train.tsv", batch_size=len(ASKS))
    for clip, asks in zip(batch, ASKS, strict=True):
        clip.asks = asks
        clip.earlier = read_earlier(clip, manifest, 30.0)
    return batch


@pytest.mark.parametrize("kind", ["causal", "encoder_decoder"])
@pytest.mark.parametrize("adapter", CONFIGS)
def test_a_batch_is_its_clips_alone(
    tiny_config: SpeechLlmConfig, tiny_manifest: Path, mt5: Path, adapter: str, kind: str
) -> None:
    model = create(tiny_config, adapter, mt5 if kind == "encoder_decoder" else None).eval()
    batch = asking(tiny_manifest)
    config = DecodingConfig(extra_tokens=4, tokens_per_second=2.0)
    with torch.inference_mode():
        together, alone = (model.generate(batch, config), [model.generate(batch.row(i), config) for i in range(6)])
        losses = model.swapped_loss(batch)[0]
        single = torch.cat([model.swapped_loss(batch.row(i))[0] for i in range(6)])
    assert list(together[0]) == [texts[0] for texts, _ in alone] and len(set(together[0])) > 1
    assert together[1] == [generated[0] for _, generated in alone]
    torch.testing.assert_close(losses, single, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("adapter", ["mlp", "cif"])
def test_a_batch_is_its_clips_alone_in_half_precision(
    tiny_config: SpeechLlmConfig, tiny_manifest: Path, unsure: Path, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each length a shape of its own, as other encoders have them.
    monkeypatch.setattr(whisper, "SHAPE_FRAMES", 1)
    for part in (tiny_config.encoder, tiny_config.llm):
        assert isinstance(part.config, dict)
        part.config["dtype"] = "bfloat16"
    tiny_config.llm.config["path"] = str(unsure)  # type: ignore[index]
    model, batch = create(tiny_config, adapter, None).eval(), asking(tiny_manifest)
    with torch.inference_mode():
        heard, single = model.listen(batch), [model.listen(batch.row(i)) for i in range(6)]
        assert not torch.equal(model.adapt(batch).seqs, heard.seqs), "the shape of the batch does not show"
    assert heard.lengths.tolist() == [int(own.lengths) for own in single]
    for row, own in enumerate(single):
        length = int(own.lengths)
        assert torch.equal(heard.seqs[row, :length], own.seqs[0, :length])
        assert len(heard.earlier[row]) == len(own.earlier[0])
        assert all(map(torch.equal, heard.earlier[row], own.earlier[0]))
    for size in (1, 3):
        config = DecodingConfig(extra_tokens=30, beam_size=size, no_repeat_ngram_size=2)
        with torch.inference_mode():
            together, alone = model.generate(batch, config), [model.generate(batch.row(i), config) for i in range(6)]
        assert list(together[0]) == [texts[0] for texts, _ in alone] and len(set(together[0])) > 1
        assert together[1] == [generated[0] for _, generated in alone]


@pytest.mark.parametrize("adapter", ["mlp", "cif"])
def test_earlier_speech_stands_in_its_turn(tiny_config: SpeechLlmConfig, tiny_manifest: Path, adapter: str) -> None:
    """What the LLM reads is put together from its pieces."""
    model, batch = create(tiny_config, adapter, None).eval(), asking(tiny_manifest)
    with torch.inference_mode():
        clip = batch.clips[4]
        (prompt,) = model.prompts_of(batch.row(4))
        seqs, lengths = model.join_earlier([prompt], model.adapt(batch.row(4)))
        outputs = [model.adapt(SpeechTextBatch([one])) for one in (*clip.earlier, replace(clip, earlier=()))]
        heard = [output.seqs[0, : output.lengths[0]] for output in outputs]
        first, second = (model.llm.embed(torch.tensor(ids)) for ids in prompt.between)
        torch.testing.assert_close(seqs[0], torch.cat([heard[0], first, heard[1], second, heard[2]]))
        assert lengths.tolist() == [len(seqs[0])]
    tokenizer = model.llm.tokenizer
    texts = [tokenizer.decode(ids) for ids in (prompt.before, *prompt.between, prompt.after)]
    assert texts[0].endswith("user\n") and "in writing" in texts[1] and texts[1].endswith("user\nand this ")
    assert texts[2].count("it is on") == 1 and texts[2].endswith("user\nwhat else? ") and "it is on" not in texts[3]
    assert clip.earlier[1].seconds == 0.5  # a segment


@pytest.mark.parametrize("adapter", CONFIGS)
def test_earlier_speech_trains_the_adapter(tiny_config: SpeechLlmConfig, tiny_manifest: Path, adapter: str) -> None:
    """By the LLM's loss alone: the adapter's own and CTC's are those of the clips, whatever was said before."""
    tiny_config.distillation.weight = 0.5
    model, batch = create(tiny_config, adapter, None).train(), asking(tiny_manifest)
    model.adapter.eval()  # no dropout; CIF then fires as in decoding
    loss = model(batch)
    assert loss.distilled is not None and loss.distilled.rows == [0, 1, 3, 5]  # the others' turns have no transcripts
    silent = asking(tiny_manifest)
    for one in silent.with_earlier().clips[6:]:
        one.waveform = torch.zeros_like(one.waveform)
    other = model(silent)
    assert loss.adapter.keys() == other.adapter.keys()
    for name, own in loss.adapter.items():
        torch.testing.assert_close(own, other.adapter[name])
    assert loss.ctc is not None and other.ctc is not None
    torch.testing.assert_close(loss.ctc.loss, other.ctc.loss, atol=1e-3, rtol=1e-4)
    assert loss.lm is not None and other.lm is not None
    same = torch.isclose(loss.lm, other.lm, atol=1e-3)
    assert same.tolist() == [True, True, False, True, False, True]
    loss.total.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())
