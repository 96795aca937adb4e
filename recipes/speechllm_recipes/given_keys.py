"""Configurations as dotted keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def given_keys(values: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys that a mapping sets, also below fairseq2's `_set_`."""
    if not isinstance(values, Mapping):
        if prefix:
            yield prefix, values
        return
    for name, value in values.items():
        if name == "_set_":
            yield from given_keys(value, prefix)
            # `_set_` replaces a whole section: its keys are set as sections, too.
            if isinstance(value, Mapping):
                yield from ((f"{prefix}.{key}" if prefix else str(key), below) for key, below in value.items())
        elif name != "_del_":
            yield from given_keys(value, f"{prefix}.{name}" if prefix else str(name))


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree
