"""Random orders that are the same on every machine and with every version of NumPy."""

from __future__ import annotations

import random
from array import array

import numpy as np

from speechllm_plugin.datasets.columns.fields import Places


def shuffled(generator: random.Random, size: int) -> Places:
    """The numbers below `size`, `[size]`."""
    order = array("q", range(size))
    generator.shuffle(order)
    return np.frombuffer(order, dtype=np.int64)
