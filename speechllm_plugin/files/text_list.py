"""Several texts in one field of a table: a JSON list."""

from __future__ import annotations

import json
from collections.abc import Sequence


def read_text_list(field: str) -> tuple[str, ...]:
    """
    :param field: an empty field has no texts.
    :raises ValueError: it is no JSON list of texts that are not empty.
    """
    if not field.strip():
        return ()
    texts = json.loads(field)
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError("no list of texts")
    return tuple(texts)


def write_text_list(texts: Sequence[str]) -> str:
    """The field, which has no tab and no line end; empty for none."""
    return json.dumps(list(texts), ensure_ascii=False) if texts else ""
