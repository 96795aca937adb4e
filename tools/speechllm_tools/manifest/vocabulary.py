"""`speechllm manifest vocabulary`: a sentencepiece model for `ctc.classifier: sentencepiece`."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechllm_plugin.datasets.manifest import read_manifest
from speechllm_plugin.errors import UserError

SUMMARY = "train a sentencepiece vocabulary for CTC on the transcripts of a manifest"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", metavar="MANIFEST", nargs="+", type=Path, help="TSV manifests of the training")
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="where the model goes, FILE.model")
    parser.add_argument(
        "--size", type=int, default=1000,
        help="pieces, the unknown one included (default: 1000); with --type char at most so many",
    )
    parser.add_argument("--type", choices=("unigram", "bpe", "char"), default="unigram", help="default: unigram")


def run(options: argparse.Namespace) -> int:
    if options.size < 2:
        raise UserError(f"--size: found {options.size}, expected at least 2")
    for manifest in options.manifest:
        if manifest.exists() and options.output.exists() and options.output.samefile(manifest):
            raise UserError(f"--output: found {options.output}, the manifest {manifest} itself, expected a new file")
    from speechllm_plugin.text.vocabulary import train_vocabulary

    rows = [row for file in options.manifest for row in read_manifest(file, empty_text=True)]
    transcripts = [row.src_text or row.tgt_text for row in rows]
    size = train_vocabulary(transcripts, options.output, size=options.size, model_type=options.type)
    own = sum(not row.src_text for row in rows)
    print(f"{options.output}: {size} pieces from {len(rows)} transcripts ({own} of them from tgt_text)")
    print(f"use it with --config model.config_overrides.ctc.weight=0.1 "
          f"model.config_overrides.ctc.classifier=sentencepiece model.config_overrides.ctc.vocabulary={options.output}")
    return 0
