"""The packages of COMET, and their folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from speechllm_plugin.errors import UserError

VERSION = "2.2.7"
PACKAGES = (
    f"unbabel-comet=={VERSION}",
    "entmax==1.3",
    "jsonargparse==3.13.1",
    "pytorch-lightning==2.6.6",
    "lightning-utilities==0.15.3",
    "torchmetrics==0.10.3",
    # torchmetrics imports pkg_resources.
    "setuptools<82",
    "scipy>=1.15,<2",
    "pandas>=2.3,<4",
    "python-dateutil>=2.8",
    "tzdata",
)
"""Packages that COMET needs beside our own environment. They are installed without their dependencies: COMET requires
numpy below 2 and protobuf below 5, and fairseq2 numpy from 2.2 on. COMET works with the latter and gives the same
scores to the last digit."""
VARIABLE = "SPEECHLLM_COMET"


def packages_folder() -> Path:
    """`$SPEECHLLM_COMET`, or a folder of the environment where Python never looks, so that nothing else uses these
    packages."""
    return Path(os.environ.get(VARIABLE) or Path(sys.prefix) / "speechllm-comet")


def find_python() -> tuple[Path, Path | None]:
    """The interpreter for COMET, and the folder of packages that comes first in its path; None = it has its own.

    :raises UserError: COMET is not installed.
    """
    folder = packages_folder()
    if (python := folder / "bin" / "python").exists():
        return python, None  # an environment of its own, for instance beside transformers 5
    if not (folder / "comet").is_dir():
        raise UserError(f"COMET: found no packages in {folder}, expected them installed: speechllm comet install")
    return Path(sys.executable), folder


def install() -> Path:
    """Installs the packages into their folder, which is replaced.

    :raises UserError: pip fails.
    """
    folder = packages_folder()
    # pip's --target would keep old files beside the new ones.
    temporary = folder.with_name(folder.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--quiet", "--target",
               str(temporary), *PACKAGES]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = next((line for line in reversed(result.stderr.splitlines()) if "ERROR" in line), "no reason given")
        raise UserError(f"{folder}: pip could not install COMET there ({reason}), expected packages and a network")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return folder
