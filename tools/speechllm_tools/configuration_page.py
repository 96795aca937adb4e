"""Writes docs/configuration.md from the configuration dataclasses: each key with its type, default and docstring.

    python -m speechllm_tools.configuration_page docs/configuration.md
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from speechllm_recipes.speech_llm.config import (
    CascadeConfig,
    SpeechLlmEvaluateConfig,
    SpeechLlmGenerateConfig,
    SpeechLlmTrainConfig,
)

from speechllm_plugin.adapters.api import ADAPTERS
from speechllm_plugin.cascade.recognizers.api import RECOGNIZERS
from speechllm_plugin.datasets.speech_text import SpeechTextConfig
from speechllm_plugin.encoders.api import ENCODERS
from speechllm_plugin.llms.api import LLMS
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.registry import Registry

COMMAND = "python -m speechllm_tools.configuration_page docs/configuration.md"
_WIDTH = 120
_HEAD = f"""\
# Configuration keys

Generated from the dataclasses by `{COMMAND}`: do not edit.

Each key is followed by its type and default. `--config KEY=VALUE` or a YAML file (`--config-file`) sets it; unknown
keys and wrong values are errors. `None` is `null` in YAML. Keys without a text are fairseq2's own.
"""


@dataclass(frozen=True)
class Key:
    name: str
    """The key as the user types it."""
    type: str
    """Empty for a section, which has keys below it."""
    default: str
    text: str
    """The field's docstring; empty for a key of fairseq2."""

    def lines(self) -> str:
        head = f"- `{self.name}` (`{self.type}`, `{self.default}`)" if self.type else f"- `{self.name}`"
        return textwrap.fill(
            f"{head}: {self.text}" if self.text else head, _WIDTH, subsequent_indent="  ",
            break_long_words=False, break_on_hyphens=False,
        )


def keys_of(config: object, prefix: str = "") -> Iterator[Key]:
    """The keys of a dataclass instance, nested ones after their section's own text.

    :raises LookupError: a field of ours has no docstring.
    """
    kls = type(config)
    hints = get_type_hints(kls)
    for name in hints:
        value = getattr(config, name)
        text, is_own = _docstring(kls, name)
        if is_dataclass(value) and not isinstance(value, type):
            if text:
                yield Key(prefix + name, "", "", text)
            yield from keys_of(value, f"{prefix}{name}.")
        elif is_own and not text:
            raise LookupError(f"{kls.__name__}.{name} has no docstring")
        else:
            yield Key(prefix + name, _type(hints[name]), _yaml(value), text)


def page() -> str:
    """The whole page, in Markdown."""
    train = list(keys_of(SpeechLlmTrainConfig()))
    model = list(keys_of(SpeechLlmConfig()))
    known = {*train, *model}
    parts = [_HEAD, _section("train", "Of `fairseq2 recipe run speech_llm train`.", train)]
    about = (
        "The model: below `model.config_overrides` in training, and what `--set` changes without that prefix. The "
        "defaults are those before `model.arch` sets encoder, LLM and adapter."
    )
    parts.append(_section("model.config_overrides", about, model))
    for registry, key in ((ENCODERS, "encoder"), (ADAPTERS, "adapter"), (LLMS, "llm"), (RECOGNIZERS, "recognizer")):
        parts += _of_parts(registry, key)
    about = "The manifests and how they are read: below `dataset.config_overrides` in every action."
    parts.append(_section("dataset.config_overrides", about, list(keys_of(SpeechTextConfig()))))
    for action, config in (
        ("evaluate", SpeechLlmEvaluateConfig()), ("generate", SpeechLlmGenerateConfig()), ("cascade", CascadeConfig())
    ):
        about = f"Of `fairseq2 recipe run speech_llm {action}`: what differs from `train` and from the model's keys."
        parts.append(_section(action, about, [key for key in keys_of(config) if key not in known]))
    return "\n".join(parts)


def _of_parts(registry: Registry[Any], key: str) -> Iterator[str]:
    """A section for each of our parts; other packages document their own."""
    for name in registry.names():
        kls = registry.get(name).config_kls
        if name not in registry.foreign_names():
            required = {"path": "required"} if "path" in inspect.signature(kls).parameters else {}
            config = kls(**required)
            yield _section(f"{key}.config of {name}", f"With `{key}.name={name}`.", list(keys_of(config)))


def _section(title: str, about: str, keys: list[Key]) -> str:
    own = [key.lines() for key in keys if key.text]
    theirs = [key.lines() for key in keys if not key.text]
    lists = [lines for lines in (own, theirs) if lines]
    return "\n".join([f"## {title}\n", textwrap.fill(about, _WIDTH), "", *("\n".join([*lines, ""]) for lines in lists)])


def _docstring(kls: type[Any], name: str) -> tuple[str, bool]:
    """The docstring under a field, and whether the field is ours. A field that is inherited from fairseq2 is not, and
    its docstring is not repeated."""
    owners = [owner for owner in kls.__mro__ if name in _docstrings(owner)]
    theirs = [owner.__module__.startswith("fairseq2.") for owner in owners]
    return "" if theirs[0] else _docstrings(owners[0])[name], not any(theirs)


@cache
def _docstrings(kls: type[Any]) -> dict[str, str]:
    """Docstrings of the fields that the class itself declares; empty where a field has none."""
    if not is_dataclass(kls):
        return {}
    tree = ast.parse(textwrap.dedent(inspect.getsource(kls))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            found[node.target.id] = " ".join(str(after.value.value).split()) if is_text else ""  # type: ignore[union-attr]
    return found


def _type(hint: Any) -> str:
    """`Literal["a", "b"] | None` as `a | b | null`."""
    if hint in (None, NoneType):
        return "null"
    inner = get_args(hint)
    if get_origin(hint) is Literal:
        return " | ".join(map(str, inner))
    if get_origin(hint) in (Union, UnionType):
        return " | ".join(map(_type, inner))
    name: str = getattr(hint, "__name__", str(hint))
    return f"{name}[{', '.join(map(_type, inner))}]" if inner else name


def _yaml(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(one)}" for key, one in value.items()) + "}"
    return '""' if value == "" else str(value)


def main() -> int:
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
