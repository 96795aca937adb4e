"""`speechllm manifest`: one subcommand for each thing that is made from manifests."""

from __future__ import annotations

import argparse

from speechllm_tools.manifest import vocabulary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subparsers = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    summary = "train a sentencepiece vocabulary for CTC on the transcripts of a manifest"
    subparser = subparsers.add_parser("vocabulary", help=summary, description=summary)
    vocabulary.add_arguments(subparser)
    subparser.set_defaults(action_run=vocabulary.run)


def run(options: argparse.Namespace) -> int:
    return int(options.action_run(options))
