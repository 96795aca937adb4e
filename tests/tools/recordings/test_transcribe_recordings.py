"""`speechllm transcribe` on recordings that are longer than the encoder's window, on directories and on manifests."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader")

from speechllm_plugin.datasets.manifest import ManifestRow, write_manifest
from speechllm_plugin.inference.transcriber import load_speech_llm
from speechllm_plugin.recordings.cutting import CutConfig, Piece, cut
from speechllm_plugin.recordings.voice import VoiceActivity
from tests.commands import Commands
from tests.conftest import SENTENCES
from tests.speech import RATE, silence, speak


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """44 s in mp3 at 22.05 kHz: sentences, pauses of 1.5 s, and half a minute in which nobody speaks."""
    clips = speak(SENTENCES)
    clips[4] = np.concatenate([clips[4], 0.02 * np.random.default_rng(0).standard_normal(20 * RATE).astype("float32")])
    sound = np.concatenate([part for clip in clips for part in (clip, silence(1.5))])
    file = tmp_path_factory.mktemp("talk") / "talk.mp3"
    import soxr

    soundfile.write(file, soxr.resample(sound, RATE, 22050), 22050)
    return file


def pieces_of(file: Path, longest: float, pause: float = 0.5) -> list[Piece]:
    from speechllm_plugin.datasets.audio import resolve, stream_audio

    return list(cut(stream_audio(resolve(str(file), Path())), CutConfig(longest=longest, pause=pause), VoiceActivity()))


def rows(output: str) -> list[list[str]]:
    return [line.split("\t") for line in output.split("\n")[:-1]]


def test_a_long_recording_is_its_pieces_joined(commands: Commands, trained: Path, talk: Path) -> None:
    pieces = pieces_of(talk, 20)
    # No two pieces of this talk share anything: its text is theirs.
    assert len(pieces) == len(SENTENCES) and not any(piece.shared for piece in pieces)
    model = load_speech_llm(trained, device="cpu")
    expected = [model.transcribe(piece.samples)[0] for piece in pieces]
    result = commands.speechllm("transcribe", "--checkpoint", trained, talk, "--longest-piece", 20).ok()
    assert rows(result.stdout) == [[str(talk), " ".join(" ".join(expected).split())]]
    assert re.search(rf"{re.escape(str(talk))}: {len(pieces)} pieces, \d+ s of 4\d s; nobody speaks", result.stderr)
    # Pieces of another size, and batches of another: the size of a batch changes nothing.
    options = ("transcribe", "--checkpoint", trained, "--longest-piece", 20, "--pause", 20, talk)
    coarse = commands.speechllm(*options, "--batch-size", 1).ok().stdout
    assert coarse == commands.speechllm(*options, "--batch-size", 3).ok().stdout != result.stdout


def test_pieces_are_no_longer_than_what_the_system_was_trained_on(
    commands: Commands, trained: Path, talk: Path
) -> None:
    longest = json.loads((trained / "checkpoints/decoding.json").read_text())["longest_clip"]
    assert 2.0 < longest < 2.2
    count = len(pieces_of(talk, longest))
    assert count > len(SENTENCES)
    assert f" {count} pieces" in commands.speechllm("transcribe", "--checkpoint", trained, talk).ok().stderr


def test_times_are_those_of_the_recording(commands: Commands, trained: Path, talk: Path) -> None:
    command = ("transcribe", "--checkpoint", trained, "--longest-piece", 20, talk)
    text = rows(commands.speechllm(*command).ok().stdout)[0][1]
    pieces = [(piece.start / RATE, (piece.start + len(piece.samples)) / RATE) for piece in pieces_of(talk, 20)]
    for option in (["--timestamps"], ["--timestamps=words"]):
        lines = rows(commands.speechllm(*command, *option).ok().stdout)
        assert " ".join(line[3] for line in lines) == text
        spans = [(float(line[1]), float(line[2])) for line in lines]
        assert spans == sorted(spans)
        # Each word lies in a piece, and none where nobody speaks.
        for start, end in spans:
            assert any(first - 0.2 <= start and end <= last + 0.2 for first, last in pieces), (start, end)
    document = json.loads(commands.speechllm(*command, "--format", "json").ok().stdout)
    assert document["text"] == text and abs(document["duration"] - pieces[-1][1]) < 2.0
    assert [word["word"] for word in document["words"]] == text.split()
    assert " ".join(segment["text"] for segment in document["segments"]) == text


def test_a_recording_in_which_nobody_speaks_has_an_empty_text(
    commands: Commands, trained: Path, tmp_path: Path
) -> None:
    file = tmp_path / "silence.flac"
    soundfile.write(file, silence(40.0), RATE)
    options = ("transcribe", "--checkpoint", trained, file)
    assert rows(commands.speechllm(*options).ok().stdout) == [[str(file), ""]]
    assert rows(commands.speechllm(*options, "--timestamps").ok().stdout) == [[str(file), "0.00", "40.00", ""]]
    assert commands.speechllm(*options, "--format", "srt").ok().stdout == ""


@pytest.fixture(scope="module")
def folder(talk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The talk, two short clips, and a file that is no sound."""
    folder = tmp_path_factory.mktemp("folder")
    (folder / "b").mkdir()
    (folder / "b/talk.mp3").write_bytes(talk.read_bytes())
    for name, clip in zip(("a.wav", "c.flac"), speak(SENTENCES[:2]), strict=True):
        soundfile.write(folder / name, clip, RATE)
    (folder / "notes.md").write_text("none")
    return folder


def test_documents_of_a_directory(commands: Commands, trained: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("transcribe", "--checkpoint", trained, folder)
    lines = rows(commands.speechllm(*options).ok().stdout)
    assert [line[0] for line in lines] == [str(folder / name) for name in ("a.wav", "c.flac", "b/talk.mp3")]
    result = commands.speechllm(*options, "--output", out).ok()
    assert result.stdout == "" and "1 files in the directories have no ending" in result.stderr
    for line, name in zip(lines, ("a", "c", "b/talk"), strict=True):
        assert (out / f"{name}.txt").read_text() == line[1] + "\n"
    # Another format of what is there needs no decoding, and so does nothing new.
    again = commands.speechllm(*options, "--output", out, "--format", "srt").ok()
    assert "0 transcribed, 3 were there already, 0 failed" in again.stderr
    direct = commands.speechllm("transcribe", "--checkpoint", trained, folder / "b/talk.mp3", "--format", "srt").ok()
    assert (out / "b/talk.srt").read_text() == direct.stdout != ""
    # Other settings make another text, and that is said.
    other = commands.speechllm(*options, "--output", out, "--extra-tokens", 1, "--tokens-per-second", 1).ok()
    assert other.stderr.count("it is made anew") == 3 and "were there already" not in other.stderr
    assert (out / "a.txt").read_text() != lines[0][1] + "\n"


@pytest.mark.parametrize("kind", ["directory", "manifest"])
def test_a_killed_command_goes_on(commands: Commands, trained: Path, folder: Path, tmp_path: Path, kind: str) -> None:
    """In a later file, behind others that are complete."""
    given: tuple[object, ...] = (folder,)
    if kind == "manifest":
        sounds = [("a", "a.wav"), ("b/talk", "b/talk.mp3"), ("c", "c.flac")]
        write_manifest(tmp_path / "list.tsv", [
            ManifestRow(name, audio, None, "", "", "", "en", "en", 0) for name, audio in sounds
        ])  # fmt: skip
        given = (tmp_path / "list.tsv", "--audio-root", folder)
    options = ("transcribe", "--checkpoint", trained, "--batch-size", 1, "--format", "json", *given, "--output")
    commands.speechllm(*options, tmp_path / "whole").ok()
    journal = tmp_path / "cut/.pieces/b/talk.jsonl"
    killed = commands._run(
        "speechllm_tools.cli", (*options, tmp_path / "cut"), {}, 1, (journal, '"piece": 3'), signal.SIGKILL
    )
    assert killed.status == -signal.SIGKILL
    assert (tmp_path / "cut/a.json").exists() and not (tmp_path / "cut/b/talk.json").exists()
    # Half a line, as a full disk or a lost machine leave it.
    kept = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join(kept[:4]) + b'\n{"piece": 3, "sta')
    done = {"directory": 2, "manifest": 1}[kind]
    again = commands.speechllm(*options, tmp_path / "cut").ok()
    assert f"{3 - done} transcribed, {done} were there already, 0 failed" in again.stderr
    for name in ("a", "b/talk", "c"):
        for file in (f"{name}.json", f".pieces/{name}.jsonl"):
            assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_a_resumed_recording_is_not_decoded_twice(
    commands: Commands, trained: Path, talk: Path, tmp_path: Path
) -> None:
    options = ("transcribe", "--checkpoint", trained, talk, "--output", tmp_path)
    commands.speechllm(*options).ok()
    journal = tmp_path / ".pieces/talk.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    # What is kept is believed: a word that no system would write comes through.
    lines[1]["segments"] = [["Zwölfender", lines[1]["start"], lines[1]["end"]]]
    lines[1]["words"] = lines[1]["segments"]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines[:3]))
    commands.speechllm(*options).ok()
    assert (tmp_path / "talk.txt").read_text().startswith("Zwölfender ")
    assert len(journal.read_text().splitlines()) == len(lines)


def test_rows_of_a_manifest(commands: Commands, trained: Path, folder: Path, tmp_path: Path) -> None:
    def row(name: str, audio: str, target: str = "en", channel: int | None = None) -> ManifestRow:
        return ManifestRow(name, audio, None, "", "", "", "en", target, 0, channel)

    manifest = tmp_path / "list.tsv"
    sounds = [
        ("one", "a.wav", "en"),
        ("talks/two", "b/talk.mp3", "en"),
        ("three", "c.flac", "de"),
        ("four", "a.wav:0:8000", "en"),
    ]
    write_manifest(manifest, [row(*sound) for sound in sounds])
    options = ("transcribe", "--checkpoint", trained, manifest, "--audio-root", folder)
    lines = rows(commands.speechllm(*options).ok().stdout)
    assert [line[0] for line in lines] == [name for name, _, _ in sounds]
    for line, (_, audio, target) in zip(lines, sounds, strict=True):
        alone = commands.speechllm(
            "transcribe", "--checkpoint", trained, folder / audio, "--source-lang", "en", "--target-lang", target
        ).ok()
        assert rows(alone.stdout)[0][1] == line[1]
    commands.speechllm(*options, "--output", tmp_path / "out").ok()
    assert (tmp_path / "out/talks/two.txt").read_text() == lines[1][1] + "\n"


def test_what_is_wrong_is_one_line(commands: Commands, trained: Path, talk: Path, folder: Path, tmp_path: Path) -> None:
    options = ("transcribe", "--checkpoint", trained)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/x.txt").write_text("x")
    (tmp_path / "ids.tsv").write_text("id\taudio\n../x\ta.wav\n")
    (tmp_path / "talk.flac").write_bytes(b"")
    for arguments, expected in (
        ((folder, "--format", "srt"), "--format: found 3 recordings, expected --output DIR"),
        ((talk, "--longest-piece", 31), "--longest-piece: found 31, expected 2 to 30 seconds"),
        ((talk, "--longest-piece", "nan"), "--longest-piece: found nan, expected 2 to 30 seconds"),
        ((talk, "--pause", 0), "--pause: found 0, expected 0.1 to 30 seconds"),
        ((tmp_path / "empty",), "found 1 files and none with sound"),
        ((tmp_path / "ids.tsv", "--output", tmp_path), "found '../x', expected a name for a file in --output"),
        ((tmp_path / "none.tsv",), "found no such file"),
        ((talk, tmp_path / "talk.flac", "--output", tmp_path), "the same name in --output as that of"),
        ((talk, "--output", talk), "cannot be"),
    ):
        line = commands.speechllm(*options, *arguments).user_error()
        assert expected in line, line


def test_a_damaged_recording_does_not_cost_the_others(
    commands: Commands, trained: Path, talk: Path, tmp_path: Path
) -> None:
    sound = np.concatenate([*speak(SENTENCES[:3]), silence(30.0), *speak(SENTENCES[3:5])])
    for name in ("good.flac", "cut.flac"):
        soundfile.write(tmp_path / name, sound, RATE)
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) - 2000])
    files = [tmp_path / name for name in ("cut.flac", "good.flac")]
    result = commands.speechllm("transcribe", "--checkpoint", trained, *files)
    assert result.status == 2
    assert [line[0] for line in rows(result.stdout)] == [str(files[1])]
    (error,) = result.errors()
    assert error.startswith(f"{files[0]}: found ") and "1 transcribed, 1 failed" in result.stderr
