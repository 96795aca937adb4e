"""Sentencepiece vocabularies: trained on transcripts, read when needed."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from speechllm_plugin.adapters.api import AdapterShape
from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.config import CtcConfig
from speechllm_plugin.models.speech_llm.sizes import create_ctc_head
from speechllm_plugin.text.vocabulary import Vocabulary, train_vocabulary
from tests.conftest import SENTENCES

KEY = "ctc.vocabulary"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "deep" / "small.model"
    train_vocabulary(SENTENCES, path, size=50)
    return path


def test_pieces_are_those_of_sentencepiece(model: Path) -> None:
    vocabulary = Vocabulary(str(model), KEY)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert len(vocabulary) == processor.get_piece_size() == 50
    for sentence in SENTENCES:
        pieces = vocabulary.encode(sentence)
        assert pieces == processor.encode(sentence)
        assert pieces is not None and processor.decode(pieces) == sentence
    assert vocabulary.encode("") == []
    # Every label but the unknown one can be met: no start or end of a sentence.
    assert [piece for piece in range(50) if processor.is_control(piece)] == []


def test_a_character_that_the_texts_lack_is_outside(model: Path) -> None:
    assert Vocabulary(str(model), KEY).encode("größer") is None


def test_training_again_gives_the_same_file(model: Path, tmp_path: Path) -> None:
    train_vocabulary(SENTENCES, tmp_path / "again.model", size=50)
    assert (tmp_path / "again.model").read_bytes() == model.read_bytes()


def test_the_size_is_known_without_the_file(tmp_path: Path) -> None:
    vocabulary = Vocabulary(str(tmp_path / "gone.model"), KEY, size=50)
    assert len(vocabulary) == 50
    with pytest.raises(UserError, match=r"ctc\.vocabulary: no file .*gone\.model; expected a model of"):
        vocabulary.encode("text")


def test_bad_models_are_one_line(model: Path, tmp_path: Path) -> None:
    for content in ("no model", ""):
        (tmp_path / "text.model").write_text(content)
        with pytest.raises(UserError, match=r"text\.model is no sentencepiece model"):
            len(Vocabulary(str(tmp_path / "text.model"), KEY))
    with pytest.raises(UserError, match="has 50 pieces, expected the 40 of the training"):
        Vocabulary(str(model), KEY, size=40).encode("text")


@pytest.mark.parametrize("size", [5, 100_000])
def test_a_size_that_the_texts_do_not_allow_is_one_line(size: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^cannot make {size} pieces from 8 texts: .+") as caught:
        train_vocabulary(SENTENCES, tmp_path / "never.model", size=size)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "never.model").exists()


def test_a_vocabulary_of_characters_has_all_of_them(tmp_path: Path) -> None:
    characters = set("".join(SENTENCES).replace(" ", ""))
    needed = len(characters) + 2  # the space and the unknown piece
    path = tmp_path / "char.model"
    with pytest.raises(UserError, match=f"cannot make 6 pieces from 8 texts: their characters alone need {needed}$"):
        train_vocabulary(SENTENCES, path, size=6, model_type="char")
    assert not path.exists()
    for size in (needed, 500):
        assert train_vocabulary(SENTENCES, path, size=size, model_type="char") == needed
        assert len(Vocabulary(str(path), KEY)) == needed


def test_a_very_long_text_counts_too(tmp_path: Path) -> None:
    path = tmp_path / "long.model"
    assert train_vocabulary([*SENTENCES, "ж ü " * 3000], path, size=50) == 50
    assert Vocabulary(str(path), KEY).encode("ж ü") is not None


def test_places_are_in_characters_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "char.model"
    train_vocabulary(["fine 打 ガ"], path, size=20, model_type="char")
    vocabulary = Vocabulary(str(path), KEY)
    text = " ﬁne  打𠮷 ｶﾞ"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    spelled = [
        (None if piece is None else processor.id_to_piece(piece), text[start:end])
        for piece, start, end in vocabulary.pieces(text)
    ]
    assert spelled == [
        ("▁", ""), ("f", "ﬁ"), ("i", "ﬁ"), ("n", "n"), ("e", "e"), ("▁", ""), ("打", "打"), (None, "𠮷"), ("▁", ""),
        ("ガ", "ｶﾞ"),
    ]


def test_bytes_of_a_character_have_its_place(tmp_path: Path) -> None:
    path = tmp_path / "bytes.model"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_prefix=str(path.with_suffix("")), vocab_size=320, byte_fallback=True,
        minloglevel=2, hard_vocab_limit=False,
    )
    assert [place for _, *place in Vocabulary(str(path), KEY).pieces("打 é")][-2:] == [[2, 3], [2, 3]]


def test_a_file_made_again_is_another(model: Path, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    path = tmp_path / "again.model"
    path.write_bytes(model.read_bytes())
    assert Vocabulary(str(path), KEY).sha256 == sha256
    assert Vocabulary(str(path), KEY, size=50, sha256=sha256).encode("") == []
    train_vocabulary(SENTENCES, path, size=50, model_type="bpe")
    now = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=rf"again\.model has the SHA-256 {now}, expected .* {sha256}") as caught:
        Vocabulary(str(path), KEY, size=50, sha256=sha256).encode("")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"classifier": "linear", "vocabulary": "x.model"}, "vocabulary: found 'x.model' with the classifier 'linear'"),
        ({"classifier": "llm_embedding", "vocabulary_size": 5}, "vocabulary_size: found 5 with the classifier"),
        ({"classifier": "linear", "vocabulary_sha256": "ab"}, "vocabulary_sha256: found 'ab' with the classifier"),
        ({"weight": float("inf")}, "weight: found inf, expected finite and at least 0"),
    ],
)
def test_settings_that_would_be_ignored_or_cannot_work(settings: dict[str, Any], line: str) -> None:
    errors = list(CtcConfig(**{"weight": 0.1, **settings}).problems())
    assert len(errors) == 1 and re.search(line, str(errors[0]))


def test_a_saved_configuration_tells_which_file_it_was(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.model"
    path.write_bytes(model.read_bytes())
    llm: Any = None  # a vocabulary of one's own needs nothing of it
    shape = AdapterShape(8, 8, 50.0)
    config = CtcConfig(weight=0.1, classifier="sentencepiece", vocabulary=str(path))
    create_ctc_head(config, 8, shape, llm)
    assert (config.vocabulary_size, config.vocabulary_sha256) == (50, hashlib.sha256(path.read_bytes()).hexdigest())

    loaded = CtcConfig(**asdict(config))
    assert not list(loaded.problems())
    train_vocabulary(SENTENCES, path, size=50, model_type="bpe")
    head = create_ctc_head(loaded, 8, shape, llm)
    assert loaded == config and head is not None
    with pytest.raises(UserError, match=f"expected the file of the training, {config.vocabulary_sha256}"):
        head.labels(["turn"], [])
    # A size that was set by hand does not keep the file from being recorded.
    by_hand = CtcConfig(weight=0.1, classifier="sentencepiece", vocabulary=str(path), vocabulary_size=50)
    create_ctc_head(by_hand, 8, shape, llm)
    assert by_hand.vocabulary_sha256 not in (None, config.vocabulary_sha256)
    # Nothing is read of a file that is gone: with a size, a checkpoint of any age decodes.
    path.unlink()
    for sha256 in (config.vocabulary_sha256, None):
        create_ctc_head(replace(config, vocabulary_sha256=sha256), 8, shape, llm)
