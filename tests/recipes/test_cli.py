"""The `fairseq2` command itself."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from speechllm_plugin.files.yaml_text import parse_yaml
from speechllm_plugin.models.speech_llm.config import GRID, arch_names
from speechllm_plugin.workarounds.sndfile import link_sndfile
from tests.commands import Commands, System, environment

ACTIONS = ("train", "evaluate", "generate", "cascade")


def test_the_module_lists_the_recipe_and_its_actions() -> None:
    # In an interpreter of its own: nothing else has imported anything before it.
    result = subprocess.run(
        [sys.executable, "-m", "speechllm_recipes", "recipe", "list"],
        env=environment(), capture_output=True, text=True, timeout=120, check=True,
    )
    lines = result.stdout.splitlines()
    assert lines[0].startswith("speech_llm: ")
    # A sweep runs the others.
    assert [line.split()[0] for line in lines[1:]] == [*ACTIONS, "sweep"]


def test_the_script_is_installed() -> None:
    script = Path(sys.executable).with_name("fairseq2")
    result = subprocess.run(
        [script, "recipe", "run", "speech_llm", "--help"],
        env=environment(), capture_output=True, text=True, timeout=120, check=True,
    )
    for word in ("OUTPUT_DIR", "--config-file", "--config", "--dump-config", *ACTIONS):
        assert word in result.stdout
    assert "--checkpoint" not in result.stdout


@pytest.mark.parametrize("action", ["evaluate", "generate"])
def test_help_of_the_actions_that_use_a_model(commands: Commands, action: str) -> None:
    result = commands.fairseq2("recipe", "run", "speech_llm", action, "--help").ok()
    assert "--checkpoint RUN_DIR" in result.stdout and "--step" in result.stdout


@pytest.mark.parametrize("action", ACTIONS)
def test_a_dumped_configuration_can_be_fed_back(commands: Commands, tmp_path: Path, action: str) -> None:
    command = ("recipe", "run", "speech_llm", action, "--dump-config")
    change = ("--config", "dataset.batch_size=7")
    dumped = commands.fairseq2(*command, *change).ok().stdout
    file = tmp_path / "config.yaml"
    file.write_text(dumped)
    assert parse_yaml(dumped)["dataset"]["batch_size"] == 7
    assert commands.fairseq2(*command, "--config-file", file).ok().stdout == dumped


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("recipe", "run"), ("fairseq2 recipe run {speech_llm}", "[ACTION] OUTPUT_DIR")),
        (("recipe", "run", "speech_llm"), ("OUTPUT_DIR", "--init-from RUN_DIR", "--set", "evaluate")),
        (("assets",), ("usage: fairseq2 assets", "list")),
        (("recipe",), ("list", "run")),
    ],
)
def test_help_at_each_depth(commands: Commands, argv: tuple[str, ...], words: tuple[str, ...]) -> None:
    shown = commands.fairseq2(*argv, "--help").ok().stdout
    for word in words:
        assert word in shown


def test_steps_that_are_left_open_follow_from_those_that_are_set(commands: Commands, tmp_path: Path) -> None:
    command = ("recipe", "run", "speech_llm", "train", "--dump-config")
    (tmp_path / "config.yaml").write_text("regime: {num_steps: 1400, validate_every_n_steps: 35}")
    changes = ("--config", "regime.num_steps=700")
    dumped = parse_yaml(commands.fairseq2(*command, "--config-file", tmp_path / "config.yaml", *changes).ok().stdout)
    regime = dumped["regime"]
    assert dumped["lr_scheduler"]["config"]["num_warmup_steps"] == 21
    assert [regime[f"{name}_every_n_steps"] for name in ("validate", "checkpoint", "publish_metrics")] == [35, 35, 35]


def test_a_dumped_configuration_and_a_run_can_be_inspected(commands: Commands, trained: Path, tmp_path: Path) -> None:
    """fairseq2 writes YAML 1.2, where `off` is a word."""
    command = ("recipe", "run", "speech_llm", "train", "--dump-config", "--config")
    dumped = commands.fairseq2(*command, "model.arch=whisper_tiny_en.smollm2_135m.mlp").ok().stdout
    (tmp_path / "dumped.yaml").write_text(dumped)
    for target in (tmp_path / "dumped.yaml", trained / "config.yaml", trained):
        assert re.search(r"^adapter +[\d,]+", commands.speechllm("inspect", target).ok().stdout, re.MULTILINE)


def test_train_is_the_default_action(commands: Commands) -> None:
    implied = commands.fairseq2("recipe", "run", "speech_llm", "--dump-config").ok().stdout
    assert implied == commands.fairseq2("recipe", "run", "speech_llm", "train", "--dump-config").ok().stdout
    assert "regime:" in implied


def test_the_demo_configuration_has_no_unknown_key(commands: Commands) -> None:
    from speechllm_recipes import cli

    file = Path(cli.__file__).parent / "configs/demo.yaml"
    dumped = commands.fairseq2("recipe", "run", "speech_llm", "train", "--dump-config", "--config-file", file).ok()
    assert parse_yaml(dumped.stdout)["model"]["arch"] == "whisper_tiny_en.smollm2_135m.ctc"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("recipe", "run", "speech_lm", "out"), ("'speech_lm'", "speech_llm")),
        (("recipe", "run", "speech_llm"), ("OUTPUT_DIR",)),
        (("recipe", "run", "speech_llm", "train", "out", "--nonsense"), ("--nonsense",)),
        (("recipes",), ("recipes", "recipe")),
    ],
)
def test_mistakes_in_the_command_are_one_line(
    commands: Commands, argv: tuple[str, ...], words: tuple[str, ...]
) -> None:
    line = commands.fairseq2(*argv).user_error()
    for word in words:
        assert word in line


def cards(output: str) -> set[str]:
    return set(re.findall(r"^ *- model:(\S+)@$", output, re.MULTILINE))


def test_the_extension_brings_the_architectures(commands: Commands) -> None:
    result = commands.fairseq2("assets", "list", env={"FAIRSEQ2_EXTENSION_TRACE": "1"}).ok()
    assert set(arch_names()) <= cards(result.stdout)
    assert {".".join(names) for names in product(*GRID)} <= cards(result.stdout)
    assert "w2v_bert.mt0_xxl_mt.subsample" in cards(result.stdout)
    assert "Traceback" not in result.output


def test_fairseq2s_own_command_lists_them_too(tmp_path: Path) -> None:
    """It imports nothing of ours first, and the system may have no libsndfile."""
    link_sndfile(tmp_path)
    result = subprocess.run(
        [sys.executable, "-m", "fairseq2.assets", "list", "--kind", "model"],
        env=environment(LD_LIBRARY_PATH=str(tmp_path)), capture_output=True, text=True, timeout=120, check=False,
    )
    assert result.returncode == 0, result.stderr
    assert set(arch_names()) <= cards(result.stdout)


@pytest.mark.parametrize("arch", ["whisper_large_v3.llama31_8b.cif", "w2v_bert.mt0_xxl_mt.subsample"])
def test_a_card_says_what_it_is(commands: Commands, arch: str) -> None:
    shown = commands.fairseq2("assets", "show", arch).ok().stdout
    assert re.search(rf"^ *model_arch *: '{arch}'$", shown, re.MULTILINE)
    assert re.search("^ *model_family *: 'speech_llm'$", shown, re.MULTILINE)


def test_secrets_stay_out_of_the_log(commands: Commands, system: System, tmp_path: Path) -> None:
    secrets = {"HF_TOKEN": "hf_secretvalue", "AWS_SECRET_ACCESS_KEY": "awsvalue", "MY_API_KEY": "keyvalue"}
    config = system.write(tmp_path / "config.yaml", dataset__valid_splits=[])
    result = commands.recipe("train", tmp_path / "run", "--config-file", config, env=secrets).ok()
    log = (tmp_path / "run/logs/rank_0.log").read_text()
    # The other variables are there, so that a run can be repeated.
    assert "HF_TOKEN=***" in log and "OMP_NUM_THREADS=1" in log
    for text in (result.output, *(file.read_bytes().decode("latin-1") for file in _files(tmp_path / "run"))):
        for value in secrets.values():
            assert value not in text


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]
