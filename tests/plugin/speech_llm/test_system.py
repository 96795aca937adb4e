"""The whole system: what is trained, moved and saved, and that it listens."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import pytest
import torch

from speechllm_plugin.configuration.structure import structure
from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.yaml_text import parse_yaml
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.config import CtcConfig, PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.ctc_head import ALIGNED_LOGIT, LlmEmbeddingCtcHead
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.tensors.masks import length_mask
from tests.plugin.speech_llm.systems import batches_of, create

SIZES = {"dim": 16, "num_heads": 2, "ffn_dim": 32, "dropout": 0.5}
BASE = PartSection(name="base", config={"num_layers": 1, **SIZES})


@pytest.mark.parametrize("ctc", ["none", "linear", "llm_embedding"])
@pytest.mark.parametrize("adapter", ["mlp", "base"])
def test_only_the_adapter_and_its_head_are_trained_and_saved(
    tiny_config: SpeechLlmConfig, adapter: str, ctc: str, batch: SpeechTextBatch
) -> None:
    if adapter == "base":
        tiny_config.adapter = BASE
    if ctc != "none":
        tiny_config.ctc = CtcConfig(weight=0.1, classifier=ctc)  # type: ignore[arg-type]
    model = create(tiny_config).train()
    trained = {"adapter"} if ctc == "none" else {"adapter", "ctc"}
    assert {name.split(".")[0] for name in model.state_dict()} == trained
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == trained
    assert {name for name, _ in model.named_parameters()} <= set(model.state_dict())

    before = [weight.clone() for part in (model.encoder, model.llm) for weight in part.state_dict().values()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(batch).total.backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and gradient.isfinite().all(), name
        # A key's bias never changes a softmax.
        assert gradient.any() or name.endswith("key.bias"), name
    optimizer.step()
    after = [weight for part in (model.encoder, model.llm) for weight in part.state_dict().values()]
    assert all(map(torch.equal, before, after))
    assert all(weight.grad is None for part in (model.encoder, model.llm) for weight in part.parameters())


@pytest.mark.parametrize("scale", ["embedding", "one"])
def test_speech_starts_at_the_scale_that_is_asked_for(
    tiny_config: SpeechLlmConfig, scale: Literal["embedding", "one"], batch: SpeechTextBatch
) -> None:
    tiny_config.output_scale = scale
    tiny_config.ctc = CtcConfig(weight=0.1, classifier="llm_embedding")
    model = create(tiny_config).eval()
    speech = model.adapt(batch)
    rms = speech.seqs[length_mask(speech.lengths, speech.seqs.size(1))].pow(2).mean().sqrt()
    words = model.llm.embedding_table.detach()
    expected = words.pow(2).mean().sqrt() if scale == "embedding" else torch.tensor(1.0)
    torch.testing.assert_close(rms, expected, rtol=0.01, atol=0.0)
    # Speech in a word's direction scores alike at either scale.
    assert isinstance(model.ctc, LlmEmbeddingCtcHead)
    word = words[6:7].unsqueeze(0)
    aligned = word * expected / word.pow(2).mean().sqrt()
    logit = model.ctc(aligned, lambda frames: frames, model.llm.embed).whole[0, 0, 1]
    size = word.pow(2).mean().sqrt() / words.pow(2).mean().sqrt()
    torch.testing.assert_close(logit, ALIGNED_LOGIT * size)


def test_an_adapters_own_loss_counts_once_for_each_target_token(
    tiny_config: SpeechLlmConfig, batch: SpeechTextBatch
) -> None:
    """Divided by the number of targets, as all losses are, it is a mean over clips, as CIF's is published."""
    sizes = {**SIZES, "dropout": 0.0}
    tiny_config.adapter = PartSection(name="cif", config={**sizes, "quantity_weight": 0.25, "token_weight": 0.5})
    model = create(tiny_config).train()
    loss = model(batch)
    targets = [model.prompts.encode_target(text) for text in batch.texts]
    transcripts = [target[:-1] for target in targets]
    speech = model.adapt(batch, transcripts)
    expected = sum(len(target) * row for target, row in zip(targets, speech.losses["quantity"], strict=True))
    torch.testing.assert_close(loss.adapter["quantity"], expected)
    assert loss.lm is not None and loss.ctc is not None and model.ctc is not None and speech.token_logits is not None
    token = model.ctc.token_loss(speech.token_logits, speech.lengths, batch.transcripts, transcripts).loss
    assert loss.token is not None and token > 0
    torch.testing.assert_close(loss.token.loss, token)
    torch.testing.assert_close(loss.total, loss.lm.sum() + 0.1 * loss.ctc.loss + 0.25 * expected + 0.5 * token)
    # On CTC alone, CTC counts in full and the others in proportion.
    aligned = model(batch, lm=False)
    torch.testing.assert_close(aligned.total, loss.ctc.loss + 2.5 * expected + 5 * token)


@pytest.mark.parametrize(
    ("ctc", "line"),
    [
        (CtcConfig(weight=0.0), "ctc.weight: found 0, expected more: adapter.config.token_weight"),
        (CtcConfig(classifier="sentencepiece", vocabulary="x.model"), "ctc.classifier: found 'sentencepiece', exp"),
    ],
)
def test_the_token_loss_needs_a_head_over_the_llms_tokens(
    tiny_config: SpeechLlmConfig, ctc: CtcConfig, line: str
) -> None:
    tiny_config.adapter = PartSection(name="cif", config={"token_weight": 0.5})
    tiny_config.ctc = ctc
    with pytest.raises(UserError, match=line):
        tiny_config.resolve()


def test_training_leaves_frozen_parts_in_evaluation(model: SpeechLlm) -> None:
    model.requires_grad_(True).train()
    assert model.training and model.adapter.training
    for part in (model.encoder, model.llm):
        assert not any(module.training for module in part.modules())
        assert not any(weight.requires_grad for weight in part.parameters())


def test_moving_the_model_moves_the_frozen_parts(model: SpeechLlm) -> None:
    model.to(torch.float64)
    for part in (model, model.encoder, model.llm):
        assert {weight.dtype for weight in part.parameters()} == {torch.float64}
    model.to("meta")
    for part in (model, model.encoder, model.llm):
        assert {weight.device.type for weight in [*part.parameters(), *part.buffers()]} == {"meta"}


def test_training_lowers_the_loss_and_the_model_listens(tiny_config: SpeechLlmConfig, batch: SpeechTextBatch) -> None:
    """Overfitted on twelve clips, the right audio is worth much more than a neighbour's."""
    tiny_config.ctc = CtcConfig(weight=0.1)
    model = create(tiny_config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    first = None
    for _ in range(60):
        loss = model(batch)
        first = first or loss.total.item()
        optimizer.zero_grad()
        loss.total.div(loss.num_targets).backward()
        optimizer.step()
    with torch.inference_mode():
        own, other, targets = model.eval().swapped_loss(batch)
    assert own.sum().item() < 0.7 * first
    assert (other - own).sum().item() / sum(targets) > 0.5


def test_the_loss_is_the_weighted_sum(model: SpeechLlm, batch: SpeechTextBatch) -> None:
    loss = model(batch)
    assert loss.lm is not None
    torch.testing.assert_close(loss.total, loss.lm.sum() + 0.3 * loss.ctc.loss)
    assert loss.num_targets == sum(len(model.prompts.encode_target(text)) for text in batch.texts)
    aligning = model(batch, lm=False)
    assert aligning.lm is None
    torch.testing.assert_close(aligning.total, loss.ctc.loss)
    assert aligning.num_targets == loss.num_targets


def test_the_loss_of_a_batch_is_the_sum_of_its_rows(
    model: SpeechLlm, batch: SpeechTextBatch, tiny_manifest: Path
) -> None:
    together = model(batch)
    alone = [model(single) for single in batches_of(tiny_manifest / "train.tsv", batch_size=1)]
    assert sum(loss.num_targets for loss in alone) == together.num_targets
    assert sum(loss.ctc.infeasible for loss in alone) == together.ctc.infeasible > 0
    torch.testing.assert_close(torch.cat([loss.lm for loss in alone]), together.lm, atol=1e-2, rtol=1e-5)
    torch.testing.assert_close(
        sum(loss.ctc.loss for loss in alone), together.ctc.loss, atol=1e-2, rtol=1e-5
    )


def test_stacked_frames_are_what_the_mlp_stacks_itself(
    tiny_config: SpeechLlmConfig, batch: SpeechTextBatch
) -> None:
    outputs = []
    for frame_stack, stack in ((1, 6), (3, 2), (6, 1)):
        tiny_config.frame_stack = frame_stack
        tiny_config.adapter.config = {"stack": stack, "hidden_dim": 48}
        model = create(tiny_config).eval()
        assert model.frame_rate * frame_stack == 50.0
        outputs.append(model.adapt(batch))
    for output in outputs[1:]:
        assert torch.equal(output.seqs, outputs[0].seqs)
        assert torch.equal(output.lengths, outputs[0].lengths)
    tiny_config.frame_stack = 0
    with pytest.raises(UserError, match="frame_stack: found 0, expected at least 1"):
        create(tiny_config)


def test_ctc_reads_the_transcript_and_the_llm_the_translation(model: SpeechLlm, batch: SpeechTextBatch) -> None:
    for clip in batch:
        clip.transcript = clip.text
    before = model(batch)
    for clip in batch:
        clip.text = clip.text[::-1]
    translated = model(batch)
    assert torch.equal(translated.ctc.loss, before.ctc.loss)
    assert not torch.equal(translated.lm, before.lm)
    for clip in batch:
        clip.transcript = clip.transcript[::-1]
    assert not torch.equal(model(batch).ctc.loss, before.ctc.loss)


def test_swapped_loss_is_the_loss_with_the_neighbours_audio(model: SpeechLlm, batch: SpeechTextBatch) -> None:
    with torch.inference_mode():
        own, other, targets = model.swapped_loss(batch)
        torch.testing.assert_close(own, model(batch).lm)
        waveforms = [batch.waveforms[-1], *batch.waveforms[:-1]]
        for clip, waveform in zip(batch, waveforms, strict=True):
            clip.waveform = waveform
        expected = model(batch)
    torch.testing.assert_close(other, expected.lm, atol=1e-2, rtol=1e-5)
    assert targets == expected.targets
    assert (own != other).all()


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_batch_decodes_as_its_clips_alone(model: SpeechLlm, tiny_manifest: Path, beam_size: int) -> None:
    config = DecodingConfig(beam_size=beam_size, extra_tokens=3)
    together = batches_of(tiny_manifest / "test.tsv")[0]
    texts, generated = model.generate(together, config)
    for i, single in enumerate(batches_of(tiny_manifest / "test.tsv", batch_size=1)):
        assert single.ids == [together.ids[i]]
        alone, alone_generated = model.generate(single, config)
        assert (alone, alone_generated) == ([texts[i]], [generated[i]])
        assert len(generated[i].tokens) <= 3 + 12.0 * together.seconds[i]
    assert len(set(texts)) == 6


def test_a_bfloat16_system_trains_a_float32_adapter(tiny_config: SpeechLlmConfig, batch: SpeechTextBatch) -> None:
    for part in (tiny_config.encoder, tiny_config.llm):
        assert isinstance(part.config, dict)
        part.config["dtype"] = "bfloat16"
    tiny_config.ctc = CtcConfig(weight=0.3, classifier="llm_embedding")
    model = create(tiny_config).train()
    for autocast in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(batch)
        assert loss.total.dtype == torch.float32 and loss.total.isfinite()
        loss.total.backward()
        for name, parameter in model.named_parameters():
            assert parameter.dtype == torch.float32, name
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_saved_configuration_tells_everything(tiny_config: SpeechLlmConfig) -> None:
    """fairseq2 saves the configuration after the model is made."""
    model = create(tiny_config)
    assert vars(model.config.adapter.config) == {"stack": 5, "hidden_dim": 48, "dropout": 0.0}
    assert model.config.llm.config.attention == "sdpa"  # type: ignore[attr-defined]


@pytest.mark.parametrize("part", ["encoder", "adapter", "llm"])
def test_a_wrong_key_names_its_part(tiny_config: SpeechLlmConfig, part: str) -> None:
    getattr(tiny_config, part).config["size"] = 1
    with pytest.raises(UserError, match=rf"^{part}\.config\.size: found an unknown key, expected one of "):
        create(tiny_config)
    getattr(tiny_config, part).name = "nothing"
    with pytest.raises(UserError, match=rf"^{part}\.name: found 'nothing', expected one of "):
        create(tiny_config)


def test_weights_and_configuration_give_back_the_model(
    model: SpeechLlm, tiny_manifest: Path, tmp_path: Path
) -> None:
    """What a checkpoint holds is enough: a fresh model with its weights says the same."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    saved = json.dumps(dataclasses.asdict(model.config))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < 100_000

    other = create(structure(SpeechLlmConfig, parse_yaml(saved), "model")).eval()
    batch = batches_of(tiny_manifest / "test.tsv")[0]
    assert not torch.equal(other(batch).total, model(batch).total)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(other(batch).total, model(batch).total)
    assert other.generate(batch, DecodingConfig()) == model.generate(batch, DecodingConfig())
