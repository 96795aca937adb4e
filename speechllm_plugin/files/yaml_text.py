"""The one reader of YAML."""

from __future__ import annotations

import json
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speechllm_plugin.errors import UserError


def parse_yaml(text: str) -> Any:
    """The first document of `text`, read as YAML 1.2: `off` and `no` are words and 1e-4 is a number, as in the files
    that fairseq2 reads and writes. None = the text is empty.

    :raises ValueError: the text is not valid YAML; one line that names line and column.
    """
    try:
        return next(iter(YAML(typ="safe", pure=True).load_all(text)), None)
    except (YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def parse_assignment(item: str, option: str) -> tuple[str, Any]:
    """A `KEY=VALUE` of a command line, whose value is YAML.

    :param option: the option that it was given to, for errors.
    :raises UserError: there is no key, or YAML cannot read the whole value: ` #` begins a comment, and `&word` is a
        name for what follows.
    """
    key, separator, text = item.partition("=")
    key, text = key.strip(), text.strip()
    if not separator or not key:
        raise UserError(f"{option}: found {item!r}, expected KEY=VALUE")
    try:
        value = parse_yaml(text)
        end = max((token.end_mark.index for token in YAML(typ="safe", pure=True).scan(text) if token.id != _END),
                  default=0)
    except ValueError as error:
        raise UserError(f"{key}: found {text!r}, expected a value in YAML ({error})") from error
    plain = isinstance(value, str) and text[:1] not in ("'", '"', "|", ">")
    if text[end:].strip() or (plain and value != text):
        raise UserError(
            f"{key}: found {text!r}, of which YAML would read {value!r} alone, expected quotes around the whole: "
            f"{option} '{key}={json.dumps(text, ensure_ascii=False)}'"
        )
    return key, value


_END = "<stream end>"
