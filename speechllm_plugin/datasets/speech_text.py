"""The fairseq2 dataset family `speech_text`: TSV manifests of audio files with their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from speechllm_plugin.datasets.manifest import Manifest, open_manifest
from speechllm_plugin.datasets.manifest_row import Rules
from speechllm_plugin.datasets.text_cleaning import CleanText
from speechllm_plugin.datasets.utterances import Part, Utterances
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.remote import Location, location
from speechllm_plugin.files.tsv import check_columns
from speechllm_plugin.log import log

SPEECH_TEXT_DATASET = "speech_text"


@dataclass(kw_only=True)
class SpeechTextConfig:
    manifests: dict[str, str | list[str]] = field(default_factory=dict)
    """Split name -> manifest file, or several files that are read as one; or URLs: see `docs/manifests.md`."""
    audio_root: str | None = None
    """Folder, or URL, that relative audio paths start from. None = the folder of each manifest."""
    source_lang: str | None = None
    """Language of the speech, for rows whose manifest has no `src_lang`. None = English, and the log says so."""
    target_lang: str | None = None
    """Language of `tgt_text`, for rows whose manifest has no `tgt_lang`. None = that of the speech: recognition."""
    empty_text: Literal["refuse", "silence"] = "refuse"
    """What an empty `tgt_text` means. `refuse`: it is an error. `silence`: nobody speaks in the clip (silence, noise,
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
    """What happens to sound files whose floating point numbers are in units of integers (up to 32768 in place of 1).
    `scale`: the numbers are divided, and the log says so. `error`: such a file is an error."""


class SpeechTextDataset:
    """:raises UserError: the configuration asks for two kinds of quoting."""

    def __init__(self, config: SpeechTextConfig) -> None:
        if config.legacy_escapes and config.csv_quotes:
            raise UserError("dataset.config_overrides.csv_quotes: found true, expected false beside legacy_escapes")
        self.config = config
        self._splits: dict[tuple[str, bool], Utterances] = {}
        self._told_language = False

    def manifest_files(self, split: str) -> list[Location]:
        manifests: Mapping[str, str | list[str]] = self.config.manifests
        if split not in manifests:
            known = ", ".join(sorted(manifests)) or "none"
            raise UserError(
                f"dataset.config_overrides.manifests: no manifest for split {split!r}, found {known}; expected e.g. "
                f"--config dataset.config_overrides.manifests.{split}=path/to/{split}.tsv"
            )
        files = manifests[split]
        return [location(file) for file in ([files] if isinstance(files, str) else files)]

    def read(self, split: str, *, require_text: bool = True) -> Utterances:
        """All utterances of a split, in the order of its manifests, which are checked once.

        :raises UserError: a manifest is missing or wrong, or two of the split's manifests share an id.
        """
        if (split, require_text) not in self._splits:
            self._splits[split, require_text] = self._read(split, require_text)
        return self._splits[split, require_text]

    def check_columns(self, splits: Sequence[str], *, require_text: bool = True) -> None:
        """Checks that the splits' manifests exist and have their columns. Manifests at URLs, and manifests with
        quoting, are left to `read`.

        :raises UserError: one is missing, or lacks a column.
        """
        if self.config.legacy_escapes or self.config.csv_quotes:
            return
        for file in (file for split in splits for file in self.manifest_files(split)):
            if isinstance(file, Path):
                check_columns(file, required=Rules(require_text=require_text).required)

    def read_together(self, splits: Sequence[str], *, require_text: bool = True) -> Utterances:
        """The utterances of several splits, one split after the other. A clip may be in several splits, with the same
        id.

        :raises UserError: as `read`.
        """
        return Utterances.joined(self.read(split, require_text=require_text) for split in splits)

    def _read(self, split: str, require_text: bool) -> Utterances:
        utterances = Utterances([self._part(file, split, require_text) for file in self.manifest_files(split)])
        if not utterances:
            raise UserError(f"split {split!r}: found no rows in {', '.join(map(str, self.manifest_files(split)))}")
        if (pair := utterances.repeated_id()) is not None:
            first, second = pair
            raise UserError(
                f"{second.name}: repeated id, first in {first.manifest}, line {first.row.line}; expected ids that "
                "differ across the manifests of a split"
            )
        return utterances

    def _part(self, file: Location, split: str, require_text: bool) -> Part:
        config = self.config
        manifest = open_manifest(
            file,
            require_text=require_text,
            empty_text=config.empty_text == "silence",
            n_frames_unit=config.n_frames_unit,
            legacy_escapes=config.legacy_escapes,
            csv_quotes=config.csv_quotes,
            clean_text=config.clean_text,
        )
        self._tell_language(manifest)
        return Part(
            manifest=manifest,
            root=location(config.audio_root) if config.audio_root is not None else file.parent,
            split=split,
            source_lang=config.source_lang or "en",
            target_lang=config.target_lang,
            scales_floats=config.float_units == "scale",
        )

    def _tell_language(self, manifest: Manifest) -> None:
        columns = manifest.columns
        is_missing = np.array([not kind.src_lang for kind in columns.kinds])
        missing = int(is_missing[columns.kind].sum())
        if missing and self.config.source_lang is None and not self._told_language:
            log.warning(
                "{}: {:,} of {:,} rows have no `src_lang`, so their speech is taken for English, here and in the other "
                "manifests; dataset.config_overrides.source_lang says otherwise.", manifest.path, missing,
                len(manifest),
            )  # fmt: skip
            self._told_language = True


def open_speech_text(config: SpeechTextConfig) -> SpeechTextDataset:
    return SpeechTextDataset(config)
