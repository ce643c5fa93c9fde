"""Threads of the arithmetic: one where the work of a batch is too little to be divided.

The number depends on the settings and the shapes of the layers alone, never on the machine, because it changes
rounding.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

from convergence.config.stages import StatisticsConfig
from convergence.statistics.activation_source import JoinedUnits

LEAST_VALUES = 1 << 21
"""Values of one layer of one net in a batch from which on threads are worthwhile: some milliseconds of work."""
LEAST_PRODUCTS = 1 << 29
"""Multiplications of the sums of one comparison in a batch from which on threads are worthwhile."""


def worthwhile_threads(config: StatisticsConfig, joined: Iterable[JoinedUnits]) -> int:
    """``statistics.threads``, or 1 if batches of all comparisons are small."""
    for units in joined:
        per_layer = max(width * math.prod(shape) for width, shape in zip(units.widths, units.map_shapes, strict=True))
        products = units.n_units**2 * units.n_sampled(config.positions)
        if config.batch_size * per_layer >= LEAST_VALUES or config.batch_size * products >= LEAST_PRODUCTS:
            return config.threads
    return 1


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Limit the threads of products, and of torch where it is imported, until the block ends."""
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    try:
        with threadpool_limits(threads):
            if torch is not None:
                torch.set_num_threads(threads)
            yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)
