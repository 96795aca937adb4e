"""Keeps two things out of fairseq2's log: stack traces of the user's mistakes, and secrets."""

from __future__ import annotations

import logging
import os
import re

from fairseq2.logging import log
from fairseq2.recipe.error import RecipeConfigParseError
from fairseq2.utils.yaml import YamlError

_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL", re.IGNORECASE)

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
    # The two of unions go on with a stack trace for each element.
    (r"Value must be parseable as one of union elements typing\.Literal\['(.+)'\], <class 'torch\.dtype'>, but is (.+) "
     r"instead\.(?s:.*)", r"found '\2', expected \1 or a torch.dtype such as bfloat16"),
    (r"Value must be parseable as one of union elements <class '(.+)'>, (.+), but is (.+) instead\.(?s:.*)",
     r"found \3, expected one of \1, \2"),
)


def install_log_filter() -> None:
    log.logger.addFilter(_filter)


def _filter(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], RecipeConfigParseError):
        record.msg, record.args, record.exc_info = f"config: {config_error(record.exc_info[1])}", None, None
    # fairseq2 logs every environment variable in clear, HF_TOKEN included.
    elif "Environment Variables" in str(record.msg):
        text = record.getMessage()
        for name, value in os.environ.items():
            if value and _SECRET.search(name):
                text = text.replace(f"{name}={value}", f"{name}=***")
        record.msg, record.args = text, None
    return True


def config_error(error: BaseException) -> str:
    """One line from fairseq2's chain of errors, which descends the configuration a key at a time."""
    path: list[str] = []
    message = str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, YamlError):
            # The error before it names the file.
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
        return f"unknown key {keys}; --dump-config lists the known ones"
    for pattern, plain in _VALUE_ERRORS:
        message = re.sub(f"^{pattern}$", plain, message)
    return f"{where}: {message}" if where else message
