"""Training, evaluating and generating with small models of real classes on real audio files."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jiwer
import pytest
import sacrebleu

from speechllm_plugin.scoring.normalizers import normalize_basic
from speechllm_plugin.scoring.report import Hypothesis, read_hypotheses
from tests.commands import Commands, System, metrics

NLL = "NLL Loss"
CTC = "CTC Loss"
OTHER = "NLL Loss with another clip's audio"
WER = "Word Error Rate (WER)"


@pytest.fixture(scope="module")
def evaluated(commands: Commands, system: System, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of an evaluation of the trained run's last checkpoint."""
    output = tmp_path_factory.mktemp("evaluated") / "run"
    commands.recipe(
        "evaluate", output, "--checkpoint", trained, "--step", "last",
        "--config", f"dataset.config_overrides.manifests.test={system.corpus / 'test.tsv'}",
    ).ok()
    return output


def test_every_step_reports_what_it_trained_on(trained: Path) -> None:
    lines = metrics(trained, "train")
    assert [line["Step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    # Two steps on CTC alone, then CTC and the LLM. A loss that has no token is absent, not 0.
    assert [NLL in line for line in lines] == [False, False, True, True, True, True]
    for line in lines:
        assert line["Number of Examples"] == 3
        assert line["Gradient Norm"] > 0
        assert all(math.isfinite(value) for value in line.values())
        assert line[CTC] > 0
    # Twelve clips in batches of three: the fifth step opens the second epoch.
    assert [line["Data Epoch"] for line in lines] == [1, 1, 1, 1, 2, 2]


def test_validation_reports_losses_and_word_error_rate(trained: Path) -> None:
    lines = metrics(trained, "valid/dev")
    assert [line["Step"] for line in lines] == [2, 4, 6]
    for line in lines:
        assert line["Number of Examples"] == 4
        assert line[NLL] > 0 and line[OTHER] > 0 and line[NLL] != line[OTHER]
        assert line[WER] > 0


@pytest.mark.parametrize("name", ["train", "valid/dev"])
def test_tensorboard_holds_the_same_figures(trained: Path, name: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained / "tb" / name))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars(NLL)}
    expected = {line["Step"]: line[NLL] for line in metrics(trained, name) if NLL in line}
    assert found == pytest.approx(expected, rel=1e-6)
    assert len(found) >= 3


def test_checkpoints_hold_the_adapter_only(trained: Path, system: System) -> None:
    import torch

    steps = sorted(folder.name for folder in (trained / "checkpoints").glob("step_*"))
    # The last and the best one.
    assert steps[-1] == "step_6" and len(steps) <= 2
    (file,) = (trained / "checkpoints/step_6/model").rglob("*.pt")
    state = torch.load(file, weights_only=True)
    assert {key.split(".")[0] for key in state} == {"adapter", "ctc"}
    width, stack, hidden = 32, 2, 48
    shapes = {key: tuple(value.shape) for key, value in state.items() if key.startswith("adapter.")}
    assert shapes == {
        "adapter.input.weight": (hidden, stack * width), "adapter.input.bias": (hidden,),
        "adapter.output.weight": (width, hidden), "adapter.output.bias": (width,),
        "adapter.norm.weight": (width,), "adapter.norm.bias": (width,),
    }
    assert file.stat().st_size < (system.whisper / "model.safetensors").stat().st_size / 4


def test_running_a_finished_run_again_changes_nothing(commands: Commands, trained: Path) -> None:
    def content() -> dict[str, bytes]:
        files = [file for folder in ("checkpoints", "metrics") for file in (trained / folder).rglob("*")]
        return {str(file): file.read_bytes() for file in files if file.is_file()}

    before = content()
    result = commands.recipe("train", trained, "--config-file", trained.parent / "config.yaml").ok()
    assert "Resuming from step 6" in result.output
    assert content() == before


@pytest.fixture(scope="module")
def large_and_accumulated(
    commands: Commands, system: System, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Three epochs in steps of one batch of six, and of two batches of three: the same six clips in each step."""
    runs = []
    for batch_size, num_batches in ((6, 1), (3, 2)):
        folder = tmp_path_factory.mktemp("steps_of_six")
        file = system.write(
            folder / "config.yaml", dataset__batch_size=batch_size, trainer__grad_accumulation__num_batches=num_batches
        )
        commands.recipe("train", folder / "run", "--config-file", file).ok()
        runs.append(folder / "run")
    return runs[0], runs[1]


@pytest.mark.parametrize("name", ["train", "valid/dev"])
def test_accumulated_batches_equal_one_large_batch(large_and_accumulated: tuple[Path, Path], name: str) -> None:
    for large, accumulated in zip(*(metrics(run, name) for run in large_and_accumulated), strict=True):
        keys = [key for key in (NLL, CTC, OTHER) if key in large]
        assert len(keys) == 2
        # Rounding grows over the steps; a mean over batches instead of tokens would differ in the second digit. The
        # other clip is the neighbour in the batch, which the size of the batch decides.
        for key in set(keys) - {OTHER}:
            assert accumulated[key] == pytest.approx(large[key], rel=1e-4)


def test_training_lowers_the_loss(large_and_accumulated: tuple[Path, Path]) -> None:
    lines = metrics(large_and_accumulated[0], "train")
    first, last = ([line for line in lines if line["Data Epoch"] == epoch] for epoch in (1, 3))
    assert _mean(last, NLL) < _mean(first, NLL)
    assert _mean(last, CTC) < 0.9 * _mean(first, CTC)


def test_hypotheses_are_listed_in_the_order_of_the_manifest(evaluated: Path, system: System) -> None:
    rows = read_hypotheses(evaluated / "test/hypotheses.tsv")
    with (system.corpus / "test.tsv").open(newline="") as file:
        expected = list(csv.DictReader(file, delimiter="\t"))
    assert [(row.id, row.reference, row.source, row.src_lang, row.tgt_lang) for row in rows] == [
        (row["id"], row["tgt_text"], row["audio"], row["src_lang"], row["tgt_lang"]) for row in expected
    ]
    # 0.3 s and 1.35 s: the first two files.
    assert [row.duration for row in rows[:2]] == [0.3, 1.35]
    assert any(row.hypothesis for row in rows)


def test_transcriptions_are_scored_by_word_error_rate(evaluated: Path) -> None:
    rows = [row for row in read_hypotheses(evaluated / "test/hypotheses.tsv") if not row.is_translation]
    expected = jiwer.wer(
        [normalize_basic(row.reference) for row in rows], [normalize_basic(row.hypothesis) for row in rows]
    )
    scores = _scores(evaluated)["asr"]
    assert len(rows) == scores["utterances"] == 4
    assert scores["wer"] == pytest.approx(expected)
    assert (scores["normalizer"], scores["unit"]) == ("basic", "word")


def test_translations_are_scored_by_bleu_and_chrf_with_signatures(evaluated: Path) -> None:
    rows = [row for row in read_hypotheses(evaluated / "test/hypotheses.tsv") if row.is_translation]
    scores = _scores(evaluated)["st"]
    assert len(rows) == scores["utterances"] == 2
    hypotheses, references = [row.hypothesis for row in rows], [[row.reference for row in rows]]
    assert scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(hypotheses, references).score, rel=1e-3)
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(hypotheses, references).score, abs=1e-3)
    for name in ("bleu", "chrf"):
        assert f"version:{version('sacrebleu')}" in scores[f"{name}_signature"]
    assert "tok:13a" in scores["bleu_signature"]
    # Which counts no words: it is not what fairseq2 calls chrF++.
    log = (evaluated / "logs/rank_0.log").read_text()
    assert f"chrF2: {scores['chrf']:g}" in log and "chrF++" not in log


def test_scores_tell_whether_the_system_listens_and_how_fast_it_is(evaluated: Path) -> None:
    scores = _scores(evaluated)
    assert scores["nll_loss"] > 0 and scores["other_audio_loss"] > 0
    assert scores["nll_loss"] != scores["other_audio_loss"]
    assert scores["rtf"] > 0
    # Two of Whisper's 50 frames a second become one vector; a clip's last one counts in full.
    assert scores["speech_vectors_per_second"] == pytest.approx(25.0, rel=0.04)
    assert scores["skipped_clips"] == 0
    printed = (evaluated / "logs/rank_0.log").read_text()
    assert f"Word Error Rate (WER): {100 * scores['asr']['wer']:.6g}" in printed


def test_scores_name_all_that_they_depend_on(evaluated: Path, trained: Path, system: System) -> None:
    provenance = json.loads((evaluated / "test/scores.json").read_text())["provenance"]
    (file,) = (trained / "checkpoints/step_6/model").rglob("*.pt")
    assert provenance["checkpoint"]["sha256"] == {"pp_00/tp_00/sdp_00.pt": _sha256(file)}
    assert provenance["manifests"] == [
        {"path": str(system.corpus / "test.tsv"), "sha256": _sha256(system.corpus / "test.tsv")}
    ]
    assert provenance["versions"]["transformers"] == version("transformers")
    assert provenance["versions"]["jiwer"] == version("jiwer")
    assert provenance["config"]["decoding"]["beam_size"] == 1
    assert provenance["encoder"]["path"] == str(system.whisper)
    assert provenance["llm"]["path"] == str(system.llm)


def test_generate_needs_no_references(
    commands: Commands, system: System, trained: Path, evaluated: Path, tmp_path: Path
) -> None:
    expected = read_hypotheses(evaluated / "test/hypotheses.tsv")[:4]
    lines = [f"{row.id}\t{system.corpus / row.source}" for row in expected]
    (tmp_path / "plain.tsv").write_text("\n".join(["id\taudio", *lines]) + "\n")
    output = tmp_path / "generated"
    commands.recipe(
        "generate", output, "--checkpoint", trained, "--step", "last",
        "--config", f"dataset.config_overrides.manifests.test={tmp_path / 'plain.tsv'}",
    ).ok()
    found = read_hypotheses(output / "hypotheses.tsv")
    assert [_text(row) for row in found] == [_text(row) for row in expected]
    assert {row.reference for row in found} == {""}


def _mean(lines: list[dict[str, Any]], name: str) -> float:
    """Over the tokens of an epoch."""
    counts = [line["Number of Target Elements"] for line in lines]
    return sum(line[name] * count for line, count in zip(lines, counts, strict=True)) / sum(counts)


def _text(row: Hypothesis) -> tuple[str, str, float]:
    return row.id, row.hypothesis, row.duration


def _scores(evaluated: Path) -> dict[str, Any]:
    return json.loads((evaluated / "test/scores.json").read_text())["scores"]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
