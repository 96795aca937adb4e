"""What the demo says while it works: how far it is, and how long it still takes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from speechllm_tools import progress
from speechllm_tools.demo import launch
from speechllm_tools.demo.pace import Pace, measure
from speechllm_tools.demo.run import config_file
from speechllm_tools.demo.watch import TrainingProgress, run_recipe
from speechllm_tools.progress import ProgressLine, duration
from speechllm_tools.recordings.session import _Progress as RecordingProgress

from speechllm_plugin.datasets.audio import AudioSource
from speechllm_plugin.errors import UserError
from speechllm_plugin.recordings.cutting import CutConfig
from speechllm_plugin.recordings.hearing import Hearing
from speechllm_plugin.recordings.transcribing import Recording
from speechllm_plugin.recordings.transcript import PieceText

PACE = Pace(layer=0.02, dtype="float32", processors=2)


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_time_left_follows_from_the_share_that_is_done(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine("speaking")
    for now, share in ((100, 0.0), (120, 0.25), (125, 0.3), (180, 1.0)):
        clock.now = now
        line.update(f"{share:.0%}", share)
    # Every ten seconds at most, but the end always.
    assert capsys.readouterr().out.splitlines() == [
        "  speaking 25%, 20 s, about 60 s left", "  speaking 100%, 80 s",
    ]  # fmt: skip


def test_what_an_interrupted_run_had_done_takes_no_time(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine("training,")
    line.update("step 50", 0.5)
    clock.now += 30
    line.update("step 60", 0.6)
    assert capsys.readouterr().out == "  training, step 60, 30 s, about 2.0 min left\n"


def test_time_left_of_a_recording_that_goes_on(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """The first half is known from an earlier run."""
    hearing = Hearing(AudioSource("talk.mp3", Path("talk.mp3"), "file", 0, None), 30.0, CutConfig())
    hearing.stated = 600.0
    recording, shown = Recording("talk.mp3", hearing), RecordingProgress()
    for start in (300, 330):
        shown.update("talk.mp3", recording, PieceText(start, start + 30, 0.0, (), None))
        clock.now += 15
    assert capsys.readouterr().err == "  talk.mp3 6.0 of 10.0 min, 15 s, about 60 s left\n"


def test_work_that_says_nothing_has_no_place_for_it(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine("decoding")
    clock.now += 10
    line.update("", 0.0)
    assert capsys.readouterr().out == "  decoding, 10 s\n"


def test_durations_are_seconds_then_minutes() -> None:
    assert [duration(seconds) for seconds in (0.4, 99.4, 101, 660)] == ["0 s", "99 s", "1.7 min", "11.0 min"]


def test_steps_with_the_llm_count_for_what_they_cost(tmp_path: Path) -> None:
    training = TrainingProgress(tmp_path, config_file(), 4000, PACE)
    assert training.state()[1] == 0.0
    shares = {}
    for step in (20, 500, 1000):
        (tmp_path / "metrics").mkdir(exist_ok=True)
        with (tmp_path / "metrics" / "train.jsonl").open("a") as file:
            file.write(json.dumps({"Step": step, "CTC Loss": 1.5}) + "\n")
        text, shares[step] = training.state()
        assert text.startswith(f"step {step}/") and text.endswith(", CTC Loss 1.500")
    # Without the LLM a step is short, and without encoding shorter still.
    assert 0 < shares[1000] - shares[500] < shares[500] - shares[20] < 0.5


def test_a_line_that_is_being_written_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "train.jsonl").write_text('{"Step": 20, "NLL Loss": 2.0}\n{"Step": 4')
    text, _ = TrainingProgress(tmp_path, config_file(), 4000, PACE).state()
    assert text.startswith("step 20/") and text.endswith("NLL Loss 2.000")


def test_a_measured_pace_is_that_of_this_machine() -> None:
    start = time.monotonic()
    pace = measure()
    assert 0 < pace.layer < 5 and time.monotonic() - start < 60
    assert pace.dtype in ("float32", "bfloat16") and pace.align_step < pace.llm_step


def test_a_watched_recipe_that_fails_shows_the_end_of_what_it_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_PERIOD", 0.01)
    calls: list[float] = []
    lost = tmp_path / "no_such_file.yaml"
    with pytest.raises(UserError, match="`train` ended with status 2"):
        run_recipe("train", tmp_path / "run", "--config-file", str(lost), watch=lambda: calls.append(1))
    assert "no_such_file" in capsys.readouterr().err
    assert "no_such_file" in (tmp_path / "run" / "console.log").read_text()
    assert calls
