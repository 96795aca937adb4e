"""Sentencepiece vocabularies: trained on transcripts, read when needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece

from speechllm_plugin.errors import UserError
from speechllm_plugin.vocabulary import Vocabulary, train_vocabulary
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
    (tmp_path / "text.model").write_text("no model")
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
