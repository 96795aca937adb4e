"""`speechllm cache`: fills a cache of encoder features ahead of training, and shows what a cache holds."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from speechllm_plugin.errors import UserError
from speechllm_tools.shards.api import add_machines

_BUILD = "encode the clips that a training run reads, once, on all cores or GPUs; again to go on"
_SHOW = "what a cache folder holds, by encoder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = actions.add_parser("build", help=_BUILD, description=_BUILD)
    build.add_argument("--config-file", metavar="F", type=Path, help="the training run's YAML file")
    build.add_argument("--config", metavar="KEY=VALUE", nargs="*", action="extend", default=[],
                       help="the training run's keys, over those of the file; dataset.feature_cache is the folder")
    build.add_argument("--shard", metavar="K/N", default="1/1",
                       help="the K-th of N parts of the clips, such as ${SLURM_ARRAY_TASK_ID}/16 (default: all)")
    add_machines(build, default="one a GPU, or without GPUs one a core; each loads the encoder")
    build.set_defaults(action_run=_build)
    show = actions.add_parser("show", help=_SHOW, description=_SHOW)
    show.add_argument("folder", metavar="FOLDER", type=Path, help="dataset.feature_cache of training runs")
    show.set_defaults(action_run=_show)


def run(options: argparse.Namespace) -> int:
    return int(options.action_run(options))


def _build(options: argparse.Namespace) -> int:
    from speechllm_recipes.given_keys import given
    from speechllm_recipes.speech_llm.first_look import look_at_train

    shard = _shard(options.shard)
    look_at_train(given(options.config_file, options.config))

    from speechllm_tools.cache.build import build  # after the checks that need no torch

    return build(options, shard)


def _show(options: argparse.Namespace) -> int:
    from speechllm_tools.cache.show import show

    return show(options.folder)


def _shard(text: str) -> tuple[int, int]:
    """
    :raises UserError: the text is not like 1/4.
    """
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard: found {text!r}, expected K/N with K from 1 to N")
    return int(match[1]), int(match[2])
