"""Every adapter's YAML file: one line changes the adapter, and what the file says is what the code does by default."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from speechllm_plugin.adapters.api import ADAPTERS
from speechllm_plugin.files.yaml_text import parse_yaml

FILES = sorted((Path(__file__).parents[3] / "recipes/speechllm_recipes/configs/axes/adapter").glob("*.yaml"))


def test_every_adapter_has_its_file() -> None:
    modules = {name: ADAPTERS.get(name).config_kls.__module__ for name in ADAPTERS.names()}
    ours = [name for name, module in modules.items() if module.startswith("speechllm_plugin.")]
    assert [file.stem for file in FILES] == ours


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_names_every_field_at_its_default(file: Path) -> None:
    content = parse_yaml(file.read_text(encoding="utf-8"))
    assert content.keys() == {"model"} and content["model"].keys() == {"config_overrides"}
    overrides = content["model"]["config_overrides"]
    adapter = overrides.pop("adapter")
    assert adapter.keys() == {"name", "config"} and adapter["name"] == file.stem
    config = ADAPTERS.config(adapter["name"], adapter["config"])
    assert config == type(config)()
    assert adapter["config"].keys() == {field.name for field in dataclasses.fields(config)}
    # The auxiliary CTC where the paper has it: beside `cif`, and as a part of `ctc`.
    assert overrides == ({"ctc": {"weight": 0.1}} if file.stem in ("cif", "ctc") else {})
