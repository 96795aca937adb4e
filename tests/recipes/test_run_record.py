"""The record by which a run directory knows its system: what is damaged, and what another version wrote."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq2.device import CPU
from fairseq2.gang import Gangs, create_fake_gangs
from speechllm_recipes.speech_llm.run_record import RUN_RECORD, check_run_record

from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig


@pytest.fixture
def gangs() -> Gangs:
    return create_fake_gangs(CPU)


@pytest.fixture
def run(tmp_path: Path, tiny_config: SpeechLlmConfig, gangs: Gangs) -> Path:
    """An output directory whose run has saved a step."""
    tiny_config.resolve()
    check_run_record(tmp_path, tiny_config, "float32", gangs)
    (tmp_path / "checkpoints/step_1").mkdir(parents=True)
    torch.save({}, tmp_path / "checkpoints/step_1/model.pt")
    return tmp_path


def refusal(run: Path, config: SpeechLlmConfig, gangs: Gangs) -> str:
    with pytest.raises(UserError) as caught:
        check_run_record(run, config, "float32", gangs)
    line = str(caught.value)
    assert line.startswith(f"{run / RUN_RECORD}: ") and "\n" not in line
    return line


def test_a_run_is_resumed_by_its_own_system_alone(run: Path, tiny_config: SpeechLlmConfig, gangs: Gangs) -> None:
    check_run_record(run, tiny_config, "float32", gangs)
    other = dataclasses.replace(tiny_config, frame_stack=2)
    assert "with frame_stack = 1, found 2" in refusal(run, other, gangs)


def test_a_model_that_moved_is_the_same(run: Path, tiny_config: SpeechLlmConfig, gangs: Gangs) -> None:
    tiny_config.llm.weights = "0123456789abcdef"
    check_run_record(run, tiny_config, "float32", gangs)  # not recorded yet: nothing to compare
    record = json.loads((run / RUN_RECORD).read_text())
    record["model"]["llm.weights"] = tiny_config.llm.weights
    (run / RUN_RECORD).write_text(json.dumps(record))
    moved = copy.deepcopy(tiny_config)
    moved.llm.config.path = "/elsewhere"  # type: ignore[attr-defined]
    check_run_record(run, moved, "float32", gangs)
    moved.encoder.config.path = "/elsewhere"  # type: ignore[attr-defined]
    assert "with encoder.config.path = " in refusal(run, moved, gangs)
    moved = copy.deepcopy(tiny_config)
    moved.llm.weights = "fedcba9876543210"
    assert "with llm.weights = '0123456789abcdef', found 'fedcba9876543210'" in refusal(run, moved, gangs)
    moved.llm.config.path = "/elsewhere"  # type: ignore[attr-defined]
    assert "with llm.config.path = " in refusal(run, moved, gangs)


def test_a_folder_that_is_no_step_is_none(run: Path, tiny_config: SpeechLlmConfig, gangs: Gangs) -> None:
    (run / "checkpoints/step_²").mkdir()
    check_run_record(run, tiny_config, "float32", gangs)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"processes": 1}', '{"processes": 1, "model": null}', '{"model": {}}',
             '{"processes": 1, "model": {"ctc": 0.1, "ctc.weight": 0.1}}'],
)
def test_a_damaged_record(run: Path, tiny_config: SpeechLlmConfig, gangs: Gangs, text: str) -> None:
    (run / RUN_RECORD).write_text(text)
    assert "found a damaged file" in refusal(run, tiny_config, gangs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"adapter.config.wings": 3}, "adapter.config.wings: found an unknown key"),
        ({"gone.key": 3}, "model.gone: found an unknown key"),
        ({"adapter.name": "mlq"}, "'mlq'"),
        ({"llm.config.dtype": "int4"}, "llm.config.dtype: found 'int4'"),
    ],
    ids=["a removed key", "a removed section", "a renamed part", "a value no longer allowed"],
)
def test_a_record_of_another_version(
    run: Path, tiny_config: SpeechLlmConfig, gangs: Gangs, change: dict[str, Any], words: str
) -> None:
    record = json.loads((run / RUN_RECORD).read_text())
    record["model"].update(change)
    (run / RUN_RECORD).write_text(json.dumps(record))
    line = refusal(run, tiny_config, gangs)
    assert "recorded by another version: " in line and words in line
