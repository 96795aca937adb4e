"""Named parts: encoders, adapters and LLMs register under a name, and so can other packages.

A part is one file of its name that holds its configuration dataclass, its module and one `register` call. Another
package adds its own through the entry-point group of the registry, for instance::

    entry_points={"speechllm_plugin.adapters": ["mine = my_package.my_adapter"]}

where importing `my_package.my_adapter` registers it.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from threading import RLock
from typing import Any, Generic, TypeVar

from speechllm_plugin.configuration.structure import structure
from speechllm_plugin.errors import UserError

PartT = TypeVar("PartT")


@dataclass(frozen=True)
class Part(Generic[PartT]):
    """A registered part: what it says of itself."""

    name: str
    config_kls: type[Any]
    """Its configuration."""
    build: Callable[..., PartT]
    """Makes it; of a pretrained part, `build(config)` loads its weights."""
    outline: Callable[[Any, Any, Any], PartT] | None = None
    """Of a pretrained part: `outline(config, hf_config, dtype)` makes it without weights, under a mode in which tensors
    have no memory. None = `build` does so itself."""
    model_types: tuple[str, ...] = ()
    """The `model_type`s of the config.json that it can load; () = any, or there is none."""
    check: Callable[[Any], object] | None = None
    """Of a pretrained part: `check(config)` raises `UserError` where its checkpoint is not what the configuration says.
    It reads no weight. None = there is nothing to be known before."""


class Registry(Generic[PartT]):
    """Looks parts up by name. A part of ours is imported when it is asked for, from the module of its name: the
    classes of transformers behind all of them take seconds. Other packages' entry points are loaded for a name that is
    not ours, and for a list."""

    def __init__(self, kind: str, package: str | None = None) -> None:
        """
        :param kind: "adapter", "encoder" or "llm": names the entry-point group and appears in errors.
        :param package: ours, whose modules register the parts that we have: a new file is enough.
        """
        self.kind = kind
        self._package = package
        self._parts: dict[str, Part[PartT]] = {}
        self._own: Set[str] = frozenset()
        self._loaded = False
        self._loading = RLock()

    def register(self, name: str, config_kls: type[Any], build: Callable[..., PartT], **more: Any) -> None:
        """:param more: see `Part`."""
        if name in self._parts and self._parts[name].build is not build:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._parts[name] = Part(name, config_kls, build, **more)

    def names(self) -> list[str]:
        self._load()
        return sorted(self._parts)

    def foreign_names(self) -> list[str]:
        """The parts of other packages."""
        self._load()
        return sorted(set(self._parts) - self._own)

    def get(self, name: str) -> Part[PartT]:
        if name not in self._parts:
            self._import_own(name)
        if name not in self._parts:
            self._load()
        if name not in self._parts:
            raise UserError(f"{self.kind}.name: found {name!r}, expected one of {', '.join(sorted(self._parts))}")
        return self._parts[name]

    def config(self, name: str, values: object) -> Any:
        """The configuration of the part `name` from what a YAML file or the command line gave.

        :param values: None (defaults), a mapping of fields, or an instance already.
        """
        return structure(self.get(name).config_kls, values, f"{self.kind}.config")

    def _import_own(self, name: str) -> None:
        if name in self._own_modules():
            import_module(f"{self._package}.{name}")

    def _own_modules(self) -> list[str]:
        if self._package is None:
            return []
        return [module.name for module in iter_modules(import_module(self._package).__path__)]

    def _load(self) -> None:
        # Threads that ask at once wait until all are there.
        with self._loading:
            if self._loaded:
                return
            self._loaded = True
            for module in self._own_modules():
                self._import_own(module)
            self._own = self._parts.keys() & frozenset(self._own_modules())
            for entry_point in entry_points(group=f"speechllm_plugin.{self.kind}s"):
                entry_point.load()
