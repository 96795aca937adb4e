"""Runs of published systems: the authors' settings, transcripts, and the checkpoint that is scored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speechllm_plugin.files.yaml_text import parse_yaml
from tests.commands import ROOT, Commands, System

AUTHORS = ROOT / "recipes/speechllm_recipes/configs/published/authors.yaml"
SIZES = {"dim": 24, "num_heads": 2, "ffn_dim": 32}


def small(system: System, **adapter: object) -> list[str]:
    """Keys that put the tests' models in the place of the published ones."""
    models = {
        "encoder": {"arch": None, "config": {"path": str(system.whisper), "pad_to_30s": False}},
        "llm": {"arch": None, "config": {"path": str(system.llm), "dtype": "float32"}},
        "adapter": {"config": {**SIZES, **adapter}},
    }
    keys = [f"model.config_overrides.{part}.{key}={json.dumps(value)}" for part, values in models.items()
            for key, value in values.items() if key != "config"]
    keys += [f"model.config_overrides.{part}.config.{key}={json.dumps(value)}" for part, values in models.items()
             for key, value in values["config"].items()]  # type: ignore[attr-defined]
    manifests = [f"dataset.config_overrides.manifests.{name}={file}" for name, file in system.manifests().items()]
    return [*keys, *manifests, "trainer.mixed_precision.mode=off", "trainer.grad_accumulation.num_batches=2",
            "dataset.batch_size=3"]


@pytest.mark.parametrize(
    ("adapter", "settings"),
    [
        ("cif_authors", {"kernel": 3, "scale_eps": 1e-4}), ("ctc_authors", {"detach": True}),
        ("wlq_former_authors", {"input_projection": False, "output_norm": False, "window_seconds": 0.34}),
    ],
)
def test_the_authors_settings_train(
    commands: Commands, system: System, tmp_path: Path, adapter: str, settings: dict[str, object]
) -> None:
    commands.recipe(
        "train", tmp_path / "run", "--config-file", AUTHORS, "--config", *small(system),
        f"model.arch=whisper_large_v3.mistral_7b.{adapter}", "regime.num_steps=2", "decoding.extra_tokens=4",
    ).ok()
    model = parse_yaml((tmp_path / "run/checkpoints/model.yaml").read_text())["model_config"]
    assert settings.items() <= model["adapter"]["config"].items()
    assert (model["loss_mean"], model["ctc"]["bos"]) == ("batches", True)
    config = parse_yaml((tmp_path / "run/config.yaml").read_text())
    assert config["optimizer"]["config"]["weight_decay"] == 0.0 and config["common"]["seed"] == 42
    assert config["decoding"]["tokens_per_second"] == 0.0


@pytest.fixture(scope="module")
def run(commands: Commands, system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of `base`, with its best checkpoint before its last."""
    output = tmp_path_factory.mktemp("published") / "run"
    commands.recipe(
        "train", output, "--config", *small(system, num_layers=1), "model.arch=whisper_large_v3.mistral_7b.base",
        "regime.num_steps=4", "regime.checkpoint_every_n_steps=2", "regime.keep_last_n_checkpoints=2",
        "decoding.extra_tokens=4",
    ).ok()
    scores = output / "checkpoints/scores"
    scores.mkdir(exist_ok=True)
    for step, score in ((2, "-1.0"), (4, "-2.0")):
        (scores / f"step_{step}.txt").write_text(score)
    return output


@pytest.mark.parametrize(
    ("arguments", "step", "words"),
    [
        ([], 4, "the last; the best by validation is step 2"),
        (["--step", "best"], 2, "the best by validation; the last is step 4"),
    ],
    ids=["default", "best"],
)
def test_a_published_system_is_scored_at_its_last_step(
    commands: Commands, system: System, run: Path, tmp_path: Path, arguments: list[str], step: int, words: str
) -> None:
    result = commands.recipe(
        "evaluate", tmp_path / "out", "--checkpoint", run, *arguments, "--config",
        f"dataset.config_overrides.manifests.test={system.corpus}/test.tsv", "decoding.extra_tokens=4",
    ).ok()
    assert f"Checkpoint: step {step} of {run}, {words}." in " ".join(result.output.split())


def test_another_system_is_scored_at_its_best_step(
    commands: Commands, system: System, run: Path, tmp_path: Path
) -> None:
    config = run / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("whisper_large_v3.mistral_7b.base", "whisper_large_v3.mistral_7b.mlp"))
    try:
        result = commands.recipe(
            "generate", tmp_path / "out", "--checkpoint", run, "--config",
            f"dataset.config_overrides.manifests.test={system.corpus}/test.tsv", "decoding.extra_tokens=4",
        ).ok()
    finally:
        config.write_text(text)
    assert f"Checkpoint: step 2 of {run}, the best by validation" in " ".join(result.output.split())


@pytest.fixture
def translations(system: System, tmp_path: Path) -> Path:
    """The training rows, two of which are translations without a transcript."""
    header, *rows = (system.corpus / "train.tsv").read_text().splitlines()
    columns = header.split("\t")
    table = [row.split("\t") for row in rows]
    for fields in table:
        fields[columns.index("audio")] = str(system.corpus / fields[columns.index("audio")])
    for fields in table[3:5]:
        fields[columns.index("tgt_lang")] = "de"
    manifest = tmp_path / "train.tsv"
    manifest.write_text("\n".join([header, *("\t".join(fields) for fields in table)]) + "\n")
    return manifest


def test_translations_without_transcripts(
    commands: Commands, system: System, translations: Path, tmp_path: Path
) -> None:
    keys = [*small(system), "model.arch=whisper_large_v3.mistral_7b.cif", "regime.num_steps=2",
            "decoding.extra_tokens=4", f"dataset.config_overrides.manifests.train={translations}"]
    line = commands.recipe("train", tmp_path / "refused", "--config", *keys).user_error()
    assert line == (
        f"{translations}, line 5, id train_3, column 'src_text': found none for 2 of 12 rows of split 'train', which "
        "are no transcriptions; expected what is said, for the losses of CTC and quantity, or "
        "ctc.no_transcript=leave_out"
    )
    result = commands.recipe(
        "train", tmp_path / "run", "--config", *keys, "model.config_overrides.ctc.no_transcript=leave_out"
    ).ok()
    assert "they are left out of the losses of CTC and quantity" in " ".join(result.output.split())
    # Without such a loss there is nothing to leave out.
    keys = [key for key in keys if not key.startswith("model.arch")]
    commands.recipe(
        "train", tmp_path / "base", "--config", *keys, "model.arch=whisper_large_v3.mistral_7b.base"
    ).ok()
