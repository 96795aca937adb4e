"""`speechllm bench robustness`: a trained system on clips as people record them."""

from __future__ import annotations

from pathlib import Path

import torch
from speechllm_tools.bench.robustness import AS_THEY_ARE, CHANGES, Row, table

from speechllm_plugin.inference.transcriber import load_speech_llm
from tests.commands import Commands, System


def test_a_run_is_decoded_with_every_change(
    commands: Commands, system: System, tiny_manifest: Path, tmp_path: Path
) -> None:
    config = system.write(tmp_path / "config.yaml", regime__num_steps=2, lr_scheduler__config__num_warmup_steps=1)
    commands.recipe("train", tmp_path / "run", "--config-file", config).ok()
    output = tmp_path / "table.md"
    done = commands.speechllm(
        "bench", "robustness", "--checkpoint", tmp_path / "run", "--manifest", tiny_manifest / "dev.tsv",
        "--clips", 2, "--output", output,
    ).ok()  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == list(CHANGES)
    page = output.read_text()
    assert "\n".join(lines) in page and "--clips 2" in page and f"torch {torch.__version__.split('+')[0]}" in page
    # As it is, a clip is what `transcribe` hears.
    model = load_speech_llm(tmp_path / "run")
    assert CHANGES[AS_THEY_ARE].added_seconds == 0
    assert len(model.transcribe([tiny_manifest / "dev_0.wav"])) == 1
    found = commands.speechllm("bench", "robustness", "--checkpoint", tmp_path / "run", "--manifest", tmp_path / "no")
    assert "no such file" in found.user_error()


def test_ratios_are_to_the_clips_as_they_are() -> None:
    rows = [Row(name=AS_THEY_ARE, wer=0.04, interval="4.0 [3.0, 5.0]", looping=0),
            Row(name="telephone", wer=0.06, interval="6.0 [4.5, 8.0]", looping=1)]
    assert table(rows).splitlines()[2:] == [
        "| as they are | 4.0 [3.0, 5.0] | 1.00 | 0 |", "| telephone | 6.0 [4.5, 8.0] | 1.50 | 1 |",
    ]  # fmt: skip
    perfect = [Row(name=AS_THEY_ARE, wer=0.0, interval="0.0 [0.0, 0.0]", looping=0)]
    assert table(perfect).splitlines()[-1] == "| as they are | 0.0 [0.0, 0.0] | - | 0 |"
