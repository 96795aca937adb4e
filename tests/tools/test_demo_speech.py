"""Speech of the demo, really spoken by espeak-ng, and the manifests over it."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader")

from speechllm_tools.demo.data import DataConfig, plan_clips, summarise_data, write_data
from speechllm_tools.shards.api import Machines
from speechllm_tools.speech import voices
from speechllm_tools.speech.espeak import Espeak
from speechllm_tools.speech.synthesis import BATCH_SIZE, SAMPLE_RATE, Clip, synthesise

from speechllm_plugin.datasets.manifest import frames_of, read_manifest
from speechllm_plugin.errors import UserError
from tests.waiting import LONGEST, wait_until

ONE = Machines(workers=1)
CLIP = Clip("a/one.flac", "turn on the lights in the kitchen", "en-US", 150, 50, silence_ms=300)
SMALL = DataConfig(train=BATCH_SIZE + 20, dev=3, test_seen=4, test_unseen=5)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.fixture(scope="module")
def espeak() -> Espeak:
    return Espeak()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data"
    write_data(folder, SMALL, num_processes=2)
    return folder


def test_all_voices_exist_and_speak(espeak: Espeak) -> None:
    for voice in (*voices.SEEN, *voices.UNSEEN):
        speech = espeak.speak("good morning", voice=voice, words_per_minute=150, pitch=50) / 32768
        assert 0.5 < len(speech) / espeak.sample_rate < 2, voice
        assert 0.02 < np.sqrt((speech**2).mean()) < 0.5, voice


def test_unseen_voices_are_not_heard_in_training() -> None:
    assert not set(voices.SEEN) & set(voices.UNSEEN)
    assert len(set(voices.SEEN)) == len(voices.SEEN)


def test_speed_and_pitch_are_those_asked_for(espeak: Espeak) -> None:
    slow = espeak.speak(CLIP.text, voice="en-US", words_per_minute=100, pitch=50)
    fast = espeak.speak(CLIP.text, voice="en-US", words_per_minute=200, pitch=50)
    high = espeak.speak(CLIP.text, voice="en-US", words_per_minute=200, pitch=90)
    assert len(slow) > 1.5 * len(fast)

    def fundamental(speech: np.ndarray) -> float:
        """Median over windows of 40 ms of the lag at which the speech resembles itself most, as a frequency."""
        windows = speech[: len(speech) // 882 * 882].reshape(-1, 882).astype(np.float64)
        loud = windows[windows.std(axis=1) > windows.std(axis=1).max() / 3]
        shifts = range(espeak.sample_rate // 300, espeak.sample_rate // 60)
        lags = [shifts[np.argmax([np.dot(w[:-lag], w[lag:]) for lag in shifts])] for w in loud]
        return espeak.sample_rate / float(np.median(lags))

    assert fundamental(high) > 1.1 * fundamental(fast)


@pytest.mark.parametrize("voice", ["en-nowhere", "en-US+nobody", "en-US+f99", ""])
def test_an_unknown_voice_is_an_error(espeak: Espeak, voice: str) -> None:
    espeak.speak("hello", voice="en-US+f2", words_per_minute=150, pitch=50)
    with pytest.raises(UserError, match=f"no voice {voice!r}".replace("+", r"\+")):
        espeak.speak("hello", voice=voice, words_per_minute=150, pitch=50)


@pytest.mark.parametrize(("name", "value"), [("words_per_minute", 20), ("pitch", 100), ("pitch", -1)])
def test_a_setting_out_of_range_is_an_error(espeak: Espeak, name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"`{name}` is {value}, expected"):
        espeak.speak("hello", **{"voice": "en-US", "words_per_minute": 150, "pitch": 50, name: value})


def test_nothing_to_say_is_an_error(espeak: Espeak) -> None:
    with pytest.raises(UserError, match="says nothing for ''"):
        espeak.speak("", voice="en-US", words_per_minute=150, pitch=50)


def test_files_are_16_khz_flac_and_begin_with_the_silence_asked_for(tmp_path: Path) -> None:
    # f5 breathes: noise that the library would seed by the clock.
    clips = [CLIP, replace(CLIP, file="b/two.flac", voice="en-US+f5", silence_ms=0)]
    told: list[int] = []
    synthesise(clips, tmp_path / "first", ONE, progress=told.append)
    assert told[-1] == 2
    for clip in clips:
        info = soundfile.info(tmp_path / "first" / clip.file)
        assert (info.format, info.subtype, info.channels, info.samplerate) == ("FLAC", "PCM_16", 1, SAMPLE_RATE)
        assert 1.5 < info.duration < 3.5
    samples, _ = soundfile.read(tmp_path / "first" / CLIP.file)
    # espeak-ng leaves 55 ms itself before this text. Dither, which is another at each run, would show in them.
    assert 0.345 < np.flatnonzero(samples)[0] / SAMPLE_RATE < 0.36
    time.sleep(1.1)  # the library's clock counts seconds
    synthesise(clips, tmp_path / "second", ONE)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_a_failing_process_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with status 1"):
        synthesise([replace(CLIP, voice="en-nowhere")], tmp_path, ONE)


def test_manifests_name_what_was_spoken(data: Path) -> None:
    plan = plan_clips(SMALL)
    for split, clips in plan.items():
        rows = read_manifest(data / f"{split}.tsv")
        assert [(row.tgt_text, row.speaker, row.src_lang) for row in rows] == [(c.text, c.voice, "en") for c in clips]
        for row in rows:
            info = soundfile.info(data / row.audio)
            assert row.n_frames == frames_of(info.frames / 16000)
            assert 1.5 < len(row.tgt_text.split()) / info.duration < 5, row
    header = (data / "dev.tsv").read_text().splitlines()[0]
    assert header == "id\taudio\tn_frames\ttgt_text\tspeaker\tsrc_lang\ttgt_lang"
    assert {clip.voice for clip in plan["test_unseen"]} <= set(voices.UNSEEN)
    assert {clip.voice for split in ("train", "dev", "test_seen") for clip in plan[split]} <= set(voices.SEEN)
    assert summarise_data(data)["train"][0] == SMALL.train


def test_the_test_splits_stay_when_training_grows() -> None:
    small, large = plan_clips(SMALL), plan_clips(replace(SMALL, train=500))
    assert small["test_unseen"] == large["test_unseen"]
    assert small["train"] == large["train"][: SMALL.train]


def test_a_second_call_leaves_everything_as_it_is(data: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in data.rglob("*")}
    write_data(data, SMALL)
    assert {file: file.stat().st_mtime_ns for file in data.rglob("*")} == before


def test_other_parameters_make_other_data(tmp_path: Path) -> None:
    config = DataConfig(train=2, dev=1, test_seen=1, test_unseen=1)
    write_data(tmp_path / "data", config)
    write_data(tmp_path / "data", replace(config, train=1, seed=2))
    assert len(list((tmp_path / "data").rglob("*.flac"))) == 4
    assert [row.tgt_text for row in read_manifest(tmp_path / "data" / "train.tsv")] == [
        clip.text for clip in plan_clips(replace(config, train=1, seed=2))["train"]
    ]


def test_files_from_elsewhere_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years of work")
    with pytest.raises(UserError, match="found files from elsewhere"):
        write_data(tmp_path, SMALL)
    assert contents(tmp_path) == {"thesis.tex": hashlib.sha256(b"ten years of work").hexdigest()}


def test_a_killed_preparation_goes_on_to_the_same_files(data: Path, tmp_path: Path) -> None:
    script = (
        "from pathlib import Path\n"
        "from speechllm_tools.demo.data import DataConfig, write_data\n"
        f"write_data(Path({str(tmp_path / 'data')!r}), {SMALL!r}, num_processes=1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, start_new_session=True)
    # In the middle of a batch, so that some of its files are there and some are not.
    wait_until(lambda: process.poll() is not None or len(list(tmp_path.rglob("*.flac"))) >= 30, "30 clips are spoken")
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(LONGEST) == -signal.SIGKILL
    assert not (tmp_path / "data" / "train.tsv").exists()
    assert 0 < len(list(tmp_path.rglob("*.flac"))) < SMALL.train
    write_data(tmp_path / "data", SMALL, num_processes=2)
    assert contents(tmp_path / "data") == contents(data)
