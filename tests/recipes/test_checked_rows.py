"""What would end a run after hours, or train nothing for hours, ends it before its first step."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.commands import Commands, System, metrics

LONG = "turn the kitchen light on and " * 10


def manifest_of(folder: Path, system: System, *, text: str, n_frames: str = "", lang: str = "en") -> Path:
    """Six rows; the language is the last one's."""
    rows = [
        f"c{i}\t{system.corpus}/train_{i}.{('wav', 'flac')[i % 2]}\t{n_frames}\t{text}\t{lang if i == 5 else 'en'}\n"
        for i in range(6)
    ]
    file = folder / f"{folder.name}.tsv"
    file.write_text("id\taudio\tn_frames\ttgt_text\tsrc_lang\n" + "".join(rows))
    return file


def test_a_language_without_a_name_in_the_last_row_to_validate(
    commands: Commands, system: System, tmp_path: Path
) -> None:
    dev = manifest_of(tmp_path, system, text="hello", lang="xx")
    config = system.write(tmp_path / "config.yaml", dataset__config_overrides__manifests=system.manifests(dev=dev))
    line = commands.recipe("train", tmp_path / "run", "--config-file", config).user_error()
    assert line.startswith(f"{dev}, line 7, id c5, column 'src_lang': found 'xx', expected a code of ISO 639")
    assert not (tmp_path / "run/metrics/train.jsonl").exists()
    # Where no prompt names a language, it needs no name; the log tells which there are.
    prompt = {"transcribe": "write what is said: <speech>"}
    config = system.write(
        tmp_path / "silent.yaml", dataset__config_overrides__manifests=system.manifests(dev=dev),
        model__config_overrides__prompt=prompt, regime__num_steps=4,
    )
    output = commands.recipe("train", tmp_path / "run", "--config-file", config).ok().output
    assert "Split dev: 6 clips" in output and "languages: en 5, xx 1." in output


def test_texts_that_ctc_can_never_align(commands: Commands, system: System, tmp_path: Path) -> None:
    train = manifest_of(tmp_path, system, text=LONG)
    changes = {
        "model__config_overrides__ctc__align_steps": 100, "regime__num_steps": 100,
        "regime__validate_every_n_steps": 100, "regime__checkpoint_every_n_steps": 100,
    }
    manifests = system.manifests(train=train)
    config = system.write(tmp_path / "config.yaml", dataset__config_overrides__manifests=manifests, **changes)
    line = commands.recipe("train", tmp_path / "run", "--config-file", config).user_error()
    assert line.startswith("ctc: CTC cannot align 6 of 6 rows of split 'train': 6 need more frames than they have")
    assert not (tmp_path / "run/metrics/train.jsonl").exists()
    # By lengths that are not true they could be aligned: the loss is 0 all the same, and the run does not go on.
    manifest_of(tmp_path, system, text=LONG, n_frames="2000")
    result = commands.recipe("train", tmp_path / "run", "--config-file", config)
    assert result.user_error().startswith(
        "training: found a gradient of 0 in each of the last 50 steps, up to step 50, expected a loss that trains"
    )
    assert "column 'n_frames': found a length of 20.02 s, but the audio lasts " in result.output


def test_a_context_that_is_longer_than_the_llm_takes(
    commands: Commands, system: System, trained: Path, tmp_path: Path
) -> None:
    """Positions of this one go on without end: beyond its training a clip is a warning, a prompt alone a mistake."""
    clip = system.corpus / "train_0.wav"
    rows = "".join(f"{name}\t{clip}\thello\t{context}\n" for name, context in (("a", ""), ("b", "street " * 5000)))
    (tmp_path / "test.tsv").write_text(f"id\taudio\ttgt_text\tcontext\n{rows}")
    result = commands.recipe(
        "evaluate", tmp_path / "out", "--checkpoint", trained, "--config", "dataset.splits=[test]",
        f"dataset.config_overrides.manifests.test={tmp_path / 'test.tsv'}",
    )  # fmt: skip
    line = result.user_error()
    assert line.startswith(f"{tmp_path / 'test.tsv'}, line 3, id b: found a prompt of ")
    assert "expected fewer than 4,096, what the LLM was trained on; shorten its context" in line
    assert "Token indices sequence length" not in result.output


def test_other_texts_are_another_run_unless_they_are_accepted(
    commands: Commands, system: System, trained: Path, tmp_path: Path
) -> None:
    run, config = tmp_path / "run", trained.parent / "config.yaml"
    shutil.copytree(trained, run)
    lines = (system.corpus / "train.tsv").read_text().replace("kitchen", "cellar").splitlines(keepends=True)
    train = tmp_path / "train.tsv"
    train.write_text("".join(lines))
    overrides = [
        f"dataset.config_overrides.manifests.train={train}", f"dataset.config_overrides.audio_root={system.corpus}",
        "regime.num_steps=8",
    ]
    line = commands.recipe("train", run, "--config-file", config, "--config", *overrides).user_error()
    assert "with other tgt_text; expected the same manifests in the same order, or dataset.accept_new_rows=true" in line
    overrides.append("dataset.accept_new_rows=true")
    output = commands.recipe("train", run, "--config-file", config, "--config", *overrides).ok().output
    assert "with other tgt_text; accepted (dataset.accept_new_rows), and a new epoch begins" in output
    assert [line["Step"] for line in metrics(run, "train")][-2:] == [7, 8]
