"""Rows that CTC cannot align are counted before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.errors import UserError
from speechllm_plugin.inference.reading import batch_of_files
from speechllm_plugin.models.speech_llm.config import CtcConfig, PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.ctc_head import LlmEmbeddingCtcHead
from speechllm_plugin.models.speech_llm.distillation_config import DistillationConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.units.alignable import check_alignable, ctc_frames, known_transcripts

SHORT, LONG = "turn", "turn the kitchen light on and " * 5


@pytest.fixture
def config(tiny_config: SpeechLlmConfig) -> SpeechLlmConfig:
    tiny_config.ctc = CtcConfig(weight=0.3)
    return tiny_config


@pytest.mark.parametrize("pad", [False, True], ids=["the clip", "Whisper's window"])
@pytest.mark.parametrize(
    ("stack", "adapter"),
    [
        (1, PartSection(name="mlp", config={"stack": 5, "hidden_dim": 48})),
        (3, PartSection(name="conv", config={"dim": 16, "num_heads": 2, "ffn_dim": 32, "layers_before": 1,
                                             "layers_after": 1})),
    ],
    ids=["mlp", "conv"],
)
def test_frames_are_those_that_the_head_gets(
    config: SpeechLlmConfig, tiny_manifest: Path, stack: int, adapter: PartSection, pad: bool
) -> None:
    assert isinstance(config.encoder.config, dict)
    config.encoder.config["pad_to_30s"] = pad
    config.adapter, config.frame_stack = adapter, stack
    model = create_speech_llm(config).eval()
    files = [tiny_manifest / f"train_{i}.{('wav', 'flac')[i % 2]}" for i in range(4)]
    batch = batch_of_files(files, "en", None)
    with torch.inference_mode():
        lengths = model.adapt(batch, score_frames=True).frame_lengths
    assert lengths is not None
    for reckoned, real in zip(ctc_frames(model, batch.seconds), lengths.tolist(), strict=True):
        assert real <= reckoned <= real + 1


def test_rows_that_cannot_be_aligned_are_told(
    config: SpeechLlmConfig, caplog: pytest.LogCaptureFixture
) -> None:
    model = create_speech_llm(config)
    check_alignable(model, [SHORT] * 5, [2.0] * 5, "train")
    # One of two hundred is told by the metrics of the steps.
    check_alignable(model, [LONG, *[SHORT] * 199], [1.0] * 200, "train")
    assert not caplog.messages
    check_alignable(model, [SHORT, LONG, SHORT], [2.0] * 3, "train")
    (line,) = caplog.messages
    assert line.startswith("ctc: CTC cannot align 1 of 3 rows of split 'train': 1 need more frames than they have (at")
    assert "its clip has 20" in line and "add nothing to its loss" in line
    with pytest.raises(UserError) as caught:
        check_alignable(model, [LONG] * 3000, [1.0] * 3000, "dev")
    assert str(caught.value).startswith("ctc: CTC cannot align 1,500 of 1,500 rows of split 'dev': 1,500 need more")
    assert "expected more frames (a smaller frame_stack" in str(caught.value) and "\n" not in str(caught.value)


def test_characters_outside_the_vocabulary_are_told(
    config: SpeechLlmConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config.ctc = CtcConfig(weight=0.3, classifier="llm_embedding")
    model = create_speech_llm(config)
    assert isinstance(model.ctc, LlmEmbeddingCtcHead)
    model.ctc.set_vocabulary(model.prompts.encode_target(SHORT)[:-1])
    check_alignable(model, [SHORT, "zebra", LONG], [1.0] * 3, "train")
    (line,) = caplog.messages
    assert "cannot align 2 of 3 rows" in line and "2 have a character outside the vocabulary" in line


def test_without_ctc_nothing_is_asked(tiny_config: SpeechLlmConfig) -> None:
    check_alignable(create_speech_llm(tiny_config), [LONG], [0.1], "train")


@pytest.mark.parametrize(("tasks", "asks"), [(["answer"], False), (["translate"], True), (None, True)])
def test_a_teacher_asks_for_the_transcripts_of_its_own_tasks(
    tiny_config: SpeechLlmConfig, tiny_manifest: Path, tasks: list[str] | None, asks: bool
) -> None:
    from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader

    header, *rows = (tiny_manifest / "test.tsv").read_text().splitlines()
    columns = header.split("\t")
    table = [dict(zip(columns, row.split("\t"), strict=True)) for row in rows]
    for place, row in enumerate(table):
        row.update(src_lang="en", tgt_lang="de" if place < 2 else "en")
    lines = [header, *("\t".join(row.values()) for row in table)]
    file = tiny_manifest / "without_transcripts.tsv"
    file.write_text("".join(f"{line}\n" for line in lines))
    tiny_config.ctc, tiny_config.distillation = CtcConfig(), DistillationConfig(weight=0.7, tasks=tasks)
    model = create_speech_llm(tiny_config)
    options = ReadOptions(limits=BatchLimits(12, None), shuffle_seed=None, max_seconds=30.0)
    utterances = SpeechTextDataset(SpeechTextConfig(manifests={"all": str(file)})).read("all")
    clips = SpeechTextReader(utterances, options).clips
    if not asks:
        assert len(known_transcripts(model, clips, "train")[0]) == len(table) - 2
        return
    with pytest.raises(UserError, match="found none for 2 of .* for the losses of distillation, or ctc"):
        known_transcripts(model, clips, "train")
