"""Batches of pieces of several recordings: one that cannot be decoded costs its recording, and no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechllm_plugin.alignment.timed_text import TimedText
from speechllm_plugin.datasets.audio import resolve
from speechllm_plugin.errors import ClipError
from speechllm_plugin.inference.reading import Named
from speechllm_plugin.inference.transcriber import Transcriber
from speechllm_plugin.models.speech_llm.config import PartSection, SpeechLlmConfig
from speechllm_plugin.recordings.cutting import CutConfig
from speechllm_plugin.recordings.hearing import Hearing
from speechllm_plugin.recordings.transcribing import Recording, transcribe
from tests.conftest import SENTENCES
from tests.plugin.speech_llm.systems import create

RATE = 16000


class Decoder:
    """Texts that are the clips' names. Some clips cannot be decoded."""

    def __init__(self, is_refused: Callable[[str], bool]) -> None:
        self._is_refused = is_refused
        self.sizes: list[int] = []

    def __call__(self, clips: Sequence[Named], source_lang: str, target_lang: str | None) -> list[str]:
        self.sizes.append(len(clips))
        if refused := [clip.name for clip in clips if self._is_refused(clip.name)]:
            raise ClipError(f"{refused[0]}: refused")
        return [clip.name for clip in clips]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sound") / "clip.wav"
    soundfile.write(file, np.full(800, 0.1), RATE)
    return file


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five sentences with pauses between them."""
    pytest.importorskip("espeakng_loader")
    from tests.speech import silence, speak

    file = tmp_path_factory.mktemp("talk") / "talk.flac"
    parts = [part for clip in speak(SENTENCES[:5]) for part in (clip, silence(2))]
    soundfile.write(file, np.concatenate(parts), RATE)
    return file


def recording(file: Path, name: str, whole: float = 30.0) -> Recording:
    return Recording(name, Hearing(resolve(str(file), Path()), whole, CutConfig(longest=4.0)))


@pytest.mark.parametrize("bad", [{0}, {17}, {31}, {4, 5, 30}])
def test_a_refused_clip_costs_its_batch_a_few_more(file: Path, bad: set[int]) -> None:
    decoder = Decoder(lambda name: int(name) in bad)
    found = list(transcribe([recording(file, str(number)) for number in range(32)], decoder, batch_size=32))
    assert [one.name for one in found] == [str(number) for number in range(32)]
    for number, one in enumerate(found):
        if number in bad:
            assert str(one.error) == f"{number}: refused" and one.transcript is None
        else:
            assert one.error is None and one.transcript is not None and one.transcript.text == str(number)
    # Of 32, 16, 8, 4 and 2, both halves are decoded where one is refused.
    assert sum(size == 32 for size in decoder.sizes) == 1 and len(decoder.sizes) <= 1 + 2 * 5 * len(bad)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_a_refused_piece_costs_its_recording_and_no_other(file: Path, talk: Path, size: int) -> None:
    pieces = [f"talk at {piece.start / RATE:.2f} s" for piece in recording(talk, "talk", whole=4.0).hearing]
    assert len(pieces) == 5
    decoder, kept = Decoder(lambda name: name == pieces[1]), list[tuple[str, int]]()
    found = list(transcribe(
        [recording(file, "first"), recording(talk, "talk", whole=4.0), recording(file, "last")],
        decoder, batch_size=size, keep=lambda recording, number, text: kept.append((recording.name, number)),
    ))  # fmt: skip
    assert [(one.name, str(one.error or "")) for one in found] == [
        ("first", ""), ("talk", f"{pieces[1]}: refused"), ("last", ""),
    ]  # fmt: skip
    assert [one.transcript and one.transcript.text for one in found] == ["first", None, "last"]
    # Its first piece is kept, from which the command goes on; none is decoded behind its end.
    assert kept == [("first", 0), ("talk", 0), ("last", 0)]


def test_cifs_word_times_are_those_of_the_recording(tiny_config: SpeechLlmConfig, talk: Path) -> None:
    sizes = {"dim": 16, "num_heads": 2, "ffn_dim": 32, "layers_before": 1, "layers_after": 1}
    tiny_config.adapter = PartSection(name="cif", config=sizes)
    system = Transcriber(create(tiny_config).eval())

    def decode(clips: Sequence[Named], source_lang: str, target_lang: str | None) -> Sequence[TimedText]:
        return system.transcribe_timed(clips, source_lang=source_lang, target_lang=target_lang)

    expected = []
    for piece in recording(talk, "talk", whole=4.0).hearing:
        start = piece.start / RATE
        (alone,) = decode([Named("piece", piece.samples)], "en", None)
        expected += [(word.text, start + word.start, start + word.end) for word in alone.words]
    (found,) = transcribe([recording(talk, "talk", whole=4.0)], decode, batch_size=3)
    assert found.transcript is not None and found.transcript.words is not None
    assert [(word.text, word.start, word.end) for word in found.transcript.words] == [
        (text, pytest.approx(start, abs=0.002), pytest.approx(end, abs=0.002)) for text, start, end in expected
    ]
    assert len({round(start) for _, start, _ in expected}) > 5 and expected[-1][2] > 8
