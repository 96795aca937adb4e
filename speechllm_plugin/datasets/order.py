"""Random orders that are the same on every machine and with every version of NumPy."""

from __future__ import annotations

import random
from array import array

import numpy as np

from speechllm_plugin.files.columns.fields import Places


def shuffled(generator: random.Random, size: int) -> Places:
    """The numbers below `size`, `[size]`, as `random.shuffle` has them, in half the time."""
    order, bits = array("q", range(size)), generator.getrandbits
    for last in range(size - 1, 0, -1):
        width = (last + 1).bit_length()
        place = bits(width)
        while place > last:
            place = bits(width)
        order[last], order[place] = order[place], order[last]
    return np.frombuffer(order, dtype=np.int64)
