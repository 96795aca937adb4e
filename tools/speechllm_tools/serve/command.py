"""`speechllm serve`: the audio API of OpenAI's clients over a trained system."""

from __future__ import annotations

import argparse
import math
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.yaml_text import parse_assignment
from speechllm_tools.system_options import add_system, check_system, checkpoint_in, server_of

if TYPE_CHECKING:
    from speechllm_plugin.inference.transcriber import Transcriber
    from speechllm_plugin.llms.vllm.server import VllmServer
    from speechllm_plugin.models.speech_llm.saved_system import SavedSystem
    from speechllm_tools.serve.service import Service, System

INSTALL = "pip install 'speechllm-plugin[serve]'"
KEY = "SPEECHLLM_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_system(parser)
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="another system, by the name of its directory: the page shows its texts beside the first's; may be given "
        "several times",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine "
        "alone; 0.0.0.0 = every machine that reaches this one)",
    )
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0 = a free one")
    parser.add_argument(
        "--api-key",
        help=f"key that clients must send (default: that of the variable {KEY}, which "
        "other users of this machine cannot see; none = no key is asked for)",
    )
    parser.add_argument(
        "--model-name",
        action="append",
        metavar="NAME",
        help="what clients call the model; may be "
        "given several times (default: the name of the checkpoint's directory)",
    )
    parser.add_argument(
        "--source-lang", default="en", help="language of the speech where a request names none (default: en)"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="pieces of audio decoded together (default: 16)")
    parser.add_argument("--max-megabytes", type=float, default=100, help="largest upload (default: 100)")
    parser.add_argument(
        "--max-minutes",
        type=float,
        default=240,
        help="longest recording, and longest speech of all turns of a chat together (default: 240)",
    )
    parser.add_argument(
        "--max-requests",
        type=int,
        default=64,
        help="requests that are worked on or wait; more are told to come again (default: 64)",
    )


def run(options: argparse.Namespace) -> int:
    for name, least in (("batch_size", 1), ("max_requests", 1), ("port", 0)):
        if (value := getattr(options, name)) < least:
            raise UserError(f"--{name.replace('_', '-')}: found {value}, expected at least {least}")
    for name in ("max_megabytes", "max_minutes"):
        if not getattr(options, name) > 0:
            raise UserError(f"--{name.replace('_', '-')}: found {getattr(options, name):g}, expected more than 0")
    overrides = dict(parse_assignment(item, "--set") for item in options.set)
    checkpoints = _checkpoints(options)
    for checkpoint, _ in checkpoints:
        check_system(checkpoint, overrides)
    engine = server_of(options, *(checkpoint.decoding() for checkpoint, _ in checkpoints), named="decoding.{}".format)
    try:
        import uvicorn

        from speechllm_tools.numerics import use_recipe_numerics
        from speechllm_tools.serve.app import create_app
    except ImportError as error:
        raise UserError(f"serve: {error.name} is not installed here: {INSTALL}") from None

    use_recipe_numerics()
    systems = tuple(_system(*named, overrides, engine, options) for named in checkpoints)
    service = _service(options, systems)
    config = uvicorn.Config(create_app(service), options.host, options.port, log_level="info")
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else 1


def _checkpoints(options: argparse.Namespace) -> list[tuple[SavedSystem, tuple[str, ...]]]:
    """Of every system that is served, with its names.

    :raises UserError: a directory has no checkpoint, or two systems have one name.
    """
    step = options.step
    first = tuple(options.model_name or [options.checkpoint.resolve().name])
    found = [(checkpoint_in(options.checkpoint, step), first)]
    for folder in options.beside:
        name = folder.resolve().name
        if any(name in names for _, names in found):
            raise UserError(f"--beside: found a second system named {name}, expected another name: --model-name names "
                            "the first, its directory any other")
        found.append((checkpoint_in(folder, step), (name,)))
    return found


def _system(
    checkpoint: SavedSystem,
    names: tuple[str, ...],
    overrides: dict[str, Any],
    engine: VllmServer | None,
    options: argparse.Namespace,
) -> System:
    from speechllm_plugin.inference.transcriber import Transcriber
    from speechllm_plugin.recordings.cutting import CutConfig, piece_lengths
    from speechllm_tools.serve.service import System
    from speechllm_tools.serve.ways import Decoder

    system = Transcriber.of(checkpoint, device=options.device, overrides=overrides, server=engine)
    _check_languages(system, options.source_lang, None)
    whole, longest = piece_lengths(system.model.encoder.max_seconds, checkpoint.longest_clip())
    print(f"speechllm serve: model {' or '.join(names)}; decoding {system.decoding.described()}", file=sys.stderr)
    return System(
        begin=partial(Decoder, system, options.source_lang),
        check_languages=lambda source, target: _check_languages(system, source, target),
        tells_times=system.tells_times,
        names=names,
        whole=whole,
        window=system.model.encoder.max_seconds or math.inf,
        cut=CutConfig(longest=longest),
        source_lang=options.source_lang,
    )


def _service(options: argparse.Namespace, systems: tuple[System, ...]) -> Service:
    from speechllm_tools.serve.service import Service

    return Service(
        systems=systems,
        batch_size=options.batch_size,
        most_bytes=int(options.max_megabytes * 1e6),
        most_seconds=60 * options.max_minutes,
        most_requests=options.max_requests,
        api_key=options.api_key or os.environ.get(KEY) or None,
    )


def _check_languages(system: Transcriber, source_lang: str, target_lang: str | None) -> None:
    """
    :raises UserError: a code is not a language, or is a language that the prompt cannot name.
    """
    from speechllm_plugin.text.languages import parse_language

    for language in (source_lang, target_lang):
        if language is not None and parse_language(language) is None:
            raise UserError(f"language: found {language[:40]!r}, expected a code like en, de or zh")
    system.model.config.prompt.instruction(source_lang, target_lang)
