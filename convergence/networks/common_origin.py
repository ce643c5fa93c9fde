"""Nets whose weights are similar place by place: they were trained, or fine-tuned, from the same weights.

Nets trained from different initial weights have no common order of units, so that their weights correlate at about 0
place by place: at most 0.06 in any tensor of the eight nets of ANI-1x and the five of SpliceAI. Of ten nets of waifu2x,
which were fine-tuned from one another, every two correlate above 0.69 in some tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LEAST_VALUES = 256
"""Of a tensor that is compared."""
MOST_VALUES = 1 << 16
"""Of a tensor, the first of which are compared."""
RELATED = 0.3
"""A larger correlation in any tensor is no chance: five standard errors of ``LEAST_VALUES``."""


class CommonOrigin(NamedTuple):
    """Two nets with a correlation ``r`` of the weights in the tensor ``key``, the largest of all tensors."""

    first: str
    second: str
    r: float
    key: str

    def __str__(self) -> str:
        return (
            f"the weights of {self.first} and {self.second} correlate at {self.r:.2f} place by place ({self.key}), and "
            "those of nets trained apart at about 0"
        )


Sample = Mapping[str, npt.NDArray[np.float32]]


def sample_of(state: Mapping[str, Any]) -> Sample:
    """Unit vectors by key, from arrays or tensors of weights by key.

    The mean over units is subtracted, since kernels of a layer often have a common profile. Vectors and small tensors
    (biases, norms) are left out.
    """
    found = {}
    for key, values in state.items():
        shape = tuple(getattr(values, "shape", ()))
        if len(shape) < 2 or np.prod(shape) < LEAST_VALUES:
            continue
        array = np.asarray(values.detach().cpu().float() if hasattr(values, "detach") else values, np.float32)
        rows = array[: max(2, MOST_VALUES * shape[0] // array.size)]
        centred = (rows - array.mean(axis=0)).ravel()[:MOST_VALUES]
        length = float(np.linalg.norm(centred))
        if np.isfinite(length) and length > 0:
            found[key] = centred / np.float32(length)
    return found


def common_origins(samples: Mapping[str, Sample]) -> Iterator[CommonOrigin]:
    """Pairs of nets, given by name, whose weights correlate above ``RELATED`` in a tensor of one key and shape."""
    for first, second in combinations(samples, 2):
        found = [
            (float(values @ samples[second][key]), key)
            for key, values in samples[first].items()
            if key in samples[second] and samples[second][key].shape == values.shape
        ]
        r, key = max(found, default=(0.0, ""))
        if r > RELATED:
            yield CommonOrigin(first, second, r, key)
