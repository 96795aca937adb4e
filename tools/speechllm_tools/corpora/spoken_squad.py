"""Spoken-SQuAD (arXiv 1804.00320): written questions of SQuAD about spoken paragraphs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_tools.prepare.api import Corpus, Line, Sound, add_root, add_splits, folder_of, splits_of
from speechllm_tools.prepare.joined import join_clips
from speechllm_tools.prepare.measure import MISSING, UNREADABLE
from speechllm_tools.prepare.squad import answer_of

INCOMPLETE = "paragraph that lacks a sentence"
# The test set is SQuAD's development set.
_SOUND = {"train": "train_wav", "test": "dev_wav"}


class SpokenSquad(Corpus):
    summary = "Spoken-SQuAD: written questions about spoken paragraphs, with their answers"
    # As in the README of Chia-Hsuan-Lee/Spoken-SQuAD.
    description = (
        "ROOT/spoken_train-v1.1.json and spoken_test-v1.1.json, with the sentences' sound in ROOT/train_wav and "
        "ROOT/dev_wav (or in ROOT/Spoken-SQuAD_audio) as TOPIC_PARAGRAPH_SENTENCE.wav. The sentences of a paragraph "
        "are joined into OUTPUT/paragraphs, FLAC of 16 kHz. A row has the question as its instruction, the first "
        "answer as tgt_text and others in the column references; there is no transcript, since the corpus has a "
        "recogniser's alone. Many paragraphs are longer than 30 s, which is all that Whisper's encoder takes."
    )
    example = "Spoken-SQuAD --splits test --output data"
    columns = ("task", "instruction", "references")

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_root(parser, "folder of the JSON files")
        add_splits(parser, "train,test")

    def __init__(self, options: argparse.Namespace) -> None:
        root = folder_of(options.root)
        self._tables = {split: root / f"spoken_{split}-v1.1.json" for split in _SOUND}
        known = [split for split, table in self._tables.items() if table.is_file()]
        self._splits = splits_of(options, known, root)
        self._paragraphs: Path = options.output.absolute() / "paragraphs"
        self._options = options
        self._sound: dict[str, Path] = {}
        for split in self._splits:
            places = [root / _SOUND[split], root / "Spoken-SQuAD_audio" / _SOUND[split]]
            found = next((place for place in places if place.is_dir()), None)
            if found is None:
                raise UserError(f"{places[0]}: found no such folder, expected the sound of the split {split}")
            self._sound[split] = found

    def sources(self) -> list[Path]:
        return [self._tables[split] for split in self._splits]

    def splits(self) -> dict[str, int]:
        return {split: sum(1 for _ in _questions(self._tables[split])) for split in self._splits}

    def lines(self) -> Iterator[Line]:
        for split in self._splits:
            table = self._tables[split]
            folder = self._paragraphs / split
            sentences, why_not = _sentences(self._sound[split], _paragraphs(table))
            clips = {folder / f"{name}.flac": files for name, files in sentences.items()}
            why_not |= {file.stem: UNREADABLE for file in join_clips(clips, self._options)}
            for paragraph, question in _questions(table):
                reason = why_not.get(paragraph)
                yield Line(
                    where=f"{table}, question {question['id']}", split=split, id=str(question["id"]), src_lang="en",
                    instruction=str(question["question"]).strip(),
                    targets=[answer_of(question["answers"])], reason=reason,
                    sound=None if reason else Sound(audio=str(folder / f"{paragraph}.flac")),
                )  # fmt: skip


def _read(table: Path) -> Iterator[tuple[str, Any]]:
    """
    :returns: each paragraph with its name, TOPIC_PARAGRAPH.
    :raises UserError: the file is not in SQuAD's format.
    """
    try:
        topics = json.loads(table.read_text(encoding="utf-8"))["data"]
        for number, topic in enumerate(topics):
            for place, paragraph in enumerate(topic["paragraphs"]):
                for question in paragraph["qas"]:
                    question["id"], question["question"], question["answers"]
                yield f"{number}_{place}", paragraph
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{table}: found no JSON of SQuAD's format ({type(error).__name__}: {error}), expected data, "
                        "paragraphs, qas with id, question and answers") from None


def _paragraphs(table: Path) -> list[str]:
    """Names of the paragraphs that have questions."""
    return [name for name, paragraph in _read(table) if paragraph["qas"]]


def _questions(table: Path) -> Iterator[tuple[str, Any]]:
    return ((name, question) for name, paragraph in _read(table) for question in paragraph["qas"])


def _sentences(sound: Path, names: list[str]) -> tuple[dict[str, list[Path]], dict[str, str]]:
    """:returns: the files of each paragraph in order, and why other paragraphs cannot be used."""
    found: dict[str, dict[int, Path]] = {name: {} for name in names}
    for file in sound.glob("*_*_*.wav"):
        paragraph, _, number = file.stem.rpartition("_")
        if paragraph in found and number.isascii() and number.isdigit():
            found[paragraph][int(number)] = file
    why_not = {name: INCOMPLETE if files else MISSING for name, files in found.items()
               if sorted(files) != list(range(max(1, len(files))))}  # fmt: skip
    return {name: [found[name][place] for place in sorted(found[name])] for name in names
            if name not in why_not}, why_not  # fmt: skip


CORPUS = SpokenSquad
