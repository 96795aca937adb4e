"""Manifests as columns: what is told of many fields at once is what is told of each."""

from __future__ import annotations

import pickle
import random
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from speechllm_plugin.datasets import text_cleaning
from speechllm_plugin.datasets.manifest import open_manifest, read_manifest
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.datasets.text_cleaning import clean, signs
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.columns import content
from speechllm_plugin.files.columns.fields import hashes, joined, may_be_blank, millionths, numbers, rows_with

RNG = random.Random(5)
PIECES = [
    "a", "bc", "", "", "-", "th-", ":", "A:", "&", "&apos;", "&#39;", "[x]", "(Laughter)", "%uh", "(%h)",
    "\u00a0", "\u200b", "\u2019", "\u2026", "\u2066", "\u00ad", "\u3000", "\u3002", "\u2028", "\u1680", "\u205f",
    "\ufeff", "\u8a9e", "\x0b", "\x1c", "\x85", "<unk>", "{a}",
]  # fmt: skip
TEXTS = ["".join(RNG.choice(PIECES) or " " for _ in range(RNG.randint(0, 6))) for _ in range(4000)]


def test_numbers_of_fields() -> None:
    fields = ["7", "0", "", "0012", "1_0", " 7", "+7", "\u00b2", "9" * 18, "9" * 19, "1.5", "123456"]
    values, is_number = numbers(*joined([field.encode() for field in fields]))
    expected = [field.isascii() and field.isdigit() and len(field) < 19 for field in fields]
    assert is_number.tolist() == expected
    assert values.tolist() == [int(field) if known else 0 for field, known in zip(fields, expected, strict=True)]


def test_millionths_of_fields() -> None:
    numbers = ["7", "0.25", "5.1234567", "0.0000005", "12.999999999999", "3." + "1" * 18, "1000000.000001", "0", "0.0"]
    others = ["", ".5", "5.", "1e3", "-1", "nan", "1.2.3", "1,5", " 1", "3." + "1" * 19, "1000000000", "9" * 19]
    values, is_number = millionths(*joined([field.encode() for field in [*numbers, *others]]))
    assert is_number.tolist() == [True] * len(numbers) + [False] * len(others)
    assert values.tolist() == [round(Decimal(field) * 1_000_000) for field in numbers] + [0] * len(others)


def test_hashes_are_equal_where_fields_are() -> None:
    fields = [f"{'x' * RNG.randint(0, 20)}{RNG.randint(0, 50)}".encode() for _ in range(3000)]
    found = dict(zip(fields, hashes(*joined(fields)).tolist(), strict=True))
    assert hashes(*joined(fields[::-1])).tolist() == [found[field] for field in fields[::-1]]
    assert len(set(found.values())) == len(found) > 500
    # They decide the speed of clips, so that they stay what they are.
    assert hashes(*joined([b"common_voice_en_1"])).tolist() == [589396932973916425]


def test_no_blank_field_and_no_mark_is_passed_over() -> None:
    data, begins, ends = joined([f"{text}\t".encode() for text in TEXTS])
    ends = ends - 1
    blank = may_be_blank(data, begins, ends)
    assert all(blank[row] for row, text in enumerate(TEXTS) if not text.strip())
    flagged = set(rows_with(signs(data), begins, ends).tolist())
    marked = {row for row, text in enumerate(TEXTS) if any(text_cleaning._find(k, text) for k in text_cleaning._KINDS)}
    assert marked <= flagged
    assert all(clean(text, "all") == text for row, text in enumerate(TEXTS) if row not in flagged)
    plain = ["it\u2019s \u201cthis\u201d \u2013 well-known\u2026", "\u6f22\u5b57\u3002", "at 5:30, or so"]
    assert not len(signs(joined([f"{text}\t".encode() for text in plain])[0])), "nearly all texts would be looked at"


def rows_file(folder: Path, rows: int, last: str = "c\tc.wav\t7\tfine\n") -> Path:
    """More than a block of 4 MiB, of lines of all lengths."""
    path = folder / "m.tsv"
    lines = [f"id{row}\tclips/{row}.wav\t{row % 3000 + 1}\t{'wörter ' * (row % 23)}{row}\n" for row in range(rows)]
    path.write_text("id\taudio\tn_frames\ttgt_text\n" + "".join(lines) + last, encoding="utf-8")
    return path


@pytest.mark.parametrize("on_disk", [False, True])
def test_rows_are_the_same_wherever_the_blocks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: bool
) -> None:
    if on_disk:
        monkeypatch.setattr(content, "IN_MEMORY", 1000)
    rows = 60_000
    path = rows_file(tmp_path, rows)
    assert path.stat().st_size > 1 << 22
    manifest = open_manifest(path)
    assert len(manifest) == rows + 1
    for index in [0, 1, rows, *RNG.sample(range(rows), 50)]:
        row = manifest[index]
        assert row.line == index + 2
        if index < rows:
            assert (row.id, row.n_frames) == (f"id{index}", index % 3000 + 1)
            assert row.tgt_text == f"{'wörter ' * (index % 23)}{index}"
    assert list(manifest)[-2:] == [manifest[rows - 1], manifest[rows]]
    assert manifest.columns.n_frames.tolist() == [row % 3000 + 1 for row in range(rows)] + [7]


@pytest.mark.parametrize(
    ("last", "line"),
    [
        ("id17\tc.wav\t7\tfine\n", "line 60002, column 'id': found 'id17', which line 19 has too"),
        ("c\tc.wav\t-7\tfine\n", "line 60002, column 'n_frames': found '-7', expected a positive integer"),
        ("c\tc.wav\t7\t\n", "line 60002, column 'tgt_text': found '', expected some text (dataset."),
        ("c\tc.wav\t7\n", "line 60002: found 3 tab-separated fields, expected 4 (id, audio, n_frames, tgt_text)"),
    ],
)
def test_the_last_row_of_many_is_checked(tmp_path: Path, last: str, line: str) -> None:
    path = rows_file(tmp_path, 60_000, last)
    with pytest.raises(UserError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}, {line}")


def test_a_file_that_is_read_and_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file of its name changes nothing; rows of one that is written over are no rows that were checked."""
    monkeypatch.setattr(content, "IN_MEMORY", 10)
    path = rows_file(tmp_path, 10)
    manifest = open_manifest(path)
    expected = list(manifest)
    other = tmp_path / "other.tsv"
    other.write_text("id\taudio\ttgt_text\nz\tz.wav\tz\n")
    path.rename(tmp_path / "moved.tsv")
    other.rename(path)
    assert list(manifest) == expected
    with (tmp_path / "moved.tsv").open("a") as file:
        file.write("d\td.wav\t7\tmore\n")
    with pytest.raises(UserError, match="m.tsv: found it changed since its rows were checked, expected it to stay as"):
        manifest[3]


def test_utterances_for_another_process_are_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "IN_MEMORY", 10)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows_file(tmp_path / name, 2000, last=f"{name}\tc.wav\t7\tfine\n")
    files: dict[str, str | list[str]] = {name: str(tmp_path / name / "m.tsv") for name in ("a", "b")}
    every = SpeechTextDataset(SpeechTextConfig(manifests=files)).read_together(["a", "b"])
    some = every.take(np.array([5, 1999, 2000, 2001, 4001, 7]))
    sent = pickle.dumps(some.alone())
    assert len(sent) < 20_000
    again = pickle.loads(sent)
    assert list(again) == list(some) == [every[index] for index in (5, 1999, 2000, 2001, 4001, 7)]
    for name in ("n_frames", "ids", "has_text", "has_source"):
        assert np.array_equal(getattr(again, name), getattr(some, name))
    assert {split: own.tolist() for split, own in again.by_split.items()} == {"a": [0, 1, 2, 5], "b": [3, 4]}


def test_the_first_of_several_faults_is_told(tmp_path: Path) -> None:
    """Rows in their order, and of a row what comes first; of the whole file its encoding, and its lines."""
    path = tmp_path / "m.tsv"
    for content_, line in [
        (b"1\ta\t1\ttrain\n2\t \t0\ttrain\n3\ta\t-1\t\n", "line 3, column 'audio'"),
        (b"1\ta\tx\ttrain\n2\ta\n3\ta\t\xff\tb\n", "line 4: found byte 0xff"),
        (b"1\ta\t0\ttrain\n2\ta\n", "line 3: found 2 tab-separated fields"),
        (b"1\ta\t1\ttrain\n1\t\t1\ttrain\n", "line 3, column 'audio'"),
    ]:
        path.write_bytes(b"id\taudio\tn_frames\ttgt_text\n" + content_)
        with pytest.raises(UserError) as caught:
            read_manifest(path)
        assert str(caught.value).startswith(f"{path}, {line}"), content_
