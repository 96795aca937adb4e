"""`speechllm report`: tables, curves and a page of utterances from a sweep's output, or only the published tables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.scoring.normalizers import NormalizerName


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from speechllm_tools.comet.scoring import add_comet_arguments
    from speechllm_tools.score.command import add_beside_arguments
    from speechllm_tools.score.counts import METRICS

    parser.description = __doc__
    parser.add_argument("output_dir", metavar="OUT", nargs="?", type=Path,
                        help="a sweep's output, a folder of runs, or one run")
    parser.add_argument("--published", action="store_true",
                        help="the tables of arXiv 2409.17044, beside those of OUT or alone")
    parser.add_argument("--to", metavar="FOLDER", type=Path,
                        help="where the files go (default: OUT/report, or report without OUT)")
    parser.add_argument("--baseline", default="base", metavar="NAME",
                        help="a system, or the part of a name, that the others are tested against (default: base)")
    parser.add_argument("--metrics", nargs="+", choices=METRICS, metavar="NAME",
                        help=f"of {', '.join(METRICS)} (default: as speechllm score)")
    parser.add_argument("--normalizers", nargs="+", choices=get_args(NormalizerName), metavar="NAME",
                        default=["basic", "verdini"], help="for error rates (default: basic verdini)")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="(default: 1000)")
    parser.add_argument("--seed", type=int, default=12345, help="of the resampling (default: 12345)")
    parser.add_argument("--utterances", type=int, default=500, metavar="N",
                        help="on the page, the worst (default: 500)")
    parser.add_argument("--audio", type=int, default=30, metavar="N",
                        help="utterances whose sound is in the page, 43 kB a second each (default: 30)")
    parser.add_argument("--no-curves", action="store_true", help="without figures, which need matplotlib")
    parser.add_argument("--card", action="store_true", help="also card.md: versions, hashes, configuration, hours")
    add_beside_arguments(parser)
    add_comet_arguments(parser)


def run(options: argparse.Namespace) -> int:
    if options.output_dir is None and not options.published:
        raise UserError("OUT: found none, expected a sweep's output, or --published; see --help")
    for name, least in (("resamples", 100), ("utterances", 0), ("audio", 0), ("seed", 0)):
        if getattr(options, name) < least:
            raise UserError(f"--{name}: found {getattr(options, name)}, expected at least {least}")
    from speechllm_tools.report.page import page
    from speechllm_tools.report.published import published_tables

    folder = options.to or (Path("report") if options.output_dir is None else options.output_dir / "report")
    published = published_tables() if options.published else []
    if options.output_dir is None:
        _write(folder, published, page("Published tables: arXiv 2409.17044", published))
    else:
        _report(options, folder, published)
    return 0


def _report(options: argparse.Namespace, folder: Path, published: Sequence[Any]) -> None:
    from speechllm_tools.report.card import card
    from speechllm_tools.report.curves import trade_offs, training_curves
    from speechllm_tools.report.ours import (
        pair_table,
        rate_table,
        score_table,
        seed_table,
        size_table,
        training_table,
    )
    from speechllm_tools.report.page import page
    from speechllm_tools.report.runs import find_runs, read_run
    from speechllm_tools.report.utterances import utterances
    from speechllm_tools.score.command import measure_all
    from speechllm_tools.score.reading import Side, read_systems
    from speechllm_tools.score.results import Resampling
    from speechllm_tools.score.table import NEITHER

    folders = find_runs(options.output_dir)
    measured = measure_all(options, read_systems([str(one) for one in folders], Side()))
    runs = [read_run(one.system.name, place) for one, place in zip(measured, folders, strict=True)]
    resampling = Resampling(options.resamples, options.seed)
    metrics = [metric for metric in measured[0].statistics if metric not in NEITHER]
    scores = [score_table(metric, measured, options.baseline, resampling) for metric in metrics]
    pairs = [pair_table(metric, measured, resampling) for metric in metrics] if len(measured) > 1 else []
    seeds = [table for metric in metrics if (table := seed_table(metric, measured)) is not None]
    tables = [*scores, rate_table(runs), size_table(runs), training_table(runs), *seeds, *pairs, *published]
    figures = {}
    if not options.no_curves:
        shown = [table for table in scores if table.name in ("wer-basic", "comet", "bleu")]
        drawn = {"Training": training_curves(runs), "Score against rate and time": trade_offs(runs, shown)}
        for name, svg in drawn.items():
            if svg is not None:
                figures[name] = svg
    worst, in_all = utterances(measured, options.utterances, options.audio)
    text = page(f"Report: {options.output_dir.resolve().name}", tables, figures=figures,
                systems=[one.system.name for one in measured], utterances=worst, in_all=in_all)  # fmt: skip
    _write(folder, tables, text)
    if options.card:
        write_text_atomically(folder / "card.md", card(runs))


def _write(folder: Path, tables: Sequence[Any], text: str) -> None:
    from speechllm_tools.report.table import comma_separated, latex, markdown

    write_text_atomically(folder / "report.md", "\n".join(markdown(table) for table in tables))
    write_text_atomically(folder / "report.tex", "\n".join(latex(table) for table in tables))
    for table in tables:
        write_text_atomically(folder / f"{table.name}.csv", comma_separated(table))
    write_text_atomically(folder / "index.html", text)
    print(f"{folder}/index.html, report.md, report.tex and {len(tables)} CSV files written")
