"""The `fairseq2` command: `fairseq2 recipe list`, `fairseq2 recipe run RECIPE [ACTION] OUTPUT_DIR ...`.

fairseq2 itself ships no command. This one finds recipes by the entry-point group `fairseq2.recipe`, so that other
packages can add theirs, and hands the rest of the line to fairseq2's own recipe runner.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.yaml_text import parse_assignment, parse_yaml
from speechllm_plugin.workarounds.threads import wait_passively
from speechllm_recipes.entry import Action, Driver, RecipeEntry
from speechllm_recipes.given_keys import given, text_of


def main(argv: Sequence[str] | None = None) -> int:
    wait_passively()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except UserError as error:
        print(f"fairseq2: error: {error}", file=sys.stderr)
        return 2


def _dispatch(arguments: list[str]) -> int:
    if find_spec("fairseq2") is None:
        raise UserError("found no fairseq2, which training and evaluation need: pip install 'speechllm-plugin[train]'")
    # What follows belongs to another parser, `--help` included.
    if arguments[:2] == ["recipe", "run"]:
        return _run_recipe(arguments[2:])
    if arguments[:1] == ["assets"]:
        return _run_assets(arguments[1:])
    parser = argparse.ArgumentParser(prog="fairseq2", description=(__doc__ or "").splitlines()[0])
    groups = parser.add_subparsers(dest="group", metavar="COMMAND", required=True)
    recipe = groups.add_parser("recipe", help="list and run recipes")
    commands = recipe.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("list", help="list the recipes that installed packages offer")
    commands.add_parser("run", help="run a recipe: fairseq2 recipe run RECIPE [ACTION] OUTPUT_DIR")
    groups.add_parser("assets", help="fairseq2's asset cards: list, show")
    parser.parse_args(arguments)
    return _list_recipes()


def _recipes() -> dict[str, RecipeEntry]:
    return {entry_point.name: entry_point.load() for entry_point in entry_points(group="fairseq2.recipe")}


def _list_recipes() -> int:
    for name, entry in sorted(_recipes().items()):
        print(f"{name}: {entry.summary}")
        for action_name, action in entry.actions.items():
            print(f"  {action_name:<10} {action.summary}")
    return 0


def _run_assets(rest: list[str]) -> int:
    # Run as a module, as `python -m fairseq2.assets` is: fairseq2 has no public function for it.
    sys.argv = ["fairseq2 assets", *rest]
    runpy.run_module("fairseq2.assets", run_name="__main__")
    return 0


def _run_recipe(rest: list[str]) -> int:
    if not rest or rest[0] in ("-h", "--help"):
        print(f"usage: fairseq2 recipe run {{{','.join(sorted(_recipes()))}}} [ACTION] OUTPUT_DIR ...\n")
        print("`fairseq2 recipe list` tells what each does; `fairseq2 recipe run RECIPE --help` its options.")
        return 0 if rest else 2
    prog, action, options = parse_run(rest)
    if isinstance(action, Driver):
        return int(importlib.import_module(action.module).run(options))
    return _run_action(prog, action, options)


def parse_run(rest: Sequence[str]) -> tuple[str, Action | Driver, argparse.Namespace]:
    """What follows `fairseq2 recipe run`: the command's name, the action, and its options."""
    recipes = _recipes()
    name, *rest = rest
    if name not in recipes:
        raise UserError(f"recipe: found {name!r}, expected one of {', '.join(sorted(recipes))}")
    actions = recipes[name].actions
    action_name = rest.pop(0) if rest and rest[0] in actions else next(iter(actions))
    action = actions[action_name]
    if isinstance(action, Driver):
        parser = argparse.ArgumentParser(prog=f"fairseq2 recipe run {name} {action_name}", description=action.summary)
        importlib.import_module(action.module).add_arguments(parser)
    else:
        parser = _action_parser(name, action_name, recipes[name], action)
    return parser.prog, action, parser.parse_args(rest)


def _action_parser(name: str, action_name: str, entry: RecipeEntry, action: Action) -> argparse.ArgumentParser:
    others = "\n".join(f"  {key:<10} {value.summary}" for key, value in entry.actions.items())
    parser = argparse.ArgumentParser(
        prog=f"fairseq2 recipe run {name} {action_name}",
        description=f"{name}: {entry.summary}\n\nactions (the first is the default):\n{others}",
        epilog="`--dump-config` prints every key with its default. Several processes: torchrun --nproc-per-node N -m "
        f"speechllm_recipes recipe run {name} {action_name} OUTPUT_DIR ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", nargs="?", type=Path, help="where the run lives")
    parser.add_argument("--config-file", metavar="F", type=Path, help="YAML file of configuration keys")
    parser.add_argument("--config", metavar="KEY=VALUE", nargs="*", action="append", default=[],
                        help="configuration keys, over those of the file; may be repeated")
    if action.takes_checkpoint:
        parser.add_argument("--checkpoint", metavar="RUN_DIR", type=Path,
                            help="the run whose model to use: its output directory, or one checkpoints/step_N in it")
    if action.takes_init:
        parser.add_argument("--init-from", metavar="RUN_DIR", type=Path,
                            help="start from the trained model of another run: its architecture and weights, with a "
                            "new optimizer and schedule, and steps counted from 0")
    if _run_options(action):
        default = "last for a published architecture, else best" if action.last_of_published else "best"
        parser.add_argument("--step", help=f"of RUN_DIR: best, last, or a step number (default: {default})")
    parser.add_argument("--set", metavar="KEY=VALUE", nargs="*", action="extend", default=[],
                        help="change a key of the model's configuration, for instance where its frozen models lie "
                        f"now: --set llm.config.path=DIR; short for --config {action.model_keys}KEY=VALUE")
    parser.add_argument("--dump-config", action="store_true", help="print the whole configuration as YAML and stop")
    parser.add_argument("--no-rich", action="store_true", help="plain log lines, no progress bars")
    return parser


def _run_action(prog: str, action: Action, options: argparse.Namespace) -> int:
    forwarded: list[str] = []
    if options.output_dir is not None:
        _check_writable(options.output_dir)
        forwarded.append(str(options.output_dir))
    elif not options.dump_config:
        raise UserError("OUTPUT_DIR: found none, expected the directory of the run; see --help")
    if options.config_file is not None:
        text_of(options.config_file)  # that it can be read
        forwarded += ["--config-file", str(options.config_file)]
    overrides = _overrides(action, options)
    if overrides:
        forwarded += ["--config", *overrides]
    if action.look is not None and not options.dump_config:
        action.look(given(options.config_file, overrides))
    forwarded += ["--dump-config"] * options.dump_config + ["--no-rich"] * options.no_rich
    # After what needs no torch: mistakes of the command line are told at once.
    from fairseq2.recipe.cli import main as recipe_main

    from speechllm_plugin.workarounds.local_paths import read_local_paths_whole
    from speechllm_plugin.workarounds.log_filter import install_log_filter
    from speechllm_plugin.workarounds.one_config import read_configuration_once
    from speechllm_plugin.workarounds.stop_signal import die_as_told
    from speechllm_plugin.workarounds.strict_numbers import refuse_numbers_of_another_kind
    from speechllm_recipes.config_errors import config_error, structure_error

    # A failing extension would only be a warning, and the recipe would then miss its model family.
    os.environ.setdefault("FAIRSEQ2_EXTENSION_TRACE", "1")
    install_log_filter(structure_error, config_error)
    read_local_paths_whole()
    read_configuration_once()
    refuse_numbers_of_another_kind()
    sys.argv = [prog, *forwarded]
    recipe_main(action.create())
    die_as_told()
    return 0


def _overrides(action: Action, options: argparse.Namespace) -> list[str]:
    """The configuration keys that the options stand for; the user's own come last and win."""
    keys = [item for group in options.config for item in group]
    for option, items in (("--set", options.set), ("--config", keys)):
        for item in items:
            if not item.strip().startswith("del:"):
                parse_assignment(item, option)
    run = getattr(options, "checkpoint", None) or getattr(options, "init_from", None)
    from_run: list[str] = []
    if run is not None:
        step = options.step or ("last" if action.last_of_published and _trains_published(run) else "best")
        from_run = [*_checkpoint_overrides(run, step)]
        if action.takes_init:
            from_run += ["model.family=null", "model.arch=null"]
    elif getattr(options, "step", None) is not None:
        raise UserError(f"--step: found {options.step!r} without {'/'.join(_run_options(action))}, expected both")
    named = options.dump_config or options.config_file or any("prev_checkpoint_dir" in item for item in keys)
    if action.takes_checkpoint and run is None and not named:
        raise UserError("--checkpoint: found none, expected the output directory of a training run")
    derived: Mapping[str, Any] = {}
    if action.derive is not None:
        derived = action.derive(given(options.config_file, keys))
    return [
        *(f"{key}={value}" for key, value in derived.items()),
        *from_run,
        *(action.model_keys + item for item in options.set),
        *keys,
    ]


def _run_options(action: Action) -> list[str]:
    return ["--checkpoint"] * action.takes_checkpoint + ["--init-from"] * action.takes_init


def _trains_published(path: Path) -> bool:
    """Whether a run's architecture is a published one."""
    from speechllm_plugin.models.speech_llm.checkpoint_files import find_checkpoint
    from speechllm_plugin.models.speech_llm.config import is_published

    file = find_checkpoint(path, "last").directory.parent / "config.yaml"
    try:
        return is_published(parse_yaml(file.read_text(encoding="utf-8"))["model"]["arch"])
    except (OSError, ValueError, TypeError, KeyError):
        return False  # checkpoints without their run, or a damaged file, which is reported where it is needed


def _checkpoint_overrides(path: Path, step: str) -> list[str]:
    from speechllm_plugin.models.speech_llm.checkpoint_files import find_checkpoint, parse_step

    checkpoint = find_checkpoint(path, parse_step(step))
    config = checkpoint.config()  # reports a damaged file before anything starts
    overrides = [f"common.assets.prev_checkpoint_dir={_quoted(checkpoint.directory)}", f"model.name={checkpoint.name}"]
    # The path in the configuration may be gone; the copy beside the checkpoint is not.
    if config.ctc.vocabulary is not None:
        overrides.append(f"model.config_overrides.ctc.vocabulary={_quoted(config.ctc.vocabulary)}")
    return overrides


def _quoted(path: Path | str) -> str:
    """Quoted for YAML: a file name may hold its special characters."""
    return json.dumps(str(path), ensure_ascii=False)


def _check_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = f"cannot write {directory}: {error.strerror}; expected a writable directory"
        raise UserError(f"OUTPUT_DIR: {reason}") from error


if __name__ == "__main__":
    sys.exit(main())
