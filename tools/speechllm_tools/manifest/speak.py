"""`speechllm manifest speak`: spoken instructions without recordings."""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.datasets.manifest import frames_of
from speechllm_plugin.errors import UserError
from speechllm_plugin.text.languages import language_code
from speechllm_tools.completion import fingerprint
from speechllm_tools.manifest.rows import add_output, check_output, write_rows
from speechllm_tools.manifest.texts import NAMES, Entry, read_texts
from speechllm_tools.prepare.api import words_of
from speechllm_tools.prepare.report import hashes
from speechllm_tools.prepare.rows import REPEATED, seconds_text, unbroken
from speechllm_tools.prepare.storage import file_name
from speechllm_tools.prepare.writing import told
from speechllm_tools.progress import ProgressLine
from speechllm_tools.shards.api import Machines, add_machines, machines_of

if TYPE_CHECKING:
    from speechllm_tools.speech.command import TtsCommand
    from speechllm_tools.speech.synthesis import Clip

SUMMARY = "turn written instructions into speech and a manifest, by many voices"
COLUMNS = ("id", "audio", "n_frames", "duration", "tgt_text", "src_text", "speaker", "src_lang", "tgt_lang", "task")
EMPTY, LONG, BROKEN = "nothing to say", "more words than --max-words", "text that UTF-8 or a command line cannot hold"
WITH_INPUT = "an input beside its instruction, as --input skip says"
UNSPOKEN = "not spoken"
_FOLDER = 1000
"""Most files in a folder."""


@dataclass(frozen=True)
class _Spoken:
    """A row that will be written."""

    entry: Entry
    id: str
    clip: Clip
    context: str


@dataclass
class _Counts:
    read: int = 0
    rows: int = 0
    seconds: float = 0.0
    without_answer: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def drop(self, reason: str, message: str) -> None:
        self.dropped[reason] += 1
        self.first.setdefault(reason, message)

    def as_json(self) -> dict[str, Any]:
        return {"read": self.read, "kept": self.rows, "dropped": dict(self.dropped), "first_dropped": self.first,
                "without_answer": self.without_answer, "hours": round(self.seconds / 3600, 4)}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", metavar="TEXTS", type=Path, help="TSV (.tsv), JSONL, or a JSON list; instruction, "
                        "input and output, as in Alpaca, or other columns")
    parser.add_argument("--columns", metavar="OURS=THEIRS,...",
                        help=f"such as text=question,output=answer; ours are {', '.join(NAMES)}")
    parser.add_argument("--input", choices=("context", "spoken", "skip"), default="context",
                        help="what becomes of an input beside an instruction: the column context, which the prompt has "
                        "as text; spoken behind the instruction; or no row (default: context)")
    parser.add_argument("--src-lang", metavar="LANG", default="en", help="language of the texts (default: en)")
    parser.add_argument("--voices", metavar="A,B", help="of the embedded synthesiser, such as en-US,en+f2,de+m3, or "
                        "what {voice} is to stand for (default: about ten or more of the language)")
    parser.add_argument("--voices-per-text", metavar="N", type=int, default=1, help="rows of a text (default: 1)")
    parser.add_argument("--tts", metavar="COMMAND", help="another synthesiser: a command that writes the sound file "
                        "{out} and reads the text from its standard input, or in the place of {text}; no shell runs it "
                        "(default: the embedded espeak-ng)")
    parser.add_argument("--max-words", metavar="N", type=int, default=80,
                        help="leave longer texts out; 80 words take about 30 s (default: 80)")
    parser.add_argument("--seed", type=int, default=2, help="of voices, speeds and pitches (default: 2)")
    add_machines(parser)
    add_output(parser)


def run(options: argparse.Namespace) -> int:
    machines = machines_of(options)
    for name in ("voices_per_text", "max_words"):
        if (found := getattr(options, name)) < 1:
            raise UserError(f"--{name.replace('_', '-')}: found {found}, expected at least 1")
    check_output(options.output, [options.texts], overwrite=options.overwrite)
    tts, voices = _synthesiser(options)
    counts = _Counts()
    planned = list(_plan(options, voices, counts))
    if not planned:
        why = next((f"{reason}: {where}" for reason, where in counts.first.items()), "it is empty")
        raise UserError(f"{options.texts}: found no text to speak in {counts.read:,} entries ({why})")
    made_by = {"synthesiser": _name_of(tts), "voices": list(voices), "seed": options.seed,
               "sources": hashes([options.texts]), "max_words": options.max_words, "input": options.input,
               "columns": options.columns, "voices_per_text": options.voices_per_text}  # fmt: skip
    folder = options.output.parent / f"{options.output.stem}-sound-{fingerprint(made_by)[:8]}"
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    refused = _speak([one.clip for one in planned], folder, tts, machines)
    story: dict[str, Any] = {"action": "speak", **made_by}
    columns = (*COLUMNS, *(["context"] if any(one.context for one in planned) else []))
    rows = _rows(planned, refused, folder, options, counts, story)
    write_rows(options.output, columns, rows, inputs=[options.texts], overwrite=options.overwrite, story=story)
    print(f"{options.output}: {counts.rows:,} rows, {counts.seconds / 3600:.2f} h, sound in {folder}")
    for reason, count in counts.dropped.most_common():
        print(f"  {count:,} left out, {reason}; first: {counts.first[reason]}")
    if counts.without_answer:
        print(f"  {counts.without_answer:,} rows have no answer; speechllm manifest answer writes them")
    return 0


def _synthesiser(options: argparse.Namespace) -> tuple[TtsCommand | None, Sequence[str]]:
    """
    :raises UserError: there is no such command, or no such voice.
    """
    chosen = words_of(options.voices, "--voices") if options.voices else None
    if options.tts is not None:
        from speechllm_tools.speech.command import TtsCommand

        tts = TtsCommand.parse(options.tts, "--tts")
        if tts.names_voice != (chosen is not None):
            raise UserError(f"--tts: found {options.tts!r} {'with' if chosen else 'without'} --voices, expected "
                            "{voice} in the command and --voices, or neither")
        return tts, chosen or [""]
    try:
        from speechllm_tools.speech.espeak import Espeak
    except ImportError:
        raise UserError("--tts: found no embedded synthesiser (pip install 'speechllm-plugin[demo]'), expected it or "
                        "--tts COMMAND") from None
    from speechllm_tools.speech.voices import voices_of

    voices = chosen or voices_of(language_code(options.src_lang))
    espeak = Espeak()
    for voice in voices:
        espeak.speak("1", voice=voice, words_per_minute=150, pitch=50)
    return None, voices


def _name_of(tts: TtsCommand | None) -> str:
    from importlib.metadata import version

    return f"espeakng-loader {version('espeakng-loader')}" if tts is None else " ".join(tts.words)


def _plan(options: argparse.Namespace, voices: Sequence[str], counts: _Counts) -> Iterator[_Spoken]:
    """The texts to speak, with their voices and files, which depend only on the texts and the options."""
    from speechllm_tools.speech.synthesis import draw_clip

    columns = _columns(options.columns)
    seen: set[str] = set()
    number = 0
    for entry in read_texts(options.texts, columns):
        counts.read += 1
        identity = unbroken(entry.id).strip() or f"{options.texts.stem}-{entry.number:06d}"
        apart = "" if options.input == "spoken" else entry.input
        text = " ".join(f"{entry.text} {'' if apart else entry.input}".split())
        if (reason := _why_not(entry, identity, text, apart, options, seen)) is not None:
            counts.drop(reason, entry.where)
            continue
        seen.add(identity)
        for copy in range(options.voices_per_text):
            generator = random.Random(f"{options.seed} {identity} {copy}")
            name = identity if options.voices_per_text == 1 else f"{identity}.{copy + 1}"
            file = f"{number // _FOLDER:04d}/{file_name(number % _FOLDER, name, '.flac')}"
            clip = draw_clip(file, text, generator.choice(voices), generator)
            yield _Spoken(entry, name, clip, unbroken(apart).strip())
            number += 1


def _why_not(
    entry: Entry, identity: str, text: str, apart: str, options: argparse.Namespace, seen: set[str]
) -> str | None:
    if entry.reason is not None:
        return entry.reason
    if not text:
        return EMPTY
    if apart and options.input == "skip":
        return WITH_INPUT
    if any("\ud800" <= character <= "\udfff" or character == "\0" for character in f"{text}{apart}{entry.output}"):
        return BROKEN
    if len(text.split()) > options.max_words:
        return LONG
    return REPEATED if identity in seen else None


def _columns(text: str | None) -> Mapping[str, str]:
    """
    :raises UserError: it names a column that is not ours.
    """
    pairs = [word.partition("=") for word in words_of(text, "--columns")] if text else []
    for ours, _, theirs in pairs:
        if ours not in NAMES or not theirs:
            raise UserError(f"--columns: found {ours!r}, expected OURS=THEIRS with one of {', '.join(NAMES)} for OURS")
    return {ours: theirs for ours, _, theirs in pairs}


def _speak(clips: Sequence[Clip], folder: Path, tts: TtsCommand | None, machines: Machines) -> Mapping[str, str]:
    from speechllm_tools.speech.command import speak_all
    from speechllm_tools.speech.synthesis import synthesise

    with ProgressLine("speaking") as line:

        def progress(done: int) -> None:
            line.update(f"{done:,}/{len(clips):,} clips", done / len(clips))

        if tts is None:
            return synthesise(clips, folder, machines, progress=progress)
        return speak_all(tts, clips, folder, machines=machines, progress=progress)


def _rows(
    planned: Sequence[_Spoken], refused: Mapping[str, str], folder: Path, options: argparse.Namespace,
    counts: _Counts, story: dict[str, Any],
) -> Iterator[dict[str, str]]:  # fmt: skip
    import soundfile

    for one in planned:
        if (reason := refused.get(one.clip.file)) is not None:
            counts.drop(UNSPOKEN, f"{one.entry.where} ({reason})")
            continue
        seconds = soundfile.info(folder / one.clip.file).frames / SAMPLE_RATE
        answer = unbroken(one.entry.output).strip()
        counts.rows += 1
        counts.seconds += seconds
        counts.without_answer += not answer
        yield {
            "id": one.id, "audio": f"{folder.name}/{one.clip.file}", "n_frames": str(frames_of(seconds)),
            "duration": seconds_text(seconds), "tgt_text": answer, "src_text": one.clip.text,
            "speaker": one.clip.voice, "src_lang": options.src_lang, "tgt_lang": options.src_lang, "task": "answer",
            "context": one.context,
        }  # fmt: skip
    if not counts.rows:
        raise UserError(f"{options.texts}: found no text that is spoken (first: {counts.first[UNSPOKEN]})")
    story["entries"] = counts.as_json()
