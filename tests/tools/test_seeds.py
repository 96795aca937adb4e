"""`speechllm seeds`: what its table says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from speechllm_tools.cli import main
from speechllm_tools.demo.run import SPLITS


def write_run(root: Path, dtype: str, seed: int, wer: float) -> None:
    """What a trained and evaluated run leaves."""
    folder = root / "seeds" / dtype / str(seed)
    for split in SPLITS:
        (folder / "eval" / split).mkdir(parents=True)
        asr = {"wer": wer, "wer_low": wer / 2, "wer_high": 2 * wer}
        made = {"date_utc": "2026-01-02T03:04:05", "git": {"commit": "0123456789abcdef"},
                "versions": {"torch": "2.9.1", "fairseq2": "0.8.1", "transformers": "4.57.6"}}  # fmt: skip
        scores = {"asr": asr, "nll_loss": 0.1, "looping_hypotheses": seed}
        (folder / "eval" / split / "scores.json").write_text(json.dumps({"scores": scores, "provenance": made}))
    (folder / "eval" / ".completed").touch()
    (folder / "run" / "metrics").mkdir(parents=True)
    (folder / "run" / "metrics" / "train.jsonl").write_text('{"Total Time": 20}\n{"Total Time": 90}\n')


def test_runs_that_exist_become_a_table_with_its_range(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".completed").touch()
    for dtype, wer in (("bfloat16", 0.02), ("float32", 0.03)):
        for seed in (1, 2):
            write_run(tmp_path, dtype, seed, wer * seed)
    output = tmp_path / "seeds.md"
    assert main(["seeds", "--root", str(tmp_path), "--seeds", "1", "2", "--output", str(output)]) == 0
    page = output.read_text()
    assert "| float32 | 2 | 0.100 | 6.00 [3.00, 12.00] | 6.00 [3.00, 12.00] | 2 + 2 | 1.5 |" in page
    assert "voices heard in training: 2.00 to 6.00 %, mean 3.75; the demo expects at most 5" in page
    assert len([line for line in page.splitlines() if line.startswith(("| bfloat16", "| float32"))]) == 4


def test_without_the_demos_data_it_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["seeds", "--root", str(tmp_path), "--output", str(tmp_path / "seeds.md")]) == 2
    assert capsys.readouterr().err.startswith("speechllm seeds: error: --root: found no speech in")
