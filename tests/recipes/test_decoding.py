"""A checkpoint decodes the same in the validation of its run, in `evaluate`, in `generate` and in `transcribe`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechllm_plugin.scoring.report import Hypothesis, read_hypotheses
from tests.commands import Commands, System, metrics

DECODING = {"extra_tokens": 3, "tokens_per_second": 1.0, "no_repeat_ngram_size": 1}


@pytest.fixture(scope="module")
def run(commands: Commands, system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was told to write little, trained in the recipe's own mixed precision."""
    folder = tmp_path_factory.mktemp("short")
    config = system.write(
        folder / "config.yaml", decoding=DECODING, regime__num_steps=2, lr_scheduler__config__num_warmup_steps=1,
        trainer__mixed_precision={}, dataset__batch_size=4,
    )
    commands.recipe("train", folder / "run", "--config-file", config).ok()
    return folder / "run"


def keys(system: System, *more: str) -> list[str]:
    manifests = [f"dataset.config_overrides.manifests.{name}={system.corpus / name}.tsv" for name in ("dev", "test")]
    return ["--config", *manifests, "dataset.batch_size=4", *more]


def texts(rows: list[Hypothesis]) -> list[list[str]]:
    """Without the white space, of which the TSV has less kinds than a tiny LLM."""
    return [row.hypothesis.split() for row in rows]


def scores(output: Path, split: str) -> dict[str, Any]:
    return json.loads((output / split / "scores.json").read_text())["scores"]


@pytest.fixture(scope="module")
def evaluated(commands: Commands, system: System, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluated") / "scores"
    commands.recipe("evaluate", output, "--checkpoint", run, *keys(system, "dataset.splits=[dev,test]")).ok()
    return output


def test_validation_and_evaluation_agree_to_the_last_digit(run: Path, evaluated: Path) -> None:
    """Training multiplies in bfloat16; what is published does not, and the best checkpoint is chosen by it."""
    (validated,) = metrics(run, "valid/dev")
    found = scores(evaluated, "dev")
    assert found["nll_loss"] == validated["NLL Loss"]
    assert found["other_audio_loss"] == validated["NLL Loss with another clip's audio"]
    assert 100 * found["asr"]["wer"] == pytest.approx(validated["Word Error Rate (WER)"], rel=1e-6)
    log = (run / "logs/rank_0.log").read_text()
    assert "Validation computes without autocast, as evaluate, generate and transcribe do: encoder float32" in log


def test_evaluate_generate_and_transcribe_decode_as_the_run(
    commands: Commands, system: System, run: Path, evaluated: Path, tmp_path: Path
) -> None:
    rows = read_hypotheses(evaluated / "dev/hypotheses.tsv")
    # At most three tokens and one for each second: far from the defaults.
    assert any(row.hypothesis for row in rows) and max(len(row.hypothesis) for row in rows) < 60
    result = commands.recipe("generate", tmp_path / "out", "--checkpoint", run, *keys(system, "dataset.split=dev")).ok()
    assert "Decoding as in the training run (beam_size=1, tokens_per_second=1.0, extra_tokens=3" in result.output
    assert texts(read_hypotheses(tmp_path / "out/hypotheses.tsv")) == texts(rows)
    files = [system.corpus / row.source for row in rows]
    spoken = commands.speechllm("transcribe", "--checkpoint", run, *files).ok()
    assert [line.partition("\t")[2].split() for line in spoken.stdout.split("\n")[:-1]] == texts(rows)
    assert "decoding as in the training run (beam_size=1" in spoken.stderr


def test_keys_are_changed_one_by_one(commands: Commands, system: System, run: Path, tmp_path: Path) -> None:
    options = keys(system, "dataset.splits=dev", "decoding.extra_tokens=6", "wer_normalizer=whisper_basic",
                   "dataset.config_overrides.clean_text=marks")
    result = commands.recipe("evaluate", tmp_path / "long", "--checkpoint", run, *options).ok()
    assert "Decoding as in the training run, but for extra_tokens=6 (" in result.output
    assert "clean_text: found marks, but the run was trained with none" in " ".join(result.output.split())
    content = json.loads((tmp_path / "long/dev/scores.json").read_text())
    recorded = content["provenance"]["config"]["decoding"]
    assert {name: recorded[name] for name in DECODING} == {**DECODING, "extra_tokens": 6}
    assert content["scores"]["asr"]["normalizer"] == "whisper_basic"
    for action, key, message in (
        ("evaluate", "decoding.beams=2", "decoding.beams: found an unknown key, expected one of beam_size"),
        ("generate", "decoding.seed=x", "decoding.seed: found 'x', expected int"),
    ):
        line = commands.recipe(action, tmp_path / "wrong", "--checkpoint", run, *keys(system, key)).user_error()
        assert line.startswith(message)


def test_references_that_no_hypothesis_can_reach_are_told_before_training_and_scoring(
    run: Path, evaluated: Path
) -> None:
    log = (run / "logs/rank_0.log").read_text()
    for split, size in (("train", 12), ("dev", 4)):
        assert f"Split {split}: 100.0% of {size} references are longer than a hypothesis may be (1 tokens a" in log
    assert "Split test: 100.0% of 6 references are longer" in (evaluated / "logs/rank_0.log").read_text()
    assert scores(evaluated, "test")["references_beyond_limit"] == 1.0


def test_scores_tell_the_arithmetic(evaluated: Path) -> None:
    provenance = json.loads((evaluated / "dev/scores.json").read_text())["provenance"]
    assert provenance["clean_text"] == "none"
    assert provenance["arithmetic"] == {
        "device": "cpu", "batch_size": 4, "max_batch_seconds": None, "autocast": None,
        "dtypes": {"encoder": "float32", "llm": "float32", "adapter": "float32"},
    }


def test_the_limit_comes_from_the_training_references_and_stays_the_runs(
    commands: Commands, system: System, tmp_path: Path
) -> None:
    config = system.write(
        tmp_path / "config.yaml", decoding={"tokens_per_second": None}, dataset__valid_decode=False,
        regime__score_metric="nll_loss", regime__num_steps=2, lr_scheduler__config__num_warmup_steps=1,
    )
    run = tmp_path / "run"
    commands.recipe("train", run, "--config-file", config).ok()
    kept = run / "checkpoints/decoding.json"
    rate = json.loads(kept.read_text())["decoding"]["tokens_per_second"]
    # Sentences of up to eight words in clips of which some have less than a second.
    assert 8 < rate < 100
    assert f"tokens_per_second={rate}" in (run / "logs/rank_0.log").read_text()
    # Resumed, the run goes on with what it has.
    content = json.loads(kept.read_text())
    kept.write_text(json.dumps({"decoding": {**content["decoding"], "tokens_per_second": 77.0}}))
    commands.recipe("train", run, "--config-file", config).ok()
    assert json.loads(kept.read_text())["decoding"]["tokens_per_second"] == 77.0


def test_clips_without_speech_are_scored_and_guarded(
    commands: Commands, system: System, run: Path, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "still.wav", np.zeros(8000, dtype=np.float32), 16000)
    manifest = tmp_path / "test.tsv"
    manifest.write_text(f"id\taudio\ttgt_text\nstill\tstill.wav\t\nsaid\t{system.corpus / 'dev_0.wav'}\tturn it on\n")
    options = [
        "--checkpoint", run, "--config", f"dataset.config_overrides.manifests.test={manifest}",
        "dataset.config_overrides.empty_text=silence",
    ]
    commands.recipe("evaluate", tmp_path / "open", *options).ok()
    found = scores(tmp_path / "open", "test")
    assert found["silence"]["clips"] == 1 and found["silence"]["seconds"] == 0.5
    assert found["silence"]["words_per_minute"] == 120.0 * found["silence"]["words"]
    assert found["no_speech_clips"] == 0 and not (tmp_path / "open/test/no_speech.tsv").exists()
    assert "Words per minute of silence: " in (tmp_path / "open/logs/rank_0.log").read_text()
    commands.recipe("evaluate", tmp_path / "guarded", *options, "decoding.no_speech_level=-60").ok()
    found = scores(tmp_path / "guarded", "test")
    assert found["silence"]["words"] == 0 and found["no_speech_clips"] == 1
    assert (tmp_path / "guarded/test/no_speech.tsv").read_text() == "id\treason\nstill\tlevel -inf dB\n"
    cached = ["decoding.no_speech_level=-60", f"dataset.feature_cache={tmp_path / 'cache'}"]
    line = commands.recipe("evaluate", tmp_path / "cached", *options, *cached).user_error()
    assert line.startswith("decoding.no_speech_level: found -60.0 with dataset.feature_cache, expected null")
