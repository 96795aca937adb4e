"""Options of the commands that load a trained system: the system, the places of its parts, and its decoding."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.yaml_text import parse_assignment
from speechllm_plugin.llms.engine import ENGINES, find_server
from speechllm_plugin.llms.vllm.server import DEFAULT_URL, VllmServer
from speechllm_plugin.llms.vllm.settings import check_settings

if TYPE_CHECKING:
    from speechllm_plugin.llms.decoding import DecodingConfig
    from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
    from speechllm_plugin.models.speech_llm.saved_system import SavedSystem


def _number_or_off(value: str) -> float | None:
    return None if value == "off" else float(value)


_number_or_off.__name__ = "number"  # what argparse calls it

DECODING: dict[str, tuple[Callable[[str], object], str]] = {
    "beam_size": (int, "hypotheses kept side by side; 1 = greedy; 4 costs more time and often errs less"),
    "length_penalty": (float, "for beams: above 1 favours long texts, below 1 short ones"),
    "temperature": (float, "0 = the likeliest token each time; above 0 tokens are drawn, the more freely the higher"),
    "top_k": (int, "for a temperature: draws from this many of the likeliest tokens; 0 = from all"),
    "top_p": (float, "for a temperature: draws from the likeliest tokens that together have this probability; 1 = all"),
    "seed": (int, "for a temperature: the same seed draws the same text of a file"),
    "repetition_penalty": (float, "above 1 discourages tokens already said; 1 = off"),
    "no_repeat_ngram_size": (int, "no n-gram of this many tokens occurs twice; 0 = off"),
    "max_compression_ratio": (
        _number_or_off, "a text that zlib shrinks more than this many times loops, and is decoded again without "
        "repetitions; 2.4 suits speech; off = keep it"
    ),
    "tokens_per_second": (
        float, "limit of a text's length, in tokens per second of audio, beside --extra-tokens; if the run was given "
        "none, it is from its training references"
    ),
    "extra_tokens": (int, "limit of a text's length, in tokens, beside --tokens-per-second"),
    "no_speech_level": (
        _number_or_off, "a file whose loudest 0.1 s is below this level, in dB under full scale, gets no text; -60 is "
        "silence; off = every file gets one"
    ),
    "no_speech_probability": (
        _number_or_off, "a text whose tokens have a lower mean probability than this was made up and is left out; off "
        "= keep it"
    ),
    "no_speech_blank_share": (
        _number_or_off, "a file of which the CTC head reads at least this share of frames as blank gets no text; 1 = "
        "it reads nothing; off = every file gets one"
    ),
}
"""Fields of `DecodingConfig`: the type of each, and its help."""


CHECKPOINT = (
    "output directory of a training run, one checkpoints/step_N in it, or what `speechllm export --format hf` has "
    "written"
)


def add_system(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", metavar="DIR", required=True, type=Path, help=CHECKPOINT)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")
    add_choice(parser)
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help="what runs the LLM: transformers = this "
                        "process (default), vllm = a server that `speechllm vllm serve` has started; encoder and "
                        "adapter run here")
    parser.add_argument("--engine-url", metavar="URL", help="address of that server (default: "
                        f"{DEFAULT_URL})")


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Options for the step of a run, and for changes of its configuration."""
    parser.add_argument("--step", default="best", help="best (default), last, or a step number")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[],
                        help="change a key of the checkpoint's model configuration, for instance where the frozen "
                        "models lie now: --set llm.config.path=DIR")


def server_of(
    options: argparse.Namespace, *decodings: DecodingConfig, named: Callable[[str], str] | None = None
) -> VllmServer | None:
    """The server of `--engine`, which is asked whether it is there; None = the LLM runs here.

    :param decodings: how it will be asked to decode.
    :param named: the user's name of a key of `decodings`; None = an option.
    :raises UserError: it is not there, or cannot decode like that.
    """
    server = find_server(options.engine, options.engine_url)
    if server is not None:
        has_rules = any(model.has_rules for model in server.models())
        for decoding in decodings:
            check_settings(decoding, has_rules=has_rules, named=named or option_of)
    return server


def checkpoint_of(options: argparse.Namespace) -> SavedSystem:
    """
    :raises UserError: `--checkpoint` has no checkpoint, or none of `--step`.
    """
    return checkpoint_in(options.checkpoint, options.step)


def checkpoint_in(folder: Path, step: str) -> SavedSystem:
    """
    :param step: the value of `--step`.
    :raises UserError: there is no checkpoint, or none of this step.
    """
    from speechllm_plugin.models.speech_llm.checkpoint_files import find_system, parse_step

    return find_system(folder, parse_step(step))


def check_system(checkpoint: SavedSystem, overrides: Mapping[str, Any]) -> SpeechLlmConfig:
    """What is wrong with a checkpoint's configuration, or with where its parts lie, before torch is imported.

    :param overrides: the values of `--set`.
    :raises UserError: a key is unknown, a value is wrong, or a directory is not there.
    """
    from speechllm_recipes.speech_llm.first_look import look_at_model

    config = checkpoint.config(dict(overrides))
    look_at_model(config, overrides)
    return config


def add_decoding(parser: argparse.ArgumentParser, *, left_out: Collection[str] = ()) -> None:
    group = parser.add_argument_group("decoding", "What is not given is as in the validation of the training run.")
    for name, (kind, meaning) in DECODING.items():
        if name not in left_out:
            group.add_argument(option_of(name), type=kind, default=argparse.SUPPRESS, help=meaning)


def files_and_overrides(options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """The files in `options.audio`, and the keys that `--set` changes, also those after the first, which argparse takes
    for files.

    :raises UserError: there is no file.
    """
    files = [name for name in options.audio if not (options.set and _is_assignment(name))]
    others = [name for name in options.audio if name not in files]
    if not files:
        raise UserError("AUDIO: found none, expected at least one file")
    return files, dict(parse_assignment(item, "--set") for item in [*options.set, *others])


def decoding_of(options: argparse.Namespace, default: DecodingConfig) -> DecodingConfig:
    """
    :param default: values of options that are not given.
    :raises UserError: a value is outside its range.
    """
    given = {name: value for name, value in vars(options).items() if name in DECODING}
    decoding = dataclasses.replace(default, **given)
    names = re.compile(rf"\b({'|'.join(DECODING)})\b")
    if problems := [names.sub(lambda name: option_of(name[1]), problem) for problem in decoding.problems()]:
        raise UserError("; ".join(problems))
    return decoding


def option_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def _is_assignment(name: str) -> bool:
    return re.match(r"[a-z_]+(\.[a-z_]+)*=", name) is not None and not Path(name).exists()
