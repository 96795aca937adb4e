"""Runs one call of `speechllm transcribe`: reads inputs one by one, and writes lines or documents."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from speechllm_plugin.datasets.audio import audio_key
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.engine import ENGINES
from speechllm_plugin.recordings.cutting import LEAST_PIECE, CutConfig, piece_lengths
from speechllm_plugin.recordings.formats import Unit, one_line, parts
from speechllm_plugin.recordings.hearing import Hearing
from speechllm_plugin.recordings.transcribing import Recording, transcribe
from speechllm_plugin.recordings.transcript import PieceText, Transcript, join
from speechllm_plugin.text.scripts import has_spaces
from speechllm_tools.progress import ProgressLine
from speechllm_tools.recordings.documents import Documents
from speechllm_tools.recordings.inputs import Input
from speechllm_tools.recordings.kept import KeptPieces

if TYPE_CHECKING:
    from speechllm_plugin.alignment.timed_text import TimedText
    from speechllm_plugin.inference.reading import Named
    from speechllm_plugin.inference.transcriber import Transcriber
    from speechllm_plugin.llms.decoding import DecodingConfig
    from speechllm_plugin.models.speech_llm.saved_system import SavedSystem

FEW = 0.5
"""The times of a recording are called estimates if a smaller share of its words has a time of its own."""
_LAYOUT = 1
"""Version of the kept files."""


@dataclass
class _Entry:
    """A recording with its input and its output."""

    fields: list[str]
    """First fields of its lines: the name, and the channel with `--channel each`."""
    place: str
    recording: Recording
    kept: KeptPieces | None


class Session:
    def __init__(
        self,
        system: Transcriber,
        checkpoint: SavedSystem,
        decoding: DecodingConfig,
        options: argparse.Namespace,
        say: Callable[[str], None],
    ) -> None:
        """
        :param options: options of the command line.
        :raises UserError: a length does not fit the encoder.
        """
        self._system, self._decoding, self._options, self._say = system, decoding, options, say
        self._whole, self._cut = _lengths(system, checkpoint, options)
        self._unit: Unit = options.timestamps or "segments"
        is_document = bool(options.format or options.output)
        self._documents = Documents(options.output, options.format or "text", self._unit) if is_document else None
        is_plain = options.output is None and options.format in (None, "text")
        # Lines with times are refused if the system cannot give them; a document then has the times of its pieces.
        self._timed = bool(options.timestamps) or (not is_plain and system.tells_times)
        if not is_plain and not self._timed:
            say("the system cannot tell when words were said; the times are those of pieces")
        self._decided_by = {
            "layout": _LAYOUT,
            "checkpoint": _identity(checkpoint),
            "set": sorted(options.set),
            "precision": system.model.precision,
            "decoding": asdict(decoding),
            "timed": self._timed,
            "cut": asdict(self._cut),
            "whole": self._whole,
            # Rounding, precision and samples are the engine's own.
            **({} if options.engine == ENGINES[0] else {"engine": options.engine}),
        }
        self._entries: dict[Recording, _Entry] = {}
        self._failed: set[str] = set()
        self._progress = _Progress()
        self._were_there = self._done = 0

    def run(self, inputs: Sequence[Input], failed: Iterable[str] = ()) -> int:
        """
        :param failed: names of inputs whose errors have been reported already, and which are not among `inputs`.
        :returns: the exit status, 2 if a recording could not be read.
        """
        self._failed.update(failed)
        found = transcribe(
            self._recordings(inputs), self._decode, batch_size=self._options.batch_size,
            decode_pieces=self._decode_pieces, keep=self._keep,
        )  # fmt: skip
        try:
            for recording in found:
                entry = self._entries.pop(recording)
                if recording.error is not None:
                    self._fail(entry.fields[0], recording.error)
                    continue
                assert recording.transcript is not None
                self._done += 1
                self._tell(entry, recording)
                if entry.kept is not None:
                    entry.kept.end(recording.transcript.seconds)
                self._write(entry, recording.transcript)
        finally:
            self._progress.close()
        if self._were_there:
            self._say(f"{self._done} transcribed, {self._were_there} were there already, {len(self._failed)} failed")
        elif self._failed:
            names = {item.name for item in inputs} | self._failed
            self._say(f"{len(names) - len(self._failed)} transcribed, {len(self._failed)} failed")
        return 2 if self._failed else 0

    def _recordings(self, inputs: Sequence[Input]) -> Iterator[Recording]:
        for item in inputs:
            try:
                # All channels are opened before any is given, so that a file's fault is reported once.
                entries = [self._entry(item, channel) for channel in self._channels(item)]
            except UserError as error:
                self._fail(item.name, error)
                continue
            for entry in entries:
                if entry.kept is not None and entry.kept.seconds is not None:
                    spaces = has_spaces(entry.recording.target_lang or entry.recording.source_lang)
                    self._write(entry, join(entry.kept.texts, entry.kept.seconds, spaces=spaces))
                    self._were_there += 1
                    continue
                self._entries[entry.recording] = entry
                yield entry.recording

    def _channels(self, item: Input) -> Sequence[int | None]:
        channel = self._options.channel
        return range(1, item.channels() + 1) if channel == "each" and item.channel is None else [channel]

    def _entry(self, item: Input, channel: int | str | None) -> _Entry:
        is_each = self._options.channel == "each" and item.channel is None
        source = item.source(channel if isinstance(channel, int) else None)
        languages = (item.source_lang or self._options.source_lang, item.target_lang or self._options.target_lang)
        place = f"{item.place}.{channel}" if is_each else item.place
        kept = None
        if self._documents is not None:
            decided_by = {**self._decided_by, "audio": audio_key(source), "languages": languages}
            kept = self._documents.kept(place, decided_by)
            if kept is not None and kept.is_other:
                self._say(f"{item.name}: the text in --output is of another file or other settings; it is made anew")
        hearing = Hearing(source, self._whole, self._cut)
        recording = Recording(item.name, hearing, *languages, known=kept.texts if kept else ())
        return _Entry([item.name, str(channel)] if is_each else [item.name], place, recording, kept)

    def _decode(self, clips: Sequence[Named], source_lang: str, target_lang: str | None) -> Sequence[TimedText | str]:
        return self._texts(clips, source_lang, target_lang, self._timed)

    def _decode_pieces(
        self, clips: Sequence[Named], source_lang: str, target_lang: str | None
    ) -> Sequence[TimedText | str]:
        """Decodes pieces with times in any case, so that the text of a recording is the same in every format."""
        return self._texts(clips, source_lang, target_lang, self._timed or self._system.tells_times)

    def _texts(
        self, clips: Sequence[Named], source_lang: str, target_lang: str | None, timed: bool
    ) -> Sequence[TimedText | str]:
        timed = timed and self._system.writes_speech(source_lang, target_lang)
        write = self._system.transcribe_timed if timed else self._system.transcribe
        return write(clips, source_lang=source_lang, target_lang=target_lang, decoding=self._decoding)

    def _keep(self, recording: Recording, number: int, text: PieceText) -> None:
        entry = self._entries[recording]
        if entry.kept is not None:
            entry.kept.add(number, text)
        if recording.hearing.is_long:
            self._progress.update(entry.fields[0], recording, text)

    def _tell(self, entry: _Entry, recording: Recording) -> None:
        transcript, name = recording.transcript, " ".join(entry.fields)
        assert transcript is not None
        if recording.hearing.is_long:
            texts = [text for text in recording.texts if text is not None]
            spoken = sum(text.end - text.start - text.shared for text in texts)
            self._progress.close()
            empty = sum(not text.segments for text in texts)
            without = f", {empty} of them without a text" if empty else ""
            self._say(
                f"{name}: {len(texts)} pieces{without}, {spoken:.0f} s of {transcript.seconds:.0f} s; nobody speaks in "
                "the rest"
            )
        if (
            self._timed
            and transcript.text
            and self._system.writes_speech(recording.source_lang, recording.target_lang)
        ):
            if transcript.placed == 0:
                self._say(f"{name}: no word could be found in the audio; the times are spread evenly over it")
            elif transcript.placed < FEW:
                self._say(
                    f"{name}: {transcript.placed:.0%} of the words could be found in the audio; the times of "
                    "the others are estimates"
                )

    def _write(self, entry: _Entry, transcript: Transcript) -> None:
        if self._documents is not None:
            self._documents.write(entry.place, transcript)
        elif not self._options.timestamps:
            print(*entry.fields, one_line(transcript.text), sep="\t", flush=True)
        else:
            for fields in _timed_lines(transcript, self._unit):
                print(*entry.fields, *fields, sep="\t", flush=True)

    def _fail(self, name: str, error: UserError) -> None:
        # Each channel of a file fails by itself, which counts as one failure.
        if name not in self._failed:
            self._failed.add(name)
            self._progress.close()
            print(f"speechllm transcribe: error: {error}", file=sys.stderr)


class _Progress:
    """A progress line for the current recording, if it is long."""

    def __init__(self) -> None:
        self._line: ProgressLine | None = None
        self._recording: Recording | None = None

    def update(self, name: str, recording: Recording, text: PieceText) -> None:
        total = max(recording.hearing.stated, text.end)
        if self._line is None or recording is not self._recording:
            self.close()
            self._line, self._recording = ProgressLine(name, sys.stderr), recording
            self._line.update("", text.start / total)
        self._line.update(f"{text.end / 60:.1f} of {total / 60:.1f} min", text.end / total)

    def close(self) -> None:
        if self._line is not None:
            self._line.__exit__(None, None, None)
            self._line = None


def _timed_lines(transcript: Transcript, unit: Unit) -> list[tuple[str, str, str]]:
    spans = parts(transcript, unit)
    if not spans:
        return [("0.00", f"{transcript.seconds:.2f}", "")]
    return [(f"{span.start:.2f}", f"{span.end:.2f}", one_line(span.text)) for span in spans]


def _lengths(system: Transcriber, checkpoint: SavedSystem, options: argparse.Namespace) -> tuple[float, CutConfig]:
    """Seconds up to which a recording goes whole, and how it is cut beyond."""
    window, longest = piece_lengths(system.model.encoder.max_seconds, checkpoint.longest_clip())
    given = options.longest_piece
    if given is not None and not LEAST_PIECE <= given <= window:
        raise UserError(
            f"--longest-piece: found {given:g}, expected {LEAST_PIECE:g} to {window:g} seconds, the window "
            "of the encoder"
        )
    if not 0.1 <= options.pause <= window:
        raise UserError(f"--pause: found {options.pause:g}, expected 0.1 to {window:g} seconds")
    return given or window, CutConfig(longest=given or longest, pause=options.pause)


def _identity(checkpoint: SavedSystem) -> list[Any]:
    """What tells a checkpoint from another that lies in the same place."""
    return [
        checkpoint.step_nr,
        hashlib.sha256(checkpoint.config_file.read_bytes()).hexdigest()[:16],
        *([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in checkpoint.weight_files()),
    ]
