"""Rotary positions whose frequencies depend on the longest row of a batch: `longrope` (Phi 3) and `dynamic`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import PretrainedConfig

_SCALED = ("dynamic", "longrope")


def unscaled_positions(config: PretrainedConfig) -> int | None:
    """Positions that a row may have and changes no row beside it or after it; None = any number.

    `dynamic` keeps the frequencies of the longest row until a row has fewer positions than these
    (findings/dynamic_rope_remembers_the_longest_text.sh).
    """
    scaled = [options for options in _rope_options(config) if options.get("rope_type", options.get("type")) in _SCALED]
    if not scaled:
        return None
    name = "original_max_position_embeddings"
    found = [getattr(config, name, None), config.max_position_embeddings, *(options.get(name) for options in scaled)]
    return min(length for length in found if length is not None) - 1


def _rope_options(config: PretrainedConfig) -> Iterator[dict[str, Any]]:
    """Options of all layers, or of each kind of layer."""
    # transformers 4 has the first name, transformers 5 the second.
    options = getattr(config, "rope_scaling", None) or getattr(config, "rope_parameters", None) or {}
    yield options
    yield from (value for value in options.values() if isinstance(value, dict))
