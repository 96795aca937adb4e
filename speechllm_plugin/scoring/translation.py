"""BLEU and chrF over a corpus, by sacreBLEU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.bleu import BLEUScore

from speechllm_plugin.errors import UserError
from speechllm_plugin.text.scripts import bleu_tokenizer


@dataclass(frozen=True)
class TranslationResult:
    """Scores from 0 to 100, and the signatures without which they cannot be compared."""

    bleu: float

    bleu_signature: str

    chrf: float
    """chrF2: characters up to 6-grams, recall weighted twice, no word n-grams."""

    chrf_signature: str

    counts: BLEUScore
    """The counts of `bleu`; see :func:`pooled_bleu`."""


def pooled_bleu(corpora: Sequence[BLEUScore]) -> float:
    """BLEU of several corpora as one: their n-grams, in the tokens of each language, are added up."""
    # The smoothing is the default of `corpus_score`, which signatures name.
    return BLEU.compute_bleu(
        correct=[sum(counts) for counts in zip(*(corpus.counts for corpus in corpora), strict=True)],
        total=[sum(counts) for counts in zip(*(corpus.totals for corpus in corpora), strict=True)],
        sys_len=sum(corpus.sys_len for corpus in corpora),
        ref_len=sum(corpus.ref_len for corpus in corpora),
        smooth_method="exp",
    ).score


def chrf_score(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """chrF2 of texts in any language, since it has no tokeniser."""
    return CHRF().corpus_score(list(hypotheses), [list(references)]).score


def translation_scores(
    references: Sequence[str], hypotheses: Sequence[str], language: str, tokenizer: str | None = None
) -> TranslationResult:
    """Score detokenised texts with their case, one reference each.

    :param language: target language; it chooses the BLEU tokeniser
        (:func:`~speechllm_plugin.text.scripts.bleu_tokenizer`).
    :param tokenizer: a sacreBLEU tokeniser to use instead, for example ``ja-mecab``.
    :raises UserError: sacreBLEU has no such tokeniser, or lacks the packages for it.
    """
    if len(references) != len(hypotheses):
        raise ValueError(
            f"`references` and `hypotheses` must be equally many, but are {len(references)} and {len(hypotheses)}."
        )
    if not references:
        raise ValueError("`references` must not be empty.")
    tokenizer = tokenizer or bleu_tokenizer(language)
    if tokenizer not in BLEU.TOKENIZERS:
        raise UserError(f"BLEU tokenizer: found {tokenizer!r}, expected one of {', '.join(sorted(BLEU.TOKENIZERS))}")
    try:
        bleu = BLEU(tokenize=tokenizer)
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"BLEU tokenizer: found {tokenizer!r} without its packages ({' '.join(str(error).split())}), expected "
            "them installed"
        ) from None
    chrf = CHRF()
    bleu_score = bleu.corpus_score(list(hypotheses), [list(references)])
    chrf_score = chrf.corpus_score(list(hypotheses), [list(references)])
    # Read here, since sacreBLEU knows its signature only after it has seen the references.
    return TranslationResult(
        bleu_score.score, str(bleu.get_signature()), chrf_score.score, str(chrf.get_signature()), bleu_score
    )
