"""The README's commands exist and parse, its paths and modules are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from speechllm_plugin.yaml_text import parse_yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def readme_commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.strip()]


def test_the_commands_that_matter_are_shown() -> None:
    starts = {" ".join(command.split()[:2]) for command in readme_commands()}
    assert {"make demo", "make test", "speechllm transcribe", "fairseq2 recipe"} <= starts


@pytest.mark.parametrize("command", readme_commands())
def test_command_parses(command: str) -> None:
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
        assert words in (["fairseq2", "recipe", "list"], ["fairseq2", "assets", "list"]), command


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


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([\w./-]+)\)", README))))
def test_linked_file_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:speechllm_plugin|kernels|recipes|tools|tests|benchmarks)/[\w./-]*)`", README)))
)
def test_named_path_exists(path: str) -> None:
    assert (ROOT / path).exists()
