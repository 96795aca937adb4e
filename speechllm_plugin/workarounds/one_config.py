"""One reading of the configuration for the whole of a run."""

from __future__ import annotations

from fairseq2.recipe.cli import _RecipeConfigLoader


def read_configuration_once() -> None:
    """fairseq2 0.8 reads the configuration again for each section that is asked for. A value that is changed in one
    copy, such as `dtype: auto`, would not reach the trainer or the model."""
    load = _RecipeConfigLoader.load
    loaded: list[object] = []

    def load_once(self: _RecipeConfigLoader, *arguments: object) -> object:
        if not loaded:
            loaded.append(load(self, *arguments))  # type: ignore[arg-type]
        return loaded[0]

    _RecipeConfigLoader.load = load_once  # type: ignore[assignment,method-assign]
