"""Writes files so that a reader never sees half of one."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speechllm_plugin.errors import UserError


def write_text_atomically(path: Path, text: str) -> None:
    """Put ``text`` (UTF-8, line ends as they are) at ``path``, whole or not at all; folders are made as needed.

    :raises UserError: the place cannot be written, or the text cannot be encoded.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: found {text[error.start]!a}, which UTF-8 cannot hold, expected valid Unicode text"
        ) from None
    write_atomically(path, data)


def write_atomically(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Put ``data`` at ``path``, whole or not at all; folders are made as needed.

    :param sync: wait for the disk. Otherwise the file is whole if the process is killed, but until :func:`sync_files`
        is called it may not be if the machine fails.
    :raises UserError: the place cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, because a rename is atomic only within one file system.
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
        with open(descriptor, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise UserError(f"{path}: cannot be written ({error.strerror}), expected a writable place") from None


def sync_files(folder: Path) -> None:
    """Waits until all that was written to a folder's file system is on the disk: far less than waiting for each file.

    :raises OSError: the disk cannot be written.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:  # not Linux
            os.sync()
        elif syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)


def check_free(path: Path, option: str) -> None:
    """
    :param option: the option that names the folder, for the error.
    :raises UserError: ``path`` exists and is no empty folder.
    """
    if path.is_dir() and not path.is_symlink():
        if any(path.iterdir()):
            raise UserError(f"{option}: found files in {path}, expected a folder that is empty or not there")
    elif os.path.lexists(path):
        raise UserError(f"{option}: found a file at {path}, expected a folder that is empty or not there")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``path`` at the end with everything in it, or is removed after an error.

    :param path: an empty folder, or one that does not exist; the folders above it are made as needed.
    :raises UserError: the place cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", dir=path.parent))
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb+") as opened:
                    os.fsync(opened.fileno())
        os.chmod(temporary, 0o777 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        # Only failed system calls have a number; errors of libraries have none.
        if error.errno is None:
            raise
        place = error.filename or path
        raise UserError(f"{place}: cannot be written ({error.strerror}), expected a writable place") from None
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary)


def _umask() -> int:
    # mkstemp makes private files, but the result should have the mode of any other new file. The mask can only be read
    # by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_lines(path: Path, expected: str) -> list[str]:
    """The lines of a text file. Only LF and CR LF end a line; Unicode's other line breaks are text.

    :param expected: what the file should be, for the error.
    :raises UserError: it cannot be read, or is no UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}), expected {expected}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: found byte 0x{error.object[error.start]:02x}, expected UTF-8") from None
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
