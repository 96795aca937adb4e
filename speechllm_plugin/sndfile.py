"""Lets fairseq2 find libsndfile without a system package."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from pathlib import Path


def preload_sndfile() -> None:
    """Loads the copy of libsndfile that the soundfile wheel bundles, where the system has none.

    fairseq2n wants libsndfile when it is imported, so this package has to be imported before fairseq2. Where that
    cannot be (another program imports fairseq2 itself), install the system's: `apt install libsndfile1`.
    """
    if "fairseq2n" in sys.modules or ctypes.util.find_library("sndfile") is not None:
        return
    try:
        import _soundfile_data
    except ImportError:
        return  # fairseq2n's own message says what to install
    for library in sorted(Path(next(iter(_soundfile_data.__path__))).glob("libsndfile*")):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
