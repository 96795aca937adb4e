"""How a package offers a recipe to the `fairseq2` command: an entry point of group `fairseq2.recipe`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Imported when an action is created: `fairseq2 recipe list` and `--help` answer at once.
    from fairseq2.recipe.base import Recipe


@dataclass(frozen=True)
class Action:
    """An action of a recipe, such as training."""

    summary: str
    create: Callable[[], Recipe]
    takes_checkpoint: bool
    """Whether it reads a trained model, given by `--checkpoint`."""
    takes_init: bool = False
    """Whether it can start from a trained model, given by `--init-from`."""
    last_of_published: bool = False
    """Whether the last step of a run of a published architecture is taken if `--step` is not given, as published.
    Otherwise the best step by validation is taken."""
    derive: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    """Computes values for keys that the user has not set from those that are set, all by dotted key."""
    look: Callable[[Mapping[str, Any]], None] | None = None
    """Raises `UserError` for mistakes in the keys that the user has set, by dotted key. It imports neither torch nor
    fairseq2, which take seconds."""
    model_keys: str = "model.config_overrides."
    """Prefix of the keys of `--set`."""


@dataclass(frozen=True)
class Driver:
    """A command that runs the recipe's actions as separate programs."""

    summary: str
    module: str
    """Name of a module with `add_arguments(parser)` and `run(options)`."""


@dataclass(frozen=True)
class RecipeEntry:
    summary: str
    actions: Mapping[str, Action | Driver]
    """Actions by name; the first is the default."""
