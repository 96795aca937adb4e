"""`speechllm manifest speak`: instructions spoken by the embedded synthesiser, or by a command."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("espeakng_loader")

from speechllm_plugin.datasets.audio import read_audio, resolve
from speechllm_plugin.datasets.manifest import read_manifest
from tests.commands import Commands
from tests.tools.corpora.layouts import manifest, rows_of, sound_of, write_lines

ALPACA = [
    {"instruction": "Give three tips for staying healthy.", "input": "", "output": "Eat,\nsleep\tand walk."},
    {"instruction": "Classify these.", "input": "Dog,\ncat", "output": "Animals"},
    {"instruction": " ", "input": "", "output": "Nothing is asked"},
    {"instruction": "...", "input": "", "output": "There is nothing to say"},
    {"instruction": "word " * 100, "input": "", "output": "Too long"},
    {"instruction": "What is it?", "input": "", "output": "\ud800"},
    {"instruction": ["a list"], "input": "", "output": ""},
    "no object",
]

TTS = """
import sys, wave
out, argument = sys.argv[1], sys.argv[2:]
said = argument[-1] if argument else sys.stdin.read().strip()
if "refuse" in said:
    sys.exit("I will not say that")
with wave.open(out, "wb") as file:
    file.setparams((1, 2, 22050, 0, "NONE", ""))
    file.writeframes(b"\\x10\\x20" * 220 * len(said))
"""


@pytest.fixture
def tts(tmp_path: Path) -> str:
    """A command whose sound is 0.01 s a character."""
    (tmp_path / "tts.py").write_text(TTS)
    return shlex.join([sys.executable, str(tmp_path / "tts.py"), "{out}"])


def test_alpaca_is_spoken_and_every_entry_counted(tmp_path: Path) -> None:
    texts = tmp_path / "alpaca.json"
    texts.write_text(json.dumps(ALPACA))
    result = manifest("speak", texts, "--output", tmp_path / "out/alpaca.tsv", "--voices-per-text", 2).ok()
    rows = rows_of(tmp_path / "out/alpaca.tsv")
    assert [row["id"] for row in rows] == [f"alpaca-{i:06d}.{copy}" for i in (1, 2) for copy in (1, 2)]
    assert {row["tgt_text"] for row in rows} == {"Eat, sleep and walk.", "Animals"}
    assert [row["context"] for row in rows] == ["", "", "Dog, cat", "Dog, cat"]
    assert len({row["speaker"] for row in rows}) > 1
    for row in rows:
        assert np.abs(sound_of(tmp_path / "out", row)).max() > 0.05
    read = read_manifest(tmp_path / "out/alpaca.tsv")
    assert [(row.task, row.src_text) for row in read][2:] == [("answer", "Classify these.")] * 2
    entries = json.loads((tmp_path / "out/alpaca.json").read_text())["entries"]
    # The one that is not spoken was planned twice.
    assert entries["read"] == 8 and entries["kept"] == 4 and sum(entries["dropped"].values()) == 7
    assert "not spoken" in result.stdout and "more words than --max-words" in result.stdout


def test_speech_depends_on_id_and_seed_and_goes_on_where_it_was(tmp_path: Path) -> None:
    texts = write_lines(tmp_path / "q.tsv", ["id\tquestion", *(f"q{i}\tquestion number {i}" for i in range(3))])

    def speak(name: str, *more: object) -> dict[str, tuple[str, bytes]]:
        output = tmp_path / name / "q.tsv"
        manifest("speak", texts, "--output", output, "--overwrite", *more).ok()
        return {row["id"]: (row["speaker"], (output.parent / row["audio"]).read_bytes()) for row in rows_of(output)}

    first = speak("a")
    assert {name: speaker for name, (speaker, _) in first.items()} != {
        name: speaker for name, (speaker, _) in speak("b", "--seed", 5).items()
    }
    # A kill leaves some of the files: the others come to be the same.
    sound = next((tmp_path / "a").glob("q-sound-*"))
    (tmp_path / "c").mkdir()
    shutil.copytree(sound, tmp_path / "c" / sound.name)
    next((tmp_path / "c").rglob("001-*.flac")).unlink()
    assert speak("c", "--workers", 1) == first


@pytest.mark.parametrize("place", ["stdin", "argument"])
def test_a_command_speaks_texts_as_they_are(tmp_path: Path, tts: str, place: str) -> None:
    said = ["it's \"quoted\" $HOME; rm -rf {out} & `ls`", "-n \\ {text}", "refuse this", "plain"]
    texts = write_lines(tmp_path / "t.jsonl", [json.dumps({"text": text}) for text in said])
    command = tts if place == "stdin" else f"{tts} {{text}}"
    manifest("speak", texts, "--output", tmp_path / "t.tsv", "--tts", command).ok()
    rows = rows_of(tmp_path / "t.tsv")
    assert [row["src_text"] for row in rows] == [text for text in said if text != "refuse this"]
    for row in rows:
        samples = read_audio(resolve(row["audio"], tmp_path))
        assert len(samples) / 16000 == pytest.approx(220 * len(row["src_text"]) / 22050, abs=0.001)
    entries = json.loads((tmp_path / "t.json").read_text())["entries"]
    assert entries["without_answer"] == 3
    assert entries["first_dropped"]["not spoken"].endswith("ended with status 1: I will not say that)")
    assert not list(tmp_path.rglob(".speaking-*"))


def test_after_a_kill_a_command_speaks_what_is_missing(commands: Commands, tmp_path: Path, tts: str) -> None:
    said = tmp_path / "said"
    (tmp_path / "tts.py").write_text(f"{TTS}\nopen({str(said)!r}, 'a').write(said + '\\n')\n")
    texts = write_lines(tmp_path / "t.tsv", ["id\ttext", *(f"t{i}\ttext number {i}" for i in range(7))])
    speak = ("manifest", "speak", texts, "--tts", tts, "--workers", 1, "--output")
    commands.speechllm(*speak, tmp_path / "whole/t.tsv").ok()
    said.unlink()
    killed = commands.speechllm(*speak, tmp_path / "cut/t.tsv", kill_when=(said, "number 2"))
    assert killed.status == -signal.SIGKILL and not (tmp_path / "cut/t.tsv").exists()
    assert not set(said.read_text().splitlines()) >= {"text number 5", "text number 6"}, "it was killed too late"
    commands.speechllm(*speak, tmp_path / "cut/t.tsv").ok()
    counts = Counter(said.read_text().splitlines())
    assert counts.keys() == {f"text number {i}" for i in range(7)}
    assert (counts["text number 0"], counts["text number 1"]) == (1, 1) and max(counts.values()) <= 2
    assert sum(counts.values()) <= 8, "more than the one that was being spoken is spoken again"
    whole, cut = (rows_of(tmp_path / place / "t.tsv") for place in ("whole", "cut"))
    assert whole == cut and len(cut) == 7
    for row in cut:
        assert (tmp_path / "cut" / row["audio"]).read_bytes() == (tmp_path / "whole" / row["audio"]).read_bytes()
    assert not list(tmp_path.rglob(".speaking-*"))


def test_mistakes_are_one_line(tmp_path: Path, tts: str) -> None:
    texts = write_lines(tmp_path / "t.jsonl", ['{"words": "hello"}'])

    def error(*more: object) -> str:
        return manifest("speak", texts, "--output", tmp_path / "t.tsv", *more).user_error()

    assert error().startswith(f"{texts}: found the columns words, expected also instruction or text")
    assert error("--columns", "text=speech").endswith("expected also speech")
    assert "no voice 'en-nowhere'" in error("--columns", "text=words", "--voices", "en-nowhere")
    assert error("--tts", "piper-of-mine {out}") == (
        "--tts: found 'piper-of-mine', expected a command of this machine"
    )
    assert "expected {out}" in error("--tts", sys.executable)
    assert "{voice}" in error("--tts", tts, "--voices", "anna")
    write_lines(texts, [json.dumps({"text": f"refuse {number}"}) for number in range(40)])
    lists = write_lines(tmp_path / "t.csv", ["instruction,output", "Say hello,Hello"])
    assert manifest("speak", lists, "--output", tmp_path / "t.tsv").user_error() == (
        f"{lists}: found no text to speak in 2 entries (entry that is no JSON object: {lists}, line 1)"
    )
    assert "none of the first 20 texts was spoken" in error("--tts", tts, "--workers", 1)
