"""A small sweep's output, for tests of its report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

from speechllm_plugin.scoring.report import Hypothesis, write_hypotheses

SENTENCES = ["turn on the light", "what is the weather", "play <b>music</b> & more", "read it </script> again"] * 6


def write_run(folder: Path, corpus: Path, wrong: int) -> None:
    """A cell of a sweep, of whose clips every `wrong`th is heard wrongly."""
    rows = [
        Hypothesis(f"clip{i}", text, text if i % wrong else "something else", f"{i % 4}.wav", 1.0, "en", "en", text)
        for i, text in enumerate(SENTENCES)
    ]
    write_hypotheses(folder / "evaluation/test/hypotheses.tsv", rows)
    scores = {"speech_vectors_per_second": 5.0 + wrong, "rtf": 0.5, "cut_hypotheses": 0, "nll_loss": 1 / wrong}
    provenance = {
        "versions": {"torch": "2.9.1"}, "git": {"commit": "abc", "dirty": True},
        "checkpoint": {"path": "x", "sha256": {"model.pt": "f00"}},
        "manifests": [{"path": str(corpus / "test.tsv"), "sha256": "d00d"}],
    }
    (folder / "evaluation/test/scores.json").write_text(json.dumps({"scores": scores, "provenance": provenance}))
    (folder / "config.yaml").write_text("optimizer: {config: {lr: 5e-4}}\n")
    # What `speechllm inspect` said of it, kept by an earlier report.
    facts = {"encoder": {"frame_rate": 50.0}, "output": {"published": None}, "parameters": {"trainable": 8_060_000}}
    (folder / "inspect.json").write_text(json.dumps(facts))
    (folder / "metrics").mkdir()
    lines = [{"Step": step, "NLL Loss": 5 / step, "Total Time": 60.0 * step} for step in (1, 2, 3)]
    (folder / "metrics/train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_sweep(folder: Path) -> Path:
    """Three cells over the same clips, with sounds that can be played."""
    for number in range(4):
        soundfile.write(folder / f"{number}.wav", 0.1 * np.sin(np.arange(4000) / 9), 16000)
    for name, wrong in (("tiny.llm.base", 3), ("tiny.llm.ctc", 4), ("tiny.llm.bad", 1)):
        write_run(folder / "out" / name, folder, wrong)
    return folder / "out"
