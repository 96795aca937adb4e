"""Long recordings become pieces: nothing of the speech is lost, and none is longer than asked for."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch

pytest.importorskip("espeakng_loader")

from speechllm_plugin.errors import UserError
from speechllm_plugin.recordings.cutting import CutConfig, Piece, cut
from speechllm_plugin.recordings.voice import FRAME, VoiceActivity
from tests.conftest import SENTENCES
from tests.speech import RATE, silence, speak
from tests.waiting import LONGEST

Sound = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def clips() -> list[Sound]:
    return speak(SENTENCES)


def talk(clips: list[Sound], pause: float) -> tuple[Sound, list[tuple[float, float]]]:
    """The clips with pauses between them and around them, and where each lies, in seconds."""
    parts, places, length = [silence(pause)], [], round(pause * RATE)
    for clip in clips:
        places.append((length / RATE, (length + len(clip)) / RATE))
        parts += [clip, silence(pause)]
        length += len(clip) + len(parts[-1])
    return np.concatenate(parts), places


def pieces_of(sound: Sound, block: int = 7000, **config: float) -> list[Piece]:
    blocks = (sound[start : start + block] for start in range(0, len(sound), block))
    return list(cut(blocks, CutConfig(**config), VoiceActivity()))


def probabilities(sound: Sound, *sizes: int) -> Sound:
    voice, found, start = VoiceActivity(), [], 0
    for size in sizes:
        found.append(voice.feed(sound[start : start + size]))
        start += size
    return np.concatenate([*found, voice.feed(sound[start:]), voice.finish()])


@pytest.mark.parametrize("pause", [0.0, 0.2, 0.5, 1.0, 5.0])
def test_all_speech_is_in_some_piece(clips: list[Sound], pause: float) -> None:
    sound, places = talk(clips, pause)
    pieces = pieces_of(sound, longest=6.0)
    for piece in pieces:
        assert len(piece.samples) <= 6 * RATE
        assert np.array_equal(piece.samples, sound[piece.start : piece.start + len(piece.samples)])
    covered = np.zeros(len(sound), dtype=int)
    for piece in pieces:
        covered[piece.start : piece.start + len(piece.samples)] += 1
    for start, end in places:
        # The faint last sounds of a sentence are below what counts as speech.
        assert covered[round(start * RATE) : round((end - 0.05) * RATE)].min() >= 1
    # What is in two pieces is told, and so is little else than speech.
    assert covered.max() <= 2
    assert (covered == 2).sum() == sum(piece.shared for piece in pieces)
    assert len(sound[covered == 0]) >= (len(places) + 1) * max(0.0, pause - 0.75) * RATE


def test_each_pause_ends_a_piece(clips: list[Sound]) -> None:
    sound, places = talk(clips, 1.0)
    pieces = pieces_of(sound, longest=30.0)
    assert [round(piece.start / RATE - start, 1) for piece, (start, _) in zip(pieces, places, strict=True)] == [
        pytest.approx(-0.25, abs=0.1)
    ] * len(places)
    assert len(pieces_of(sound, longest=30.0, pause=30.0)) == 1


def test_speech_that_goes_on_is_cut_in_a_short_pause(clips: list[Sound]) -> None:
    sound, places = talk(clips, 0.3)
    pieces = pieces_of(sound, longest=6.0)
    assert len(pieces) > 2 and not any(piece.shared for piece in pieces)
    for before, after in pairwise(pieces):
        end = (before.start + len(before.samples)) / RATE
        assert end <= after.start / RATE
        assert not any(start + 0.1 < end < last - 0.15 for start, last in places)


def test_speech_without_a_pause_is_shared_around_the_cut() -> None:
    (sound,) = speak([" and ".join(SENTENCES)], words_per_minute=260)
    # A voice that never ends: what is quiet in it is filled up by itself.
    sound = sound + 0.5 * np.roll(sound, RATE // 3) + 0.5 * np.roll(sound, RATE // 2)
    pieces = pieces_of(sound, longest=4.0)
    assert sum(piece.shared == RATE for piece in pieces) >= 2
    for before, after in pairwise(pieces):
        assert before.start + len(before.samples) == after.start + after.shared
    assert pieces[0].start == 0 and pieces[-1].start + len(pieces[-1].samples) >= len(sound) - RATE // 10


@pytest.mark.parametrize("level", [1.0, 0.01])
def test_loud_and_quiet_recordings_are_cut_alike(clips: list[Sound], level: float) -> None:
    sound, places = talk(clips, 1.0)
    pieces = pieces_of(level * sound, longest=30.0)
    assert len(pieces) == len(places)
    for piece, (start, end) in zip(pieces, places, strict=True):
        assert piece.start <= start * RATE and piece.start + len(piece.samples) >= (end - 0.05) * RATE


@pytest.mark.parametrize("kind", ["silence", "noise", "tones", "clicks"])
def test_where_nobody_speaks_there_is_no_piece(kind: str) -> None:
    times = np.arange(40 * RATE) / RATE
    sound = np.zeros(len(times))
    if kind == "noise":
        sound = 0.05 * np.random.default_rng(0).standard_normal(len(times))
    elif kind == "tones":
        sound = 0.2 * sum(np.sin(2 * np.pi * hertz * times) for hertz in (220, 277, 330))
        sound *= np.exp(-3 * (times % 0.5))
    elif kind == "clicks":
        sound[:: 3 * RATE] = 0.9
    assert pieces_of(sound.astype(np.float32), longest=30.0) == []


def test_how_a_stream_is_divided_changes_nothing(clips: list[Sound]) -> None:
    sound, _ = talk(clips, 0.4)
    whole = probabilities(sound)
    assert len(whole) == -(-len(sound) // FRAME)
    assert np.array_equal(whole, probabilities(sound, 1, 100, 70000, 65536, 512))
    for size in (37, 511, 200_000):
        for piece, other in zip(
            pieces_of(sound[:200_000], size, longest=5.0), pieces_of(sound[:200_000], longest=5.0), strict=True
        ):
            assert (piece.start, piece.shared, len(piece.samples)) == (other.start, other.shared, len(other.samples))


def test_probabilities_are_those_of_silero_vad(clips: list[Sound]) -> None:
    threads = torch.get_num_threads()
    try:
        from silero_vad import load_silero_vad

        sound, _ = talk(clips, 0.4)
        # As loud as speech is: nothing is raised.
        sound = np.clip(2 * sound, -1, 1)
        expected = load_silero_vad(sequence=True).audio_forward(sound)
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(probabilities(sound), expected)


def test_pytorch_keeps_its_threads(clips: list[Sound]) -> None:
    import subprocess

    code = (
        "import torch; torch.set_num_threads(3)\n"
        "from speechllm_plugin.recordings.voice import VoiceActivity; VoiceActivity()\n"
        "assert torch.get_num_threads() == 3"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LONGEST)


def test_without_silero_vad_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        UserError, match=r"silero-vad, which is not installed here: pip install 'speechllm-plugin\[long\]'"
    ):
        VoiceActivity()
