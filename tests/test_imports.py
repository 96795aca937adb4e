"""Imports go one way, between the packages and between the rooms of the plugin."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import ROOT

FOLDERS = {
    "speechllm_kernels": "kernels", "speechllm_plugin": ".", "speechllm_recipes": "recipes", "speechllm_tools": "tools"
}
ALLOWED = {
    "speechllm_kernels": (),
    "speechllm_plugin": ("speechllm_kernels",),
    "speechllm_recipes": ("speechllm_plugin", "speechllm_kernels"),
    "speechllm_tools": ("speechllm_recipes", "speechllm_plugin", "speechllm_kernels"),
}
"""Package -> those of ours that it may import."""
NEVER = {
    # Parts do not know the system that joins them, nor what is run on it.
    "encoders": ("models", "tasks", "units", "adapters", "llms"),
    "llms": ("models", "tasks", "units", "adapters", "encoders"),
    "adapters": ("models", "tasks", "units", "encoders", "llms", "datasets", "recognizers"),
    "recognizers": ("models", "tasks", "units", "adapters", "llms"),
    "datasets": ("models", "tasks", "units", "adapters", "llms"),
    "scoring": ("models", "tasks", "units", "adapters", "encoders", "llms", "recognizers"),
    "models": ("tasks", "units", "scoring"),
}
"""Room of the plugin -> rooms that it never imports."""


def imports(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each file with each module that it imports, wherever in the file."""
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield file, node.module
                yield from ((file, f"{node.module}.{name.name}") for name in node.names)
            elif isinstance(node, ast.Import):
                yield from ((file, name.name) for name in node.names)


@pytest.mark.parametrize("package", ALLOWED)
def test_packages(package: str) -> None:
    forbidden = {*FOLDERS} - {package, *ALLOWED[package]}
    if package == "speechllm_kernels":
        forbidden |= {"fairseq2", "transformers"}
    found = [(str(file), module) for file, module in imports(ROOT / FOLDERS[package] / package)
             if module.partition(".")[0] in forbidden]
    assert found == []


@pytest.mark.parametrize("room", NEVER)
def test_rooms_of_the_plugin(room: str) -> None:
    forbidden = {f"speechllm_plugin.{other}" for other in NEVER[room]}
    found = [(str(file), module) for file, module in imports(ROOT / "speechllm_plugin" / room)
             if ".".join(module.split(".")[:2]) in forbidden]
    assert found == []


def test_a_corpus_knows_its_contract_alone() -> None:
    allowed = ("speechllm_tools.prepare", "speechllm_tools.corpora", "speechllm_plugin")
    found = [(str(file), module) for file, module in imports(ROOT / "tools/speechllm_tools/corpora")
             if module.startswith("speechllm_") and not module.startswith(allowed)]
    assert found == []
