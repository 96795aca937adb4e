"""Configurations as dotted keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
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
    """The values that the file and the command line set, by dotted key, without those that a later key replaces.

    The reader of the file reports later that it is not YAML.
    """
    keys: dict[str, Any] = {}
    if config_file is not None:
        values: Any = {}
        text = text_of(config_file)
        with suppress(ValueError):
            values = parse_yaml(text)
        if not isinstance(values, Mapping | None):
            found = type(values).__name__
            raise UserError(f"--config-file: found a {found} in {config_file}, expected a mapping of keys")
        keys.update(given_keys(values))
    for item in items:
        if item.strip().startswith("del:"):
            keys = _without(keys, item.strip().removeprefix("del:"))
            continue
        key, value = parse_assignment(item, "--config")
        key = key.removeprefix("set:")
        keys = {**_without(keys, key), key: value, **dict(given_keys(value, key))}
    return keys


def text_of(config_file: Path) -> str:
    """
    :raises UserError: the file cannot be read.
    """
    try:
        return config_file.read_text(encoding="utf-8")
    except OSError as error:
        reason = f"cannot read {config_file}: {error.strerror}; expected a YAML file"
        raise UserError(f"--config-file: {reason}") from error
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} in {config_file}"
        raise UserError(f"--config-file: found {found}, expected a YAML file in UTF-8") from error


def _without(keys: dict[str, Any], key: str) -> dict[str, Any]:
    return {other: value for other, value in keys.items() if other != key and not other.startswith(f"{key}.")}


def below(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    """The keys of a section, without its name."""
    start = f"{section}."
    return {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings."""
    return merged({}, values)


def merged(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param base: nested mappings, which stay as they are.
    :param values: by dotted key; they replace those of `base`.
    """
    tree = deepcopy(dict(base))
    for key, value in values.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        node[last] = deepcopy(value)
    return tree
