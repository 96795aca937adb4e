"""YAML as fairseq2 reads and writes it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fairseq2.file_system import LocalFileSystem
from fairseq2.utils.yaml import RuamelYamlDumper

from speechllm_plugin.yaml_text import parse_yaml

SOURCES = Path(__file__).parents[2]


def test_what_fairseq2_writes_is_read_as_it_was() -> None:
    values = {"mode": "off", "country": "no", "lr": 1e-4, "names": ["on", "yes", "1e3"], "path": None, "text": "a # b"}
    file = io.StringIO()
    RuamelYamlDumper(LocalFileSystem()).dump(values, file)
    assert parse_yaml(file.getvalue()) == values


def test_numbers_and_nothing() -> None:
    assert parse_yaml("1e-4") == 1e-4
    assert parse_yaml("") is None
    assert parse_yaml("first\n---\nsecond") == "first"


@pytest.mark.parametrize("text", ["[1, 2", "a: b: c", "\x00", "{" * 3, "!!python/object:os.system {}"])
def test_what_is_no_yaml_is_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse_yaml(text)


def test_there_is_one_reader() -> None:
    folders = ("speechllm_plugin", "recipes", "tools", "tests")
    files = [file for folder in folders for file in (SOURCES / folder).rglob("*.py")]
    assert len(files) > 100
    found = [file.name for file in files if "import yaml" + "\n" in file.read_text(encoding="utf-8")]
    assert found == []
