"""A checkpoint of one stack is read by another: the same tokens in float32. `make test-latest` runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.commands import ROOT, Commands, System, environment
from tests.waiting import LONGEST

OTHER = os.environ.get("SPEECHLLM_OTHER_PYTHON", "")
"""A Python with other versions of PyTorch and transformers, and without fairseq2."""

pytestmark = pytest.mark.skipif(not OTHER, reason="needs a second environment: make test-latest")

SAVE = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer, WhisperForConditionalGeneration
llm, whisper, folder = sys.argv[1:]
AutoModelForCausalLM.from_pretrained(llm).save_pretrained(f"{folder}/llm")
AutoTokenizer.from_pretrained(llm).save_pretrained(f"{folder}/llm")
WhisperForConditionalGeneration.from_pretrained(whisper).save_pretrained(f"{folder}/whisper")
"""


def other(*argv: object) -> str:
    python = OTHER if os.path.isabs(OTHER) else str(ROOT / OTHER)
    done = subprocess.run(
        [python, *map(str, argv)], env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=LONGEST
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    files = [folder / f"{number}.wav" for number in range(4)]
    for number, file in enumerate(files):
        times = np.arange(16000 * (number + 2) // 3) / 16000
        soundfile.write(file, 0.3 * np.sin(2 * np.pi * (250 + 170 * number) * times), 16000)
    return files


@pytest.mark.parametrize("adapter", ["mlp", "cif", "wlq_former"])
def test_both_stacks_write_the_same(
    commands: Commands, system: System, clips: list[Path], adapter: str, tmp_path: Path
) -> None:
    sizes = {"dim": 24, "num_heads": 4, "ffn_dim": 48}
    config = {"stack": 2, "hidden_dim": 48} if adapter == "mlp" else sizes
    changes = {
        "model__arch": f"whisper_tiny_en.smollm2_135m.{adapter}",
        "model__config_overrides__adapter": {"config": config},
        "model__config_overrides__encoder__config__dtype": "float32",
        "model__config_overrides__ctc": {"weight": 0.3},
        "regime__num_steps": 4,
    }
    commands.recipe("train", tmp_path / "run", "--config-file", system.write(tmp_path / "c.yaml", **changes)).ok()
    transcribe = ("transcribe", "--checkpoint", tmp_path / "run", *clips)
    for options in ((), ("--beam-size", 3), ("--repetition-penalty", 1.3, "--no-repeat-ngram-size", 3)):
        expected = commands.speechllm(*transcribe, *options).ok().stdout
        assert other("-m", "tests.without_fairseq2", *transcribe, *options) == expected
    # The frozen models as the other stack writes them.
    other("-c", SAVE, system.llm, system.whisper, tmp_path)
    moved = [f"--set=llm.config.path={tmp_path / 'llm'}", f"--set=encoder.config.path={tmp_path / 'whisper'}"]
    expected = commands.speechllm(*transcribe).ok().stdout
    assert commands.speechllm(*transcribe, *moved).ok().stdout == expected
    assert other("-m", "tests.without_fairseq2", *transcribe, *moved) == expected
