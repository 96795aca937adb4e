"""No test waits without end: one that stands still would keep all others from being run."""

from __future__ import annotations

import ast

import pytest

from tests.documents import ROOT
from tests.waiting import wait_until


def endless(tree: ast.AST) -> list[int]:
    """Lines of calls that wait for a process or a thread as long as it takes."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        and _waits(node.func) and not any(keyword.arg == "timeout" for keyword in node.keywords)
        and not (node.func.attr in ("wait", "join") and node.args)
    ]  # fmt: skip


def _waits(function: ast.Attribute) -> bool:
    if function.attr in ("run", "check_output", "check_call"):
        return isinstance(function.value, ast.Name) and function.value.id == "subprocess"
    return function.attr in ("wait", "join", "communicate")


def test_every_wait_has_a_limit() -> None:
    found = {
        str(file.relative_to(ROOT)): lines
        for file in sorted((ROOT / "tests").rglob("*.py"))
        if (lines := endless(ast.parse(file.read_text(encoding="utf-8"))))
    }
    assert found == {}


def test_what_did_not_happen_is_said() -> None:
    with pytest.raises(AssertionError, match="^waited 0 s in vain: it rains"):
        wait_until(lambda: False, "it rains", 0)
    wait_until(lambda: True, "it rains", 0)
