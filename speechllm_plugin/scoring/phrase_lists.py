"""Lists of phrases for contextual biasing: reads files, and finds the rare words of a corpus."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import read_lines
from speechllm_plugin.files.tsv import read_table
from speechllm_plugin.scoring.biasing import PhraseIndex
from speechllm_plugin.scoring.normalizers import get_normalizer
from speechllm_plugin.scoring.wer import Unit

SEPARATOR = ", "
"""Separator of a row's phrases in the column `context`."""


@dataclass(frozen=True)
class PhraseLists:
    """The phrases in the list, the same for all rows or each row's own."""

    file: Path
    common: tuple[str, ...] | None
    own: Mapping[str, tuple[str, ...]]
    """Phrases of each row, by its id."""

    def of(self, identity: str) -> tuple[str, ...]:
        """
        :raises UserError: the file has no row of that id.
        """
        if self.common is not None:
            return self.common
        if identity not in self.own:
            raise UserError(f"{self.file}: found no row of the id {identity!r}, expected the phrases of every clip")
        return self.own[identity]

    def indices(self, ids: Sequence[str], normalizer: str, unit: Unit, language: str) -> list[PhraseIndex]:
        """An index for each id."""
        if self.common is not None:
            return [PhraseIndex(self.common, normalizer, unit, language)] * len(ids)
        return [PhraseIndex(self.of(identity), normalizer, unit, language) for identity in ids]


def read_phrase_lists(path: Path) -> PhraseLists:
    """
    :param path: a text with a phrase in each line; a manifest with the columns `id` and `context`; or a file of the
        authors of arXiv 2104.02194 (`test-clean.biasing_100.tsv`): id, text, JSON lists of the row's own rare words and
        of all phrases. As in their script, the row's own rare words count.
    :raises UserError: the file is none of these, or holds no phrase.
    """
    lines = read_lines(path, "a list of phrases")
    fields = lines[0].split("\t") if lines else []
    if "id" in fields and "context" in fields:
        records = read_table(path, required=("id", "context"))
        own = {one.fields["id"]: split_phrases(one.fields["context"]) for one in records}
    elif len(fields) == 4 and fields[2].startswith("["):
        own = {line.split("\t")[0]: lists[0] for line, lists in _authors(path, lines)}
    elif len(fields) > 1:
        raise UserError(f"{path}, line 1: found {len(fields)} columns, expected a phrase a line, or a manifest with "
                        "the columns id and context")
    else:
        return PhraseLists(path, read_phrases(path), {})
    return PhraseLists(path, None, own)


def read_phrases(path: Path) -> tuple[str, ...]:
    """The distinct phrases of a file with a phrase in each line.

    :raises UserError: there is no phrase, or one that the column `context` could not hold.
    """
    phrases: dict[str, None] = {}
    for number, line in enumerate(read_lines(path, "a list of phrases"), start=1):
        phrase = " ".join(line.split())
        if SEPARATOR.strip() in phrase:
            raise UserError(f"{path}, line {number}: found {phrase!r}, expected a phrase without a comma, which parts "
                            "the phrases in a prompt")
        if phrase:
            phrases[phrase] = None
    if not phrases:
        raise UserError(f"{path}: found no phrase, expected one a line")
    return tuple(phrases)


def split_phrases(context: str) -> tuple[str, ...]:
    """The phrases of a column `context`."""
    return tuple(phrase for part in context.split(SEPARATOR.strip()) if (phrase := part.strip()))


def rare_words(texts: Iterable[str], common: int, language: str = "") -> tuple[str, ...]:
    """All words of texts except the `common` most frequent ones, as in the list of arXiv 2104.02194 (section 4.1, with
    5,000). Words with the same frequency are ordered alphabetically."""
    normalize = get_normalizer("basic", language)
    counts = Counter(word for text in texts for word in normalize(text).split())
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return tuple(sorted(ordered[common:]))


def read_authors_lists(path: Path) -> dict[str, tuple[str, ...]] | None:
    """All phrases of each id in a file of the authors of arXiv 2104.02194; None = the file is no such file."""
    lines = read_lines(path, "a list of phrases")
    fields = lines[0].split("\t") if lines else []
    if len(fields) != 4 or not fields[2].startswith("["):
        return None
    return {line.split("\t")[0]: lists[1] for line, lists in _authors(path, lines)}


def _authors(path: Path, lines: Sequence[str]) -> Iterable[tuple[str, tuple[tuple[str, ...], tuple[str, ...]]]]:
    for number, line in enumerate(lines, start=1):
        try:
            own, every = (tuple(map(str, json.loads(field))) for field in line.split("\t")[2:4])
        except ValueError:
            raise UserError(f"{path}, line {number}: found {line[:60]!r}, expected id, text and two JSON lists, with "
                            "tabs between them") from None
        yield line, (own, every)
