"""`speechllm score`: any metric of hypotheses on disk, with intervals and p-values; no model is run again."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.scoring.normalizers import NormalizerName

if TYPE_CHECKING:
    from speechllm_tools.score.counts import Beside

_NORMALIZERS = get_args(NormalizerName)

EPILOG = """\
RUN is the output directory of `evaluate` or `cascade`, one set of clips in it, a hypotheses.tsv; or the output of
another system: a TSV with the columns id and hypothesis, a text file with one hypothesis a line, a folder or file of
Hearing to Translate's outputs. NAME=RUN gives it another name.

examples:
  speechllm score runs/base runs/cif --baseline base
  speechllm score runs/cif --metrics wer cer --normalizers none basic verdini
  speechllm score runs/cif whisper=whisper.de.txt --references runs/cif/test/hypotheses.tsv --direction en-de --pairs
  speechllm score runs/cif --metrics comet --comet Unbabel/wmt22-comet-da
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from speechllm_tools.comet.scoring import add_comet_arguments
    from speechllm_tools.score.counts import METRICS

    parser.description = __doc__
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", metavar="RUN", nargs="+")
    parser.add_argument("--metrics", nargs="+", choices=METRICS, metavar="NAME",
                        help=f"of {', '.join(METRICS)} (default: wer, wer_clips and cer of transcriptions, bleu and "
                        "chrf of translations, exact, f1, refusals and words of answers; those that need --phrases, "
                        "--answers or --comet where that is given)")
    parser.add_argument("--normalizers", nargs="+", choices=_NORMALIZERS, metavar="NAME", default=["basic", "verdini"],
                        help=f"for error rates, of {', '.join(_NORMALIZERS)} (default: basic verdini)")
    parser.add_argument("--baseline", metavar="NAME", help="test every other system against this one")
    parser.add_argument("--pairs", action="store_true", help="test every pair of systems")
    parser.add_argument("--seeds", action="store_true",
                        help="the runs are one system trained with several seeds: print their spread")
    parser.add_argument("--method", choices=["bootstrap", "randomization"],
                        help="of the tests (default: randomization below 50 segments, else bootstrap)")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="(default: 1000)")
    parser.add_argument("--seed", type=int, default=12345, help="of the resampling (default: 12345)")
    side = parser.add_argument_group("for hypotheses of other systems")
    side.add_argument("--references", type=Path, metavar="FILE",
                      help="text, one a line; or a TSV with ids: a manifest or a hypotheses.tsv of ours")
    side.add_argument("--transcripts", type=Path, metavar="FILE", help="of the speech, one a line")
    side.add_argument("--direction", default="", metavar="SRC[-TGT]", help="en for transcripts, en-de for translations")
    parser.add_argument("--judge-jsonl", type=Path, metavar="FILE", help="write the answers for a judge: a line with "
                        "id, system, question, reference and hypothesis each")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the JSON there")
    add_beside_arguments(parser)
    add_comet_arguments(parser)


def add_beside_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options for files that some metrics need."""
    parser.add_argument("--phrases", type=Path, metavar="FILE", help="for b_wer and u_wer: a phrase a line; or a "
                        "manifest with the column context, as speechllm manifest phrases writes it")
    parser.add_argument("--answers", type=Path, metavar="FILE", help="for agreement and agreement_f1: other answers to "
                        "the same questions, such as the manifest that speechllm manifest answer writes")


def run(options: argparse.Namespace) -> int:
    _check(options)
    from speechllm_plugin.datasets.text_cleaning import describe_marks
    from speechllm_tools.score.judge import write_for_judge
    from speechllm_tools.score.reading import Side, read_systems
    from speechllm_tools.score.results import Resampling, results
    from speechllm_tools.score.table import tables

    systems = read_systems(options.runs, Side(options.references, options.transcripts, options.direction))
    # All systems have the same references.
    for one in systems[0].sets:
        for line in describe_marks([(row.id, row.reference) for row in one.rows]):
            print(f"speechllm score: references of {one.name}: {line}", file=sys.stderr)
    names = [system.name for system in systems]
    if options.baseline is not None and options.baseline not in names:
        raise UserError(f"--baseline: found {options.baseline!r}, expected one of {', '.join(names)}")
    measured = measure_all(options, systems)
    found = results(measured, Resampling(options.resamples, options.seed, options.method),
                    baseline=options.baseline, pairs=options.pairs, seeds=options.seeds)
    if options.judge_jsonl is not None:
        write_for_judge(options.judge_jsonl, measured)
    finite = finite_values(found)
    if options.output is not None:
        write_text_atomically(options.output, json.dumps(finite, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(finite, indent=1, ensure_ascii=False) if options.json else tables(finite, options.baseline))
    return 0


def measure_all(options: argparse.Namespace, systems: Sequence[Any]) -> list[Any]:
    """Aligns the systems' clips and counts every metric, also COMET if it is asked for.

    :raises UserError: a metric lacks what it needs, or none fits a system's rows.
    """
    from speechllm_tools.comet.scoring import measure_comet
    from speechllm_tools.score.counts import (
        AGREEMENT,
        ANSWERS,
        BIASING,
        COMET,
        RECOGNITION,
        TRANSLATION,
        aligned,
        measure,
    )

    beside = _beside(options)
    metrics = options.metrics or [
        *RECOGNITION, *(BIASING if beside.phrases else ()), "bleu", "chrf", *ANSWERS,
        *(AGREEMENT if beside.answers else ()), *([COMET] if options.comet else []),
    ]  # fmt: skip
    measured = aligned(systems)
    for one in measured:
        measure(one, metrics, options.normalizers, beside)
    if COMET in metrics:
        measure_comet(measured, options)
    fitting = {
        "wer": ("transcriptions", [*RECOGNITION, *BIASING]),
        "translation": ("translations", [*TRANSLATION, COMET]),
        "answers": ("answers", [*ANSWERS, *AGREEMENT]),
    }
    for one in measured:
        if not one.statistics:
            found = [fitting[kind] for kind in sorted({rows[0].scored_by for rows in one.sets.values()})]
            raise UserError(f"--metrics: found {' '.join(metrics)}, expected one for the "
                            f"{' and '.join(what for what, _ in found)} of {one.system.name} (of "
                            f"{', '.join(metric for _, known in found for metric in known)})")
    return measured


def _beside(options: argparse.Namespace) -> Beside:
    """
    :raises UserError: a metric lacks its file, or the file cannot be used.
    """
    from speechllm_plugin.scoring.phrase_lists import read_phrase_lists
    from speechllm_tools.score.counts import Beside
    from speechllm_tools.score.reading import read_answers

    for option, metrics, what in (("phrases", ("b_wer", "u_wer"), "the list of phrases"),
                                  ("answers", ("agreement", "agreement_f1"), "the answers to compare with")):
        if getattr(options, option) is None and (wrong := {*metrics} & {*(options.metrics or ())}):
            raise UserError(f"--metrics: found {min(wrong)} without --{option}, expected {what}")
    return Beside(
        None if options.phrases is None else read_phrase_lists(options.phrases),
        None if options.answers is None else read_answers(options.answers),
    )


def _check(options: argparse.Namespace) -> None:
    if options.resamples < 100:
        raise UserError(f"--resamples: found {options.resamples}, expected at least 100")
    if options.seed < 0:
        raise UserError(f"--seed: found {options.seed}, expected 0 or more")
    if options.seeds and len(options.runs) < 2:
        raise UserError("--seeds: found one run, expected two or more")
    if (options.baseline or options.pairs) and len(options.runs) < 2:
        raise UserError("--baseline, --pairs: found one run, expected two or more")


def finite_values(value: Any) -> Any:
    """`value` without the numbers that JSON lacks: `nan` becomes `null`."""
    if isinstance(value, dict):
        return {key: finite_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
