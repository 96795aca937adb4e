"""README and docs: their commands exist and parse, their links, paths and names are there, and nothing is stale."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from speechllm_plugin.files.yaml_text import parse_yaml
from tests.commands import environment
from tests.documents import PAGES, ROOT, commands_of, name_of
from tests.waiting import LONGEST

COMMANDS = [(page, command) for page in PAGES for command in commands_of(page)]
LINK = re.compile(r"\]\(([\w./#-]+)\)")
NAMED_PATH = re.compile(r"`((?:speechllm_plugin|kernels|recipes|tools|tests|benchmarks|docs|findings)/[\w./-]*)`")


def pairs(pattern: re.Pattern[str]) -> list[tuple[Path, str]]:
    return [(page, found) for page in PAGES for found in sorted({*pattern.findall(page.read_text(encoding="utf-8"))})]


def ids(value: object) -> str | None:
    return name_of(value) if isinstance(value, Path) else None


def test_the_readme_is_short_and_shows_the_commands_that_matter() -> None:
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= 120
    starts = {" ".join(command.split()[:2]) for command in commands_of(readme)}
    assert {"make demo", "make test", "speechllm transcribe", "fairseq2 recipe"} <= starts


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=ids)
def test_command_parses(page: Path, command: str) -> None:
    words = shlex.split(command)
    if words[0] == "torchrun":
        assert words[3:6] == ["-m", "speechllm_recipes", "recipe"]
        words = ["fairseq2", *words[5:]]
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[0] == "speechllm":
        from speechllm_tools.cli import parse

        assert parse(words[1:]).command == words[1]
    elif words[:3] == ["fairseq2", "recipe", "run"]:
        _check_recipe_command(words[3:])
    else:
        assert words in (["fairseq2", "recipe", "list"], ["fairseq2", "assets", "list"], ["pre-commit", "install"]), (
            f"{name_of(page)}: {command}"
        )


def _check_recipe_command(words: list[str]) -> None:
    """The arguments parse, and every configuration key is one of the action's."""
    from fairseq2.utils.structured import StandardValueConverter
    from speechllm_recipes.cli import parse_run
    from speechllm_recipes.entry import Driver

    _, action, options = parse_run(words)
    if isinstance(action, Driver):
        return
    config = StandardValueConverter().unstructure(action.create().config_kls())
    for item in (item for group in options.config for item in group):
        key, _, value = item.partition("=")
        parse_yaml(value)
        keys = key.split(".")
        # What lies below `config_overrides` belongs to the model's or the dataset's own configuration.
        if "config_overrides" in keys:
            keys = keys[: keys.index("config_overrides") + 1]
        node = config
        for name in keys:
            assert isinstance(node, dict) and name in node, key
            node = node[name]
            if node is None and name == "config":
                break  # a part's own configuration begins


@pytest.mark.parametrize(("page", "link"), pairs(LINK), ids=ids)
def test_linked_file_exists(page: Path, link: str) -> None:
    assert (page.parent / link.partition("#")[0]).exists()


@pytest.mark.parametrize(("page", "path"), pairs(NAMED_PATH), ids=ids)
def test_named_path_exists(page: Path, path: str) -> None:
    """Of a file that a reader is to write, NAME, the folder does."""
    assert (ROOT / path).exists() or ("NAME" in path and (ROOT / path).parent.is_dir())


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs/README.md"
    named = {link for link in LINK.findall(index.read_text(encoding="utf-8")) if "/" not in link}
    assert named == {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}


def _table(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of docs/inside.md, its own heading left out."""
    text = (ROOT / "docs/inside.md").read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]


def test_every_room_is_on_the_page() -> None:
    named = {name.partition("/")[0] for _, cell in _table("Rooms") for name in re.findall(r"`([\w/]+)`", cell)}
    rooms = {place.parent.name for place in (ROOT / "speechllm_plugin").glob("*/__init__.py")}
    assert named == rooms


@pytest.mark.parametrize("row", _table("From a row to the loss"), ids=lambda row: row[1].strip("`"))
def test_the_way_of_a_clip_is_there(row: list[str]) -> None:
    """Its files, the names in them, and the files that the text names beside them."""
    file, name, text = row
    node: ast.AST = ast.parse((ROOT / file.strip("`")).read_text(encoding="utf-8"))
    for part in name.strip("`").split("."):
        kinds = (ast.FunctionDef, ast.ClassDef)
        node = next(child for child in ast.iter_child_nodes(node) if isinstance(child, kinds) and child.name == part)
    assert all((ROOT / "speechllm_plugin" / other).is_file() for other in re.findall(r"`(\w+/\w+\.py)`", text))


def test_the_page_of_keys_is_up_to_date(tmp_path: Path) -> None:
    """In a process of its own, as it is renewed: `typing` gives a Literal the order of the first that has its values,
    whichever library made it."""
    from speechllm_tools.configuration_page import COMMAND

    new = tmp_path / "page.md"
    module = [sys.executable, "-m", "speechllm_tools.configuration_page", str(new)]
    subprocess.run(module, cwd=ROOT, env=environment(), check=True, timeout=LONGEST)
    stale = new.read_text(encoding="utf-8") != (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert not stale, f"docs/configuration.md is out of date; renew it with: {COMMAND}"


SECTIONS = "model|dataset|decoding|trainer|regime|optimizer|common|encoder|llm|adapter|prompt|ctc"
# Not `encoder.llm.adapter`, which is what architectures are called, nor `decoding.KEY`.
KEY = re.compile(rf"`((?:{SECTIONS})\.(?!llm\.adapter|KEY|onnx|safetensors)[\w.]+)")
PREFIX = re.compile(r"^(model\.config_overrides\.|dataset\.config_overrides\.)?((encoder|adapter|llm)\.config\.)?")


@pytest.mark.parametrize(("page", "key"), [pair for pair in pairs(KEY) if "configuration" not in pair[0].name], ids=ids)
def test_named_key_is_one(page: Path, key: str) -> None:
    """A key that a page names, whole or below `config_overrides` and a part's `config`, is on the page of keys."""
    keys = set(re.findall(r"^- `([\w.]+)`", (ROOT / "docs/configuration.md").read_text(encoding="utf-8"), re.MULTILINE))
    names = {key, PREFIX.sub("", key)}
    assert names & keys or any(known.startswith(f"{key}.") for known in keys), key
