"""Checks of what a user sets in an adapter's configuration."""

from __future__ import annotations

import math

from speechllm_plugin.errors import UserError


def check_at_least(config: object, **minimums: float) -> None:
    """:raises UserError: a field of the configuration is below its minimum, infinite or no number."""
    for key, minimum in minimums.items():
        found = getattr(config, key)
        if not minimum <= found < math.inf:
            finite = "finite " if found == math.inf else ""
            raise setting_error(key, found, f"a {finite}number of at least {minimum:g}")


def check_dropout(dropout: float) -> None:
    """:raises UserError: it is not at least 0 and below 1."""
    if not 0.0 <= dropout < 1.0:
        raise setting_error("dropout", dropout, "a number from 0 to below 1")


def setting_error(key: str, found: object, expected: str) -> UserError:
    return UserError(f"adapter.config.{key}: found {found!r}, expected {expected}")
