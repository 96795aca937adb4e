"""Answers in the format of SQuAD, as several corpora have them."""

from __future__ import annotations

from typing import Any

from speechllm_tools.prepare.api import Target


def answer_of(answers: Any) -> Target:
    """The first answer to a question in English, with the others beside it; an empty text where there is none.

    :param answers: a list of objects with a text each, or, as SQuAD's loader has them, one object with a list of texts.
    """
    texts = answers["text"] if isinstance(answers, dict) else [answer["text"] for answer in answers or []]
    return Target("answer", "en", texts[0] if texts else "", others=list(texts[1:]))
