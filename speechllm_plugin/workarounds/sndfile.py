"""Lets fairseq2 find libsndfile without a system package."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
import sysconfig
from pathlib import Path


def preload_sndfile() -> None:
    """Loads the copy of libsndfile that the soundfile wheel bundles, where the system has none.

    fairseq2n needs libsndfile when it is imported, so this package has to be imported before fairseq2. Where that is
    impossible, as with `python -m fairseq2.assets`, see `link_sndfile`.
    """
    if "fairseq2n" in sys.modules or ctypes.util.find_library("sndfile") is not None:
        return
    for library in _bundled():
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def link_sndfile(folder: Path | None = None) -> None:
    """Links the wheel's libsndfile into a folder where fairseq2n looks for one, if the system has none. In this
    environment fairseq2 can then be imported before this package.

    :param folder: None = the environment's `lib`. fairseq2n also finds it in a folder of `LD_LIBRARY_PATH`.
    """
    if ctypes.util.find_library("sndfile") is not None:
        return
    link = (folder or Path(sysconfig.get_path("purelib")).parents[1]) / (
        "libsndfile.1.dylib" if sys.platform == "darwin" else "libsndfile.so.1"
    )
    for library in _bundled():
        link.unlink(missing_ok=True)
        link.symlink_to(library)


def _bundled() -> list[Path]:
    """The wheel's library; empty where the wheel has none, in which case fairseq2n's error says what to install."""
    try:
        import _soundfile_data
    except ImportError:
        return []
    return sorted(Path(next(iter(_soundfile_data.__path__))).glob("libsndfile*"))
