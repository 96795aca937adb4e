"""Named parts: encoders, adapters and LLMs register under a name, and so can other packages.

A part is one file of its name that holds its configuration dataclass, its module and one `register` call. Another
package adds its own through the entry-point group of the registry, for instance::

    entry_points={"speechllm_plugin.adapters": ["mine = my_package.my_adapter"]}

where importing `my_package.my_adapter` registers it.

Imports no part and no torch: the names of all parts are known at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from speechllm_plugin.configuration.structure import structure
from speechllm_plugin.errors import UserError
from speechllm_plugin.loading import Once

if TYPE_CHECKING:
    from speechllm_plugin.adapters.api import Adapter
    from speechllm_plugin.cascade.recognizers.api import Recognizer
    from speechllm_plugin.encoders.api import SpeechEncoder
    from speechllm_plugin.llms.api import Llm

PartT = TypeVar("PartT")


@dataclass(frozen=True)
class Part(Generic[PartT]):
    """A registered part, as it describes itself."""

    name: str
    config_kls: type[Any]
    """Its configuration."""
    build: Callable[..., PartT]
    """Makes the part; `build(config)` of a pretrained part loads its weights."""
    outline: Callable[[Any, Any, Any], PartT] | None = None
    """For pretrained parts: `outline(config, hf_config, dtype)` makes the part without weights, under a mode in which
    tensors have no memory. None = `build` works under that mode itself."""
    model_types: tuple[str, ...] = ()
    """The `model_type`s that a config.json may have; () = any, or the part has no config.json."""
    check: Callable[[Any], object] | None = None
    """For pretrained parts: `check(config)` raises `UserError` where the checkpoint is not what the configuration says,
    without reading a weight. None = only `build` can tell."""


class Registry(Generic[PartT]):
    """Looks parts up by name. Our parts are imported one by one, each when it is asked for, from the module of its
    name: the classes of transformers behind all of them take seconds. The entry points of other packages are loaded for
    a name that is not ours, and for a list of all names."""

    def __init__(self, kind: str, package: str | None = None) -> None:
        """
        :param kind: "adapter", "encoder" or "llm": names the entry-point group and appears in errors.
        :param package: our package of such parts: a new module in it is found by its name.
        """
        self.kind = kind
        self._package = package
        self._parts: dict[str, Part[PartT]] = {}
        self._load = Once(self._load_foreign)

    def register(self, name: str, config_kls: type[Any], build: Callable[..., PartT], **more: Any) -> None:
        """:param more: see `Part`."""
        if name in self._parts and self._parts[name].build is not build:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._parts[name] = Part(name, config_kls, build, **more)

    @cached_property
    def own_names(self) -> frozenset[str]:
        """The names of our parts, read from the text of their files: importing all of them takes seconds."""
        if self._package is None or (spec := find_spec(self._package)) is None:
            return frozenset()
        files = [file for place in spec.submodule_search_locations or () for file in Path(place).glob("*.py")]
        return frozenset(
            file.stem for file in files
            if re.search(rf'^[A-Z]+\.register\(\s*"{file.stem}"', file.read_text(encoding="utf-8"), re.MULTILINE)
        )  # fmt: skip

    def names(self) -> list[str]:
        return sorted({*self.own_names, *self.foreign_names()})

    def foreign_names(self) -> list[str]:
        """The names of other packages' parts."""
        self._load()
        return sorted(self._parts.keys() - self.own_names)

    def get(self, name: str) -> Part[PartT]:
        if name not in self._parts and name in self.own_names:
            import_module(f"{self._package}.{name}")
        if name not in self._parts:
            self._load()
        if name not in self._parts:
            raise self.unknown(name)
        return self._parts[name]

    def unknown(self, name: str) -> UserError:
        return UserError(f"{self.kind}.name: found {name!r}, expected one of {', '.join(self.names())}")

    def config(self, name: str, values: object) -> Any:
        """The configuration of the part `name` from what a YAML file or the command line gave.

        :param values: None (defaults), a mapping of fields, or an instance already.
        """
        return structure(self.get(name).config_kls, values, f"{self.kind}.config")

    def _load_foreign(self) -> None:
        """Loads the entry points of other packages."""
        for entry_point in entry_points(group=f"speechllm_plugin.{self.kind}s"):
            entry_point.load()


ADAPTERS: Registry[Adapter] = Registry("adapter", "speechllm_plugin.adapters")
ENCODERS: Registry[SpeechEncoder] = Registry("encoder", "speechllm_plugin.encoders")
LLMS: Registry[Llm] = Registry("llm", "speechllm_plugin.llms")
RECOGNIZERS: Registry[Recognizer] = Registry("recognizer", "speechllm_plugin.cascade.recognizers")
