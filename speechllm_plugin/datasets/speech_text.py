"""The fairseq2 dataset family `speech_text`: TSV manifests of audio files with their texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from speechllm_plugin.datasets.audio import AudioSource, duration, resolve
from speechllm_plugin.datasets.manifest import ManifestRow, read_manifest, seconds_of
from speechllm_plugin.datasets.text_cleaning import CleanText
from speechllm_plugin.errors import UserError
from speechllm_plugin.log import log
from speechllm_plugin.tasks.api import task_of_row
from speechllm_plugin.text.languages import is_translation

SPEECH_TEXT_DATASET = "speech_text"


@dataclass(kw_only=True)
class SpeechTextConfig:
    manifests: dict[str, str | list[str]] = field(default_factory=dict)
    """Split name -> manifest file, or several files that are read as one."""
    audio_root: str | None = None
    """Folder that relative audio paths start from. None = the folder of each manifest."""
    source_lang: str | None = None
    """Language of the speech, for rows whose manifest has no `src_lang`. None = English, and the log says so."""
    target_lang: str | None = None
    """Language of `tgt_text`, for rows whose manifest has no `tgt_lang`. None = that of the speech: recognition."""
    empty_text: Literal["refuse", "silence"] = "refuse"
    """What an empty `tgt_text` means. `refuse`: a mistake. `silence`: nobody speaks in the clip (silence, noise,
    music), and the right text is empty."""
    n_frames_unit: Literal["frames", "samples"] = "frames"
    """What `n_frames` counts: 10 ms frames, or samples at 16 kHz as in fairseq's raw-waveform manifests."""
    legacy_escapes: bool = False
    """Whether to remove the backslashes from manifests that fairseq wrote through pandas."""
    csv_quotes: bool = False
    """Whether to undo the default quoting of Python's csv and pandas: `"a ""b"" c"` is `a "b" c`."""
    clean_text: CleanText = "none"
    """What is removed from texts, in training and in scoring. `entities`: HTML entities become characters
    (`don&apos;t`). `marks`: `[laughter]`, `(Applause)`, `<unk>`, `(%HESITATION)`, speaker labels, word fragments
    (`th-`) and invisible characters are removed. `all`: both, and superfluous spaces. The log has the counts for each
    manifest."""
    float_units: Literal["scale", "error"] = "scale"
    """What becomes of sound files whose floating point numbers are in units of integers (up to 32768 in place of 1).
    `scale`: they are divided, and the log says so. `error`: a mistake."""


@dataclass(frozen=True)
class Utterance:
    """A manifest row with what its dataset adds."""

    row: ManifestRow
    manifest: Path
    root: Path
    source_lang: str
    target_lang: str
    split: str = ""
    scales_floats: bool = True
    """See `AudioSource`."""

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.manifest}, line {self.row.line}, id {self.row.id}"

    @property
    def asked(self) -> tuple[str, str, str]:
        """The languages of speech and text, and the task where its row states one: what decides its prompt."""
        return self.source_lang, self.target_lang, self.row.task

    def origin_of(self, name: str) -> str:
        """What gives the `source` or the `target` language: a column of the manifest, or a key of the dataset."""
        if name == "target" and self.row.tgt_lang:
            return "column 'tgt_lang'"
        if name == "target" and self.target_lang != self.source_lang:
            return "dataset.config_overrides.target_lang"
        return "column 'src_lang'" if self.row.src_lang else "dataset.config_overrides.source_lang"

    def source(self) -> AudioSource:
        return resolve(self.row.audio, self.root, self.row.channel, scales_floats=self.scales_floats)

    def seconds(self) -> float:
        """Duration by the manifest, or by the audio file's header where the manifest has none.

        :raises AudioError: there is no such file, or its header cannot be read.
        """
        source = self.source()
        return seconds_of(self.row.n_frames) if self.row.n_frames else duration(source)


class SpeechTextDataset:
    """:raises UserError: the configuration asks for two kinds of quoting."""

    def __init__(self, config: SpeechTextConfig) -> None:
        if config.legacy_escapes and config.csv_quotes:
            raise UserError("dataset.config_overrides.csv_quotes: found true, expected false beside legacy_escapes")
        self.config = config
        self._splits: dict[tuple[str, bool], list[Utterance]] = {}
        self._told_language = False

    def manifest_files(self, split: str) -> list[Path]:
        manifests: Mapping[str, str | list[str]] = self.config.manifests
        if split not in manifests:
            known = ", ".join(sorted(manifests)) or "none"
            raise UserError(
                f"dataset.config_overrides.manifests: no manifest for split {split!r}, found {known}; expected e.g. "
                f"--config dataset.config_overrides.manifests.{split}=path/to/{split}.tsv"
            )
        files = manifests[split]
        return [Path(file) for file in ([files] if isinstance(files, str) else files)]

    def read(self, split: str, *, require_text: bool = True) -> list[Utterance]:
        """All utterances of a split, in the order of its manifests, which are read once.

        :raises UserError: a manifest is missing or wrong, or two of the split's manifests share an id.
        """
        if (split, require_text) not in self._splits:
            self._splits[split, require_text] = self._read(split, require_text)
        return list(self._splits[split, require_text])

    def read_together(self, splits: Sequence[str], *, require_text: bool = True) -> list[Utterance]:
        """The utterances of several splits, one split after the other: a clip may be in several, by the same id.

        :raises UserError: as `read`.
        """
        return [row for split in splits for row in self.read(split, require_text=require_text)]

    def _read(self, split: str, require_text: bool) -> list[Utterance]:
        utterances: list[Utterance] = []
        for file in self.manifest_files(split):
            rows = read_manifest(
                file,
                require_text=require_text,
                empty_text=self.config.empty_text == "silence",
                n_frames_unit=self.config.n_frames_unit,
                legacy_escapes=self.config.legacy_escapes,
                csv_quotes=self.config.csv_quotes,
                clean_text=self.config.clean_text,
            )
            self._tell_language(file, rows)
            root = Path(self.config.audio_root) if self.config.audio_root is not None else file.parent
            utterances += [self._utterance(row, file, root, split) for row in rows]
        _check_ids(utterances)
        if not utterances:
            raise UserError(f"split {split!r}: found no rows in {', '.join(map(str, self.manifest_files(split)))}")
        return utterances

    def _tell_language(self, file: Path, rows: Sequence[ManifestRow]) -> None:
        missing = sum(not row.src_lang for row in rows)
        if missing and self.config.source_lang is None and not self._told_language:
            log.warning(
                "{}: {:,} of {:,} rows have no `src_lang`, so their speech is taken for English, here and in the other "
                "manifests; dataset.config_overrides.source_lang says otherwise.", file, missing, len(rows),
            )  # fmt: skip
            self._told_language = True

    def _utterance(self, row: ManifestRow, manifest: Path, root: Path, split: str) -> Utterance:
        source_lang = row.src_lang or self.config.source_lang or "en"
        target_lang = row.tgt_lang or self.config.target_lang or source_lang
        translation = is_translation(source_lang, target_lang)
        where = f"{manifest}, line {row.line}, id {row.id}"
        if row.task == "translate" and not translation:
            raise UserError(
                f"{where}, column 'task': found 'translate' into the language of the speech, expected another "
                "tgt_lang, or another task"
            )
        if row.task and task_of_row(source_lang, target_lang, row.task).writes_speech and translation:
            if not row.src_text:
                raise UserError(
                    f"{where}, column 'src_text': found '', expected what is said, as the task is {row.task}"
                )
            row, target_lang = replace(row, tgt_text=row.src_text), source_lang
        scales = self.config.float_units == "scale"
        return Utterance(row, manifest, root, source_lang, target_lang, split, scales)


def _check_ids(utterances: Iterable[Utterance]) -> None:
    seen: dict[str, Utterance] = {}
    for utterance in utterances:
        if (other := seen.setdefault(utterance.row.id, utterance)) is not utterance:
            raise UserError(
                f"{utterance.name}: repeated id, first in {other.manifest}, line {other.row.line}; expected ids that "
                "differ across the manifests of a split"
            )


def open_speech_text(config: SpeechTextConfig) -> SpeechTextDataset:
    return SpeechTextDataset(config)
