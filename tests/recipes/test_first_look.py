"""What is told of a configuration before torch and fairseq2 are imported."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from speechllm_recipes.given_keys import given
from speechllm_recipes.speech_llm import key_checks
from speechllm_recipes.speech_llm.config import SpeechLlmTrainConfig
from speechllm_recipes.speech_llm.conflicts import DEFAULTS, value_at
from speechllm_recipes.speech_llm.first_look import (
    look_at_cascade,
    look_at_evaluate,
    look_at_generate,
    look_at_train,
)
from speechllm_recipes.speech_llm.read_config import model_config_of, read_training_config

from speechllm_plugin.errors import UserError
from speechllm_plugin.registry import ADAPTERS, ENCODERS, LLMS, RECOGNIZERS, Registry
from tests.commands import ROOT, System, environment
from tests.waiting import LONGEST

HEAVY = {"torch", "transformers", "fairseq2", "fairseq2n", "tensorboard", "sacrebleu", "wandb"}
PROGRAM = """
import json, sys
from speechllm_recipes.cli import main
arguments = json.loads(sys.argv[1])
status = main(arguments)
print(json.dumps([status, sorted(name for name in json.loads(sys.argv[2]) if name in sys.modules)]))
"""
CONFIGS = ROOT / "recipes/speechllm_recipes/configs"
MODEL, MANIFESTS = "model.config_overrides", "dataset.config_overrides.manifests"


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that name manifests which are there."""
    file = tmp_path_factory.mktemp("manifests") / "rows.tsv"
    file.write_text("id\taudio\ttgt_text\n1\ta.wav\thello\n")
    return [f"{MANIFESTS}.{split}={file}" for split in ("train", "dev", "test")]


def told(look: Callable[[Mapping[str, Any]], None], *items: str, file: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        look(given(file, items))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("action", "more", "line"),
    [
        ("train", ["model.typo=1"], "model.typo: found an unknown key, expected one that --dump-config lists"),
        ("train", [f"{MODEL}.adapter.name=mlp", f"{MODEL}.adapter.config.stak=2"],
         f"{MODEL}.adapter.config.stak: found an unknown key, expected one of dropout, hidden_dim, stack"),
        ("train", [f"{MODEL}.prompt.transcribe=write {{sorce}}"],
         f"{MODEL}.prompt.transcribe: found placeholder {{sorce}}, expected {{source}}, and {{{{ or }}}} for a brace "
         "of the text"),
        ("train", [f"{MODEL}.llm.config.path=/lost/model"],
         f"{MODEL}.llm.config.path: no directory /lost/model; expected a local checkpoint directory or a hub id"),
        ("train", [f"{MANIFESTS}.dev=/lost/dev.tsv"], "/lost/dev.tsv: found no such file, expected a TSV file"),
        ("evaluate", ["model.path=/lost", "model.family=other", "evaluator.ampp=true"],
         "evaluator.ampp: found an unknown key, expected one that --dump-config lists (did you mean evaluator.amp?)"),
        ("cascade", ["recognizer.config.dtype=float8"],
         "recognizer.config.dtype: found 'float8', expected one of auto, float32, bfloat16, float16"),
    ],
    ids=str,
)  # fmt: skip
def test_no_mistake_imports_torch(
    action: str, more: list[str], line: str, manifests: list[str], tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    arguments = ["recipe", "run", "speech_llm", action, str(tmp_path / "run"), "--config-file",
                 str(tmp_path / "config.yaml"), "--config", *manifests, *more]  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(arguments), json.dumps(sorted(HEAVY))],
        cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=LONGEST,
    )  # fmt: skip
    assert result.stderr == f"fairseq2: error: {line}\n"
    assert json.loads(result.stdout) == [2, []]


@pytest.mark.parametrize(
    "item",
    [
        "nonsense=1", "regime.num_step=3", "regime.num_steps=many", "regime.num_steps=2.5", "regime.num_steps=true",
        "trainer.max_grad_norm=much", "dataset.valid_decode=maybe", "dataset.on_error=ignore", "dataset=3",
        "model.family=1",
        "regime.publish_metrics_every_n_steps=0", "regime.score_metric=blue", "dataset.valid_decode=false",
        "lr_scheduler.config.num_warmup_steps=30000", "decoding.beam_size=0",
        f"{MODEL}.adaptr.name=mlp", f"{MODEL}.adapter.nme=mlp", "model.arch=whisper.gpt.mlp",
    ],
)  # fmt: skip
def test_the_line_is_that_of_who_reads_it(item: str) -> None:
    def read(_: Mapping[str, Any]) -> None:
        model_config_of(read_training_config(None, [item]))

    # The first look goes on to what is not set in these: manifests.
    expected = told(read, item)
    assert told(look_at_train, item).startswith(expected)


@pytest.mark.parametrize(
    ("look", "item", "words"),
    [
        (look_at_train, "dataset.bach_size=3", ("dataset.bach_size", "did you mean dataset.batch_size?")),
        (look_at_train, "optimizer.config.lrr=1", ("optimizer.config.lrr: found an unknown key", "betas")),
        (look_at_train, "optimizer.config.lr=fast", ("optimizer.config.lr: found 'fast', expected a number",)),
        (look_at_train, "optimizer.config.lr=-1", ("optimizer.config.lr: found -1.0, expected above 0 and finite",)),
        (look_at_train, "optimizer.config=3", ("optimizer.config", "int", "a mapping")),
        (look_at_train, "trainer.mixed_precision.dtype=int8", ("found 'int8', expected auto, float32, bfloat16",)),
        (look_at_train, "model.dtype=bfloat17", ("found 'bfloat17', expected float32, bfloat16 or float16",)),
        (look_at_train, f"{MODEL}.adapter.name=mpl", (f"{MODEL}.adapter.name: found 'mpl'", "base, cif, conv")),
        (look_at_train, f"{MODEL}.encoder.arch=nothing", (f"{MODEL}.encoder.arch", "null or one of", "whisper_")),
        (look_at_train, f"{MODEL}.ctc.weight=-1", (f"{MODEL}.ctc.weight: found -1.0, expected finite",)),
        (look_at_train, f"{MODEL}.encoder.config.dtype=half", (f"{MODEL}.encoder.config.dtype: found 'half'",)),
        (look_at_train, "dataset.train_split=trian", ("no manifest for split 'trian', found dev, test, train",)),
        (look_at_train, "dataset.valid_splits=[dev, dve]", ("no manifest for split 'dve'",)),
        (look_at_train, "dataset.config_overrides.manifest.a=b", ("dataset.config_overrides.manifest: found an unk",)),
        (look_at_evaluate, "dataset.splits=tset", ("no manifest for split 'tset'",)),
        (look_at_evaluate, "decoding.beam_sise=2", ("decoding.beam_sise: found an unknown key",)),
        (look_at_generate, "dataset.split=tset", ("no manifest for split 'tset'",)),
        (look_at_cascade, "recognizer.name=wisper", ("recognizer.name: found 'wisper', expected one of",)),
        (look_at_cascade, "prompt.order=hello", ("prompt.order: found 'hello'",)),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)  # fmt: skip
def test_mistakes(
    look: Callable[[Mapping[str, Any]], None], item: str, words: tuple[str, ...], manifests: list[str]
) -> None:
    line = told(look, *manifests, item)
    for word in words:
        assert word in line


def test_a_manifest_lacks_a_column(manifests: list[str], tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text("id\taudio\n1\ta.wav\n")
    item = f"{MANIFESTS}.test={tmp_path / 'rows.tsv'}"
    assert told(look_at_evaluate, *manifests, item).endswith("expected also 'tgt_text'")
    look_at_generate(given(None, [*manifests, item]))  # which needs no text


def test_what_is_right_is_let_through(manifests: list[str], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "regime: {num_step: 3}\nlr_scheduler: {config: {start_lr: [0.0, 0.1]}}\ndataset: {valid_splits: []}"
    )
    right = [
        "del:regime.num_step",  # the file's typo
        "regime={num_steps: '7000'}", "optimizer.config.betas=[0.9, 0.98]", "common.seed=${env:SEED:2}",
        "trainer.mixed_precision.dtype=torch.bfloat16", "regime.save_model_only=all_but_last", "model.compile=true",
        f"{MODEL}.ctc.weight=1e-1", f"{MODEL}.adapter.name=cif", f"{MODEL}.prompt.answer=[a <speech>, b]",
        "optimizer.name=adafactor", "set:optimizer.config={d: 1.5}",
    ]  # fmt: skip
    look_at_train(given(file, [*manifests, *right]))


@pytest.mark.parametrize(
    "items",
    [
        ["regime.num_steps=500"],  # the warm-up follows
        ["regime.num_steps=500", "lr_scheduler.config={final_lr: 0}"],  # fairseq2 starts it from its own defaults
        ["regime.num_steps=${env:STEPS}", "lr_scheduler.config.num_warmup_steps=30000"],
        [f"{MANIFESTS}.train=${{env:DATA}}/train.tsv"],
        [f"{MANIFESTS}.train=['${{dir}}/a.tsv', '${{dir}}/b.tsv']"],
        ["model.arch=${env:ARCH}", f"{MODEL}.adapter.config.window_seconds=0.3"],
        ["model.path=${dir}/x", f"{MODEL}.adapter.config.window_seconds=0.3"],
        [f"{MANIFESTS}={{test.clean: /nowhere/x.tsv}}", "dataset.train_split=test.clean"],
    ],
    ids=" ".join,
)
def test_what_only_fairseq2_knows_is_let_through(manifests: list[str], items: list[str]) -> None:
    look_at_train(given(None, [*manifests, *items]))


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_our_own_configurations_have_known_keys(file: Path) -> None:
    key_checks.check_keys("train", given(file, []))


def test_a_configuration_of_the_tests_is_let_through(system: System, tmp_path: Path) -> None:
    look_at_train(given(system.write(tmp_path / "config.yaml"), []))


def test_the_defaults_are_those_of_the_recipe() -> None:
    assert {key: value_at(SpeechLlmTrainConfig(), key) for key in DEFAULTS} == DEFAULTS


def test_the_table_is_up_to_date(tmp_path: Path) -> None:
    from speechllm_tools.known_keys import COMMAND

    # In a process of its own: parts that other tests register are in none of ours.
    command = [sys.executable, "-m", "speechllm_tools.known_keys", str(tmp_path / "keys.json")]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, timeout=LONGEST)
    kept = ROOT / "recipes/speechllm_recipes/speech_llm/known_keys.json"
    assert (tmp_path / "keys.json").read_text() == kept.read_text(), f"renew it with: {COMMAND}"


@pytest.mark.parametrize("registry", [ADAPTERS, ENCODERS, LLMS, RECOGNIZERS], ids=lambda registry: registry.kind)
def test_files_tell_the_names_of_parts(registry: Registry[Any]) -> None:
    """By importing every file of the folder."""
    package = importlib.import_module(str(registry._package))
    for file in Path(next(iter(package.__path__))).glob("*.py"):
        importlib.import_module(f"{registry._package}.{file.stem}".removesuffix(".__init__"))
    assert registry.own_names == {name for name, part in registry._parts.items()
                                  if part.build.__module__.startswith("speechllm_plugin.")}
