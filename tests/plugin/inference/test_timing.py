"""Times of words: a trained CTC head on sound whose times are known, and CIF's vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from speechllm_plugin.adapters.api import AdapterOutput
from speechllm_plugin.alignment.timed_text import Timed, TimedText
from speechllm_plugin.datasets.batch import Clip, SpeechTextBatch
from speechllm_plugin.errors import UserError
from speechllm_plugin.inference.timing import check_timestamps, time_clip
from speechllm_plugin.models.speech_llm.config import CtcConfig, PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.tasks.api import task_of_row
from speechllm_plugin.text.vocabulary import train_vocabulary
from tests.plugin.speech_llm.systems import create

RATE = 16000


def batch_of(
    waveforms: Sequence[Tensor], texts: Sequence[str], source_lang: str = "en", target_lang: str = "en"
) -> SpeechTextBatch:
    task = task_of_row(source_lang, target_lang)
    return SpeechTextBatch([
        Clip(
            id=f"clip_{i}", row=i, task=task, source_lang=source_lang, target_lang=target_lang, text=text,
            transcript=text, audio=f"clip_{i}", audio_key=f"clip_{i}", seconds=len(waveform) / RATE, waveform=waveform,
        )
        for i, (waveform, text) in enumerate(zip(waveforms, texts, strict=True))
    ])


@pytest.fixture
def cif_model(tiny_config: SpeechLlmConfig) -> SpeechLlm:
    """Without a CTC head."""
    sizes = {"dim": 16, "num_heads": 2, "ffn_dim": 32, "layers_before": 1, "layers_after": 1}
    tiny_config.adapter = PartSection(name="cif", config=sizes)
    return create(tiny_config).eval()


def speech_of(starts: list[int], ends: list[int]) -> AdapterOutput:
    # A row that is padded beyond its length.
    return AdapterOutput(
        seqs=torch.zeros(1, len(starts) + 1, 32), lengths=torch.tensor([len(starts)]),
        starts=torch.tensor([[*starts, 0]]), ends=torch.tensor([[*ends, 0]]),
    )


def time_text(model: SpeechLlm, speech: AdapterOutput, text: str, seconds: int = 4, **options: str) -> TimedText:
    return time_clip(model, batch_of([torch.ones(seconds * RATE)], [text], **options), speech, 0, text)


def test_cif_gives_each_token_the_frames_of_its_vector(cif_model: SpeechLlm) -> None:
    text = "play some quiet music"
    tokens = cif_model.llm.tokenizer.tokenize(text)
    starts = list(range(0, 10 * len(tokens), 10))
    timed = time_text(cif_model, speech_of(starts, [start + 10 for start in starts]), text)
    # Ten frames at 50 Hz a token; every character of these tokens is one of the text, a space is written as another.
    last = [len("".join(tokens[: i + 1])) for i in range(len(tokens))]
    assert [word.text for word in timed.words] == text.split()
    for word in timed.words:
        place = text.index(word.text)
        own = [i for i, end in enumerate(last) if place < end <= place + len(word.text)]
        assert (word.start, word.end) == (pytest.approx(0.2 * own[0]), pytest.approx(0.2 * (own[-1] + 1)))
    assert timed.placed == 1.0
    assert [part.text for part in timed.segments] == [text]


def test_times_end_with_the_clip(cif_model: SpeechLlm) -> None:
    """Whisper's frames go on to 30 s."""
    timed = time_text(cif_model, speech_of([0, 90], [90, 1500]), "play")
    assert timed.segments == [Timed("play", 0.0, 4.0)]


def test_a_language_without_spaces_has_times_for_its_tokens(cif_model: SpeechLlm) -> None:
    text = "放首歌"
    # Three bytes a character, a token each.
    timed = time_text(cif_model, speech_of(list(range(0, 90, 10)), list(range(10, 100, 10))), text, source_lang="zh",
                      target_lang="zh")
    assert [(word.text, round(word.start, 3), round(word.end, 3)) for word in timed.words] == [
        ("放", 0.0, 0.6), ("首", 0.6, 1.2), ("歌", 1.2, 1.8)
    ]


def test_a_translation_has_the_time_of_its_clip(cif_model: SpeechLlm) -> None:
    timed = time_text(cif_model, speech_of([0], [50]), "spiel musik", target_lang="de")
    assert timed.words == timed.segments == [Timed("spiel musik", 0.0, 4.0)]
    assert timed.placed == 0.0


def test_nothing_said_is_an_empty_segment(cif_model: SpeechLlm) -> None:
    assert time_text(cif_model, speech_of([0], [50]), "").segments == [Timed("", 0.0, 4.0)]


def test_a_model_without_either_source_is_refused(tiny_config: SpeechLlmConfig) -> None:
    model = create(tiny_config).eval()
    with torch.inference_mode():
        speech = model.adapt(batch_of([torch.ones(RATE)], [""]), score_frames=True)
    with pytest.raises(UserError, match=r"^timestamps: found adapter 'mlp' without a CTC head.*ctc\.weight above 0"):
        check_timestamps(model, speech)


WORDS = ("turn", "call", "music", "timer", "water", "again")


def say(words: Sequence[str], generator: torch.Generator) -> tuple[Tensor, list[tuple[float, float]]]:
    """A tone of its own for each word, with silence between; the true times of the words."""
    parts, times, place = [], [], 0
    for word in words:
        pause, length = (int(RATE * (low + 0.3 * torch.rand((), generator=generator))) for low in (0.15, 0.2))
        phase = torch.arange(length) * 2 * torch.pi / RATE
        tone = sum(torch.sin((250 + 300 * WORDS.index(word)) * k * phase) / k for k in (1, 2, 3))
        parts += [torch.zeros(pause), 0.2 * tone]
        times.append(((place + pause) / RATE, (place + pause + length) / RATE))
        place += pause + length
    return torch.cat([*parts, torch.zeros(4000)]), times


@pytest.fixture(scope="module")
def clips() -> list[tuple[str, Tensor, list[tuple[float, float]]]]:
    generator = torch.Generator().manual_seed(0)
    texts = [[WORDS[(i * step + i // 6) % 6] for step in range(1, 5)] for i in range(1, 17)]
    return [(" ".join(words), *say(words, generator)) for words in texts]


@pytest.fixture
def ctc_model(tiny_config: SpeechLlmConfig, clips: list[tuple[str, Tensor, list[tuple[float, float]]]]) -> SpeechLlm:
    """Trained with CTC alone on the first twelve clips."""
    tiny_config.adapter.config = {"stack": 2, "hidden_dim": 64}
    tiny_config.ctc = CtcConfig(weight=0.3, classifier="linear")
    model = create(tiny_config).train()
    batch = batch_of([clip[1] for clip in clips[:12]], [clip[0] for clip in clips[:12]])
    with torch.no_grad():
        features, lengths = model.features.of(batch)
    model.features.of = lambda batch: (features, lengths)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        loss = model(batch, lm=False)
        loss.total.div(loss.num_targets).backward()
        optimizer.step()
    del model.features.of
    return model.eval()


@torch.inference_mode()
def test_words_are_found_where_they_sound(
    ctc_model: SpeechLlm, clips: list[tuple[str, Tensor, list[tuple[float, float]]]]
) -> None:
    texts, waveforms, truth = zip(*clips[12:], strict=True)
    batch = batch_of(waveforms, texts)
    speech = ctc_model.adapt(batch, score_frames=True)
    errors = []
    for row, times in enumerate(truth):
        timed = time_clip(ctc_model, batch, speech, row, texts[row])
        assert timed.placed == 1.0
        errors += [abs(word.start - start) for word, (start, _) in zip(timed.words, times, strict=True)]
        errors += [abs(word.end - end) for word, (_, end) in zip(timed.words, times, strict=True)]
    errors.sort()
    # Frames of 40 ms. Spread evenly over their clips the words would be 0.3 s off.
    assert errors[len(errors) // 2] < 0.05
    assert sum(errors) / len(errors) < 0.1


@torch.inference_mode()
def test_a_text_too_long_for_its_audio_is_spread_over_it(
    ctc_model: SpeechLlm, clips: list[tuple[str, Tensor, list[tuple[float, float]]]]
) -> None:
    batch = batch_of([clips[0][1][:1600]], [""])
    text = " ".join(WORDS)
    timed = time_clip(ctc_model, batch, ctc_model.adapt(batch, score_frames=True), 0, text)
    assert timed.placed == 0.0
    assert [word.start for word in timed.words] == [pytest.approx(0.1 / 6 * i) for i in range(6)]


@torch.inference_mode()
def test_words_are_not_put_into_padding(tiny_config: SpeechLlmConfig) -> None:
    """Whisper's own 30 s have room for any text, a clip of 0.1 s has not."""
    tiny_config.encoder.config["pad_to_30s"] = True
    tiny_config.ctc = CtcConfig(weight=0.3, classifier="linear")
    model = create(tiny_config).eval()
    text = " ".join(WORDS)
    for seconds, placed in ((0.1, 0.0), (8.0, 1.0)):
        batch = batch_of([torch.randn(int(seconds * RATE), generator=torch.Generator().manual_seed(0))], [text])
        timed = time_clip(model, batch, model.adapt(batch, score_frames=True), 0, text)
        assert timed.placed == placed
        assert all(word.start < word.end <= seconds for word in timed.words)


@torch.inference_mode()
def test_a_word_outside_the_vocabulary_lies_between_its_neighbours(tiny_config: SpeechLlmConfig) -> None:
    tiny_config.ctc = CtcConfig(weight=0.3, classifier="llm_embedding")
    model = create(tiny_config).eval()
    text = "turn % on"
    model.ctc.set_vocabulary(model.llm.tokenizer("turn on")["input_ids"])
    batch = batch_of([torch.randn(3 * RATE, generator=torch.Generator().manual_seed(0))], [text])
    timed = time_clip(model, batch, model.adapt(batch, score_frames=True), 0, text)
    first, unknown, last = timed.words
    assert (unknown.start, unknown.end) == (first.end, last.start)
    assert timed.placed == pytest.approx(2 / 3)


@torch.inference_mode()
def test_a_sentencepiece_head_times_a_language_without_spaces(tiny_config: SpeechLlmConfig, tmp_path: Path) -> None:
    text = "请打开厨房的灯。设一个十分钟的闹钟。"
    train_vocabulary([text], tmp_path / "pieces.model", size=40, model_type="char")
    tiny_config.ctc = CtcConfig(weight=0.3, classifier="sentencepiece", vocabulary=str(tmp_path / "pieces.model"))
    model = create(tiny_config).eval()
    batch = batch_of(
        [torch.randn(6 * RATE, generator=torch.Generator().manual_seed(0))], [text], source_lang="zh", target_lang="zh"
    )
    timed = time_clip(model, batch, model.adapt(batch, score_frames=True), 0, text)
    assert [word.text for word in timed.words] == list(text)
    assert timed.placed == 1.0
    starts = [word.start for word in timed.words]
    assert starts == sorted(set(starts))
    assert [(part.text, part.start) for part in timed.segments] == [(text[:8], starts[0]), (text[8:], starts[8])]
