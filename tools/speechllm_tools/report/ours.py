"""Tables I to III, made from our own runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from speechllm_plugin.scoring.significance import compare, mean_score, seed_spread
from speechllm_tools.report.published import ASR_AVERAGE, ST_AVERAGE, table_3
from speechllm_tools.report.runs import Run
from speechllm_tools.report.table import Entry, Table, ranked
from speechllm_tools.score.counts import Measured
from speechllm_tools.score.results import AVERAGE, Resampling, score_of, strata
from speechllm_tools.score.table import SIGNIFICANT, lower_is_better

_LONG = 20
"""A table of pairs with more rows is folded."""


def baseline_of(name: str, names: Sequence[str], baseline: str) -> str | None:
    """The run that `name` is tested against: `baseline` itself, or the run whose name differs from `name` in a single
    part, where it has `baseline`: `whisper.llama.base` for `whisper.llama.cif`."""
    if baseline in names:
        return baseline if baseline != name else None
    parts = name.split(".")
    for place in range(len(parts)):
        other = ".".join([*parts[:place], baseline, *parts[place + 1 :]])
        if other != name and other in names:
            return other
    return None


def score_table(metric: str, measured: Sequence[Measured], baseline: str, resampling: Resampling) -> Table:
    names = [one.system.name for one in measured]
    columns = list(strata(measured[0], metric))
    lower, first = lower_is_better(metric), score_of(measured[0], metric, resampling)
    rows = []
    for one in measured:
        scores, mine = score_of(one, metric, resampling), strata(one, metric)
        beside = baseline_of(one.system.name, names, baseline)
        other = None if beside is None else strata(measured[names.index(beside)], metric)
        row = [Entry(one.system.name)]
        for column in columns:
            entry, more, star = scores[column], [], False
            if (found := entry["interval"]) is not None:
                more.append(f"95 % interval {found['low']:.2f} to {found['high']:.2f}")
            if other is not None:
                test = compare(mine[column], other[column], resampling.method, resampling.resamples, resampling.seed)
                star = not test.p < SIGNIFICANT
                more.append(f"{test.difference:+.2f} against {beside}, p = {test.p:.3f} ({test.method})")
            row.append(Entry(f"{entry['score']:.2f}", entry["score"], star=star, more="; ".join(more)))
        rows.append([*row, *_beside(one.system.name, metric)])
    published = ["published average"] if any(len(row) > len(columns) + 1 for row in rows) else []
    rows = [row if len(row) == 1 + len(columns) + len(published) else [*row, Entry("-")] for row in rows]
    notes = [
        f"{'Lower' if lower else 'Higher'} is better. Bold: best of the column; underlined: best of its block; *: the "
        f"difference from {baseline} is not significant (p >= {SIGNIFICANT}, {resampling.resamples} resamples, seed "
        f"{resampling.seed}).{f' {AVERAGE}: mean over the columns.' if AVERAGE in columns else ''}",
        *dict.fromkeys(first[column]["signature"] for column in columns),
    ]
    small = {each["segments"]: found["coverage"] for each in first.values()
             if (found := each["interval"]) is not None and found["coverage"] < 0.95}  # fmt: skip
    notes += [f"95 % intervals of {segments} clips hold the truth in about {100 * share:g} % of sets."
              for segments, share in small.items()]  # fmt: skip
    table = Table(metric.replace(":", "-"), f"Table III: {metric}", ["system", *columns, *published], rows, notes)
    better = ["", *["lower" if lower else "higher"] * len(columns), *[""] * len(published)]
    return ranked(table, better, [name.rpartition(".")[0] for name in names])


def seed_table(metric: str, measured: Sequence[Measured]) -> Table | None:
    """The spread over seeds, which the interval over clips does not show; None if no system has several seeds.

    Cells are one system with several seeds if their names differ only in a part `seed...`.
    """
    groups: dict[str, list[Measured]] = {}
    for one in measured:
        parts = one.system.name.split(".")
        if any(part.startswith("seed") for part in parts):
            groups.setdefault(".".join(part for part in parts if not part.startswith("seed")), []).append(one)
    rows = []
    for name, runs in groups.items():
        if len(runs) > 1:
            spread = seed_spread([mean_score(list(strata(one, metric).values())[-1]) for one in runs])
            values = (spread.mean, spread.deviation, spread.low, spread.high)
            rows.append([Entry(name), *(Entry(f"{value:.2f}", value) for value in values),
                         Entry(str(spread.runs), float(spread.runs))])  # fmt: skip
    if not rows:
        return None
    columns = ["system", "mean", "standard deviation", "lowest", "highest", "seeds"]
    return Table(f"seeds-{metric.replace(':', '-')}", f"Over training seeds: {metric}", columns, rows)


def _beside(name: str, metric: str) -> list[Entry]:
    """The published average of the same system, if there is one."""
    figures = table_3().get(name)
    column = {"comet": ST_AVERAGE, "wer:verdini": ASR_AVERAGE, "wer_clips:verdini": ASR_AVERAGE}.get(metric)
    if figures is None or column is None:
        return []
    return [Entry(f"{figures[column].value:.2f}", figures[column].value)]


def rate_table(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        hertz = run.mean("speech_vectors_per_second")
        frames = None if run.facts is None else run.facts["encoder"]["frame_rate"]
        ratio = None if not hertz or frames is None else frames / hertz
        published = None if run.facts is None else run.facts["output"]["published"]
        rows.append([
            Entry(run.name), _entry(ratio, ".2f", ":1"), _entry(hertz, ".2f"),
            Entry("-") if not published else Entry(f"{published['compression']}:1, {published['hertz']:g} Hz",
                                                   published["hertz"]),
            _entry(run.mean("rtf"), ".3f"),
        ])  # fmt: skip
    columns = ["system", "compression", "vectors a second", "published", "real-time factor"]
    notes = ["Measured on the clips that were decoded; compression: frames of the encoder for each vector."]
    return Table("table1", "Table I: compression and output rate", columns, rows, notes)


def size_table(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        facts: dict[str, Any] = run.facts or {}
        counts, sizes = facts.get("parameters", {}), facts.get("table_2_millions", {})
        ours, published = (sizes.get(key) or {} for key in ("ours", "published"))
        rows.append([
            Entry(run.name), _entry(counts.get("trainable"), ".3f", scale=1e-6),
            _entry(counts.get("frozen"), ".3f", scale=1e-6), _entry(ours.get("length"), ".2f"),
            _entry(ours.get("modality"), ".2f"), _entry(published.get("length"), ".2f"),
            _entry(published.get("modality"), ".2f"),
        ])  # fmt: skip
    columns = ["system", "trained (M)", "frozen (M)", "length adapter (M)", "modality adapter (M)",
               "published length", "published modality"]  # fmt: skip
    return Table("table2", "Table II: parameters", columns, rows)


def training_table(runs: Sequence[Run]) -> Table:
    """How each run was trained, and the losses of its evaluation."""
    rows = [
        [Entry(run.name), _entry(run.steps, ",.0f"), _entry(run.learning_rate, "g"), _entry(run.minutes, ".1f"),
         _entry(run.mean("nll_loss"), ".3f"), _entry(run.mean("other_audio_loss"), ".3f")]
        for run in runs
    ]  # fmt: skip
    columns = ["system", "steps", "learning rate", "training (min)", "loss", "loss with another clip's audio"]
    notes = ["Losses in nats per token of the references, mean over the sets that were decoded: a system that listens "
             "has a lower one with each clip's own audio."]  # fmt: skip
    return Table("training", "Training and loss", columns, rows, notes)


def _entry(value: float | None, form: str, unit: str = "", scale: float = 1.0) -> Entry:
    return Entry("-") if value is None else Entry(f"{scale * value:{form}}{unit}", scale * value)


def pair_table(metric: str, measured: Sequence[Measured], resampling: Resampling) -> Table:
    """Compares every pair of systems by their averages."""
    rows = []
    for one, other in itertools.combinations(measured, 2):
        mine, theirs = (list(strata(each, metric).values())[-1] for each in (one, other))
        test = compare(mine, theirs, resampling.method, resampling.resamples, resampling.seed)
        rows.append([
            Entry(f"{one.system.name} - {other.system.name}"),
            Entry(f"{test.difference:+.2f}", test.difference, star=not test.p < SIGNIFICANT),
            Entry(f"{test.low:+.2f} to {test.high:+.2f}"), Entry(f"{test.p:.3f}", test.p), Entry(test.method),
        ])  # fmt: skip
    columns = ["pair", "difference", "95 % interval", "p", "method"]
    title = f"Every pair: {metric}"
    return Table(f"pairs-{metric.replace(':', '-')}", title, columns, rows, folded=len(rows) > _LONG)
