"""Chance levels from random draws, p-values of units and false discovery rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Float64 = npt.NDArray[np.float64]


def generator_of(seed: int, k: int) -> np.random.Generator:
    """Random generator of draw ``k`` of a null; draws are independent of their order."""
    return np.random.default_rng([seed, k])


def null_draws(draw: Callable[[np.random.Generator], Any], n_draws: int, seed: int) -> list[Any]:
    """Make ``n_draws`` draws of a null, each with its own generator."""
    return [draw(generator_of(seed, k)) for k in range(n_draws)]


def null_level(draw: Callable[[np.random.Generator], float], n_draws: int, seed: int) -> tuple[float, float]:
    """Mean and standard deviation over ``n_draws`` draws of a null."""
    values = np.array(null_draws(draw, n_draws, seed))
    return float(values.mean()), float(values.std(ddof=1))


def unit_p_values(values: Float64, errors: Float64, null: Float64) -> Float64:
    """P-values (n_units,) of the values of units under a null; at least 1 / (1 + n_draws · n_units).

    Parameters
    ----------
    values, errors : (n_units,)
        Values of the units and their standard errors.
    null : (n_draws, n_units)
        Values of the units under the null.

    Notes
    -----
    A few draws do not determine the tail of one unit, so the units share one null distribution. Each value is
    standardised by the mean and spread of its unit under the null, with its own standard error included, and compared
    with the standardised draws of all units. Each draw is standardised by the mean and spread of the *other* draws of
    its unit.
    """
    n_draws = len(null)
    mean, spread = null.mean(axis=0), null.std(axis=0, ddof=1)
    scores = (values - mean) / np.hypot(spread, errors).clip(np.finfo(float).tiny)
    others_mean = (null.sum(axis=0) - null) / (n_draws - 1)
    others_square = ((null**2).sum(axis=0) - null**2) / (n_draws - 1)
    others = np.sqrt(np.maximum(others_square - others_mean**2, 0.0) * (n_draws - 1) / max(n_draws - 2, 1))
    draws = np.sort(((null - others_mean) / others.clip(np.finfo(float).tiny)).ravel())
    at_least = len(draws) - np.searchsorted(draws, scores, side="left")
    return np.asarray((1.0 + at_least) / (1.0 + len(draws)))


def false_discovery_rates(p_values: Float64) -> Float64:
    """Adjusted p-values (n,) of Benjamini and Hochberg (1995), which control the false discovery rate."""
    return np.asarray(stats.false_discovery_control(p_values, method="bh"))
