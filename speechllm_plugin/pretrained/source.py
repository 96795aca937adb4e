"""The place of a pretrained checkpoint, and the user's name for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from speechllm_plugin.errors import UserError

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Source:
    """A checkpoint in Hugging Face's format. As a string it is the beginning of an error about it."""

    path: str
    """A hub id or a local directory, as the user wrote it."""
    key: str
    """The configuration key or the option that holds `path`."""

    @classmethod
    def of(cls, kind: str, path: str) -> Source:
        """:param kind: kind of the part to load: "encoder", "llm" or "recognizer"."""
        return cls(path, f"{kind}.config.path")

    def __str__(self) -> str:
        return f"{self.key}: {self.path}"

    @property
    def place(self) -> str:
        """`path` for transformers. A value that begins like the path of a file is never looked up on the hub.

        :raises UserError: it is such a path, and there is no directory.
        """
        self.check()
        return str(Path(self.path).expanduser()) if self._looks_local or Path(self.path).is_dir() else self.path

    @property
    def _looks_local(self) -> bool:
        return self.path.startswith((".", "/", "~")) or self.path.count("/") > 1

    def check(self) -> None:
        """
        :raises UserError: `path` begins like the path of a file, and there is no directory.
        """
        if self._looks_local and not Path(self.path).expanduser().is_dir():
            raise UserError(f"{self.key}: no directory {self.path}; expected a local checkpoint directory or a hub id")

    @property
    def is_directory(self) -> bool:
        return Path(self.place).is_dir()

    def reading(self, read: Callable[[], ResultT]) -> ResultT:
        """Calls `read` and gives its result.

        :raises UserError: `read` raised an error that a damaged or missing checkpoint causes.
        """
        from huggingface_hub.errors import StrictDataclassError
        from safetensors import SafetensorError

        from speechllm_plugin.pretrained.hub import advice  # imports transformers, which takes seconds

        try:
            return read()
        except UserError:
            raise
        except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
            reason = advice(self.path, error) or " ".join(str(error).split())[:300]
            raise UserError(f"{self.key}: cannot load {self.path}: {reason}") from error
        except (KeyError, TypeError, AttributeError, IndexError, ZeroDivisionError, StrictDataclassError) as error:
            # Damage of weights and tokenizers has errors of its own; what is left is a wrong value in config.json.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"{self.key}: cannot load {self.path}: its config.json cannot be used ({reason[:300]})"
            ) from error
