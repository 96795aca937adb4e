"""Corpora in the layouts of their releases, small, with real sound; and the commands that read them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from speechllm_tools.cli import main

from speechllm_plugin.datasets.audio import read_audio, resolve

RATE = 16000


@dataclass(frozen=True)
class Result:
    status: int
    stdout: str
    stderr: str

    def ok(self) -> Result:
        assert self.status == 0, self.stdout + self.stderr
        return self

    def user_error(self) -> str:
        """The one line about a mistake of the user's."""
        assert self.status == 2, self.stdout + self.stderr
        (line,) = self.stderr.splitlines()
        assert line.startswith("speechllm manifest: error: ")
        return line.removeprefix("speechllm manifest: error: ")


def manifest(*argv: object) -> Result:
    """`speechllm manifest ...`"""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        status = main(["manifest", *map(str, argv)])
    return Result(status, stdout.getvalue(), stderr.getvalue())


def tone(path: Path, seconds: float, rate: int = RATE, pitch: float = 300.0, level: float = 0.3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, level * np.sin(2 * np.pi * pitch * times), rate)
    return path


def write_lines(path: Path, lines: Sequence[str], end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def rows_of(manifest: Path) -> list[dict[str, str]]:
    """A manifest by the rules of fairseq's reader: no quoting, a header, a line end and nothing else between rows."""
    with open(manifest, encoding="utf-8", newline="\n") as file:
        return list(csv.DictReader(file, delimiter="\t", quotechar=None, quoting=csv.QUOTE_NONE, doublequote=False,
                                   lineterminator="\n"))  # fmt: skip


def story_of(output: Path, split: str, lines: int | None = None) -> dict[str, Any]:
    """What the JSON beside a manifest tells; its counts are those of the manifest, and nothing is lost.

    :param lines: that the corpus has for each kind of rows.
    """
    story: dict[str, Any] = json.loads((output / f"{split}.json").read_text())
    rows = rows_of(output / f"{split}.tsv")
    assert sum(count["kept"] for count in story["rows"].values()) == len(rows)
    for count in story["rows"].values():
        assert count["read"] == count["kept"] + sum(count["dropped"].values())
        assert lines is None or count["read"] == lines
    assert len({row["id"] for row in rows}) == len(rows)
    return story


def sound_of(output: Path, row: dict[str, str]) -> np.ndarray:
    """A row's sound as the recipe reads it; it is as long as the manifest says."""
    channel = row.get("channel")
    samples = read_audio(resolve(row["audio"], output, int(channel) if channel else None))
    assert abs(len(samples) / RATE - float(row["duration"])) < 0.1
    return samples


def write_covost2(root: Path) -> None:
    """Common Voice and CoVoST 2's tables of the five directions of arXiv 2409.17044, a clip for each split."""
    for pair in ("en_de", "de_en", "es_en", "fr_en", "it_en"):
        lang = pair[:2]
        clips = {split: f"common_voice_{lang}_{split}.mp3" for split in ("train", "dev", "test")}
        write_lines(root / lang / "validated.tsv", [
            "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent",
            *(f"voice\t{name}\tSentence {split}.\t2\t0\t\t\t" for split, name in clips.items()),
        ])  # fmt: skip
        rows = [f"{name}\tTranslation {split}.\t{split}" for split, name in clips.items()]
        write_lines(root / lang / f"covost_v2.{pair}.tsv", ["path\ttranslation\tsplit", *rows])
        for name in clips.values():
            tone(root / lang / "clips" / name, 0.5, rate=48000)


def write_mustc(root: Path) -> None:
    """The four pairs of arXiv 2409.17044, a talk with two segments for each split."""
    for target in ("de", "es", "fr", "it"):
        for split in ("train", "dev", "tst-COMMON"):
            folder = root / f"en-{target}" / "data" / split
            times = "duration: 0.5, offset: {}, rW: 9, speaker_id: spk.1, uW: 0, wav: ted_1.wav"
            write_lines(folder / f"txt/{split}.yaml", [f"- {{{times.format(start)}}}" for start in ("0.1", "0.9")])
            for lang in ("en", target):
                write_lines(folder / f"txt/{split}.{lang}", ["First.", "Second."])
            tone(folder / "wav/ted_1.wav", 2.0)
