"""What goes wrong while a checkpoint is read becomes one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained.hub import advice

ResultT = TypeVar("ResultT")


def explained(key: str, path: str, load: Callable[[], ResultT]) -> ResultT:
    """What `load` gives.

    :param key: the configuration key that holds `path`.
    :raises UserError: it raised one of the errors that a damaged checkpoint, or one that is not here, causes.
    """
    try:
        return load()
    except UserError:
        raise
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{key}: cannot load {path}: {advice(path, error) or reason[:300]}") from error
    except (KeyError, TypeError, AttributeError, IndexError, ZeroDivisionError, StrictDataclassError) as error:
        # The files of weights and tokenizers speak for themselves: what is left is a value that transformers trips on.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{key}: cannot load {path}: its config.json cannot be used ({reason[:300]})") from error
