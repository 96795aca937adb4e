"""Which files are there, told by lists of folders: never one that is not, and without a look at each."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from speechllm_plugin.datasets.audio import AudioError, resolve
from speechllm_plugin.datasets.audio_places import unseen
from speechllm_plugin.datasets.manifest import open_manifest


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "odd:1:2.wav").touch()
    for number in range(40):
        (tmp_path / f"a/b/{number}.wav").touch()
        (tmp_path / f"{number}.wav").touch()
    (tmp_path / "a/b/folder.wav").mkdir()
    (tmp_path / "a/b/link.wav").symlink_to("1.wav")
    (tmp_path / "a/b/broken.wav").symlink_to("none.wav")
    with zipfile.ZipFile(tmp_path / "a/c.zip", "w", zipfile.ZIP_STORED) as file:
        file.writestr("x", b"0" * 1000)
    (tmp_path / "a/talk.wav").write_bytes(b"0" * 100)
    return tmp_path


def test_what_is_not_seen_is_looked_at(corpus: Path) -> None:
    """All rows that `resolve` refuses are among the unseen; of those that it takes, only what lists cannot tell."""
    size = (corpus / "a/c.zip").stat().st_size
    rows = [f"a/b/{number}.wav" for number in range(40)] + ["a/b/link.wav"]
    rows += [f"{corpus}/a/b/{number}.wav" for number in range(40)] + [f"{number}.wav" for number in range(40)]
    rows += [f"a/c.zip:{start}:10" for start in range(100, 140)] + [f"a/c.zip:0:{size}"]
    rows += [f"a/talk.wav:{start}:5" for start in range(40)]
    wrong = ["a/b/none.wav", "a/b/folder.wav", "a/b/broken.wav", "40.wav", f"a/c.zip:1:{size}", "a/talk.wav:5:0",
             "a/none.wav:0:5", "none/1.wav", f"{corpus}/a/b/none.wav", "a/b/1.wav:x:5", "a/c.zip:0:0"]  # fmt: skip
    others = ["odd:1:2.wav", "a/../a/b/1.wav"]
    every = [*rows, *wrong, *others]
    manifest = corpus / "m.tsv"
    manifest.write_text("id\taudio\ttgt_text\n" + "".join(f"{i}\t{row}\tx\n" for i, row in enumerate(every)))
    opened = open_manifest(manifest)
    looked_at: list[int] = []

    def source_of(row: int):  # type: ignore[no-untyped-def]
        looked_at.append(row)
        return resolve(every[row], corpus)

    found = {every[row] for row in unseen(opened.columns.audio, corpus, source_of)}
    for row in wrong:
        with pytest.raises(AudioError):
            resolve(row, corpus)
        assert row in found, row
    assert not found & set(rows)
    assert len(looked_at) <= 4, "the files of ranges are looked at once each"
