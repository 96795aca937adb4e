"""YAML as fairseq2 reads and writes it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fairseq2.file_system import LocalFileSystem
from fairseq2.utils.yaml import RuamelYamlDumper

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.yaml_text import parse_assignment, parse_yaml

SOURCES = Path(__file__).parents[3]


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


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("a.b=off", ("a.b", "off")),
        ("a = 1e-3 ", ("a", 1e-3)),
        ("a=", ("a", None)),
        ("a='<speech> # write'", ("a", "<speech> # write")),
        ("a=b=c#d", ("a", "b=c#d")),
        ("a=[x, 'y # z']", ("a", ["x", "y # z"])),
    ],
)
def test_a_value_on_a_command_line(item: str, expected: object) -> None:
    assert parse_assignment(item, "--config") == expected


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("a.b=<speech> # write", "a.b: found '<speech> # write', of which YAML would read '<speech>' alone, expected "
         "quotes around the whole: --config 'a.b=\"<speech> # write\"'"),
        ("a=&amp; <speech>", "a: found '&amp; <speech>', of which YAML would read '<speech>' alone"),
        ("a=#5", "a: found '#5', of which YAML would read None alone"),
        ("a=[1, 2] # both", "a: found '[1, 2] # both', of which YAML would read [1, 2] alone"),
        ("a=b: c: d", "a: found 'b: c: d', expected a value in YAML (mapping values are not allowed here"),
        ("a", "--config: found 'a', expected KEY=VALUE"),
        ("=a", "--config: found '=a', expected KEY=VALUE"),
    ],
)
def test_a_value_that_yaml_would_cut_is_refused(item: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_assignment(item, "--config")
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)
