"""`speechllm manifest phrases`: contextual biasing, with a list of phrases for each row."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechllm_tools.manifest.rows import add_audio_root, add_output

SUMMARY = "write phrases into the column context: a row's own with distractors, or those that a first pass suggests"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="TSV manifest")
    lists = parser.add_mutually_exclusive_group(required=True)
    lists.add_argument("--list", metavar="FILE", type=Path, help="a phrase a line; or a file of the authors of arXiv "
                       "2104.02194 (test-clean.biasing_100.tsv), which has each row's phrases and distractors")
    lists.add_argument("--rare-in", metavar="MANIFEST", type=Path, nargs="+",
                       help="the list is all words of these manifests' transcripts but the most frequent ones")
    parser.add_argument("--common", metavar="N", type=int, default=5000,
                        help="with --rare-in: so many most frequent words are no list (default: 5000)")
    parser.add_argument("--write-list", metavar="FILE", type=Path, help="also write the list, for speechllm score")
    parser.add_argument("--distractors", metavar="N", type=int, default=0,
                        help="phrases of the list beside the row's own, drawn for each row (default: 0)")
    parser.add_argument("--seed", type=int, default=2, help="of distractors and order (default: 2)")
    parser.add_argument("--first-pass", metavar="HYPOTHESES|RUN", type=Path, help="a run's hypotheses.tsv, or a run "
                        "whose CTC head listens to the clips, without its LLM (arXiv 2411.06437): phrases that are "
                        "most like what was heard take the place of the row's own and of distractors")
    parser.add_argument("--top", metavar="K", type=int, default=20, help="with --first-pass: how many (default: 20)")
    add_output(parser)
    add_audio_root(parser)


def run(options: argparse.Namespace) -> int:
    # jiwer comes with the extra `train`.
    from speechllm_tools.manifest.contexts import write_contexts

    return write_contexts(options)
