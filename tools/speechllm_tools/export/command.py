"""`speechllm export`: a trained system in, a folder for another program out."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import check_free, new_folder
from speechllm_plugin.files.yaml_text import parse_assignment
from speechllm_tools.export import formats
from speechllm_tools.export.api import Export, Format
from speechllm_tools.system_options import CHECKPOINT, add_choice, check_system, checkpoint_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    found = _formats()
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help=CHECKPOINT)
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to be written, whole or not at all")
    parser.add_argument("--format", required=True, choices=sorted(found),
                        help="; ".join(f"{name}: {kind.summary}" for name, kind in found.items()))
    for name, kind in found.items():
        for flag, meaning in kind.flags.items():
            parser.add_argument(f"--{flag}", action="store_true", help=f"for {name}: {meaning}")
    add_choice(parser)


def run(options: argparse.Namespace) -> int:
    """Prints a line about the written files."""
    kinds = _formats()
    for name, other in kinds.items():
        if name != options.format and (given := _flags(other, options)):
            raise UserError(f"--{min(given)}: found the format {options.format!r}, expected {name!r}")
    overrides = dict(parse_assignment(item, "--set") for item in options.set)
    check_free(options.out, "OUT")

    checkpoint = checkpoint_of(options)
    check_system(checkpoint, overrides)
    kind = kinds[options.format]
    export = kind(Export(checkpoint, overrides, _flags(kind, options)))
    export.check()
    with new_folder(options.out) as folder:
        line = export.write(folder)
    step = "" if checkpoint.step_nr is None else f"step {checkpoint.step_nr}, "
    print(f"speechllm export: {options.out}: {step}{line}", file=sys.stderr)
    return 0


def _flags(kind: type[Format], options: argparse.Namespace) -> frozenset[str]:
    return frozenset(flag for flag in kind.flags if getattr(options, flag.replace("-", "_")))


def _formats() -> dict[str, type[Format]]:
    names = [module.name for module in pkgutil.iter_modules(formats.__path__)]
    return {name: importlib.import_module(f"{formats.__name__}.{name}").FORMAT for name in names}
