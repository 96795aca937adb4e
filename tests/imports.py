"""Who imports whom, read from the sources: nothing is imported for it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "speechllm_kernels": "kernels",
    "speechllm_plugin": ".",
    "speechllm_recipes": "recipes",
    "speechllm_tools": "tools",
}
"""The folder of each package."""


@cache
def modules() -> dict[str, Path]:
    """The file of each module of ours."""
    found = {}
    for package, folder in FOLDERS.items():
        for file in (ROOT / folder / package).rglob("*.py"):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


@cache
def imported_by(module: str, *, inside: bool = True) -> frozenset[str]:
    """The modules that a module imports; what it imports for its annotations alone is left out.

    :param inside: also counts what a function imports when it is called.
    """
    names = set()
    for node in _nodes(ast.parse(modules()[module].read_text(encoding="utf-8")), inside):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{name.name}" for name in node.names}
            names |= inner & modules().keys()
            if not inner <= modules().keys():
                names.add(node.module)
    return frozenset(names)


def _nodes(node: ast.AST, inside: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        if inside or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _nodes(child, inside)
