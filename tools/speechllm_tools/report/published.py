"""The tables of arXiv 2409.17044 as data, with every figure computed again that their data suffice for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from speechllm_plugin.files.tsv import read_table
from speechllm_tools.inspect.published import RATES, SIZE_NOTES, SIZES
from speechllm_tools.report.table import Entry, Table, ranked

TABLE_3 = Path(__file__).with_name("published") / "table3.tsv"
TRANSLATION = ("en-de", "de-en", "es-en", "fr-en", "it-en")
RECOGNITION = ("en", "es", "fr", "it", "de")
ST_AVERAGE, ASR_AVERAGE = "st_average", "asr_average"
_COLUMNS = (*TRANSLATION, ST_AVERAGE, *RECOGNITION, ASR_AVERAGE)
_ROUNDING = 0.0101
"""Two roundings of one mean to two decimals differ by no more."""


@dataclass(frozen=True)
class Figure:
    value: float
    star: bool
    """Whether the difference from Base is not significant."""


@cache
def table_3() -> dict[str, dict[str, Figure]]:
    """COMET or WER by cell (`encoder.llm.adapter`) and column."""
    found = {}
    for record in read_table(TABLE_3, required=("encoder", "llm", "adapter", *_COLUMNS)):
        name = ".".join(record.fields[part] for part in ("encoder", "llm", "adapter"))
        found[name] = {column: Figure(float(text.rstrip("*")), text.endswith("*"))
                       for column in _COLUMNS for text in [record.fields[column]]}  # fmt: skip
    return found


def discrepancies() -> list[str]:
    """Published averages that differ from the mean of the published scores by more than rounding."""
    lines = []
    for name, figures in table_3().items():
        for columns, average, what in ((TRANSLATION, ST_AVERAGE, "COMET"), (RECOGNITION, ASR_AVERAGE, "WER")):
            mean = sum(figures[column].value for column in columns) / len(columns)
            published = figures[average].value
            if abs(mean - published) > _ROUNDING:
                lines.append(f"{name}: the five published {what} scores average {mean:.3f}, the published average is "
                             f"{published:.2f}")  # fmt: skip
    return lines


def published_tables() -> list[Table]:
    """Tables I to III."""
    return [_rates(), _sizes(), _scores()]


def _rates() -> Table:
    adapters = list(next(iter(RATES.values())))
    rows = [
        [Entry(encoder), *(Entry(f"{rates[name].compression}:1, {rates[name].hertz:g} Hz", rates[name].hertz)
                           for name in adapters)]
        for encoder, rates in RATES.items()
    ]  # fmt: skip
    notes = ["arXiv 2409.17044: frames of the encoder for each vector that the LLM gets, and vectors a second."]
    return Table("published1", "Table I, published: compression and output rate", ["encoder", *adapters], rows, notes)


def _sizes() -> Table:
    rows = []
    for name, size in SIZES.items():
        length = Entry("-") if size.length is None else Entry(f"{size.length:.2f}", size.length)
        rows.append([Entry(name), length, Entry(f"{size.modality:.2f}", size.modality)])
    notes = [f"{name}: {note}." for name, note in SIZE_NOTES.items()]
    columns = ["adapter", "length adapter (M)", "modality adapter (M)"]
    return Table("published2", "Table II, published: parameters", columns, rows, notes)


def _scores() -> Table:
    rows, blocks = [], []
    for name, figures in table_3().items():
        entries = [Entry(f"{figure.value:.2f}", figure.value, star=figure.star)
                   for column in _COLUMNS for figure in [figures[column]]]  # fmt: skip
        means = [sum(figures[column].value for column in columns) / 5 for columns in (TRANSLATION, RECOGNITION)]
        rows.append([Entry(name), *entries, *(Entry(f"{mean:.3f}", mean) for mean in means)])
        blocks.append(name.rpartition(".")[0])
    columns = ["system", *(f"{name} COMET" for name in TRANSLATION), "COMET average",
               *(f"{name} WER" for name in RECOGNITION), "WER average", "COMET recomputed", "WER recomputed"]
    notes = [
        "arXiv 2409.17044. Bold: best of the column; underlined: best of its encoder and LLM, both found here; *: as "
        "published, the difference from Base is not significant.",
        *(f"Does not add up: {line}." for line in discrepancies()),
    ]
    better = ["", *["higher"] * 6, *["lower"] * 6, "higher", "lower"]
    table = Table("published3", "Table III, published: COMET of translation, WER of recognition", columns, rows, notes)
    return ranked(table, better, blocks)
