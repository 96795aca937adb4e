"""What the packages export, and what is installed of them."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import speechllm_plugin
from tests.documents import ROOT
from tests.waiting import LONGEST

FOLDERS = {
    "speechllm_plugin": ".", "speechllm_kernels": "kernels", "speechllm_recipes": "recipes", "speechllm_tools": "tools"
}


@pytest.mark.parametrize("package", ["speechllm_plugin", "speechllm_recipes"])
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert [name for name in module.__all__ if getattr(module, name, None) is None] == []


def test_type_checkers_see_the_names_that_are_imported_when_asked_for() -> None:
    tree = ast.parse(Path(speechllm_plugin.__file__).read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {f"{node.module}": {name.name for name in node.names}
            for node in typed.body if isinstance(node, ast.ImportFrom)}
    homes = {f"speechllm_plugin.{module}": set(names) for module, names in speechllm_plugin._HOMES.items()}
    assert seen == homes
    assert set(speechllm_plugin.__all__) == set().union(*homes.values()) | {"UserError"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'load_speech_llms'"):
        speechllm_plugin.load_speech_llms  # noqa: B018


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as setuptools installs them."""
    place = tmp_path_factory.mktemp("built")
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(place), "build_py", "--build-lib",
         str(place / "lib")],
        cwd=ROOT, check=True, timeout=LONGEST,
    )
    return place / "lib"


@pytest.mark.parametrize(("package", "folder"), FOLDERS.items())
def test_all_sources_are_installed_and_marked_as_typed(built: Path, package: str, folder: str) -> None:
    source = ROOT / folder / package
    expected = {str(file.relative_to(source)) for pattern in ("*.py", "*.yaml", "*.json", "py.typed")
                for file in source.rglob(pattern)}
    found = {str(file.relative_to(built / package)) for file in (built / package).rglob("*") if file.is_file()}
    assert "py.typed" in expected
    assert expected <= found, expected - found
