"""`speechllm manifest`: a subcommand for each corpus, and one for each action on manifests."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from collections.abc import Mapping

from speechllm_tools import corpora
from speechllm_tools.manifest import answer, filter, mix, phrases, speak, split, stats, validate, vocabulary
from speechllm_tools.prepare import run as preparation
from speechllm_tools.prepare.api import Corpus

_ACTIONS = {
    "validate": validate, "stats": stats, "filter": filter, "split": split, "mix": mix, "vocabulary": vocabulary,
    "speak": speak, "answer": answer, "phrases": phrases,
}  # fmt: skip
_EPILOG = (
    "A corpus as it was downloaded becomes manifests, the tables that the recipe trains on; --help of each tells the "
    "layout that it expects. Every line of a corpus becomes a row or is counted with the reason why not."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    subparsers = parser.add_subparsers(dest="action", metavar="CORPUS or ACTION", required=True)
    for name, corpus in _corpora().items():
        subparser = subparsers.add_parser(
            name, help=corpus.summary, description=f"{corpus.summary[0].upper()}{corpus.summary[1:]}. "
            f"Expected: {corpus.description}", epilog=f"For instance: speechllm manifest {name} {corpus.example}",
        )  # fmt: skip
        corpus.add_arguments(subparser)
        if corpus.presets:
            subparser.add_argument("--preset", choices=sorted(corpus.presets), help=_help_of(corpus.presets))
        preparation.add_arguments(subparser)
        subparser.set_defaults(action_run=_prepare)
    for name, action in _ACTIONS.items():
        subparser = subparsers.add_parser(name, help=action.SUMMARY, description=action.SUMMARY)
        action.add_arguments(subparser)
        subparser.set_defaults(action_run=action.run)


def run(options: argparse.Namespace) -> int:
    return int(options.action_run(options))


def _prepare(options: argparse.Namespace) -> int:
    corpus = _corpora()[options.action]
    for key, value in corpus.presets.get(getattr(options, "preset", None) or "", {}).items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    return preparation.run(options.action, corpus(options), options)


def _help_of(presets: Mapping[str, Mapping[str, object]]) -> str:
    """The options that each published selection stands for."""
    return "; ".join(
        f"{name}, for " + " ".join(f"--{key.replace('_', '-')} {value}" for key, value in options.items())
        for name, options in presets.items()
    )


def _corpora() -> dict[str, type[Corpus]]:
    modules = [module.name for module in pkgutil.iter_modules(corpora.__path__)]
    return {
        name.replace("_", "-"): importlib.import_module(f"{corpora.__name__}.{name}").CORPUS for name in modules
    }
