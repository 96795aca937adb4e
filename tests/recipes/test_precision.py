"""`dtype: auto` in the commands, on this machine and on one that multiplies float32 alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from speechllm_plugin.files.yaml_text import parse_yaml
from speechllm_plugin.tensors.precision import machine_precision
from tests.commands import Commands, System

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
"""Takes from any x86 the instructions by which it could multiply bfloat16; an Arm has none by its name."""
FLOAT32 = "this CPU does not multiply bfloat16 in hardware"
ALL = ("encoder", "llm", "mixed_precision")


def write(system: System, file: Path, dtype: str | None, steps: int) -> Path:
    """A run whose frozen and trained parts all have the given dtype; None = the defaults, which are `auto`."""
    given = {} if dtype is None else {"dtype": dtype}
    # The architecture's own encoder is in float32.
    encoder = {"arch": None, "config": {"path": str(system.whisper), "pad_to_30s": False, "dtype": dtype or "auto"}}
    return system.write(
        file,
        model__config_overrides__encoder=encoder,
        model__config_overrides__llm={"arch": None, "config": {"path": str(system.llm), **given}},
        trainer__mixed_precision=given,
        regime__num_steps=steps,
        lr_scheduler__config__num_warmup_steps=1,
        dataset__feature_cache=str(file.parent / "features"),
    )


def recorded(run: Path) -> dict[str, str]:
    record = json.loads((run / "run.json").read_text())
    saved = parse_yaml((run / "checkpoints/model.yaml").read_text())["model_config"]
    for part in ALL[:2]:
        assert saved[part]["config"]["dtype"] == record["model"][f"{part}.config.dtype"]
    return {"mixed_precision": record["mixed_precision"], **{
        part: saved[part]["config"]["dtype"] for part in ALL[:2]
    }}


@pytest.fixture(scope="module")
def begun_in_bfloat16(commands: Commands, system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bfloat16")
    commands.recipe("train", folder / "run", "--config-file", write(system, folder / "a.yaml", "bfloat16", 2)).ok()
    return folder / "run"


@pytest.mark.parametrize("env", [{}, AVX2], ids=["this machine", "AVX2"])
def test_auto_is_recorded_as_what_the_machine_multiplies(
    commands: Commands, system: System, tmp_path: Path, env: dict[str, str]
) -> None:
    machine = machine_precision("cpu")
    expected, reason = ("float32", FLOAT32) if env else (machine.auto, machine.reason)
    result = commands.recipe(
        "train", tmp_path / "run", "--config-file", write(system, tmp_path / "a.yaml", None, 2), env=env
    ).ok()
    assert recorded(tmp_path / "run") == dict.fromkeys(ALL, expected)
    used = f"encoder {expected}, LLM {expected}, trained parts {expected}"
    assert f"Precision: {used}; `auto` is {expected} here: {reason}" in unwrapped(result.output)


def test_a_run_that_is_resumed_elsewhere_keeps_its_precision(
    commands: Commands, system: System, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for dtype, env in (("bfloat16", AVX2), ("float32", {})):
        commands.recipe("train", run / dtype, "--config-file", write(system, tmp_path / "a.yaml", dtype, 2)).ok()
        result = commands.recipe(
            "train", run / dtype, "--config-file", write(system, tmp_path / "b.yaml", None, 4), env=env
        ).ok()
        assert "Resuming from step 2" in unwrapped(result.output)
        assert recorded(run / dtype) == dict.fromkeys(ALL, dtype)
        here = "float32" if env else machine_precision("cpu").auto
        kept = f"{dtype}; the run goes on in what it began in, although `auto` is {here} here: "
        assert (kept in unwrapped(result.output)) == (here != dtype)


def test_a_run_of_before_auto_goes_on_in_bfloat16(
    commands: Commands, system: System, begun_in_bfloat16: Path, tmp_path: Path
) -> None:
    record = json.loads((begun_in_bfloat16 / "run.json").read_text())
    del record["mixed_precision"]
    (begun_in_bfloat16 / "run.json").write_text(json.dumps(record))
    result = commands.recipe(
        "train", begun_in_bfloat16, "--config-file", write(system, tmp_path / "b.yaml", None, 4), env=AVX2
    ).ok()
    assert "trained parts bfloat16; the run goes on in what it began in" in unwrapped(result.output)


def test_a_checkpoint_is_decoded_in_what_the_machine_multiplies(
    commands: Commands, system: System, begun_in_bfloat16: Path, tmp_path: Path
) -> None:
    """In float32 where that is not the precision of the training, unless the user says otherwise."""

    def scores(name: str, *config: str) -> dict[str, Any]:
        result = commands.recipe(
            "evaluate", tmp_path / name, "--checkpoint", begun_in_bfloat16, "--config", "dataset.splits=[dev]",
            f"dataset.config_overrides.manifests.dev={system.corpus}/dev.tsv", *config, env=AVX2,
        ).ok()
        provenance = json.loads((tmp_path / name / "dev/scores.json").read_text())["provenance"]
        used = {part: provenance[part]["dtype"] for part in ("encoder", "llm")}
        assert {part: provenance["precision"][part] for part in used} == used
        assert f"Precision: encoder {used['encoder']}, LLM {used['llm']}; trained in: " in unwrapped(result.output)
        return provenance["precision"]

    trained = {"encoder": "bfloat16", "llm": "bfloat16"}
    here = {"trained": trained, "auto": "float32", "reason": FLOAT32}
    assert scores("default") == {"encoder": "float32", "llm": "float32", **here}
    as_trained = "model.config_overrides.llm.config.dtype=bfloat16"
    assert scores("set", as_trained) == {"encoder": "float32", "llm": "bfloat16", **here}


def test_generate_and_transcribe_say_what_they_decode_in(
    commands: Commands, system: System, begun_in_bfloat16: Path, tmp_path: Path
) -> None:
    line = f"trained in: encoder bfloat16, LLM bfloat16; `auto` is float32 here: {FLOAT32}."
    result = commands.recipe(
        "generate", tmp_path / "out", "--checkpoint", begun_in_bfloat16, "--config", "dataset.split=dev",
        f"dataset.config_overrides.manifests.dev={system.corpus}/dev.tsv", env=AVX2,
    ).ok()
    assert f"Precision: encoder float32, LLM float32; {line}" in unwrapped(result.output)
    arguments = ["transcribe", "--checkpoint", begun_in_bfloat16, "--device", "cpu", system.corpus / "dev_0.wav"]
    assert f"encoder float32, LLM float32; {line}" in commands.speechllm(*arguments, env=AVX2).ok().stderr
    as_trained = [f"--set={part}.config.dtype=bfloat16" for part in ("encoder", "llm")]
    assert "Precision" not in commands.speechllm(*arguments, *as_trained, env=AVX2).ok().stderr


def test_inspect_tells_what_this_machine_would_use(commands: Commands, begun_in_bfloat16: Path) -> None:
    text = commands.speechllm("inspect", begun_in_bfloat16, env=AVX2).ok().stdout
    assert f"precision: `auto` is float32 on this machine: {FLOAT32}; " in text
    assert "a checkpoint trained in bfloat16 is decoded in float32" in text
    machine = machine_precision("cuda" if torch.cuda.is_available() else "cpu")
    text = commands.speechllm("inspect", "whisper_large_v3.llama31_8b.base").ok().stdout
    assert f"precision: `auto` is {machine.auto} on this machine: {machine.reason}" in text


def test_fairseq2s_own_modes_stay(commands: Commands, system: System, tmp_path: Path) -> None:
    file = system.write(tmp_path / "a.yaml", trainer__mixed_precision={"mode": "auto"})
    commands.recipe("train", tmp_path / "amp", "--config-file", file).ok()
    assert recorded(tmp_path / "amp")["mixed_precision"] == machine_precision("cpu").auto
    wrong = commands.recipe(
        "train", tmp_path / "x", "--config-file", file, "--config", "trainer.mixed_precision.dtype=bf16"
    ).user_error()
    assert wrong == "trainer.mixed_precision.dtype: found 'bf16', expected auto, float32, bfloat16 or float16"


def unwrapped(log: str) -> str:
    """fairseq2 breaks the lines of its log."""
    return " ".join(log.split())
