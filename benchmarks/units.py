"""Units to measure on: rectified mixtures of common factors, as a layer's are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def rectified(n_units: int, n_samples: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """(n_units, n_samples) float32: each unit sees some of n_units / 8 factors, and is zero in half of the samples."""
    rng = np.random.default_rng(seed)
    n_factors = max(n_units // 8, 4)
    mixing = rng.standard_normal((n_units, n_factors), dtype=np.float32)
    mixing *= rng.random(mixing.shape) < 0.2
    samples = mixing @ rng.standard_normal((n_factors, n_samples), dtype=np.float32)
    samples += 0.5 * rng.standard_normal(samples.shape, dtype=np.float32)
    return np.maximum(samples, 0, out=samples)
