"""`speechllm report`: its tables in every form, the published ones, and the page."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from speechllm_tools.report.curves import short_names
from speechllm_tools.report.ours import baseline_of
from speechllm_tools.report.published import discrepancies, published_tables, table_3
from speechllm_tools.report.runs import Run
from speechllm_tools.report.table import Entry, Table, comma_separated, hypertext, latex, markdown, ranked

from speechllm_plugin.scoring.report import Hypothesis, write_hypotheses
from tests.commands import Commands
from tests.tools.report_runs import SENTENCES, write_sweep


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def report(commands: Commands, out: Path) -> Path:
    commands.speechllm("report", out, "--published", "--card", "--audio", 2).ok()
    return out / "report"


# --- what is published


def test_every_published_cell_is_there_and_its_averages_are_computed_again() -> None:
    assert len(table_3()) == 20 and all(len(figures) == 12 for figures in table_3().values())
    assert [line.partition(":")[0] for line in discrepancies()] == [
        "seamless_m4t_v2.llama31_8b.ctc", "whisper_large_v3.mistral_7b.cif"
    ]
    assert "average 9.864, the published average is 9.90" in discrepancies()[0]
    table = published_tables()[2]
    best = {column: row[0].text for row in table.rows
            for column, entry in zip(table.columns, row, strict=True) if entry.bold}  # fmt: skip
    assert best["COMET average"] == "seamless_m4t_v2.llama31_8b.wlq_former"
    assert best["WER average"] == "seamless_m4t_v2.mistral_7b.base"
    assert sum(row[table.columns.index("COMET average")].underlined for row in table.rows) == 4


def test_the_published_tables_need_no_runs(commands: Commands, tmp_path: Path) -> None:
    commands.speechllm("report", "--published", "--to", tmp_path / "tables").ok()
    rows = list(csv.DictReader((tmp_path / "tables/published3.csv").open()))
    assert rows[0]["system"] == "seamless_m4t_v2.mistral_7b.base" and rows[0]["en-de COMET"] == "84.94"
    starred = [row["system"] for row in rows if row["en WER not significant"]]
    assert starred == ["seamless_m4t_v2.mistral_7b.wlq_former", "seamless_m4t_v2.llama31_8b.conv",
                       "whisper_large_v3.llama31_8b.conv"]  # fmt: skip
    assert "Does not add up" in (tmp_path / "tables/report.md").read_text()


# --- tables


TABLE = Table("t", "50 % of A_B", ["who", "x"], [[Entry("a|b"), Entry("1.5", 1.5, star=True)], [Entry("c"), Entry("-")],
                                                [Entry("d"), Entry("0.5", 0.5)]], ["note & more"])  # fmt: skip


def test_the_best_are_marked() -> None:
    lower = ranked(TABLE, ["", "lower"], ["one", "one", "two"])
    assert [(row[1].bold, row[1].underlined) for row in lower.rows] == [(False, True), (False, False), (True, True)]
    higher = ranked(TABLE, ["", "higher"], ["one", "one", "one"])
    assert [(row[1].bold, row[1].underlined) for row in higher.rows] == [(True, True), (False, False), (False, False)]


def test_a_table_has_three_plain_forms() -> None:
    table = ranked(TABLE, ["", "higher"], ["one"] * 3)
    assert "| a\\|b | **<u>1.5\\*</u>** |" in markdown(table) and "note & more" in markdown(table)
    text = latex(table)
    assert r"a|b & \textbf{\underline{1.5$^{*}$}} \\" in text
    assert r"50 \% of A\_B" in text and r"note \& more" in text
    assert comma_separated(table) == "who,x,x not significant\na|b,1.5,yes\nc,-,\nd,0.5,\n"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("w.l.ctc", "w.l.base"), ("w.l.base", None), ("s.l.ctc", None), ("w.l.ctc.seed1", None), ("other", None)],
)
def test_the_baseline_differs_in_one_part(name: str, expected: str | None) -> None:
    assert baseline_of(name, ["w.l.base", "w.l.ctc", "s.m.base", "other"], "base") == expected
    assert baseline_of(name, ["w.l.base", "w.l.ctc", "given"], "given") == "given"


def test_names_on_figures_leave_out_what_all_have() -> None:
    runs = [Run(name, Path(name)) for name in ("w.llm.base", "w.llm.ctc", "s.llm.ctc")]
    assert short_names(runs) == ["w.base", "w.ctc", "s.ctc"]
    assert short_names(runs[:2]) == ["base", "ctc"] and short_names(runs[:1]) == ["w.llm.base"]
    assert short_names([*runs, Run("other", Path("other"))])[0] == "w.llm.base"


def test_a_long_table_is_folded() -> None:
    assert "<details><summary>50 % of A_B</summary>" in hypertext(replace(TABLE, folded=True))
    assert "<details>" not in hypertext(TABLE)


# --- the whole


def test_scores_are_marked_against_the_baseline(report: Path) -> None:
    rows = {row["system"]: row for row in csv.DictReader((report / "wer-basic.csv").open())}
    assert float(rows["tiny.llm.ctc"]["en"]) < float(rows["tiny.llm.base"]["en"]) < float(rows["tiny.llm.bad"]["en"])
    significant = {name: row["en not significant"] for name, row in rows.items()}
    assert significant == {"tiny.llm.base": "", "tiny.llm.ctc": "yes", "tiny.llm.bad": ""}
    assert "95 % intervals of 24 clips hold the truth in about 90 % of sets" in (report / "report.md").read_text()
    pairs = list(csv.DictReader((report / "pairs-wer-basic.csv").open()))
    assert len(pairs) == 3


def test_seeds_of_one_system_are_spread(commands: Commands, tmp_path: Path) -> None:
    for seed, heard in (("seed1", "turn on a light"), ("seed2", "turn on the light"), ("other", "turn")):
        rows = [Hypothesis("x", "turn on the light", heard, "0.wav", 1.0, "en", "en")]
        write_hypotheses(tmp_path / f"w.l.{seed}" / "evaluation/test/hypotheses.tsv", rows)
    commands.speechllm("report", tmp_path, "--metrics", "wer", "--normalizers", "basic", "--no-curves").ok()
    (row,) = csv.DictReader((tmp_path / "report/seeds-wer-basic.csv").open())
    assert (row["system"], row["mean"], row["highest"], row["seeds"]) == ("w.l", "12.5", "25", "2")


def test_rates_and_times_are_those_of_the_runs(report: Path) -> None:
    rows = {row["system"]: row for row in csv.DictReader((report / "table1.csv").open())}
    assert rows["tiny.llm.ctc"]["vectors a second"] == "9"
    rows = {row["system"]: row for row in csv.DictReader((report / "training.csv").open())}
    trained = rows["tiny.llm.ctc"]
    assert (trained["steps"], trained["training (min)"], trained["learning rate"]) == ("3", "3", "0.0005")
    assert trained["loss"] == "0.25" and trained["loss with another clip's audio"] == "-"


def test_the_card_tells_what_made_the_runs(report: Path) -> None:
    text = (report / "card.md").read_text()
    parts = ("torch 2.9.1", "commit: abc, with changes", "model.pt: SHA-256 f00", "SHA-256 d00d", "3 steps, 0.05 h")
    assert [part for part in parts if part not in text] == []


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    loaded: dict[str, Any] = json.loads(found[1])
    return loaded


def test_the_page_asks_for_nothing_else(report: Path) -> None:
    page = (report / "index.html").read_text()
    elements = Elements()
    elements.feed(page)
    for tag, attributes in elements.found:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, attributes)
    assert "url(http" not in page and "@import" not in page
    assert sum(tag == "svg" for tag, _ in elements.found) == 2
    assert any(tag == "meta" and attributes.get("name") == "viewport" for tag, attributes in elements.found)


def test_the_page_has_the_utterances_with_their_alignment(report: Path) -> None:
    data = data_of((report / "index.html").read_text())
    assert data["systems"] == ["tiny.llm.bad", "tiny.llm.base", "tiny.llm.ctc"]
    assert len(data["utterances"]) == len(SENTENCES)
    worst = data["utterances"][0]
    assert worst["outputs"][0]["rate"] > 0 and worst["outputs"][0]["kinds"] != []
    texts = {each["reference"] for each in data["utterances"]}
    assert "read it </script> again" in texts  # which would end the data if it stood there as it is
    assert sum(each["audio"] is not None for each in data["utterances"]) == 2
    assert worst["audio"].startswith("data:audio/wav;base64,")
    for utterance in data["utterances"]:
        for output in utterance["outputs"]:
            said = [part[1] for part in output["aligned"] if part[1]]
            assert len(" ".join(said).split()) >= 4


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "OUT: found none, expected a sweep's output, or --published; see --help"),
        (["none"], "none: found no such directory, expected a sweep's output or a run"),
        (["."], ".: found no evaluated runs in it, expected a sweep's output or a run"),
        ([".", "--audio", "-1"], "--audio: found -1, expected at least 0"),
    ],
)
def test_mistakes_are_one_line(commands: Commands, tmp_path: Path, arguments: list[str], error: str) -> None:
    assert commands.at(tmp_path).speechllm("report", *arguments).user_error() == error


def test_runs_of_other_clips_are_refused(commands: Commands, out: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        rows = [replace(Hypothesis("x", "a", "a", "0.wav", 1.0, "en", "en"), id=name)]
        write_hypotheses(tmp_path / name / "evaluation/test/hypotheses.tsv", rows)
    assert "systems are compared on the same clips" in commands.speechllm("report", tmp_path).user_error()

