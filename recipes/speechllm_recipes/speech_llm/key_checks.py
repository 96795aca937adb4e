"""Checks the keys and plain values of a configuration against a table of all keys.

It imports neither torch nor fairseq2, although most keys are theirs.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_recipes.given_keys import below
from speechllm_recipes.speech_llm.ranges import range_of

Table = Mapping[str, str]
_FLOATS = ("float32", "bfloat16", "float16", "float64", "half", "float", "double")
_LATER = "${"


def check_keys(action: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param given: keys that are set, by dotted key.
    :returns: the keys whose values are known already, with numbers as numbers.
    :raises UserError: a key is unknown, or does not take its value.
    """
    table = _tables()[action]
    if unknown := list(dict.fromkeys(filter(None, (_unknown(table, key) for key in given)))):
        meant = get_close_matches(unknown[0], table, n=1, cutoff=0.9)
        advice = f" (did you mean {meant[0]}?)" if meant else ""
        raise UserError(f"{', '.join(unknown)}: found an unknown key, expected one that --dump-config lists{advice}")
    known = {key: value for key, value in given.items() if not is_later(value)}
    values = {key: _converted(kinds, key, known[key]) for key, kinds in _kinds(table, known)}
    for key, kinds in table.items():
        if kinds.startswith("of "):
            name = given.get(f"{key.removesuffix('.config')}.name", kinds.removeprefix("of "))
            section = check_section(f"{key} of {name}", below(known, key), key)
            values.update({f"{key}.{inner}": value for inner, value in section.items()})
    problems = [
        f"{key}: found {value!r}, expected {rule}" for key, value in {**known, **values}.items()
        if isinstance(value, (int, float)) and (rule := range_of(key)) is not None and value not in rule
    ]  # fmt: skip
    if problems:
        raise UserError("; ".join(problems))
    return {**known, **values}


def is_later(value: object) -> bool:
    """Whether fairseq2 replaces a part of a value when it reads it, as in `${env:DATA}/train.tsv`."""
    if isinstance(value, Mapping):
        return any(map(is_later, value.values()))
    if isinstance(value, list):
        return any(map(is_later, value))
    return isinstance(value, str) and _LATER in value


def check_section(name: str, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """
    :param name: name of the section's table, such as `adapter.config of mlp`. Parts of other packages have no table.
    :param given: keys that are set in the section.
    :param where: the section's own key.
    :returns: as `check_keys`.
    :raises UserError: as `check_keys`.
    """
    if (table := _tables().get(name)) is None:
        return dict(given)
    if unknown := list(filter(None, (_unknown(table, key) for key in given))):
        raise UserError(f"{where}.{unknown[0]}: found an unknown key, expected one of {', '.join(sorted(table))}")
    values = {key: _converted(kinds, f"{where}.{key}", given[key]) for key, kinds in _kinds(table, given)}
    return {**given, **values}


def _kinds(table: Table, given: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """The kinds of value that keys take, for keys whose kinds are all in the table."""
    for key in given:
        kinds = table[key].split(" | ") if key in table else []
        if key not in table and any(known.startswith(f"{key}.") for known in table):
            kinds = ["section"]
        if kinds and kinds[0].startswith("of "):
            kinds = ["section", "null"]
        if kinds and "any" not in kinds:
            yield key, kinds


def _unknown(table: Table, key: str) -> str | None:
    """The first unknown part of a dotted key; None if every part is known or lies below a key that is not in the
    table."""
    names = key.split(".")
    for number in range(1, len(names) + 1):
        part = ".".join(names[:number])
        if part in table:
            return None
        if not any(known.startswith(f"{part}.") for known in table):
            return part
    return None


def _converted(kinds: list[str], key: str, value: Any) -> Any:
    """
    :raises UserError: none of the kinds takes the value; the line is the same as for fairseq2's error.
    """
    if value is None and "null" in kinds:
        return None
    kinds = [kind for kind in kinds if kind != "null"]
    words = [ast.literal_eval(kind) for kind in kinds if kind.startswith("'")]
    kind = kinds[0] if len(kinds) == 1 and not words else ""
    if value in words or (kind == "bool" and isinstance(value, bool)) or (kind == "str" and isinstance(value, str)):
        return value
    if kind == "section" and isinstance(value, Mapping):
        return value
    if kind in ("int", "float"):
        return _number(kind, key, value)
    if "dtype" in kinds and isinstance(value, str):
        if value.removeprefix("torch.") in _FLOATS or "float8" in value:
            return value
        raise UserError(f"{key}: found {value!r}, expected {', '.join([*words, 'float32', 'bfloat16'])} or float16")
    if kinds == ["str", "list[str]"] and not isinstance(value, (str, list)):
        raise UserError(f"{key}: found {value!r}, expected one of {', '.join(kinds)}")
    if words and len(words) == len(kinds):
        raise UserError(f"{key}: found {value!r}, expected one of {', '.join(words)}")
    if kind == "section":
        raise UserError(f"{key}: found a value of type {type(value).__name__}, expected a mapping of keys")
    if kind in ("bool", "str"):
        raise UserError(f"{key}: found a value of type {type(value).__name__}, expected one of type {kind}")
    return value


def _number(kind: str, key: str, value: Any) -> int | float:
    whole = kind == "int"
    fits = isinstance(value, (int, str) if whole else (int, float, str)) and not isinstance(value, bool)
    try:
        if fits or (isinstance(value, float) and value.is_integer()):
            return int(value) if whole else float(value)
    except ValueError:
        pass
    raise UserError(f"{key}: found {value!r}, expected {'an integer' if whole else 'a number'}")


@cache
def _tables() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(
        Path(__file__).with_name("known_keys.json").read_text(encoding="utf-8")
    )
    return found
