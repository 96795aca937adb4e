"""`speechllm manifest vocabulary`, and training on what it writes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import sentencepiece

from speechllm_plugin.datasets.manifest import read_manifest, write_manifest
from speechllm_plugin.files.yaml_text import parse_yaml
from tests.commands import Commands, System, metrics


def test_from_transcripts_to_a_trained_and_reloaded_system(
    commands: Commands, system: System, tiny_manifest: Path, tmp_path: Path
) -> None:
    model = tmp_path / "ctc.model"
    result = commands.speechllm(
        "manifest", "vocabulary", tiny_manifest / "train.tsv", tiny_manifest / "dev.tsv", "--size", "40",
        "--output", model,
    ).ok()
    assert "40 pieces from 16 transcripts (16 of them from tgt_text)" in result.stdout

    ctc = {"weight": 0.3, "classifier": "sentencepiece", "vocabulary": str(model)}
    config = system.write(
        tmp_path / "config.yaml", model__config_overrides__ctc=ctc, regime__num_steps=2,
        lr_scheduler__config__num_warmup_steps=1,
        # All of Whisper's frames: pieces so small need many.
        model__config_overrides__adapter={"config": {"stack": 1, "hidden_dim": 48}},
    )
    commands.recipe("train", tmp_path / "run", "--config-file", config).ok()
    assert all(line["CTC Loss"] > 0 for line in metrics(tmp_path / "run", "train"))

    # As many pieces under the same name, but other labels.
    resolved = parse_yaml((tmp_path / "run/checkpoints/model.yaml").read_text())["model_config"]["ctc"]
    before = hashlib.sha256(model.read_bytes()).hexdigest()
    assert (resolved["vocabulary_size"], resolved["vocabulary_sha256"]) == (40, before)
    commands.speechllm(
        "manifest", "vocabulary", tiny_manifest / "train.tsv", "--size", "40", "--type", "bpe", "--output", model
    ).ok()
    now = hashlib.sha256(model.read_bytes()).hexdigest()
    clip = read_manifest(tiny_manifest / "dev.tsv")[0].audio
    transcribe = ("transcribe", "--checkpoint", tmp_path / "run", tiny_manifest / clip)
    # The checkpoint has its own.
    commands.speechllm(*transcribe, "--timestamps").ok()
    line = commands.speechllm(*transcribe, "--timestamps", "--set", f"ctc.vocabulary={model}").user_error()
    assert f"{model} has the SHA-256 {now}" in line and before in line
    line = commands.recipe("train", tmp_path / "run", "--config-file", config).user_error()
    assert f"ctc.vocabulary_sha256 = {before!r}, found {now!r}" in line

    # What the run needs is in its folder, wherever that is; a new run has none.
    model.unlink()
    run = (tmp_path / "run").rename(tmp_path / "moved run")
    options = ("--config-file", config, "--config", "regime.num_steps=4")
    output = commands.recipe("train", run, *options).ok().output
    assert f"{model} is gone; the vocabulary of CTC is read from {run / 'checkpoints/ctc_vocabulary.model'}" in output
    assert "Resuming from step 2" in output
    commands.speechllm("transcribe", "--checkpoint", run, tiny_manifest / clip, "--timestamps").ok()
    commands.recipe("train", tmp_path / "tuned", *options, "--init-from", run).ok()
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


def test_the_number_of_pieces_is_that_of_the_file(commands: Commands, tiny_manifest: Path, tmp_path: Path) -> None:
    model = tmp_path / "char.model"
    result = commands.speechllm(
        "manifest", "vocabulary", tiny_manifest / "train.tsv", "--output", model, "--type", "char"
    ).ok()
    size = sentencepiece.SentencePieceProcessor(model_file=str(model)).get_piece_size()
    assert size < 1000
    assert f"{model}: {size} pieces from 12 transcripts" in result.stdout


def test_a_manifest_is_not_overwritten(commands: Commands, tiny_manifest: Path, tmp_path: Path) -> None:
    manifest, again = tmp_path / "train.tsv", tmp_path / "train.tsv.link"
    content = (tiny_manifest / "train.tsv").read_bytes()
    manifest.write_bytes(content)
    again.symlink_to(manifest)
    # Nothing is read before: the last manifest is not there.
    files = (tmp_path / "dev.tsv", manifest, tmp_path / "gone.tsv")
    for output in (manifest, tmp_path / "x" / ".." / "train.tsv", again):
        (tmp_path / "x").mkdir(exist_ok=True)
        result = commands.speechllm("manifest", "vocabulary", *files, "--size", "40", "--output", output)
        assert result.status == 2
        assert f"--output: found {output}, the manifest {manifest} itself, expected" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert manifest.read_bytes() == content
