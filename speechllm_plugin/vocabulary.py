"""Sentencepiece vocabularies for CTC, trained on the transcripts of a task."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import sentencepiece

from speechllm_plugin.errors import UserError
from speechllm_plugin.files import write_atomically

ModelType = Literal["unigram", "bpe", "char"]


class Vocabulary:
    """Text to pieces. The file is read when it is first needed: decoding needs the number of pieces alone."""

    def __init__(self, path: str, key: str, size: int | None = None) -> None:
        """
        :param key: the configuration key that holds `path`, for errors.
        :param size: the number of pieces that the file must have; None = whatever it has.
        """
        self._path = path
        self._key = key
        self._size = size

    def __len__(self) -> int:
        return self._size if self._size is not None else self._processor.get_piece_size()

    def encode(self, text: str) -> list[int] | None:
        """Piece ids of `text`; None where it holds a character that the vocabulary lacks."""
        ids: list[int] = self._processor.encode(text)
        return None if self._processor.unk_id() in ids else ids

    @cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        if not Path(self._path).is_file():
            raise UserError(f"{self._key}: no file {self._path}; expected a model of `speechllm manifest vocabulary`")
        try:
            processor = sentencepiece.SentencePieceProcessor(model_file=self._path)
        except (OSError, RuntimeError) as error:
            raise UserError(f"{self._key}: {self._path} is no sentencepiece model") from error
        found = processor.get_piece_size()
        if self._size not in (None, found):
            raise UserError(f"{self._key}: {self._path} has {found} pieces, expected the {self._size} of the training")
        return processor


def train_vocabulary(texts: Sequence[str], path: Path, *, size: int, model_type: ModelType = "unigram") -> None:
    """Writes a sentencepiece model of `size` pieces to `path`. Every character of the texts becomes a piece.

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
            # Neither the start nor the end of a sentence is a label.
            bos_id=-1,
            eos_id=-1,
            num_threads=1,  # another number may give another model
            minloglevel=2,
        )
    except (RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rpartition("] ")[2]
        raise UserError(f"cannot make {size} pieces from {len(texts)} texts: {reason}") from error
    write_atomically(path, model.getvalue())
