"""`speechllm export --format hf`: transformers loads the folder in a process of its own, and writes the same tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from speechllm_plugin import Transcriber, load_speech_llm
from tests.commands import ROOT, Commands, System, environment
from tests.waiting import LONGEST

LOAD = """
import json, sys
import numpy
import speechllm_plugin.hf
from transformers import AutoConfig, AutoModel, AutoProcessor

clips = [numpy.asarray(clip, dtype="float32") for clip in json.load(open(sys.argv[1]))]
for folder in sys.argv[2:]:
    assert AutoConfig.from_pretrained(folder).model_type == "speech_llm"
    model = AutoModel.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(clips, sampling_rate=16000, return_tensors="pt", padding=True)
    tokens = model.generate(**inputs)
    texts = processor.batch_decode(tokens, skip_special_tokens=True)
    model.save_pretrained(folder + "-again")
    again = AutoModel.from_pretrained(folder + "-again").generate(**inputs)
    beams = model.generate(**inputs, beam_size=2, tokens_per_second=4.0)
    print(json.dumps([tokens.tolist(), texts, again.tolist(), beams.tolist()]))
"""
PLAIN = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert "speechllm_plugin" not in sys.modules
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("turn the light on", return_tensors="pt")
print(model(**ids).logits[0, -1].tolist())
"""


def python(program: str, *arguments: object) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, env=environment(), capture_output=True,
        text=True, check=False, timeout=LONGEST,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def tokens_of(system: Transcriber, clips: list[np.ndarray], **decoding: object) -> list[list[int]]:
    with torch.inference_mode():
        _, generated = system.model.generate(system.read(clips, "en", None), system.decoding.changed(decoding))
    return [row.tokens for row in generated]


@pytest.fixture(scope="module")
def exported(
    commands: Commands, tuned: Path, clips: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Path], dict[str, list]]:
    """Three exports of one run, the folders of which have moved since, and what transformers makes of them."""
    place, moved = tmp_path_factory.mktemp("exports"), tmp_path_factory.mktemp("moved") / "here"
    options = {"named": (), "copied": ("--with-frozen",), "merged": ("--with-frozen", "--merge-lora")}
    for name, flags in options.items():
        commands.speechllm("export", tuned, place / name, "--format", "hf", *flags).ok()
    place.rename(moved)
    (moved / "clips.json").write_text(json.dumps([clip.tolist() for clip in clips]))
    lines = python(LOAD, moved / "clips.json", *(moved / name for name in options))
    return (
        {name: moved / name for name in options},
        dict(zip(options, map(json.loads, lines), strict=True)),
    )


@pytest.mark.parametrize("name", ["named", "copied", "merged"])
def test_transformers_writes_the_same_tokens(
    exported: tuple[dict[str, Path], dict[str, list]], tuned: Path, clips: list[np.ndarray], name: str
) -> None:
    system = load_speech_llm(tuned, device="cpu")
    tokens, texts, again, beams = exported[1][name]
    padding = system.model.llm.tokenizer.pad_token_id

    def cut(rows: list[list[int]], expected: list[list[int]]) -> list[list[int]]:
        assert {len(row) for row in rows} == {max(map(len, expected))}
        assert all(set(row[len(own) :]) <= {padding} for row, own in zip(rows, expected, strict=True))
        return [row[: len(own)] for row, own in zip(rows, expected, strict=True)]

    expected = tokens_of(system, clips)
    assert len({tuple(row) for row in expected}) == 4 and all(expected)
    assert cut(tokens, expected) == expected
    assert [text.strip() for text in texts] == system.transcribe(clips)
    assert cut(again, expected) == expected
    expected_beams = tokens_of(system, clips, beam_size=2, tokens_per_second=4.0)
    assert expected_beams != expected
    assert cut(beams, expected_beams) == expected_beams
    # The updates do something: without them these clips have other texts.
    for weights in system.model.tuned["llm"].parameters():
        weights.data.zero_()
    assert tokens_of(system, clips) != expected


def test_a_folder_holds_what_it_says(exported: tuple[dict[str, Path], dict[str, list]], system: System) -> None:
    folders = exported[0]
    paths = {}
    for name, folder in folders.items():
        values = json.loads((folder / "config.json").read_text())["system"]
        paths[name] = [values[part]["config"]["path"] for part in ("encoder", "llm")]
        updates = [key for key in load_file(folder / "model.safetensors") if "lora" in key]
        assert len(updates) == (0 if name == "merged" else 8)
        assert values["llm_tuning"]["lora_rank"] == (0 if name == "merged" else 2)
    assert paths["named"] == [str(system.whisper), str(system.llm)]
    assert paths["copied"] == paths["merged"] == ["./encoder", "./llm"]
    assert (folders["copied"] / "llm/model.safetensors").read_bytes() == (system.llm / "model.safetensors").read_bytes()


def test_the_merged_llm_is_a_plain_checkpoint(exported: tuple[dict[str, Path], dict[str, list]], tuned: Path) -> None:
    (line,) = python(PLAIN, exported[0]["merged"] / "llm")
    llm = load_speech_llm(tuned, device="cpu").model.llm
    ids = llm.tokenizer("turn the light on", return_tensors="pt")
    model = llm.model  # type: ignore[attr-defined]
    expected = model(**ids).logits[0, -1]
    torch.testing.assert_close(torch.tensor(json.loads(line)), expected, atol=1e-5, rtol=1e-5)
