"""Sentencepiece vocabularies for CTC, trained on the transcripts of a task."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal

import sentencepiece
from sentencepiece.sentencepiece_pb2 import SentencePieceText  # type: ignore[attr-defined]  # made when imported

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_atomically

ModelType = Literal["unigram", "bpe", "char"]

# Sentencepiece silently leaves out longer sentences.
_MAX_SENTENCE_BYTES = 4192
_SPACE = "▁"


class Vocabulary:
    """Turns text into pieces. The file is read when it is first needed, since decoding only needs the number of
    pieces."""

    def __init__(self, path: str, key: str, size: int | None = None, sha256: str | None = None) -> None:
        """
        :param key: the configuration key that holds `path`, for errors.
        :param size: the number of pieces that the file must have; None = any.
        :param sha256: the file's SHA-256, in hexadecimal; None = any. Pieces of another file would be other labels,
            even if there were equally many.
        """
        self._path = path
        self._key = key
        self._size = size
        self._sha256 = sha256

    def __len__(self) -> int:
        return self._size if self._size is not None else self._processor.get_piece_size()

    @property
    def sha256(self) -> str:
        return self._sha256 if self._sha256 is not None else hashlib.sha256(self._data).hexdigest()

    def encode(self, text: str) -> list[int] | None:
        """Piece ids of `text`; None where it holds a character that the vocabulary lacks."""
        ids: list[int] = self._processor.encode(text)
        return None if self._processor.unk_id() in ids else ids

    def decode(self, ids: list[int]) -> str:
        text: str = self._processor.decode(ids)
        return text

    def pieces(self, text: str) -> list[tuple[int | None, int, int]]:
        """The pieces of `encode`, each with the first character that it stands for and the one past the last.

        The space before a word is left out: a piece that is nothing else is empty. Where several pieces write one
        character, as two do for "ﬁ", each of them has it.

        :returns: None in place of the id where the vocabulary lacks the characters.
        """
        # The only form with places that every version of sentencepiece gives; the places are bytes of UTF-8.
        parsed = SentencePieceText.FromString(self._processor.encode(text, out_type="serialized_proto"))
        characters = {byte: i for i, byte in enumerate(accumulate((len(c.encode()) for c in text), initial=0))}
        unknown = self._processor.unk_id()
        found: list[tuple[int | None, int, int]] = []
        following = (0, 0)
        # Sentencepiece gives a character of several pieces to the last of them.
        for piece in reversed(parsed.pieces):
            start, end = characters[piece.begin], characters[piece.end]
            if start < end:
                following = (start, end)
            elif piece.piece != _SPACE and start == following[0]:
                end = following[1]
            while start < end and text[start].isspace():
                start += 1
            found.append((None if piece.id == unknown else piece.id, start, end))
        return found[::-1]

    @cached_property
    def _data(self) -> bytes:
        if not Path(self._path).is_file():
            raise UserError(f"{self._key}: no file {self._path}; expected a model of `speechllm manifest vocabulary`")
        try:
            return Path(self._path).read_bytes()
        except OSError as error:
            raise UserError(f"{self._key}: {self._path} cannot be read ({error.strerror})") from error

    @cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(self._data)
        except RuntimeError as error:
            raise UserError(f"{self._key}: {self._path} is no sentencepiece model") from error
        found = processor.get_piece_size()
        if self._size not in (None, found):
            raise UserError(f"{self._key}: {self._path} has {found} pieces, expected the {self._size} of the training")
        sha256 = hashlib.sha256(self._data).hexdigest()
        if self._sha256 not in (None, sha256):
            raise UserError(
                f"{self._key}: {self._path} has the SHA-256 {sha256}, expected the file of the training, "
                f"{self._sha256}: the labels of another are not the same"
            )
        return processor


def train_vocabulary(texts: Sequence[str], path: Path, *, size: int, model_type: ModelType = "unigram") -> int:
    """Writes a sentencepiece model to `path`. Every character of the texts becomes a piece.

    :param size: the number of pieces; for `char`, the most, since only characters are pieces.
    :returns: the number of pieces that the model has.
    :raises UserError: the texts do not allow that many pieces, or need more; or `path` cannot be written.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=size,
            model_type=model_type,
            character_coverage=1.0,
            max_sentence_length=max([_MAX_SENTENCE_BYTES, *(len(text.encode()) for text in texts)]),
            # Otherwise `char` would leave out the rarest characters.
            use_all_vocab=model_type == "char",
            # The start and the end of a sentence are no labels.
            bos_id=-1,
            eos_id=-1,
            num_threads=1,  # another number of threads may give another model
            minloglevel=2,
        )
    except (RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rpartition("] ")[2]
        raise UserError(f"cannot make {size} pieces from {len(texts)} texts: {reason}") from error
    found = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()
    if found > size:
        raise UserError(f"cannot make {size} pieces from {len(texts)} texts: their characters alone need {found}")
    write_atomically(path, model.getvalue())
    return found
