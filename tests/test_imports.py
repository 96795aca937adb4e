"""The directions of imports: between packages, between the rooms of the plugin, and towards fairseq2."""

from __future__ import annotations

import ast
import re
import sys

import pytest

from tests.imports import FOLDERS, ROOT, imported_by, modules

PACKAGES = {
    "speechllm_kernels": set(),
    "speechllm_plugin": {"speechllm_kernels"},
    "speechllm_recipes": {"speechllm_plugin", "speechllm_kernels"},
    "speechllm_tools": {"speechllm_plugin", "speechllm_kernels", "speechllm_recipes"},
}
"""What each package may import of the others."""

SHELL = (
    "speechllm_plugin.extension",
    "speechllm_plugin.datasets.reader",
    "speechllm_plugin.units",
    *(f"speechllm_plugin.workarounds.{name}" for name in ("local_paths", "log_filter", "one_config", "strict_numbers")),
)
"""The modules and packages of the plugin that fairseq2 runs; all others are the core, and do without it."""

ROOMS: dict[str, set[str]] = {
    "adapters": {"errors", "registry", "tensors", "workarounds"},
    "alignment": {"datasets", "tensors"},
    "cascade": {"datasets", "errors", "llms", "pretrained", "prompts", "registry", "tasks", "tensors", "text"},
    "configuration": {"errors"},
    "cost": {"adapters", "datasets", "encoders", "errors", "llms", "models", "pretrained", "tensors"},
    "datasets": {"configuration", "encoders", "errors", "files", "log", "tasks", "tensors", "text"},
    "encoders": {"datasets", "errors", "files", "log", "pretrained", "registry", "tensors", "workarounds"},
    "errors": set(),
    "extension": {"datasets", "models", "units"},
    "files": {"errors", "log"},
    "hf": {
        "configuration", "datasets", "errors", "inference", "llms", "models", "pretrained", "tensors", "workarounds",
    },
    "inference": {
        "adapters", "alignment", "datasets", "encoders", "errors", "llms", "models", "tasks", "tensors", "text",
    },
    "llms": {
        "configuration", "datasets", "errors", "log", "pretrained", "prompts", "registry", "tensors", "text",
        "workarounds",
    },
    "loading": set(),
    "log": set(),
    "models": {
        "adapters", "alignment", "configuration", "datasets", "encoders", "errors", "files", "inference", "llms", "log",
        "pretrained", "prompts", "registry", "tasks", "tensors", "text", "workarounds",
    },
    "pretrained": {"errors", "log", "workarounds"},
    "prompts": {"errors", "tasks", "text"},
    "recordings": {"alignment", "datasets", "errors", "inference", "text"},
    "registry": {"configuration", "errors", "loading"},
    "scoring": {"errors", "files", "tasks", "text"},
    "tasks": {"errors", "loading", "text"},
    "tensors": set(),
    "text": {"errors", "files"},
    "units": {
        "adapters", "alignment", "cascade", "datasets", "errors", "files", "llms", "log", "models", "scoring",
        "tasks", "tensors",
    },
    "workarounds": set(),
}  # fmt: skip
"""The rooms of the plugin, and what each may import of the others."""

DISTRIBUTIONS = {"_soundfile_data": "soundfile", "ruamel": "ruamel.yaml", "espeakng_loader": "espeakng-loader"}
"""Names of packages on the index that differ from the names they are imported by by more than a hyphen."""


ELSEWHERE = {"speechllm_tools.comet.worker", "speechllm_tools.vllm.inside.speechllm_repetition"}
"""Run in processes whose packages are no part of our own environment."""


def in_shell(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in SHELL)


def room_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("package", FOLDERS)
def test_packages_import_in_one_direction(package: str) -> None:
    own = {module for module in modules() if module.split(".")[0] == package}
    imported = {name.split(".")[0] for module in own for name in imported_by(module)}
    assert imported & FOLDERS.keys() <= PACKAGES[package] | {package}


def test_kernels_need_neither_fairseq2_nor_transformers() -> None:
    kernels = [module for module in modules() if module.startswith("speechllm_kernels")]
    assert {name.split(".")[0] for module in kernels for name in imported_by(module)} <= {
        *sys.stdlib_module_names, "speechllm_kernels", "torch", "triton", "typing_extensions"
    }


def test_the_core_imports_no_fairseq2() -> None:
    core = [module for module in modules() if module.startswith("speechllm_plugin") and not in_shell(module)]
    wrong = {
        module: sorted(name for name in imported_by(module) if name.split(".")[0] == "fairseq2" or in_shell(name))
        for module in core
    }
    assert {module: names for module, names in wrong.items() if names} == {}


def test_rooms_import_as_the_table_says() -> None:
    plugin = [module for module in modules() if module.startswith("speechllm_plugin.")]
    found: dict[str, set[str]] = {room_of(module): set() for module in plugin}
    for module in plugin:
        names = {name for name in imported_by(module) if name.startswith("speechllm_plugin.")}
        found[room_of(module)] |= {room_of(name) for name in names} - {room_of(module)}
    assert found == ROOMS


def test_no_module_needs_itself_to_be_imported() -> None:
    """What functions import when they are called is no part of a cycle."""
    needs = {module: imported_by(module, inside=False) & modules().keys() for module in modules()}
    while free := {module for module, others in needs.items() if not others & (needs.keys() - {module})}:
        needs = {module: others for module, others in needs.items() if module not in free}
    assert sorted(needs) == []


def test_every_package_that_is_imported_is_named_in_setup() -> None:
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    strings = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    named = {
        re.sub(r"[-_.]+", "-", match[0]).lower()
        for value in strings
        if isinstance(value, str) and (match := re.match(r"[\w.-]+(?=(\[\w+\])?[><=!])", value))
    }
    imported = {name.split(".")[0] for module in modules().keys() - ELSEWHERE for name in imported_by(module)}
    others = imported - FOLDERS.keys() - sys.stdlib_module_names
    wanted = {re.sub(r"[-_.]+", "-", DISTRIBUTIONS.get(name, name)).lower() for name in others}
    assert wanted <= named


def test_a_corpus_knows_its_contract_alone() -> None:
    allowed = ("speechllm_tools.prepare", "speechllm_tools.corpora", "speechllm_plugin")
    corpora = [module for module in modules() if module.startswith("speechllm_tools.corpora.")]
    imported = {name for module in corpora for name in imported_by(module) if name.startswith("speechllm_")}
    assert {name for name in imported if not name.startswith(allowed)} == set()
