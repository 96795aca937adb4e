"""`speechllm manifest stats`: amounts, lengths, density and mixture of manifests."""

from __future__ import annotations

import argparse
import importlib.util
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from speechllm_plugin.errors import UserError
from speechllm_tools.manifest.rows import add_audio_root, folder_of, read_rows, seconds_of_row
from speechllm_tools.prepare.report import columns

SUMMARY = "hours, speakers, languages, and histograms of durations, text lengths and rates"
_SHARES = (0, 5, 25, 50, 75, 95, 100)
_BINS = 12
_WIDTH = 40
"""Characters of the longest bar."""
# Percentile up to which bars are shown: a few unusual clips must not squeeze all others into one bar.
_SHOWN = 99.0

FIGURES = {
    "seconds": "duration in seconds",
    "characters": "characters of tgt_text",
    "chars_per_second": "characters of tgt_text a second",
    "words_per_minute": "words of src_text, else tgt_text, a minute",
}


@dataclass
class Contents:
    """The contents of one manifest, or of several together."""

    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in FIGURES})
    speakers: set[str] = field(default_factory=set)
    clips: dict[str, float] = field(default_factory=dict)
    """Seconds of each clip; a clip may have several rows."""
    languages: Counter[str] = field(default_factory=Counter)

    def histograms(self) -> Iterator[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.float64], int]]:
        """Name, counts and edges of each histogram, and the number of values above the last edge."""
        for name, numbers in self.values.items():
            values = np.array(numbers)
            top = float(np.percentile(values, _SHOWN)) or 1.0
            counts, edges = np.histogram(values[values <= top], bins=_BINS, range=(0.0, top))
            yield name, counts, edges, int((values > top).sum())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifests", metavar="MANIFEST", nargs="+", type=Path, help="TSV manifests, counted as one")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="the histograms as a picture, FILE.png")
    add_audio_root(parser)


def run(options: argparse.Namespace) -> int:
    if options.plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise UserError("--plot: needs matplotlib, which is not installed (pip install 'speechllm-plugin[data]')")
    contents = _read(options.manifests, options.audio_root)
    seconds = sum(contents.clips.values())
    print(f"{len(contents.values['seconds']):,} rows of {len(contents.clips):,} clips, {seconds / 3600:.2f} h, "
          f"{len(contents.speakers):,} speakers")  # fmt: skip
    for languages, number in contents.languages.most_common():
        print(f"  {languages}: {number:,} rows")
    print()
    print(_percentiles(contents))
    for name, counts, edges, above in contents.histograms():
        print(f"\n{FIGURES[name]}\n{_bars(counts, edges, above)}")
    if options.plot is not None:
        _plot(contents, options.plot)
    return 0


def _read(manifests: list[Path], audio_root: Path | None) -> Contents:
    """
    :raises UserError: a manifest is wrong, or there are no rows.
    """
    contents = Contents()
    for manifest in manifests:
        root = folder_of(manifest, audio_root)
        for row in read_rows(manifest):
            seconds, text = seconds_of_row(row, root), row.get("tgt_text")
            figures = {
                "seconds": seconds, "characters": len(text), "chars_per_second": len(text) / seconds,
                "words_per_minute": 60 * len((row.get("src_text") or text).split()) / seconds,
            }  # fmt: skip
            for name, value in figures.items():
                contents.values[name].append(value)
            contents.clips[str(root / row.get("audio"))] = seconds
            contents.speakers.update(filter(None, [row.get("speaker")]))
            contents.languages[f"{row.get('src_lang') or '?'} -> {row.get('tgt_lang') or '?'}"] += 1
    if not contents.clips:
        raise UserError(f"{manifests[0]}: found a header and no rows, expected at least one row")
    return contents


def _percentiles(contents: Contents) -> str:
    lines = [("", "mean", *(f"{share} %" for share in _SHARES))]
    for name, values in contents.values.items():
        cells = [float(np.mean(values)), *np.percentile(values, _SHARES)]
        lines.append((FIGURES[name], *(f"{cell:.4g}" for cell in cells)))
    return columns(lines, left=1)


def _bars(counts: npt.NDArray[np.int64], edges: npt.NDArray[np.float64], above: int) -> str:
    longest = max(1, int(counts.max()))
    lines = [
        (f"{low:.4g} to {high:.4g}", f"{count:,}", "#" * round(_WIDTH * count / longest))
        for low, high, count in zip(edges, edges[1:], counts.tolist(), strict=False)
    ]
    if above:
        lines.append((f"above {edges[-1]:.4g}", f"{above:,}", ""))
    ranges, numbers = (max(len(line[place]) for line in lines) for place in (0, 1))
    return "\n".join(f"  {name.rjust(ranges)}  {number.rjust(numbers)}  {bar}".rstrip() for name, number, bar in lines)


def _plot(contents: Contents, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2).flat
    for panel, (name, counts, edges, above) in zip(panels, contents.histograms(), strict=True):
        panel.stairs(counts, edges, fill=True)
        panel.set_title(FIGURES[name] + (f"; {above:,} above" if above else ""), fontsize=9)
        panel.set_ylabel("rows")
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise UserError(f"--plot: {path} cannot be written ({error}), expected a file such as stats.png") from None
