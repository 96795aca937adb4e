"""Finds texts that are in another language than they should be, by py3langid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from speechllm_plugin.errors import UserError
from speechllm_plugin.text.languages import language_code
from speechllm_plugin.text.scripts import bleu_tokenizer

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

SURE = 0.5
"""Least confidence in a language that counts: no detector can tell the language of "Ja." or of a name."""


def wrong_language_share(texts: Sequence[str], language: str) -> float | None:
    """The share of the texts that are more likely than not in another language. Empty texts do not count. The detector
    errs, too: the share of the references shows how often.

    :returns: None where there are no texts, or the detector does not know the language.
    :raises UserError: py3langid is not installed.
    """
    identifier = _identifier()
    written = [text for text in texts if text.strip()]
    if not written or not any(_same(label, language) for label in identifier.labels):
        return None
    found = [identifier.classify(text) for text in written]
    wrong = sum(confidence >= SURE and not _same(label, language) for label, confidence in found)
    return wrong / len(written)


def _same(one: str, other: str) -> bool:
    # The detector confuses short texts in Chinese languages, which are written alike.
    return language_code(one) == language_code(other) or bleu_tokenizer(one) == bleu_tokenizer(other) == "zh"


@cache
def _identifier() -> LanguageIdentifier:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise UserError(
            f"wrong language: found no package py3langid ({error}), expected it installed: pip install py3langid"
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
