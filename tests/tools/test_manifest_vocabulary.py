"""`speechllm manifest vocabulary`, and training on what it writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece

from speechllm_plugin.datasets.manifest import read_manifest, write_manifest
from tests.commands import Commands, System, metrics


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    commands = Commands(tmp_path_factory.mktemp("commands"))
    yield commands
    commands.close()


def test_from_transcripts_to_a_trained_and_reloaded_system(
    commands: Commands, tiny_whisper: Path, tiny_llm: Path, tiny_manifest: Path, tmp_path: Path
) -> None:
    model = tmp_path / "ctc.model"
    result = commands.speechllm(
        "manifest", "vocabulary", tiny_manifest / "train.tsv", tiny_manifest / "dev.tsv", "--size", "40",
        "--output", model,
    ).ok()
    assert "40 pieces from 16 transcripts (16 of them from tgt_text)" in result.stdout

    system = System(tiny_whisper, tiny_llm, tiny_manifest)
    ctc = {"weight": 0.3, "classifier": "sentencepiece", "vocabulary": str(model)}
    config = system.write(
        tmp_path / "config.yaml", model__config_overrides__ctc=ctc, regime__num_steps=2,
        lr_scheduler__config__num_warmup_steps=1,
        # All of Whisper's frames: pieces so small need many.
        model__config_overrides__adapter={"config": {"stack": 1, "hidden_dim": 48}},
    )
    commands.recipe("train", tmp_path / "run", "--config-file", config).ok()
    assert all(line["CTC Loss"] > 0 for line in metrics(tmp_path / "run", "train"))

    # Decoding knows the number of pieces without the file.
    model.unlink()
    clip = read_manifest(tiny_manifest / "dev.tsv")[0].audio
    commands.speechllm("transcribe", "--checkpoint", tmp_path / "run", tiny_manifest / clip).ok()
    result = commands.recipe("train", tmp_path / "again", "--config-file", config)
    assert result.status == 2
    assert f"model.config_overrides.ctc.vocabulary: no file {model}" in result.output


def test_the_transcript_is_the_source_text_where_there_is_one(
    commands: Commands, tiny_manifest: Path, tmp_path: Path
) -> None:
    rows = read_manifest(tiny_manifest / "train.tsv")
    write_manifest(tmp_path / "st.tsv", [replace(row, src_text=row.tgt_text, tgt_text="ж") for row in rows])
    result = commands.speechllm(
        "manifest", "vocabulary", tmp_path / "st.tsv", "--size", "40", "--output", tmp_path / "st.model",
        "--type", "bpe",
    ).ok()
    assert "(0 of them from tgt_text)" in result.stdout
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "st.model"))
    assert "ж" not in {processor.id_to_piece(piece) for piece in range(40)}


def test_an_impossible_size_is_one_line(commands: Commands, tiny_manifest: Path, tmp_path: Path) -> None:
    for size, line in (("1", "--size: found 1"), ("9000", "cannot make 9000 pieces from 12 texts")):
        result = commands.speechllm(
            "manifest", "vocabulary", tiny_manifest / "train.tsv", "--size", size, "--output", tmp_path / "x.model"
        )
        assert result.status == 2
        assert line in result.stderr
        assert len(result.stderr.splitlines()) == 1
