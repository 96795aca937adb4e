"""Configurations as dotted keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.yaml_text import parse_assignment, parse_yaml


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


def given(config_file: Path | None, items: Sequence[str]) -> dict[str, Any]:
    """What file and command line set, by dotted key. A file that is no YAML is reported later, by its reader."""
    keys: dict[str, Any] = {}
    if config_file is not None:
        values: Any = {}
        with suppress(ValueError):
            values = parse_yaml(config_file.read_text(encoding="utf-8"))
        if not isinstance(values, Mapping | None):
            found = type(values).__name__
            raise UserError(f"--config-file: found a {found} in {config_file}, expected a mapping of keys")
        keys.update(given_keys(values))
    for item in items:
        if not item.strip().startswith("del:"):
            key, value = parse_assignment(item, "--config")
            keys.update({key.removeprefix("set:"): value, **dict(given_keys(value, key.removeprefix("set:")))})
    return keys


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
