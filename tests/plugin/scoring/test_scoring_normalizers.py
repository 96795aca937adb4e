"""Normalisers: what each removes from a text before errors are counted."""

from __future__ import annotations

import pytest

from speechllm_plugin.errors import UserError
from speechllm_plugin.scoring.normalizers import get_normalizer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,  World!\t", "hello world"),
        ("don't — it's the dogs' 'tis", "don't it's the dogs tis"),  # inside words only
        ("don\u2019t l\u02bceau", "don't l'eau"),  # the typographic apostrophe is the same word
        ("a well-known U.S. co_op", "a well known u s co op"),
        ("costs $5 + 3% ~ x^2 <b>", "costs 5 3 x 2 b"),  # symbols count as punctuation
        ("ＡＢＣ１２ ﬁne", "abc12 fine"),  # full width, ligature
        ("Füße ÄÖ", "füße äö"),
        ("cafe\u0301", "café"),  # composed and decomposed are the same
        ("हिन्दी, में।", "हिन्दी में"),  # vowel signs and virama are marks
        ("की'बात", "की'बात"),  # a word may end in a mark
        ("ภาษาไทย ที่นี่!", "ภาษาไทย ที่นี่"),  # so are Thai vowels and tones
        ("你好，世界。「是」", "你好 世界 是"),
        ("¿Qué? ¡No!", "qué no"),
        ("مرحبا، كيف؟", "مرحبا كيف"),
        ("zero\u200bwidth so\u00adft", "zerowidth soft"),  # invisible characters
        ("non\u00a0breaking\u3000wide", "non breaking wide"),
        ("o\u02bbzbek g\u2018oya \ua78cxil", "o'zbek g'oya xil"),  # an apostrophe that is a letter
        ("ג\u05f3ירפה", "ג'ירפה"),
        ("\u0149 boek", "n boek"),  # as 'n
        ("ἀλλ\u1fbd ἐγώ", "ἀλλ ἐγώ"),
        ("x ¨ y", "x y"),  # an accent without a letter
        ("\u0130stanbul I\u0307zmir", "istanbul izmir"),  # no dot above the dot
        ("كـــتاب", "كتاب"),
        ("'", ""),
        ("", ""),
    ],
)
def test_basic_removes_case_and_punctuation_in_any_script(text: str, expected: str) -> None:
    normalize = get_normalizer("basic")
    assert normalize(text) == expected
    assert normalize(expected) == expected


@pytest.mark.parametrize("language", ["tr", "az-AZ", "Turkish"])
def test_turkish_has_two_letters_i(language: str) -> None:
    normalize = get_normalizer("basic", language)
    assert normalize("ISPARTA İzmir Diyarbakır") == normalize("ısparta izmir DİYARBAKIR")
    assert get_normalizer("basic", "en")("ISPARTA") == "isparta"


def test_british_and_american_spellings_are_one_word() -> None:
    normalize = get_normalizer("whisper_english")
    assert normalize("The colour of Mr. Grey's aluminium") == normalize("the color of mister gray's aluminum")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", "Mr. Smith's um twenty-five [noise] dogs!"),
        ("basic", "mr smith's um twenty five noise dogs"),
        ("whisper_basic", "mr smith s um twenty five dogs"),
        ("whisper_english", "mister smith is 25 dogs"),
    ],
)
def test_each_name_is_its_own_normaliser(name: str, expected: str) -> None:
    assert get_normalizer(name)("Mr. Smith's  um twenty-five [noise] dogs!") == expected


def test_an_unknown_normaliser_is_named() -> None:
    names = "none, basic, whisper_english, whisper_basic, verdini"
    with pytest.raises(UserError, match=f"found 'Basic', expected one of {names}"):
        get_normalizer("Basic")
