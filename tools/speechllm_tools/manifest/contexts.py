"""Chooses phrases for the rows of a manifest: their own among distractors, or those most like a first pass."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.scoring.biasing import PhraseIndex
from speechllm_plugin.scoring.phrase_lists import SEPARATOR, rare_words, read_authors_lists, read_phrases
from speechllm_plugin.scoring.report import read_hypotheses
from speechllm_plugin.scoring.wer import unit_of
from speechllm_tools.manifest.requests import transcript_of
from speechllm_tools.manifest.retrieval import Retriever
from speechllm_tools.manifest.rows import (
    Row,
    check_output,
    columns_of,
    folder_of,
    placed,
    read_rows,
    write_rows,
)
from speechllm_tools.prepare.report import hashes


@dataclass
class _Counts:
    """Counts of phrases over all rows."""

    rows: int = 0
    with_own: int = 0
    own: int = 0
    """Phrases of the list that are spoken."""
    retrieved: int = 0
    """Spoken phrases that were chosen by the first pass."""
    heard: int = 0
    """Spoken phrases that the first pass itself wrote."""
    extra: dict[str, Any] = field(default_factory=dict)

    def add(self, own: Sequence[str]) -> None:
        self.rows += 1
        self.with_own += bool(own)
        self.own += len(own)


def write_contexts(options: argparse.Namespace) -> int:
    _check(options)
    rows = list(read_rows(options.manifest, required=("id", "audio")))
    languages = sorted({row.get("tgt_lang") or row.get("src_lang") or "en" for row in rows})
    counts = _Counts()
    given = read_authors_lists(options.list) if options.list is not None else None
    if given is not None:
        contexts = _given(options, rows, given, counts)
    else:
        phrases = _phrases(options)
        counts.extra["list"] = len(phrases)
        if options.write_list is not None:
            write_text_atomically(options.write_list, "".join(f"{phrase}\n" for phrase in phrases))
        index = {one: PhraseIndex(phrases, "basic", unit_of(one), one) for one in languages}
        if options.first_pass is None:
            contexts = _drawn(options, rows, phrases, index, counts)
        else:
            contexts = _retrieved(options, rows, phrases, index, counts)
    columns = [*columns_of(options.manifest)]
    columns += ["context"] if "context" not in columns else []
    heard_in = [options.first_pass] if options.first_pass is not None and options.first_pass.is_file() else []
    inputs = [options.manifest, *filter(None, [options.list]), *heard_in, *(options.rare_in or [])]
    first_pass = None if options.first_pass is None else str(options.first_pass)
    story: dict[str, Any] = {
        "action": "phrases", "distractors": options.distractors, "seed": options.seed, "common": options.common,
        "top": options.top, "first_pass": first_pass, "lists": hashes(inputs[1:]),
    }  # fmt: skip
    root = folder_of(options.manifest, options.audio_root)

    def written() -> Iterator[dict[str, str]]:
        for row, context in zip(rows, contexts, strict=True):
            yield placed(row, root, options.output, options.audio_root) | {"context": SEPARATOR.join(context)}
        story["phrases"] = {"rows": counts.rows, "rows_with_own": counts.with_own, "own": counts.own, **counts.extra}

    write_rows(options.output, columns, written(), inputs=inputs, overwrite=options.overwrite, story=story)
    print(f"{options.output}: {counts.rows:,} rows, {counts.with_own:,} of which hold a phrase of the list, "
          f"{counts.own:,} phrases in all")
    if options.first_pass is not None and counts.own:
        print(f"  recall of the {options.top} most alike: {counts.retrieved / counts.own:.1%} of what is said; the "
              f"first pass itself wrote {counts.heard / counts.own:.1%}")
    return 0


def _check(options: argparse.Namespace) -> None:
    for name, least in (("distractors", 0), ("common", 0), ("top", 1)):
        if (found := getattr(options, name)) < least:
            raise UserError(f"--{name}: found {found}, expected at least {least}")
    if options.first_pass is not None and options.distractors:
        raise UserError("--distractors: found with --first-pass, which has distractors of its own; expected one")
    check_output(options.output, [options.manifest], overwrite=options.overwrite)


def _phrases(options: argparse.Namespace) -> tuple[str, ...]:
    """
    :raises UserError: the list cannot be used.
    """
    if options.list is not None:
        return read_phrases(options.list)
    rows = [row for manifest in options.rare_in for row in read_rows(manifest, required=("id",))]
    language = rows[0].get("src_lang") if rows else ""
    found = rare_words(map(transcript_of, rows), options.common, language)
    if not found:
        raise UserError(f"--common: found {options.common}, which leaves no word of "
                        f"{', '.join(map(str, options.rare_in))}, expected fewer")
    return found


def _language(row: Row) -> str:
    return row.get("tgt_lang") or row.get("src_lang") or "en"


def _drawn(
    options: argparse.Namespace, rows: Sequence[Row], phrases: Sequence[str], index: Mapping[str, PhraseIndex],
    counts: _Counts,
) -> Iterator[list[str]]:  # fmt: skip
    """A row's own phrases among distractors, which are drawn by the row's id and the seed only."""
    for row in rows:
        own = index[_language(row)].found_in(transcript_of(row))
        if options.distractors > len(phrases) - len(own):
            raise UserError(f"--distractors: found {options.distractors}, expected at most {len(phrases) - len(own)}, "
                            "the phrases of the list that are not said")
        counts.add(own)
        draw = random.Random(f"{options.seed} {row.get('id')}")
        # Enough phrases are drawn to leave the distractors after removing the row's own.
        drawn = draw.sample(phrases, min(len(phrases), options.distractors + len(own)))
        context = [*own, *[phrase for phrase in drawn if phrase not in own][: options.distractors]]
        draw.shuffle(context)
        yield context


def _retrieved(
    options: argparse.Namespace, rows: Sequence[Row], phrases: Sequence[str], index: Mapping[str, PhraseIndex],
    counts: _Counts,
) -> Iterator[list[str]]:  # fmt: skip
    if options.first_pass.is_dir():
        from speechllm_tools.manifest.listening import listen

        heard = listen(options.first_pass, rows, folder_of(options.manifest, options.audio_root))
    else:
        heard = {row.id: row.hypothesis for row in read_hypotheses(options.first_pass)}
    retrievers = {language: Retriever(phrases, one) for language, one in index.items()}
    for row in rows:
        if row.get("id") not in heard:
            raise UserError(row.wrong("id", f"an id of {options.first_pass}"))
        text, language = heard[row.get("id")], _language(row)
        context = retrievers[language].best(text, options.top)
        own = index[language].found_in(transcript_of(row))
        counts.add(own)
        counts.retrieved += len({*own} & {*context})
        counts.heard += len({*own} & {*index[language].found_in(text)})
        yield context
    counts.extra |= {"retrieved": counts.retrieved, "heard": counts.heard}


def _given(
    options: argparse.Namespace, rows: Sequence[Row], given: Mapping[str, Sequence[str]], counts: _Counts
) -> Iterator[list[str]]:
    """Phrases from the lists of the authors' file, in its order."""
    for row in rows:
        if row.get("id") not in given:
            raise UserError(row.wrong("id", f"an id of {options.list}"))
        context = list(given[row.get("id")])
        language = _language(row)
        counts.add(PhraseIndex(context, "basic", unit_of(language), language).found_in(transcript_of(row)))
        yield context
