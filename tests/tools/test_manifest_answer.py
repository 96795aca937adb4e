"""`speechllm manifest answer`: targets that a small LLM writes itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from speechllm_tools.manifest.written import Request
from speechllm_tools.prepare.kept import KeptResults

from speechllm_plugin.datasets.manifest import read_manifest
from speechllm_plugin.llms.causal import create_causal_llm
from speechllm_plugin.llms.causal_llm import CausalLlmConfig
from speechllm_plugin.pretrained.identity import identity_of
from tests.commands import Commands
from tests.conftest import SENTENCES
from tests.plugin.llm_families import save_family
from tests.tools.corpora.layouts import manifest, rows_of, write_lines

HEADER = "id\taudio\ttgt_text\tsrc_text\tsrc_lang\ttgt_lang\tmine"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """The tests' sentences; one is said twice, one row is a translation, one has no transcript."""
    rows = [f"c{number}\tc{number}.wav\t{text}\t\ten\ten\t{number}" for number, text in enumerate(SENTENCES)]
    rows.append(f"again\tagain.wav\t{SENTENCES[0]}\t\ten\ten\tx")
    rows.append(f"de\tde.wav\tStelle einen Wecker\t{SENTENCES[2]}\ten\tde\tx")
    rows.append("none\tnone.wav\tGuten Morgen\t\ten\tde\tx")
    return write_lines(tmp_path / "train.tsv", [HEADER, *rows])


def command(corpus: Path, llm: Path, output: Path, *more: object) -> list[object]:
    return ["answer", corpus, "--llm", llm, "--llm-config", "dtype=float32", "--max-tokens", 30, "--keep-cut",
            "--output", output, *more]  # fmt: skip


def test_answers_are_the_llms_own_and_no_row_is_lost(corpus: Path, tiny_llm: Path, tmp_path: Path) -> None:
    result = manifest(*command(corpus, tiny_llm, tmp_path / "out/answers.tsv")).ok()
    rows = {row["id"]: row for row in rows_of(tmp_path / "out/answers.tsv")}
    assert list(rows) == [*(f"c{number}" for number in range(len(SENTENCES))), "again", "de"]
    assert f"1 left out, no transcript; first: {corpus}, line 12" in result.stdout
    for number, text in enumerate(SENTENCES):
        row = rows[f"c{number}"]
        assert (row["src_text"], row["task"], row["mine"]) == (text, "answer", str(number))
        assert Path(tmp_path / "out" / row["audio"]) == corpus.parent / f"c{number}.wav"
    assert rows["again"]["tgt_text"] == rows["c0"]["tgt_text"]
    assert rows["de"]["src_text"] == SENTENCES[2]
    assert len({row["tgt_text"] for row in rows.values()}) > 5
    assert [row.task for row in read_manifest(tmp_path / "out/answers.tsv")] == ["answer"] * len(rows)
    story = json.loads((tmp_path / "out/answers.json").read_text())
    own = create_causal_llm(CausalLlmConfig(path=str(tiny_llm), dtype="float32"))
    assert story["llm"]["weights"] == identity_of(own)
    assert story["decoding"]["extra_tokens"] == 30
    assert story["rows"]["read"] == 11 and story["rows"]["kept"] == 10
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("decoding", [(), ("--decoding", "temperature=0.8", "seed=3")], ids=["greedy", "sampled"])
def test_a_batch_answers_as_single_requests_do(
    corpus: Path, tiny_llm: Path, tmp_path: Path, decoding: tuple[str, ...]
) -> None:
    for size in (1, 7):
        manifest(*command(corpus, tiny_llm, tmp_path / f"{size}.tsv", "--batch-size", size, *decoding)).ok()
    assert (tmp_path / "1.tsv").read_text() == (tmp_path / "7.tsv").read_text()


def test_a_rows_instruction_goes_before_that_of_the_command(corpus: Path, tiny_llm: Path, tmp_path: Path) -> None:
    lines = corpus.read_text().splitlines()
    own = ["instruction", "What is {this}: <speech>?", *[""] * (len(lines) - 2)]
    write_lines(corpus, [f"{line}\t{field}" for line, field in zip(lines, own, strict=True)])
    for name, more in (("own", ()), ("both", ("--instruction", "Name the room."))):
        manifest(*command(corpus, tiny_llm, tmp_path / f"{name}.tsv", *more)).ok()
    rows, both = rows_of(tmp_path / "own.tsv"), rows_of(tmp_path / "both.tsv")
    assert both[0] == rows[0] and both[0]["instruction"] == "What is {this}: <speech>?"
    assert {row["instruction"] for row in both[1:]} == {"Name the room."}
    assert rows[0]["tgt_text"] != rows[-2]["tgt_text"]  # the same words, asked otherwise
    assert sum(one["tgt_text"] != other["tgt_text"] for one, other in zip(rows[1:], both[1:], strict=True)) > 5
    write_lines(corpus, [line.replace("{this}", "<speech>") for line in corpus.read_text().splitlines()])
    line = manifest(*command(corpus, tiny_llm, tmp_path / "two.tsv")).user_error()
    assert line.startswith(f"{corpus}, line 2, column 'instruction': found 'What is <speech>: <speech>?', expected one")


def test_an_encoder_decoder_answers_too(corpus: Path, tmp_path: Path) -> None:
    llm = save_family("mt5", tmp_path / "llm")
    result = manifest(*command(corpus, llm, tmp_path / "out.tsv", "--max-tokens", 8))
    # Small and untrained, it may have nothing to say; what it was asked is counted all the same.
    found = result.stdout if result.status == 0 else result.user_error()
    assert "11 rows" in found


def test_after_a_kill_the_same_command_goes_on(
    corpus: Path, tiny_llm: Path, tmp_path: Path, commands: Commands
) -> None:
    def words(name: str) -> list[object]:
        return ["manifest", *command(corpus, tiny_llm, tmp_path / name, "--batch-size", 1, "--max-tokens", 150)]

    kept = tmp_path / ".killed.tsv.answers"
    assert commands.speechllm(*words("killed.tsv"), kill_when=(kept, "]\n[")).status != 0
    before = kept.read_text().count("]\n")
    assert before > 0 and not (tmp_path / "killed.tsv").exists()
    kept.write_text(kept.read_text() + '["cut off in the mid')
    result = commands.speechllm(*words("killed.tsv")).ok()
    assert f"going on after {before} answers" in result.stdout
    commands.speechllm(*words("whole.tsv")).ok()
    assert (tmp_path / "killed.tsv").read_text() == (tmp_path / "whole.tsv").read_text()


def test_answers_of_another_decoding_are_not_taken(corpus: Path, tiny_llm: Path, tmp_path: Path) -> None:
    kept = KeptResults(tmp_path / ".out.tsv.answers", "another")
    kept.add({Request(SENTENCES[0], "en", "en").key: {"text": "of another run", "cut": False}})
    kept.close()
    result = manifest(*command(corpus, tiny_llm, tmp_path / "out.tsv")).ok()
    assert "going on" not in result.stdout
    assert "of another run" not in (tmp_path / "out.tsv").read_text()


def test_mistakes_are_one_line(corpus: Path, tiny_llm: Path, tmp_path: Path) -> None:
    def error(*more: object) -> str:
        return manifest(*command(corpus, tiny_llm, tmp_path / "o.tsv", *more)).user_error()

    assert error("--max-tokens", 0) == "--max-tokens: found 0, expected at least 1"
    assert error("--decoding", "no_speech_level=-60").startswith("--decoding: found no_speech_level, expected keys")
    assert error("--output", corpus).startswith(f"--output: found {corpus}, one of the manifests")
    assert error("--llm-config", "dtipe=float32").startswith("llm.config")
    assert "o.tsv" not in {file.name for file in tmp_path.iterdir()}
