"""Derives the numbers of steps that are not set from those that are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NUM_STEPS = 28_000
WARM_UP = 840
"""Steps of the warm-up; both numbers are the published ones (arXiv 2409.17044)."""
EVERY = 1000
"""Steps between two validations and between two checkpoints."""
PUBLISH_EVERY = 50
"""Maximum steps between two lines of metrics."""

_STEPS, _WARM_UP_STEPS = "regime.num_steps", "lr_scheduler.config.num_warmup_steps"
_VALIDATE, _CHECKPOINT = "regime.validate_every_n_steps", "regime.checkpoint_every_n_steps"
_PUBLISH, _SCHEDULE = "regime.publish_metrics_every_n_steps", "lr_scheduler.name"


def derived_steps(given: Mapping[str, Any]) -> dict[str, int]:
    """Values for keys that are not set, by dotted key. The warm-up is the published share of all steps, a run validates
    at least at its end, each validation comes with a checkpoint, and both come with metrics.

    :param given: keys that are set, by dotted key. Values that are not numbers are ignored here and reported later.
    """
    numbers = {key: value for key, value in given.items() if isinstance(value, int) and value > 0}
    steps = numbers.get(_STEPS, EVERY if _STEPS in given else NUM_STEPS)
    derived: dict[str, int] = {}
    cosine = given.get(_SCHEDULE, "cosine_annealing") == "cosine_annealing" and "lr_scheduler.config" not in given
    if _STEPS in numbers and _WARM_UP_STEPS not in given and cosine:
        derived[_WARM_UP_STEPS] = steps * WARM_UP // NUM_STEPS
    publish = numbers.get(_PUBLISH, 1)
    if _VALIDATE not in given:
        # Validation comes as often as checkpoints, if their interval is set.
        each = numbers.get(_CHECKPOINT, min(EVERY, steps))
        derived[_VALIDATE] = max(publish, each // publish * publish)
    validate = {**numbers, **derived}.get(_VALIDATE, max(publish, min(EVERY, steps) // publish * publish))
    if _CHECKPOINT not in given:
        derived[_CHECKPOINT] = validate
    if _PUBLISH not in given:
        both = math.gcd(validate, {**numbers, **derived}.get(_CHECKPOINT, validate))
        derived[_PUBLISH] = next(each for each in range(min(both, PUBLISH_EVERY), 0, -1) if both % each == 0)
    return derived
