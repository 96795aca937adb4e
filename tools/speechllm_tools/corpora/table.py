"""A table of any corpus: CSV, TSV, JSON lines or parquet, with columns of any name, and other toolkits' manifests."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.remote import is_remote
from speechllm_plugin.text.languages import language_code
from speechllm_tools.prepare.api import Corpus, Line, Sound, Target, Task, tasks_of, words_of
from speechllm_tools.prepare.measure import Unusable
from speechllm_tools.prepare.parquet import NO_SOUND, count_rows, sound_of
from speechllm_tools.prepare.tables import FORMATS, OURS, Format, files_of, format_of, table_rows
from speechllm_tools.prepare.tars import nemo_row
from speechllm_tools.prepare.text_files import parse_seconds, stem_of
from speechllm_tools.prepare.zip_ranges import MENDED, checked

BAD_CHANNEL = "row whose channel is no number from 1 on"
BAD_TIMES = "row whose offset or duration is no number of seconds"
SKIPPED = "row marked with _skipme"


class Table(Corpus):
    summary = "any corpus that is told in a CSV, TSV, JSONL or parquet table, or a manifest of another toolkit"
    description = (
        "A row for each clip. Columns are id, audio, tgt_text, src_text, speaker, src_lang, tgt_lang, and offset and "
        "duration in seconds for segments; audio and tgt_text are needed. --columns says what the table calls them, "
        "and which column, if any, is the channel to hear (counted from 1). "
        "--format knows the manifests of NeMo (nemo; nemo-tarred, with audio_N.tar beside it), fairseq (fairseq), "
        "SLAM-LLM (slam) and lhotse (lhotse, cuts.jsonl.gz; lhotse-shar, a folder), whose cuts give a row for each "
        "supervision. Parquet may hold the sound itself; tar archives stay as they are. A duration without an offset "
        "is not believed: the file's own counts."
    )
    example = "train=clips.csv --columns audio=path,tgt_text=sentence --src-lang en --output data"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "tables", metavar="[SPLIT=]FILE", nargs="+", help="tables; without SPLIT= the split is the file's name"
        )
        parser.add_argument("--format", choices=sorted(FORMATS), help="default: by the file's ending")
        parser.add_argument("--columns", metavar="OURS=THEIRS,...", help="such as audio=path,tgt_text=sentence")
        parser.add_argument("--audio-dir", metavar="DIR", type=Path,
                            help="folder that relative paths start from (default: that of each table)")
        parser.add_argument("--src-lang", metavar="LANG", help="language of the speech, where no column tells it")
        parser.add_argument("--tgt-lang", metavar="LANG",
                            help="language of tgt_text, where no column tells it (default: that of the speech)")
        parser.add_argument("--tasks", metavar="A,B",
                            help="transcribe, translate or both: rows of src_text, tgt_text or both (default: a row of "
                            "tgt_text, whatever it is)")

    def __init__(self, options: argparse.Namespace) -> None:
        self._tables = [_split_and_file(item) for item in options.tables]
        self._formats = {file: format_of(file, options.format) for _, file in self._tables}
        self._columns = _mapping(options.columns)
        self._audio_dir = options.audio_dir
        if "channel" in self._columns or any("channel" in form.columns for form in self._formats.values()):
            self.columns = ("channel",)
        self._languages = options.src_lang, options.tgt_lang
        self._tasks = None if options.tasks is None else tasks_of(options.tasks)
        self.rows_per_clip = 1 if self._tasks is None else len(self._tasks)

    def sources(self) -> list[Path]:
        return [source for _, file in self._tables for source in files_of(self._formats[file], file)]

    def lines(self) -> Iterator[Line]:
        for split, file in self._tables:
            for number, found in self._rows(file):
                yield self._line(split, file, number, found)

    def splits(self) -> dict[str, int]:
        if any(self._formats[file].kind != "parquet" for _, file in self._tables):
            return super().splits()
        counts: Counter[str] = Counter()
        for split, file in self._tables:
            counts[split] += count_rows(file)
        return dict(counts)

    def _rows(self, file: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """Rows, or reasons for having none, each with its number of line, row or cut."""
        form = self._formats[file]
        audio, text = self._names(form, "audio"), self._names(form, "tgt_text")
        for number, row in table_rows(form, file, audio, text):
            if form.tarred and not isinstance(row, str):
                yield number, nemo_row(row, audio[0], file, self._audio_dir)
            else:
                yield number, row

    def _names(self, form: Format, ours: str) -> tuple[str, ...]:
        return (self._columns[ours],) if ours in self._columns else form.columns.get(ours, ())

    def _line(self, split: str, file: Path, number: int, found: dict[str, Any] | str) -> Line:
        row = {} if isinstance(found, str) else found
        form = self._formats[file]
        texts = {ours: _first(row, self._names(form, ours)) for ours in OURS if ours != "audio"}
        sound, reason, changes = self._sound(file, row, texts) if row else (None, str(found), ())
        name = "" if sound is None else stem_of(sound.audio.partition(".zip:")[0])
        source = texts["src_lang"] or self._languages[0] or "en"
        target = texts["tgt_lang"] or self._languages[1] or source
        transcribed = language_code(source) == language_code(target)
        src_text = texts["src_text"] or (texts["tgt_text"] if transcribed else "")
        words: dict[Task, tuple[str, str]] = {
            "transcribe": (source, src_text), "translate": (target, texts["tgt_text"])
        }
        if self._tasks is None:
            targets = [Target("transcribe" if transcribed else "translate", target, texts["tgt_text"])]
        else:
            targets = [Target(task, *words[task]) for task in self._tasks]
        return Line(
            where=f"{file}, {form.unit} {number}", split=split,
            id=texts["id"] or f"{name}-{number}", targets=targets, src_lang=source, src_text=src_text,
            speaker=texts["speaker"], sound=sound, reason=reason, changes=changes,
        )  # fmt: skip

    def _sound(
        self, file: Path, row: Mapping[str, Any], texts: Mapping[str, str]
    ) -> tuple[Sound | None, str | None, tuple[str, ...]]:
        """The place of the clip, or the reason for having none, and the changes that were made."""
        if row.get("_skipme") not in (None, "", "0", "false", False, 0):
            return None, SKIPPED, ()
        names = self._names(self._formats[file], "audio")
        found = sound_of(next((row[name] for name in names if row.get(name)), None))
        if found is None:
            return None, NO_SOUND, ()
        times = {name: parse_seconds(texts[name]) for name in ("offset", "duration") if texts[name]}
        if any(value is None for value in times.values()) or times.get("duration") == 0:
            return None, BAD_TIMES, ()
        number = texts["channel"]
        if number and not (number.isascii() and number.isdigit() and int(number) > 0):
            return None, BAD_CHANNEL, ()
        name, data = found
        clip = Sound(
            audio=name, data=data, channel=int(number) if number else None, offset=times.get("offset"),
            seconds=times.get("duration"),
        )  # fmt: skip
        if data is not None:
            return clip, None, ()
        try:
            place = name if is_remote(name) else str((self._audio_dir or file.parent).absolute() / name)
            audio, mended = checked(place)
        except Unusable as error:
            return None, error.reason, ()
        return replace(clip, audio=audio), None, (MENDED,) if mended else ()


def _split_and_file(item: str) -> tuple[str, Path]:
    """
    :raises UserError: there is no such file.
    """
    split, separator, rest = item.partition("=")
    if not separator or Path(item).exists():
        split, rest = Path(item).name.partition(".")[0], item
    path = Path(rest)
    if not path.exists():
        raise UserError(f"{rest}: found no such file, expected a table")
    if not split or "/" in split:
        raise UserError(f"{item}: found a split called {split!r}, expected a name, as in train={rest}")
    return split, path.absolute()


def _mapping(text: str | None) -> dict[str, str]:
    """
    :raises UserError: it names a column that is not ours, or one twice.
    """
    pairs = [word.partition("=") for word in words_of(text, "--columns")] if text else []
    for ours, _, theirs in pairs:
        if ours not in OURS or not theirs:
            raise UserError(f"--columns: found {ours!r}, expected OURS=THEIRS with one of {', '.join(OURS)} for OURS")
    if len({ours for ours, _, _ in pairs}) < len(pairs):
        raise UserError(f"--columns: found {text!r}, expected each of our columns once")
    return {ours: theirs for ours, _, theirs in pairs}


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    value = next((row[name] for name in names if row.get(name) is not None), "")
    return value if isinstance(value, str) else str(value)


CORPUS = Table
