"""The ablations of SLM (arXiv 2310.00230): reckoned as they stand, and two cells of them run with small parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import speechllm_recipes

from speechllm_plugin.datasets.manifest import read_manifest, write_manifest
from speechllm_plugin.files.yaml_text import parse_yaml
from speechllm_plugin.scoring.report import read_hypotheses
from tests.commands import Commands, System
from tests.plugin.recognizer_checkpoints import write_whisper

SLM = Path(speechllm_recipes.__file__).parent / "configs" / "sweeps" / "slm.yaml"


def test_it_is_reckoned_without_weights(commands: Commands, tmp_path: Path) -> None:
    result = commands.recipe("sweep", tmp_path / "out", "--dry-run", "--config-file", SLM).ok()
    trained = {row.split()[0].removeprefix("whisper_large_v3.mt0_xxl_mt."): float(row.split()[1])
               for row in result.stdout.splitlines() if row.startswith("whisper")}  # fmt: skip
    depths = [trained[f"depth{depth}" if depth != 2 else "slm"] for depth in range(1, 9)]
    layer = depths[1] - depths[0]
    assert layer > 50 and all(b - a == pytest.approx(layer, abs=0.02) for a, b in zip(depths, depths[1:], strict=False))
    assert 600 < trained["tuned"] - trained["slm"] < 700  # Whisper large-v3's encoder
    assert {trained[name] for name in ("ratio2", "ratio8", "asr_alone", "st_alone", "answers_alone")} == {depths[1]}
    assert "14 cells, " in result.stdout and not (tmp_path / "out").exists()


def test_two_cells_run(commands: Commands, system: System, tmp_path: Path) -> None:
    """A mixture in one layer, and the cascade: from the file's own entries, with small parts and data."""
    values = parse_yaml(SLM.read_text())
    rows = [row.__class__(**{**vars(row), "audio": str(system.corpus / row.audio), "task": task, "src_text": "hm"})
            for row, task in zip(read_manifest(system.corpus / "dev.tsv"), ("transcribe", "answer") * 2, strict=True)]
    write_manifest(tmp_path / "answers.tsv", [row for row in rows if row.task == "answer"])
    write_manifest(tmp_path / "asr.tsv", [row for row in rows if row.task == "transcribe"])
    base = system.config()
    base["model"]["config_overrides"] |= {"adapter": {"name": "subsample", "config": {
        "dim": 32, "num_heads": 4, "ffn_dim": 64}}, "ctc": {"weight": 0.0}}  # fmt: skip
    small = {"answers": tmp_path / "answers.tsv", "asr": tmp_path / "asr.tsv"}
    base["dataset"] |= {"train_split": ["asr", "answers"], "valid_splits": [], "batch_size": 2}
    base["dataset"]["config_overrides"]["manifests"] = {
        **{split: str(file) for split, file in small.items()}, "test_asr": str(small["asr"]),
        "test_answers": str(small["answers"]),
    }  # fmt: skip
    base["regime"] = {"num_steps": 2, "checkpoint_every_n_steps": 2, "score_metric": None,
                      "keep_best_n_checkpoints": None}  # fmt: skip
    base["lr_scheduler"]["config"]["num_warmup_steps"] = 1
    recognizer = write_whisper(tmp_path / "recognizer", multilingual=True)
    values["base"], values["evaluate"] = base, {"dataset": {"splits": ["test_asr", "test_answers"]}}
    values["axes"]["encoder"], values["axes"]["llm"] = {"tiny": {}}, {"tiny": {}}
    values["cascade"] = {"recognizer": {"config": {"path": str(recognizer), "dtype": "float32"}},
                         "llm": {"config": {"path": str(system.llm), "dtype": "float32"}}}  # fmt: skip
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps(values))
    names = ["tiny.tiny.depth1", "cascade"]
    command = ("sweep", tmp_path / "out", "--config-file", file, "--only", *names)
    result = commands.recipe(*command).ok()
    assert "2 of 2 cells are finished" in result.output
    for name in names:
        for split in ("test_asr", "test_answers"):
            folder = tmp_path / "out" / name / "evaluation" / split
            assert len(read_hypotheses(folder / "hypotheses.tsv")) == 2
            scores = json.loads((folder / "scores.json").read_text())["scores"]
            assert ("answers" in scores) == (split == "test_answers")
    assert not (tmp_path / "out/cascade/sweep.train.yaml").exists()
    assert "cascade: finished before" in commands.recipe(*command).ok().output
