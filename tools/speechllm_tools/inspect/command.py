"""`speechllm inspect`: parameters, output rates, and the cost of training, offline and without weights."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.yaml_text import parse_assignment

if TYPE_CHECKING:
    from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig

BATCH_SIZE = 10
"""The recipe's default batch size."""

EPILOG = """\
Nothing is downloaded and no weight is read: the real modules are built on PyTorch's meta device, from what the named
architectures know of their encoders and LLMs or from the config.json of a local directory.

examples:
  speechllm inspect whisper_large_v3.llama31_8b.cif
  speechllm inspect demo/run --seconds 3 --target-tokens 12
  speechllm inspect my_config.yaml --batch-size 4 --json
  speechllm inspect --all
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("targets", metavar="ARCH_OR_CONFIG", nargs="*",
                        help="encoder.llm.adapter, a YAML file of the recipe, the directory of a training run, "
                        "or an export for transformers; several make a table")
    parser.add_argument("--all", action="store_true",
                        help="a table of the 20 systems of arXiv 2409.17044 and of SLM's (arXiv 2310.00230)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a training clip (default: 10)")
    parser.add_argument("--target-tokens", type=int, default=30, metavar="N",
                        help="tokens of its answer (default: 30)")
    parser.add_argument("--batch-size", type=int, metavar="N",
                        help="clips that a GPU trains on at a time (default: dataset.batch_size of the YAML file, "
                        f"else {BATCH_SIZE})")
    parser.add_argument("--gpu-memory", type=float, metavar="GB", default=80.0,
                        help="memory of the GPU that it is compared with (default: 80)")
    parser.add_argument("--set", metavar="KEY=VALUE", nargs="*", action="extend", default=[],
                        help="change a key of the model's configuration, for instance where the frozen models of a "
                        "run lie now: --set llm.config.path=DIR")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    if bool(options.targets) == options.all:
        raise UserError("ARCH_OR_CONFIG: expected either an architecture, a file or a directory, or --all; see --help")
    for name, value in (("seconds", options.seconds), ("target-tokens", options.target_tokens),
                        ("batch-size", options.batch_size), ("gpu-memory", options.gpu_memory)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name}: found {value:g}, expected more than 0, and finite")

    one, overrides = len(options.targets) == 1, dict(parse_assignment(item, "--set") for item in options.set)
    # Wrong names and files are reported before torch is imported, which takes seconds.
    systems = _published() if options.all else []
    for target in options.targets:
        with _naming(target, one):
            systems.append((target, *_read(target, overrides)))

    from speechllm_plugin.cost.estimate import CostModel
    from speechllm_plugin.cost.skeleton import SkeletonBuilder
    from speechllm_plugin.encoders.api import too_long
    from speechllm_tools.inspect import report
    from speechllm_tools.inspect.facts import Facts, gather

    builder, costs = SkeletonBuilder(), CostModel()
    choices: dict[str, Any] = {} if one else {"clips": (options.seconds,)}

    def inspect(name: str, config: SpeechLlmConfig, batch_size: int) -> Facts:
        skeleton = builder.build(config)
        window = skeleton.encoder.max_seconds
        if window is not None and options.seconds > window:
            raise UserError(f"--seconds: {too_long(options.seconds, window)}")
        return gather(name, skeleton, costs, seconds=options.seconds, target_tokens=options.target_tokens,
                      batch_size=options.batch_size or batch_size, memory=round(options.gpu_memory * 1e9), **choices)

    found = []
    for name, config, batch_size in systems:
        with _naming(name, one or options.all):
            found.append(inspect(name, config, batch_size))
    if options.json:
        print(_dump(found[0].as_json() if one else [facts.as_json() for facts in found]))
    else:
        print(report.describe(found[0]) if one else report.table(found))
    return 0


@contextmanager
def _naming(target: str, is_plain: bool) -> Iterator[None]:
    """Adds the target's name to errors, if there are several targets."""
    try:
        yield
    except UserError as error:
        if is_plain or target in str(error):
            raise
        raise UserError(f"{target}: {error}") from None


def _dump(values: object) -> str:
    return json.dumps(values, indent=1)


def _published() -> list[tuple[str, SpeechLlmConfig, int]]:
    from itertools import product

    from speechllm_plugin.models.speech_llm.config import GRID, SLM, arch_config

    names = [".".join(parts) for tables in (GRID, SLM) for parts in product(*tables)]
    return [(name, arch_config(name), BATCH_SIZE) for name in names]


def _read(target: str, overrides: dict[str, Any]) -> tuple[SpeechLlmConfig, int]:
    """The configuration that `target` names, and the size of its batches.

    :param overrides: keys to change, by dotted path.
    """
    from speechllm_plugin.models.speech_llm.checkpoint_files import find_system
    from speechllm_plugin.models.speech_llm.config import all_arch_names, arch_config, unknown_arch

    path = Path(target)
    if target in all_arch_names():
        return _changed(arch_config(target), overrides), BATCH_SIZE
    if path.is_dir():
        file = path / "config.yaml"
        if file.is_file() and not (path / "checkpoints" / "model.yaml").is_file():
            return _read_yaml(file, overrides)  # a run that has not saved yet
        saved = find_system(path)
        file = saved.directory.parent / "config.yaml"  # of a run: an export has none
        of_a_run = saved.step_nr is not None and file.is_file()
        return saved.config(overrides), _read_yaml(file, {})[1] if of_a_run else BATCH_SIZE
    if path.is_file():
        return _read_yaml(path, overrides)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise UserError(f"ARCH_OR_CONFIG: found no {target}, expected an architecture, a file or a directory")
    raise unknown_arch(target, "ARCH_OR_CONFIG")


def _changed(config: SpeechLlmConfig, overrides: dict[str, Any]) -> SpeechLlmConfig:
    from dataclasses import asdict

    from speechllm_recipes.given_keys import merged

    from speechllm_plugin.configuration.structure import structure
    from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig

    changed: SpeechLlmConfig = structure(SpeechLlmConfig, merged(asdict(config), overrides), "model")
    return changed


def _read_yaml(file: Path, overrides: dict[str, Any]) -> tuple[SpeechLlmConfig, int]:
    """A configuration of the training recipe, merged as `--config-file` is."""
    from speechllm_recipes.given_keys import given
    from speechllm_recipes.speech_llm.first_look import look_at_train_keys

    try:
        look_at_train_keys(given(file, []))

        from speechllm_recipes.speech_llm.read_config import model_config_of, read_training_config  # imports fairseq2

        recipe = read_training_config(file)
        return model_config_of(recipe, overrides), recipe.dataset.batch_size
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
