"""Plain values, as YAML and JSON have them, become configurations."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from speechllm_plugin.errors import UserError


def structure(kls: type[Any], values: object, where: str) -> Any:
    """Makes a dataclass instance from plain values; unknown keys and wrong types raise an error of one line.

    :param where: the configuration path of `values`, for the error.
    """
    if isinstance(values, kls):
        return values
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{where}: found {values!r}, expected a mapping of {kls.__name__}'s fields")
    hints = typing.get_type_hints(kls)
    fields = {field.name: field for field in dataclasses.fields(kls)}
    for key in values:
        if key not in fields:
            raise UserError(f"{where}.{key}: found an unknown key, expected one of {', '.join(sorted(fields))}")
    return kls(**{key: _convert(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def _convert(hint: Any, value: object, where: str) -> object:
    """Checks a value against its annotation. Known are the annotations that the configurations use: dataclasses,
    scalars, lists, None and Literal."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return structure(hint, value, where)
    arguments = typing.get_args(hint)
    for kind in (hint, *arguments):
        if typing.get_origin(kind) is list and isinstance(value, list):
            (item,) = typing.get_args(kind)
            return [_convert(item, element, f"{where}[{index}]") for index, element in enumerate(value)]
    if typing.get_origin(hint) is list:
        raise UserError(f"{where}: found {value!r}, expected a list")
    if typing.get_origin(hint) is typing.Literal:
        if value in arguments:
            return value
        raise UserError(f"{where}: found {value!r}, expected one of {', '.join(map(repr, arguments))}")
    accepted = [kind for kind in (arguments or (hint,)) if isinstance(kind, type) and not typing.get_origin(kind)]
    # YAML writes 1e-4 as a string and 1 for 1.0.
    if float in accepted and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, bool) and bool not in accepted:
        accepted = []
    if not accepted or not isinstance(value, tuple(accepted)):
        expected = " or ".join(getattr(kind, "__name__", str(kind)) for kind in (arguments or (hint,)))
        raise UserError(f"{where}: found {value!r}, expected {expected}")
    return value
