"""COMET of translations: known scores come from the cache, others from a process of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.hashes import sha256_of
from speechllm_plugin.scoring.report import Hypothesis
from speechllm_plugin.scoring.segments import mean_statistics
from speechllm_tools.comet.checkpoints import find_checkpoint, find_encoder
from speechllm_tools.comet.packages import VERSION, find_python
from speechllm_tools.comet.score_cache import ScoreCache, Segment, default_folder

if TYPE_CHECKING:
    from speechllm_tools.score.counts import Measured

DEFAULT_MODEL = "Unbabel/wmt22-comet-da"
"""The metric of arXiv 2409.17044."""
_WORKER = Path(__file__).with_name("worker.py")


def add_comet_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("COMET (`speechllm comet install` first)")
    group.add_argument("--comet", metavar="MODEL",
                       help=f"a name on the hub, a folder or a checkpoint (default: {DEFAULT_MODEL})")
    group.add_argument("--encoder", metavar="FOLDER",
                       help="configuration and tokenizer of the model's encoder, which a checkpoint does not hold "
                       "(default: what the model names, from the hub's cache)")
    group.add_argument("--precision", choices=["float32", "float16"], default="float32",
                       help="float16 is what comet-score computes in, also on a CPU (default: float32)")
    group.add_argument("--comet-batch-size", type=int, default=16, metavar="N", help="(default: 16)")
    group.add_argument("--comet-cache", type=Path, metavar="FOLDER", default=default_folder(),
                       help="scores of earlier runs (default: %(default)s)")


def measure_comet(measured: Sequence[Measured], options: argparse.Namespace) -> None:
    """Adds COMET's statistics to those of every system's translations.

    :raises UserError: COMET or its model is missing, or a translation lacks its transcript or reference.
    """
    if options.comet_batch_size < 1:
        raise UserError(f"--comet-batch-size: found {options.comet_batch_size}, expected at least 1")
    wanted = [(one, label, _segments(one.system.name, label, rows))
              for one in measured for label, rows in one.sets.items() if rows[0].is_translation]
    if not wanted:
        return
    model = options.comet or DEFAULT_MODEL
    checkpoint = find_checkpoint(model)
    encoder = _encoder(checkpoint, options.encoder)
    made_by = {
        "checkpoint": sha256_of(checkpoint), "precision": options.precision, "unbabel-comet": VERSION,
        "encoder": "".join(sha256_of(file) for file in sorted(encoder.glob("*.json"))),
    }
    cache = ScoreCache(options.comet_cache, made_by)
    unique = list(dict.fromkeys(segment for _, _, segments in wanted for segment in segments))
    new = [segment for segment in unique if cache.find(segment) is None]
    _tell(f"COMET: {sum(len(segments) for _, _, segments in wanted):,} segments, {len(unique):,} of them different, "
          f"{len(unique) - len(new):,} scored before")
    if new:
        cache.add(_run(new, checkpoint, encoder, options))
    signature = f"COMET {model}|{options.precision}|unbabel-comet:{VERSION}|sha256:{made_by['checkpoint'][:12]}"
    for one, label, segments in wanted:
        scored = [found for segment in segments if (found := cache.find(segment)) is not None]
        one.statistics.setdefault("comet", {})[label] = mean_statistics([score for score, _ in scored], signature)
        empty, cut = sum(not segment[1] for segment in segments), sum(cut for _, cut in scored)
        if empty or cut:
            _tell(f"COMET: {one.system.name}, {label}: {empty:,} hypotheses are empty and were scored all the same; "
                  f"{cut:,} segments hold a text that is longer than the model reads, and was cut")


def _segments(name: str, label: str, rows: Sequence[Hypothesis]) -> list[Segment]:
    for row in rows:
        for field, value in (("transcript", row.transcript), ("reference", row.reference)):
            if not value.strip():
                raise UserError(
                    f"{name}, {label}, id {row.id}: found no {field}, expected one: COMET compares a translation with "
                    "what was said and with its reference (`src_text` of the manifest; --transcripts, --references)"
                )
    # Stripped, as comet-score does with its lines.
    return [(row.transcript.strip(), row.hypothesis.strip(), row.reference.strip()) for row in rows]


def _encoder(checkpoint: Path, given: str | None) -> Path:
    if given is not None:
        return find_encoder(given)
    from speechllm_plugin.files.yaml_text import parse_yaml

    file = checkpoint.parents[1] / "hparams.yaml"
    try:
        values = parse_yaml(file.read_text(encoding="utf-8"))
        return find_encoder(str(values["pretrained_model"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: found no key 'pretrained_model', expected the settings of a COMET model") from None


def _run(
    segments: Sequence[Segment], checkpoint: Path, encoder: Path, options: argparse.Namespace
) -> dict[Segment, tuple[float, bool]]:
    python, packages = find_python()
    request = {
        "packages": None if packages is None else str(packages), "checkpoint": str(checkpoint.resolve()),
        "encoder": str(encoder.resolve()), "precision": options.precision, "batch_size": options.comet_batch_size,
        "progress": sys.stderr.isatty(),
        "segments": [dict(zip(("src", "mt", "ref"), segment, strict=True)) for segment in segments],
    }
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("request.json", "answer.json")]
        files[0].write_text(json.dumps(request), encoding="utf-8")
        result = subprocess.run([str(python), str(_WORKER), *map(str, files)], stdout=sys.stderr)
        if result.returncode != 0 or not files[1].is_file():
            raise RuntimeError(f"COMET's process ended with status {result.returncode}; what it said stands above")
        answer: dict[str, Any] = json.loads(files[1].read_text(encoding="utf-8"))
    if "error" in answer:
        raise UserError(f"COMET: {answer['error']}")
    _tell(f"COMET: {len(segments):,} segments scored on {answer['device']} in {options.precision}")
    cut = set(answer["cut"])
    return {segment: (score, place in cut)
            for place, (segment, score) in enumerate(zip(segments, answer["scores"], strict=True))}


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
