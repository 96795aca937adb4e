"""A trained system beside other weights of the same shape, and one from before weights were recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.yaml_text import parse_yaml
from speechllm_plugin.inference.transcriber import load_speech_llm


def test_a_checkpoint_knows_the_weights_that_it_was_trained_with(
    trained: Path, tiny_llm: Path, tiny_manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = [tiny_manifest / "test_0.wav"]
    text = load_speech_llm(trained).transcribe(clip)
    moved = shutil.copytree(tiny_llm, tmp_path / "moved")
    assert load_speech_llm(trained, overrides={"llm.config.path": str(moved)}).transcribe(clip) == text
    torch.manual_seed(99)
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_llm)).save_pretrained(moved)
    with pytest.raises(UserError, match=r"^llm\.config\.path: found other weights in .*moved than the checkpoint was"):
        load_speech_llm(trained, overrides={"llm.config.path": str(moved)})
    overrides = {"llm.config.path": str(moved), "other_weights": True}
    assert load_speech_llm(trained, overrides=overrides).transcribe(clip) != text
    assert "they are used, as other_weights says" in caplog.text


def test_a_checkpoint_that_tells_no_weights_is_loaded_with_a_line(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    file = run / "checkpoints/model.yaml"
    description = parse_yaml(file.read_text())
    for part in ("encoder", "llm"):
        assert len(description["model_config"][part].pop("weights")) == 16
    file.write_text(json.dumps(description))
    load_speech_llm(run)
    assert "does not tell the weights of its encoder and LLM: they are not compared" in caplog.text
