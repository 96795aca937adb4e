"""Reads the configuration of a run only once."""

from __future__ import annotations

from fairseq2.recipe.cli import _RecipeConfigLoader


def read_configuration_once() -> None:
    """Makes fairseq2 0.8, which reads the configuration again for each section, read it once. Otherwise a value that is
    changed in one copy, such as `dtype: auto`, would not reach the trainer or the model."""
    load = _RecipeConfigLoader.load
    loaded: list[object] = []

    def load_once(self: _RecipeConfigLoader, *arguments: object) -> object:
        if not loaded:
            loaded.append(load(self, *arguments))  # type: ignore[arg-type]
        return loaded[0]

    _RecipeConfigLoader.load = load_once  # type: ignore[assignment,method-assign]
