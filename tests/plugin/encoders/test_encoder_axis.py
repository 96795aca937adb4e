"""The encoder axis: a YAML fragment for each encoder, which only sets what the encoder has."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechllm_plugin.encoders.api import ENCODERS
from speechllm_plugin.files.yaml_text import parse_yaml

FRAGMENTS = sorted((Path(__file__).parents[3] / "recipes/speechllm_recipes/configs/axes/encoder").glob("*.yaml"))


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda fragment: fragment.stem)
def test_a_fragment_sets_one_encoder(fragment: Path) -> None:
    content = parse_yaml(fragment.read_text())
    encoder = content["model"]["config_overrides"]["encoder"]
    assert content == {"model": {"config_overrides": {"encoder": encoder}}}
    assert set(encoder) == {"name", "arch", "config"}
    assert ENCODERS.config(encoder["name"], encoder["config"]).path == encoder["config"]["path"]


def test_every_encoder_has_a_fragment() -> None:
    named = {parse_yaml(file.read_text())["model"]["config_overrides"]["encoder"]["name"] for file in FRAGMENTS}
    assert named == set(ENCODERS.names())
