"""The recipes of speechllm-plugin and the `fairseq2` command that runs them."""

# Before any import of fairseq2: see speechllm_plugin.workarounds.sndfile.
import speechllm_plugin  # noqa: F401
from speechllm_recipes.entry import Action, RecipeEntry

__all__ = ["Action", "RecipeEntry"]
