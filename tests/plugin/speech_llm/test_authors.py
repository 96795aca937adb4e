"""The settings that reproduce the code of the authors of arXiv 2409.17044, and SLM's published size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from speechllm_kernels.cif import cif
from torch import Tensor, nn
from transformers import AutoTokenizer

from speechllm_plugin.adapters.api import ADAPTERS, Adapter, AdapterShape
from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.config import CtcConfig, PartSection, SpeechLlmConfig, arch_config, is_published
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from tests.plugin.speech_llm.systems import batches_of

LENGTHS = torch.tensor([2, 17, 40])
SIZES = {"dim": 16, "num_heads": 2, "ffn_dim": 32, "dropout": 0.0}


def test_wlq_former_between_the_encoders_and_the_llms_width(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor]
) -> None:
    adapter = create_adapter("wlq_former", dim=20, dropout=0.0, input_projection=False, output_norm=False).eval()
    assert isinstance(adapter.input, nn.Identity) and isinstance(adapter.norm, nn.Identity)
    seqs = encoder_features(LENGTHS)
    output = adapter(seqs, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        normed = nn.functional.layer_norm(seqs[row, :length], (24,), eps=1e-5)
        windows = [adapter.former(part.unsqueeze(0), torch.tensor([len(part)]))[0] for part in normed.split(16)]
        expected = torch.cat(windows) @ adapter.output.weight.T + adapter.output.bias
        torch.testing.assert_close(output.seqs[row, : len(expected)], expected, atol=1e-5, rtol=1e-4)
    assert output.lengths.tolist() == [1, 2, 3]


def test_wlq_former_without_its_projection_has_no_frames_for_ctc(tiny_config: SpeechLlmConfig) -> None:
    tiny_config.adapter = PartSection(name="wlq_former", config={**SIZES, "input_projection": False})
    tiny_config.ctc = CtcConfig(weight=0.1)
    with pytest.raises(UserError, match=r"^ctc\.weight: found 0\.1, expected 0: the adapter gives no frames"):
        create_speech_llm(tiny_config)
    tiny_config.adapter.config = {**SIZES, "input_projection": False, "ctc_frames": "after"}
    assert create_speech_llm(tiny_config).ctc is not None


def test_cif_scales_its_weights_a_little_beyond_the_tokens(
    create_adapter: Callable[..., Adapter], encoder_features: Callable[..., Tensor]
) -> None:
    targets = torch.tensor([1, 4, 9])
    seqs = encoder_features(LENGTHS)
    for scale_eps in (0.0, 0.3):
        adapter = create_adapter("cif", dropout=0.0, scale_eps=scale_eps).train()
        frames = adapter.layers_before(adapter.project_in(seqs, LENGTHS), LENGTHS)
        fired = cif(frames, adapter.weights(frames, LENGTHS), LENGTHS, target_lengths=targets, scale_eps=scale_eps)
        expected = adapter.project_out(adapter.layers_after(fired.seqs, fired.lengths))
        output = adapter(seqs, LENGTHS, targets)
        assert output.lengths.tolist() == targets.tolist()
        torch.testing.assert_close(output.seqs[2, :9], expected[2, :9])
    with pytest.raises(UserError, match=r"^adapter\.config\.scale_eps: found -1\.0, expected a number of at least 0"):
        create_adapter("cif", scale_eps=-1.0)


def test_slm_has_the_published_size() -> None:
    section = arch_config("w2v_bert.mt0_xxl_mt.slm").adapter
    with torch.device("meta"):
        adapter = ADAPTERS.get(section.name).build(
            ADAPTERS.config(section.name, section.config), AdapterShape(1024, 4096, 50.0)
        )
    layers = adapter.get_submodule("layers")
    assert [sum(weight.numel() for weight in part.parameters()) / 1e6 for part in (layers, adapter)] == [
        pytest.approx(151.1, abs=0.1), pytest.approx(155.3, abs=0.1)
    ]
    with pytest.raises(UserError, match=r"^adapter\.config\.dim: found 4096, expected the LLM's width, 512, without"):
        ADAPTERS.get(section.name).build(
            ADAPTERS.config(section.name, section.config), AdapterShape(1024, 512, 50.0)
        )


@pytest.mark.parametrize(
    ("arch", "published"),
    [
        ("whisper_large_v3.llama31_8b.base", True), ("seamless_m4t_v2.mistral_7b.ctc_authors", True),
        ("w2v_bert.mt0_xxl_mt.slm", True), ("w2v_bert.mt0_xxl_mt.subsample", False),
        ("whisper_large_v3.llama31_8b.mlp", False), ("whisper_tiny_en.llama31_8b.base", False), (None, False),
    ],
)
def test_published_architectures(arch: str | None, published: bool) -> None:
    assert is_published(arch) == published


@pytest.fixture
def batch(tiny_manifest: Path) -> SpeechTextBatch:
    return batches_of(tiny_manifest / "train.tsv")[0]


def create(config: SpeechLlmConfig) -> SpeechLlm:
    torch.manual_seed(0)
    return create_speech_llm(config).train()


def test_transcripts_that_begin_with_the_beginning_of_the_sequence(
    tiny_config: SpeechLlmConfig, batch: SpeechTextBatch
) -> None:
    tiny_config.adapter = PartSection(name="cif", config=SIZES)
    without = create(tiny_config)
    tiny_config.ctc = CtcConfig(weight=0.1, bos=True)
    model = create(tiny_config)
    bos = AutoTokenizer.from_pretrained(tiny_config.llm.config.path).bos_token_id  # type: ignore[attr-defined]
    assert model.transcript_tokens("play") == [bos, *without.transcript_tokens("play")]
    short = batch.row(len(batch) - 2)
    speech = model.adapt(short, [model.transcript_tokens(short.texts[0])])
    assert speech.frame_lengths is not None
    # One vector and one label more, where the clip has frames for them.
    assert speech.lengths[0] == min(len(model.transcript_tokens(short.texts[0])), int(speech.frame_lengths[0]))
    labels = [[one(batch.row(index)).ctc.num_labels for index in range(len(batch))] for one in (model, without)]
    aligned = [pair for pair in zip(*labels, strict=True) if pair[0] > 0]  # none where the clip is too short
    assert aligned and all(more == fewer + 1 for more, fewer in aligned)


@pytest.mark.parametrize("classifier", ["llm_embedding", "sentencepiece"])
def test_only_a_head_over_all_tokens_knows_the_beginning(classifier: str) -> None:
    config = CtcConfig(bos=True, classifier=classifier, vocabulary="x" if classifier == "sentencepiece" else None)
    (error,) = config.problems()
    assert error.startswith(f"bos: found true with the classifier {classifier!r}, expected false")


def test_means_of_each_batch(tiny_config: SpeechLlmConfig, tiny_manifest: Path) -> None:
    """By hand: the LLM's over its tokens, CTC's over labels and then clips, the quantity loss over clips."""
    tiny_config.adapter = PartSection(name="cif", config=SIZES)
    tiny_config.loss_mean = "batches"
    model = create(tiny_config)
    for batch in batches_of(tiny_manifest / "train.tsv", batch_size=5):
        loss = model(batch)
        alone = [model(batch.row(index)) for index in range(len(batch))]
        assert loss.lm is not None and loss.count == 1
        ctc = sum(one.ctc.loss / max(1, one.ctc.num_labels) for one in alone) / len(batch)
        quantity = sum(one.adapter["quantity"] / one.num_targets for one in alone) / len(batch)
        expected = loss.lm.sum() / loss.num_targets + 0.1 * ctc + 0.1 * quantity
        torch.testing.assert_close(loss.total, expected, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(loss.ctc.clip_mean, ctc, atol=1e-4, rtol=1e-5)
        # On CTC alone, CTC counts in full.
        torch.testing.assert_close(model(batch, lm=False).total, ctc + quantity, atol=1e-4, rtol=1e-5)
