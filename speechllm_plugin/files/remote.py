"""Files that are elsewhere, by fsspec: `s3://bucket/x.wav`, `gs://`, `hf://`, `https://` and what else it knows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://.")
_STAMPS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "created")
"""What file systems tell of a file that changes with it."""


class RemoteError(OSError):
    """What the other side, or fsspec, says."""


@dataclass(frozen=True)
class RemoteFile:
    """It is taken to stay what it is as long as the process runs."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def parent(self) -> RemoteFile:
        return RemoteFile(self.url.rpartition("/")[0])

    @property
    def suffix(self) -> str:
        return Path(self.url).suffix

    def __truediv__(self, name: str) -> RemoteFile:
        return RemoteFile(f"{self.url.rstrip('/')}/{name}")

    def status(self) -> RemoteStatus | None:
        """None where there is no such file.

        :raises RemoteError: it cannot be told.
        """
        return _status(self.url)

    def read(self, start: int, stop: int) -> bytes:
        """:raises RemoteError: it cannot be read."""
        if stop <= start:
            return b""
        system, path = _system(self.url)
        data = bytes(_told(system.cat_file, path, start=start, end=stop))
        if len(data) != stop - start:
            raise RemoteError(f"{len(data)} bytes came where {stop - start} were asked for")
        return data


@dataclass(frozen=True)
class RemoteStatus:
    size: int
    stamp: str
    """Another one where the file is another, as far as the other side tells."""
    is_file: bool


Location = Path | RemoteFile


def location(text: str) -> Location:
    return RemoteFile(text) if is_remote(text) else Path(text)


def is_remote(text: str) -> bool:
    return _URL.match(text) is not None


def under(root: Location, name: str) -> Location:
    """:param name: a URL, an absolute path, or a path from `root` on."""
    if is_remote(name):
        return RemoteFile(name)
    return Path(name) if name.startswith("/") else root / name


@lru_cache(maxsize=1 << 16)
def _status(url: str) -> RemoteStatus | None:
    system, path = _system(url)
    try:
        found = _told(system.info, path)
    except FileNotFoundError:
        return None
    if found.get("size") is None and found.get("type") == "file":
        raise RemoteError("its length is not told")
    stamp = " ".join(str(found[key]) for key in _STAMPS if key in found)
    return RemoteStatus(int(found.get("size") or 0), stamp, found.get("type") == "file")


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    :raises RemoteError: there is none.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise RemoteError("needs fsspec: pip install 'speechllm-plugin[remote]'") from None
    return _told(url_to_fs, url)


def _told(call: Any, *arguments: Any, **options: Any) -> Any:
    """What a call of fsspec gives.

    :raises FileNotFoundError: there is no such file.
    :raises RemoteError: whatever else it raises: each file system has errors of its own.
    """
    try:
        return call(*arguments, **options)
    except FileNotFoundError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RemoteError(reason) from error
