"""The one reader of YAML."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError


def parse_yaml(text: str) -> Any:
    """The first document of `text`, as YAML 1.2: `off` and `no` are words and 1e-4 is a number, as in the files that
    fairseq2 reads and writes. None = there is nothing in it.

    :raises ValueError: the text is not valid YAML; one line that names line and column.
    """
    try:
        return next(iter(YAML(typ="safe", pure=True).load_all(text)), None)
    except (YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error
