"""Reads a sweep's file: the keys that all cells share, and the values of each axis."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.yaml_text import parse_yaml
from speechllm_recipes.given_keys import given_keys

AXES = Path(__file__).parents[1] / "configs" / "axes"
_KEYS = ("base", "axes", "evaluate", "step", "cascade")
_CASCADE = "cascade"


@dataclass(frozen=True)
class Cell:
    """One combination of values."""

    name: str
    """The names of the cell's values: `encoder.llm.adapter[.more]`."""
    train: Mapping[str, Any] | None
    """The complete configuration of the training recipe; None for a cascade, which is not trained."""
    evaluate: Mapping[str, Any] | None
    """Configuration of the evaluation or of the cascade; None if there is neither."""
    step: str
    """The checkpoint that is evaluated: `last`, `best` or a step."""


def read_sweep(file: Path) -> list[Cell]:
    """
    :param file: YAML with the keys ``axes``, ``base`` (keys of the training recipe, the name of a file of them, or a
        list of both), ``evaluate`` (keys of the evaluation; none without it), ``step`` (default: last) and ``cascade``
        (keys of the cascade: one more cell of that name, on the data of ``evaluate``). An axis is a list of names, of
        files ``configs/axes/AXIS/NAME.yaml``, or a mapping of names to keys or to files beside `file`. ``{AXIS}`` in a
        value stands for the name that a cell has there.
    :raises UserError: the file cannot be read, a value is not a mapping, or two axes set one key; the line has file and
        key.
    """
    values = _read(file)
    for key in values:
        if key not in _KEYS:
            raise UserError(f"{file}, {key}: found an unknown key, expected {', '.join(_KEYS)}")
    axes = values.get("axes")
    if not isinstance(axes, Mapping) or not axes:
        raise UserError(f"{file}, axes: found {axes!r:.40}, expected a mapping of axes to their values")
    base: dict[str, Any] = {}
    given = values.get("base", {})
    for part in given if isinstance(given, list) else [given]:
        base = merged(base, _keys(part, file, "base"))
    evaluate = values.get("evaluate")
    if evaluate is not None:
        evaluate = _keys(evaluate, file, "evaluate")
    choices = {str(axis): _choices(file, str(axis), given) for axis, given in axes.items()}
    _check_apart(file, choices)
    cells = []
    for combination in itertools.product(*(options.items() for options in choices.values())):
        train = deepcopy(base)
        for _, changes in combination:
            train = merged(train, changes)
        names = dict(zip(choices, (name for name, _ in combination), strict=True))
        train = _named(train, names)
        step = str(values.get("step", "last"))
        cells.append(Cell(".".join(names.values()), train, _evaluation(train, evaluate), step))
    if _CASCADE in values:
        if any(cell.name == _CASCADE for cell in cells):
            raise UserError(f"{file}, axes: found the cell {_CASCADE!r}, expected another name beside the key cascade")
        keys = _keys(values[_CASCADE], file, _CASCADE)
        cells.append(Cell(_CASCADE, None, _cascade(base, evaluate or {}, keys), "last"))
    return cells


def _named(value: Any, names: Mapping[str, str]) -> Any:
    """The value with each `{AXIS}` replaced by the cell's name there."""
    if isinstance(value, Mapping):
        return {key: _named(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    if isinstance(value, str):
        for axis, name in names.items():
            value = value.replace(f"{{{axis}}}", name)
    return value


def _evaluation(train: Mapping[str, Any], evaluate: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The configuration of the evaluation, with the training's description of the data."""
    if evaluate is None:
        return None
    dataset = train.get("dataset") or {}
    shared = {key: dataset[key] for key in ("config_overrides", "feature_cache") if key in dataset}
    return merged({"dataset": shared} if shared else {}, evaluate)


def _cascade(base: Mapping[str, Any], evaluate: Mapping[str, Any], keys: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the cascade, without the cache of features, which it does not use."""
    overrides = {"config_overrides": (base.get("dataset") or {}).get("config_overrides", {})}
    return merged({"dataset": merged(overrides, evaluate.get("dataset") or {})}, keys)


def _choices(file: Path, axis: str, given: object) -> dict[str, Mapping[str, Any]]:
    """The values of an axis by name, each with the keys that it sets."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        named: dict[str, object] = {str(name): AXES / axis / f"{name}.yaml" for name in given}
        for name, path in named.items():
            if not Path(str(path)).is_file():
                known = sorted(one.stem for one in (AXES / axis).glob("*.yaml"))
                expected = f"one of {', '.join(known)}" if known else "a mapping of names to keys: it has no files"
                raise UserError(f"{file}, axes.{axis}: found {name!r}, expected {expected}")
        if len(named) != len(given):
            raise UserError(f"{file}, axes.{axis}: found {', '.join(map(str, given))}, expected each name once")
    elif isinstance(given, Mapping) and given:
        named = {str(name): value for name, value in given.items()}
    else:
        raise UserError(f"{file}, axes.{axis}: found {given!r:.40}, expected a list of names or a mapping of names to "
                        "keys")
    for name in named:
        if not name or "/" in name or name.startswith("."):
            raise UserError(f"{file}, axes.{axis}: found {name!r}, expected a name that a directory can have")
    return {name: _keys(value, file, f"axes.{axis}.{name}") for name, value in named.items()}


def _check_apart(file: Path, choices: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    keys = {
        axis: {key for values in options.values() for key, _ in given_keys(values)} for axis, options in choices.items()
    }
    for (one, mine), (other, theirs) in itertools.combinations(keys.items(), 2):
        for key in sorted(mine):
            clash = next((each for each in sorted(theirs) if f"{each}.".startswith(f"{key}.")
                          or f"{key}.".startswith(f"{each}.")), None)
            if clash is not None:
                raise UserError(f"{file}, axes: found {key!r} set by {one} and {clash!r} by {other}, expected each key "
                                "in one axis")


def _keys(value: object, file: Path, where: str) -> dict[str, Any]:
    """Nested mappings, from a mapping with dotted keys or from a file that holds one."""
    if isinstance(value, Path | str):
        path = file.parent / value
        return _keys(_read(path), path, "")
    if not isinstance(value, Mapping):
        raise UserError(f"{file}, {where}: found {value!r:.40}, expected a mapping of keys or the name of a file")
    tree: dict[str, Any] = {}
    for key, item in value.items():
        parents = str(key).split(".")
        item = _keys(item, file, f"{where}.{key}") if isinstance(item, Mapping) else deepcopy(item)
        for part in reversed(parents):
            item = {part: item}
        tree = merged(tree, item)
    return tree


def _read(file: Path) -> Mapping[str, Any]:
    try:
        values = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{file}: cannot be read ({reason}), expected a YAML file") from None
    if not isinstance(values, Mapping):
        raise UserError(f"{file}: found a {type(values).__name__}, expected a mapping of keys")
    return values


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the changes applied: mappings are merged by key, other values are replaced."""
    result = dict(values)
    for key, change in changes.items():
        both = isinstance(change, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], change) if both else change
    return result
