"""Cuts of lhotse, from a manifest of them or from shar; lhotse itself reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_tools.prepare.tars import NOT_INSIDE, members_of

COMPUTED = "cut whose sound lhotse computes (a mix, a change of speed, a command)"
SOME_OF_SEVERAL = "cut of several channels that are not all of one file"
NO_SOUND = "cut without sound"
NO_TEXT = "cut without a supervision"
_SHARD = re.compile(r"cuts\.(\d+)\.jsonl(\.gz)?")
_NAMED = ("file", "url")
"""Kinds of sources that a manifest can name."""
Row = dict[str, Any]


def read_cuts(file: Path) -> Iterator[tuple[int, Row | str]]:
    """Number of the cut, from 1, and a row for each of its supervisions, or why there is none.

    :raises UserError: lhotse is not installed, or cannot read the file.
    """
    for number, cut in enumerate(_cuts(file), start=1):
        yield from ((number, row) for row in _rows(cut, None))


def read_shar(folder: Path) -> Iterator[tuple[int, Row | str]]:
    """As `read_cuts`, for a folder of ``cuts.000000.jsonl.gz`` and ``recording.000000.tar``. Nothing is unpacked.

    :raises UserError: as `read_cuts`; or an archive is missing or damaged.
    """
    number = 0
    for shard, file in shards_in(folder):
        tar = folder / f"recording.{shard}.tar"
        if not tar.is_file():
            raise UserError(f"{tar}: found no such file, expected the sound of {file.name}")
        members = members_of(tar)
        for cut in _cuts(file):
            number += 1
            yield from ((number, row) for row in _rows(cut, members))


def shards_in(folder: Path) -> list[tuple[str, Path]]:
    """
    :returns: number and cuts of each shard.
    :raises UserError: there is none.
    """
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [(match[1], file) for file in files if (match := _SHARD.fullmatch(file.name))]
    if not found:
        raise UserError(f"{folder}: found no cuts.000000.jsonl.gz, expected a folder of lhotse's shar")
    return found


def _cuts(file: Path) -> Iterator[Any]:
    try:
        from lhotse import CutSet
    except ImportError:
        raise UserError(
            f"{file}: cuts need lhotse, which is not installed (pip install 'speechllm-plugin[lhotse]')"
        ) from None
    count = 0
    try:
        for cut in CutSet.from_file(file):
            yield cut
            count += 1
    except UserError:
        raise
    # Whatever a wrong file makes of its classes: a KeyError, a TypeError, an assertion.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise UserError(f"{file}, after cut {count}: lhotse cannot read it ({reason}), expected cuts") from None


def _rows(cut: Any, members: Mapping[str, str] | None) -> Iterator[Row | str]:
    """
    :param members: of the archive with the cut's sound, by cut; ``None`` = its recording is a file.
    """
    sound = _sound(cut, members)
    if isinstance(sound, str):
        yield sound
        return
    if not cut.supervisions:
        yield NO_TEXT
    for one in cut.supervisions:
        where = sound.of(one)
        if isinstance(where, str):
            yield where
            continue
        row = {
            **(cut.custom or {}), **(one.custom or {}), "id": cut.id if len(cut.supervisions) == 1 else one.id,
            "text": one.text, "tgt_text": one.text, "speaker": one.speaker, "src_lang": one.language, **where,
        }  # fmt: skip
        # One supervision is what the cut was made for; of several each is a part of it.
        start, seconds = _decimal(0), _decimal(cut.duration)
        if len(cut.supervisions) > 1:
            start, seconds = _decimal(one.start), _decimal(one.duration)
        start += sound.start
        if start != 0 or seconds != sound.whole:
            row["offset"] = str(start)
        yield row | {"duration": str(seconds)}


@dataclass(frozen=True)
class _Sound:
    """Of a cut."""

    start: Decimal
    """Of the cut, in seconds."""
    whole: Decimal
    """Seconds of all that its files hold."""
    files: Sequence[tuple[str, Sequence[int]]]
    """Names, with the numbers that lhotse has for the channels of each, in their order."""
    channels: Sequence[int]
    """Those of the cut."""

    def of(self, supervision: Any) -> Row | str:
        """`audio` and `channel` of a supervision: in a telephone call its speaker's alone; or why there is none."""
        heard = set(_listed(supervision.channel)).intersection(self.channels) or set(self.channels)
        holders = [(name, numbers) for name, numbers in self.files if heard.intersection(numbers)]
        if len(holders) == 1:
            ((name, numbers),) = holders
            if heard == set(numbers):
                return {"audio": name, "channel": ""}
            if len(heard) == 1:
                return {"audio": name, "channel": str(list(numbers).index(*heard) + 1)}
        return SOME_OF_SEVERAL


def _sound(cut: Any, members: Mapping[str, str] | None) -> _Sound | str:
    """Or why there is none."""
    recording = getattr(cut, "recording", None)
    if recording is None:
        return COMPUTED if hasattr(cut, "tracks") else NO_SOUND
    if members is not None:
        # What is in the archive is the cut alone, as it was made.
        audio = members.get(cut.id)
        if audio is None:
            return NOT_INSIDE
        channels = _listed(cut.channel)
        return _Sound(_decimal(0), _decimal(cut.duration), [(audio, channels)], channels)
    sources = recording.sources
    if any(map(_changes_sound, recording.transforms or ())) or any(source.type not in _NAMED for source in sources):
        return COMPUTED
    files = [(source.source, source.channels) for source in sources]
    return _Sound(_decimal(cut.start), _decimal(recording.duration), files, _listed(cut.channel))


def _listed(channels: int | Sequence[int]) -> list[int]:
    return [channels] if isinstance(channels, int) else list(channels)


def _changes_sound(transform: Any) -> bool:
    """Another rate is ours to make."""
    name = transform.get("name") if isinstance(transform, dict) else type(transform).__name__
    return name != "Resample"


def _decimal(seconds: float) -> Decimal:
    return Decimal(str(seconds))
