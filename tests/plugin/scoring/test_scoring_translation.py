"""Translation scores: those of sacreBLEU, with the tokeniser that the language asks for."""

from __future__ import annotations

import pytest
import sacrebleu

from speechllm_plugin.errors import UserError
from speechllm_plugin.scoring.translation import translation_scores
from speechllm_plugin.text.scripts import bleu_tokenizer, has_spaces
from tests.plugin.scoring_rows import GERMAN, GERMAN_HEARD


def test_translation_scores_are_sacrebleus() -> None:
    result = translation_scores(GERMAN, GERMAN_HEARD, "de")
    assert result.bleu == sacrebleu.corpus_bleu(GERMAN_HEARD, [GERMAN]).score
    assert result.chrf == sacrebleu.corpus_chrf(GERMAN_HEARD, [GERMAN]).score
    assert 30 < result.bleu < 95
    version = f"version:{sacrebleu.__version__}"
    assert result.bleu_signature == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|{version}"
    assert result.chrf_signature == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|{version}"


@pytest.mark.parametrize(
    ("language", "tokenizer", "spaces"),
    [
        ("de", "13a", True),
        ("", "13a", True),  # not stated
        ("zh", "zh", False),
        ("zh-CN", "zh", False),
        ("cmn_hans_cn", "zh", False),  # FLEURS
        ("Chinese", "zh", False),
        ("ja", "char", False),
        ("th", "char", False),
        *((code, "zh", False) for code in ("nan", "nan-tw", "wuu", "hak", "gan", "lzh", "yue", "hsn", "cdo", "CMN")),
        *((code, "char", False) for code in ("dz", "dzo", "bo", "my", "km", "lao", "shn", "nod", "ryu", "Dzongkha")),
        ("zh-Latn", "13a", True),  # pinyin
        ("xx", "13a", True),
        ("ko", "13a", True),  # Korean has spaces
    ],
)
def test_the_writing_system_chooses_unit_and_tokeniser(language: str, tokenizer: str, spaces: bool) -> None:
    assert bleu_tokenizer(language) == tokenizer
    assert has_spaces(language) is spaces


@pytest.mark.parametrize(
    ("language", "reference", "hypothesis", "tokenizer"),
    [
        ("zh", "今天天气非常好，我们去公园。", "今天天气很好，我们去公园。", "zh"),
        ("ja", "今日はとても良い天気ですね。", "今日は良い天気ですね。", "char"),
    ],
)
def test_languages_without_spaces_are_split_into_characters(
    language: str, reference: str, hypothesis: str, tokenizer: str
) -> None:
    result = translation_scores([reference], [hypothesis], language)
    assert result.bleu == sacrebleu.corpus_bleu([hypothesis], [[reference]], tokenize=tokenizer).score
    assert f"|tok:{tokenizer}|" in result.bleu_signature
    # As one word each, the sentences would share nothing.
    assert result.bleu > 30


def test_an_empty_translation_scores_nothing() -> None:
    result = translation_scores(GERMAN, ["", ""], "de")
    assert (result.bleu, result.chrf) == (0.0, 0.0)


def test_an_unknown_tokeniser_is_named() -> None:
    with pytest.raises(UserError, match="BLEU tokenizer: found 'moses', expected one of 13a, char"):
        translation_scores(GERMAN, GERMAN, "de", tokenizer="moses")
