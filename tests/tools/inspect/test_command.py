"""The command: text, JSON, files, runs, and mistakes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from speechllm_plugin.cost.skeleton import SkeletonBuilder
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.yaml_text import parse_yaml
from speechllm_plugin.models.speech_llm.archs import ENCODER_ARCHS
from speechllm_plugin.models.speech_llm.config import PartSection, SpeechLlmConfig
from speechllm_plugin.tensors.parameters import count_parameters
from tests.tools.inspect.systems import Inspect, run, small

ENCODERS = sorted((Path(__file__).parents[3] / "recipes/speechllm_recipes/configs/axes/encoder").glob("*.yaml"))
ARCH = "whisper_tiny_en.smollm2_135m.mlp"


def test_json_says_what_the_text_says(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, ARCH, "--json", "--seconds", "3", "--target-tokens", "12", "--batch-size", "4")
    values = json.loads(out)
    assert status == 0
    assert values["encoder"]["parameters"] == 8_208_384 and values["encoder"]["dim"] == 384
    assert values["llm"]["parameters"] == 134_515_008 and values["llm"]["vocabulary"] == 49152
    assert values["parameters"]["frozen"] == 8_208_384 + 134_515_008
    assert values["parameters"]["trainable"] == values["adapter"]["parameters"]
    training = values["training"]
    assert (training["seconds"], training["target_tokens"], training["batch_size"]) == (3, 12, 4)
    parts = ("encoder", "adapter", "ctc", "llm")
    assert training["flops_per_sample"] == sum(training[f"{part}_flops"] for part in parts)
    status, out, _ = run(capsys, ARCH, "--seconds", "3", "--target-tokens", "12", "--batch-size", "4")
    assert status == 0 and "134,515,008" in out and "4 samples" in out
    assert f"{training['bytes_per_gpu'] / 1e9:.2f}" in out and f"{training['flops_per_sample'] / 1e12:.3f}" in out


def test_a_yaml_file_is_read_as_the_recipe_reads_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    overrides = {"adapter": {"config": {"stack": 10}}, "encoder": {"config": {"trim": True}}, "ctc": {"weight": 0.2}}
    recipe = {"model": {"arch": ARCH, "config_overrides": overrides}, "dataset": {"batch_size": 3}}
    file.write_text(json.dumps(recipe))
    values = json.loads(run(capsys, file, "--json")[1])
    assert values["adapter"]["config"]["stack"] == 10 and values["ctc"]["weight"] == 0.2
    assert values["ctc"]["parameters"] == 577 * 49153
    assert values["output"]["clips"][0] == {"seconds": 1.0, "frames": 50, "vectors": 5, "compression": 10, "hertz": 5}
    assert values["training"]["batch_size"] == 3


def test_several_systems_make_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    other = ARCH.replace("mlp", "ctc")
    status, out, _ = run(capsys, ARCH, other, "--seconds", "3")
    rows = out.splitlines()
    assert status == 0 and [row.split()[0] for row in rows[1:3]] == [ARCH, other]
    several = json.loads(run(capsys, ARCH, other, "--seconds", "3", "--json")[1])
    alone = json.loads(run(capsys, other, "--seconds", "3", "--json")[1])
    assert several[1]["training"] == alone["training"] and several[1]["parameters"] == alone["parameters"]


@pytest.mark.parametrize("fragment", ENCODERS, ids=lambda fragment: fragment.stem)
def test_an_encoders_fragment_can_be_inspected_without_its_model(
    inspect: Inspect, tiny_config: SpeechLlmConfig, fragment: Path
) -> None:
    values = parse_yaml(fragment.read_text())["model"]["config_overrides"]["encoder"]
    config = small(tiny_config, "mlp")
    config.encoder = PartSection(**values)
    facts = inspect(config)
    assert facts.skeleton.encoder.frame_rate == (6.25 if "seamless" in fragment.stem else 50)
    assert facts.skeleton.frozen > 300_000_000


@pytest.mark.parametrize("name", [name for name, arch in ENCODER_ARCHS.items() if arch.part == "wav2vec2"])
def test_wav2vec2_and_its_relatives_are_known_by_name(inspect: Inspect, name: str) -> None:
    facts = inspect(f"{name}.smollm2_135m.mlp")
    encoder = facts.skeleton.encoder
    assert (encoder.dim, encoder.frame_rate) == (1024, 50)
    assert [clip.frames for clip in facts.clips] == [99]  # windows of 25 ms, one every 20 ms
    # All but the vector that hides spans in pretraining.
    assert count_parameters(encoder) == (315_453_120 if name == "wavlm_large" else 315_438_720) - 1024


def test_the_demo_can_be_inspected_without_its_models(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from speechllm_recipes import cli

    monkeypatch.chdir(tmp_path)
    file = Path(cli.__file__).parent / "configs/demo.yaml"
    values = json.loads(run(capsys, file, "--json")[1])
    assert values["llm"]["config"]["path"] == "demo/models/smollm2-135m-instruct"
    assert values["llm"]["parameters"] == 134_515_008
    assert values["training"]["batch_size"] == 4


@pytest.mark.parametrize("below", ["", "checkpoints/step_3"])
def test_a_run_is_inspected_by_its_checkpoint(
    capsys: pytest.CaptureFixture[str], tiny_config: SpeechLlmConfig, tmp_path: Path, below: str
) -> None:
    tiny_config.resolve()
    step = tmp_path / "checkpoints" / "step_3" / "model"
    step.mkdir(parents=True)
    torch.save({}, step / "pp_00.pt")
    saved = {"model_config": asdict(tiny_config)}
    (tmp_path / "checkpoints" / "model.yaml").write_text(json.dumps(saved))
    values = json.loads(run(capsys, tmp_path / below, "--json")[1])
    assert values["adapter"]["config"]["hidden_dim"] == 48
    assert values["encoder"]["dim"] == values["llm"]["dim"] == 32


def test_a_run_that_has_not_saved_yet(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps({"model": {"arch": ARCH}, "dataset": {"batch_size": 2}}))
    values = json.loads(run(capsys, tmp_path, "--json")[1])
    assert values["adapter"]["name"] == "mlp" and values["training"]["batch_size"] == 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("whisper_tiny_en.smollm2_135m.mpl",), ("ARCH_OR_CONFIG: found", f"did you mean {ARCH}")),
        (("no/such/run",), ("ARCH_OR_CONFIG: found no no/such/run", "a file or a directory")),
        ((), ("ARCH_OR_CONFIG", "--all")),
        ((ARCH, "--all"), ("ARCH_OR_CONFIG", "--all")),
        ((ARCH, "--seconds", "0"), ("--seconds: found 0", "more than 0")),
        ((ARCH, "--seconds", "inf"), ("--seconds: found inf", "finite")),
        ((ARCH, "--seconds", "31"), ("--seconds", "31.00 s", "at most 30 s")),
        ((ARCH, "--target-tokens", "-1"), ("--target-tokens: found -1",)),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], words: tuple[str, ...]
) -> None:
    status, out, err = run(capsys, *argv)
    assert status == 2 and out == "" and err.count("\n") == 1
    assert err.startswith("speechllm inspect: error: ")
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("model: {arch: x.y.z}", ("arch: found 'x.y.z'", "encoder.llm.adapter")),
        ("model: {config_overrides: {adapter: {nme: base}}}", ("model.config_overrides.adapter.nme", "unknown key")),
        ("model: {config_overrides: {ctc: {weight: -1}}}", ("ctc.weight: found -1.0, expected finite and at least 0",)),
        ("model: {config_overrides: {encoder_tuning: {lora_rank: -3}}}", ("encoder_tuning.lora_rank: found -3",)),
        ("modle: {arch: x}", ("config.yaml: modle: found an unknown key",)),
        ("dataset: {batch_sise: 3}", ("config.yaml: dataset.batch_sise: found an unknown key",)),
        ("dataset: {batch_size: many}", ("dataset.batch_size", "'many'", "an integer")),
        ("dataset: {batch_size: 0}", ("dataset.batch_size: found 0, expected at least 1",)),
        (
            "model: {arch: ARCH.cif, config_overrides: {adapter: {config: {token_weight: .inf}}}}",
            ("adapter.config.token_weight: found inf, expected a finite number of at least 0",),
        ),
        (
            "model: {arch: ARCH.wlq_former, config_overrides: {adapter: {config: {window_seconds: .inf}}}}",
            ("adapter.config.window_seconds: found inf, expected a finite number above 0",),
        ),
        ("[1, 2", ("config.yaml",)),
        ("- a list", ("config.yaml",)),
    ],
)
def test_yaml_files_that_are_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, words: tuple[str, ...]
) -> None:
    content = content.replace("ARCH", ARCH.removesuffix(".mlp"))
    (tmp_path / "config.yaml").write_text(content)
    status, out, err = run(capsys, tmp_path / "config.yaml")
    assert status == 2 and out == "" and err.count("\n") == 1, err
    for word in words:
        assert word in err


def test_a_model_whose_shape_is_not_known_is_one_line(tiny_config: SpeechLlmConfig, tiny_llm: Path) -> None:
    tiny_config.llm.config["path"] = "someone/some-llm"  # type: ignore[index]
    with pytest.raises(UserError, match=r"^llm\.config\.path: found 'someone/some-llm', which is no directory here "):
        SkeletonBuilder().build(tiny_config)
    tiny_config.llm.config.path = str(tiny_llm)  # type: ignore[attr-defined]
    tiny_config.encoder.config.path = str(tiny_llm)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"^encoder\.config\.path: .* of type 'llama', expected whisper$"):
        SkeletonBuilder().build(tiny_config)
