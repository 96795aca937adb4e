"""Reads tokenizers exactly as their files define them."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained.hub import NoSuchFileError, find_file, read_json
from speechllm_plugin.pretrained.source import Source
from speechllm_plugin.workarounds.transformers_versions import VERSION

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")
"""Files of tokenizers: every checkpoint of an LLM has one of them."""

LFS_POINTER = b"version https://git-lfs"
"""First bytes of the file that a clone without git-LFS leaves in place of a large one."""


def load_tokenizer(source: Source) -> PreTrainedTokenizerFast:
    tokenizer = source.reading(lambda: _read_tokenizer(source.place))
    if not tokenizer.is_fast:
        raise UserError(f"{source} has no fast tokenizer (tokenizer.json), which is needed to keep special "
                        "tokens inside transcripts from being read as control tokens")
    return tokenizer


def _read_tokenizer(source: str) -> PreTrainedTokenizerFast:
    try:
        tokenizer = _as_saved_by_5(source) or AutoTokenizer.from_pretrained(source)
        if VERSION >= 5 and tokenizer.is_fast:
            _follow_its_file(tokenizer, source)
        return tokenizer
    except Exception as error:  # tokenizers raises plain exceptions
        # transformers does not say which file it missed or could not read.
        found = find_file(source, *TOKENIZER_FILES)
        for name in (*TOKENIZER_FILES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
            file = found.parent / name
            if file.suffix == ".json" and file.is_file():
                read_json(file)
            elif file.is_file() and file.read_bytes()[: len(LFS_POINTER)] in (b"", LFS_POINTER):
                raise OSError(f"{file} is not whole; download it again") from error
        if isinstance(error, (OSError, ValueError, ImportError)):
            raise
        raise OSError(f"no tokenizer can be made of {found} ({error}); download it again") from error


def _as_saved_by_5(source: str) -> PreTrainedTokenizerFast | None:
    """A tokenizer that transformers 5 saved and version 4 cannot read by itself; None where `AutoTokenizer` can.

    Version 5 writes `TokenizersBackend` where version 4 wrote `PreTrainedTokenizerFast`, and lists further special
    tokens under a name that is a mapping in version 4.
    """
    if VERSION >= 5:
        return None
    try:
        values = read_json(find_file(source, "tokenizer_config.json"))
    except NoSuchFileError:
        return None
    if values.get("tokenizer_class") != "TokenizersBackend":
        return None
    more = values.get("extra_special_tokens")
    options: dict[str, Any] = {}
    if isinstance(more, list):
        options = {"extra_special_tokens": {}, "additional_special_tokens": more}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # transformers warns of the unknown name
    try:
        return PreTrainedTokenizerFast.from_pretrained(source, **options)
    finally:
        logging.set_verbosity(verbosity)


def _follow_its_file(tokenizer: PreTrainedTokenizerFast, source: str) -> None:
    """Makes a tokenizer follow tokenizer.json. transformers 5 takes only vocabulary and merges from it, and the steps
    around them from the class that tokenizer_config.json names; a file with other steps would give other ids and texts.
    """
    try:
        file = Tokenizer.from_file(str(find_file(source, "tokenizer.json")))
    except NoSuchFileError:
        return
    for step in ("normalizer", "pre_tokenizer", "decoder"):
        setattr(tokenizer.backend_tokenizer, step, getattr(file, step))
