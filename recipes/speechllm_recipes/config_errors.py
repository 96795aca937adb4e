"""Turns the errors of fairseq2 and Python about a configuration into lines `full.key.path: found X, expected Y`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fairseq2.recipe.error import LRSchedulerNotKnownError, OptimizerNotKnownError
from fairseq2.utils.validation import ValidationError, ValidationResult
from fairseq2.utils.yaml import YamlError

# What fairseq2 and Python say about a wrong value -> what was found and what was expected.
_VALUE_ERRORS = (
    (r"invalid literal for int\(\) with base 10: (.+)", r"found \1, expected an integer"),
    (r"could not convert string to float: (.+)", r"found \1, expected a number"),
    (r"Value must be a supported literal value, but is (.+) instead\. Supported values are (.+)\.",
     r"found '\1', expected one of \2"),
    (r"Value must be of type .*Mapping'>`, but is of type `<class '(.+)'>` instead\.",
     r"found a value of type \1, expected a mapping of keys"),
    (r"Value must be of type `<class '(.+)'>`, but is of type `<class '(.+)'>` instead\.",
     r"found a value of type \2, expected one of type \1"),
    # For a union type, a stack trace of each of its types follows.
    (r"Value must be parseable as one of union elements typing\.Literal\['(.+)'\], <class 'torch\.dtype'>, but is (.+) "
     r"instead\.(?s:.*)", r"found '\2', expected \1 or a torch.dtype such as bfloat16"),
    (r"Value must be parseable as one of union elements <class '(.+)'>, (.+), but is (.+) instead\.(?s:.*)",
     r"found \3, expected one of \1, \2"),
)
_OPTIMIZERS = "adamw or adafactor"
_SCHEDULERS = "cosine_annealing, myle, noam, polynomial_decay, tri_stage or passthrough"


def config_error(error: BaseException) -> str | None:
    """One line from an error about the configuration; None for an error about something else."""
    if isinstance(error, ValidationError):
        return "; ".join(_first_of_each_key(error.result))
    if isinstance(error, OptimizerNotKnownError):
        return f"optimizer.name: found {error.name!r}, expected {_OPTIMIZERS}"
    if isinstance(error, LRSchedulerNotKnownError):
        return f"lr_scheduler.name: found {error.name!r}, expected {_SCHEDULERS}"
    return None


def structure_error(error: BaseException) -> str:
    """One line from fairseq2's chain of errors, which descends the configuration a key at a time."""
    path: list[str] = []
    message = str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, YamlError):
            # The outer error names the file.
            return f"{message} {' '.join(str(cause).split())}"
        message = str(cause)
        if match := re.match(r"`([\w.]+)` (field )?cannot be structured", message):
            path += match[1].split(".")
        if match := re.match(r"Value of the (\w+) key cannot be structured", message):
            path.append(match[1])
        cause = cause.__cause__
    where = ".".join(path)
    if match := re.search(r"extra key\(s\) (.+?)\.?$", message):
        keys = ", ".join(".".join([*path, key]) for key in match[1].split(", "))
        return f"{keys}: found an unknown key, expected one that --dump-config lists"
    for pattern, plain in _VALUE_ERRORS:
        message = re.sub(f"^{pattern}$", plain, message)
    return f"{where}: {message}" if where else message


def _first_of_each_key(result: ValidationResult) -> Iterator[str]:
    """The first error of each key: fairseq2's checks repeat some of ours, which come first and name the value."""
    seen = set()
    for key, line in _lines(result, ""):
        if key not in seen:
            seen.add(key)
            yield line


def _lines(result: ValidationResult, path: str) -> Iterator[tuple[str, str]]:
    for error in result.errors:
        match = re.match(r"`([\w.\[\]]+)` must be (.+?)(?:, but is (.+) instead)?\.$", error)
        if match is None:
            yield error, f"{path}: {error}" if path else error
            continue
        key = f"{path}.{match[1]}" if path else match[1]
        found = f"found {match[3]}, " if match[3] else ""
        yield key, f"{key}: {found}expected {match[2].replace('greater than or equal to', 'at least')}"
    for name, below in result.sub_results.items():
        joined = path + name if name.startswith("[") or not path else f"{path}.{name}"
        yield from _lines(below, joined)
