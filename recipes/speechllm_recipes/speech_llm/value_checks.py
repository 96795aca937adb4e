"""Checks numbers, precisions and patterns in a configuration that fairseq2 has read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import torch
from fairseq2.utils.validation import ValidationError, ValidationResult

from speechllm_recipes.speech_llm.ranges import range_of


def check_values(config: object) -> None:
    """
    :raises ValidationError: a number is out of its range, or a precision or a pattern is not valid.
    """
    result = ValidationResult()
    for key, value in _leaves(config, ""):
        rule = range_of(key)
        if rule is not None and isinstance(value, (int, float)) and value not in rule:
            result.add_error(f"`{key}` must be {rule}, but is {value!r} instead.")
        if isinstance(value, torch.dtype) and not value.is_floating_point:
            result.add_error(f"`{key}` must be float32, bfloat16 or float16, but is {str(value)[6:]} instead.")
        if key.startswith("optimizer.config.groups[") and ".params" in key and isinstance(value, str):
            try:
                re.compile(value)
            except re.error as error:
                result.add_error(f"`{key}` must be a regular expression ({error}), but is {value!r} instead.")
    if result.has_error():
        raise ValidationError(result)


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    if is_dataclass(value):
        for field in fields(value):
            yield from _leaves(getattr(value, field.name), f"{path}.{field.name}" if path else field.name)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{path}[{number}]")
    else:
        yield path, value
