"""Chance levels from random draws, p-values of units and false discovery rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
LEAST_DRAWS = 3
"""Draws of a null from which a spread without one of them can be computed."""
PRIOR = 4.0
"""Degrees of freedom of the spread of all units in that of one unit."""
TIE = 1e-9
"""Differences of values, and of scores, that are rounding."""


def generator_of(seed: int, *draw: int) -> np.random.Generator:
    """Random generator of a draw of a null, which has one number or several; draws are independent of their order."""
    return np.random.default_rng([seed, *draw])


def null_draws(draw: Callable[[np.random.Generator], Any], n_draws: int, seed: int) -> list[Any]:
    """Make ``n_draws`` draws of a null, each with its own generator."""
    return [draw(generator_of(seed, k)) for k in range(n_draws)]


def null_level(draw: Callable[[np.random.Generator], float], n_draws: int, seed: int) -> tuple[float, float]:
    """Mean and standard deviation over ``n_draws`` draws of a null."""
    values = np.array(null_draws(draw, n_draws, seed))
    return float(values.mean()), float(values.std(ddof=1))


def unit_p_values(values: Float64, null: Float64) -> Float64:
    """P-values (n_units,) of the values of units under a null; at least 1 / (1 + n_draws · n_units).

    Parameters
    ----------
    values : (n_units,)
        Values of the units.
    null : (n_draws, n_units)
        Values of the same units under the null, on the same images; at least :data:`LEAST_DRAWS` draws.

    Notes
    -----
    A few draws do not determine the tail of one unit, so the units share one null distribution of scores. With m and v
    the mean and variance of the D draws of a unit, v̄ the mean of v over the units, and d = 4:

    * variance of the unit, shrunk towards that of all units: s² = (d v̄ + (D − 1) v) / (d + D − 1);
    * score of the value: (value − m) / (s √(1 + 1/D)), since m is itself a mean of D draws;
    * score of a draw: the same with m, v and D − 1 of the *other* draws of its unit, so that a draw is as far from its
      reference as a value under the null is;
    * p = (1 + scores of draws that reach the score of the value) / (1 + D n_units).

    Equal scores count as reached. Without spread a value above the mean has the score ∞, an equal value 0. The standard
    error over images does not enter: the draws see the same images as the value.

    Raises
    ------
    ValueError
        for fewer draws.
    """
    n_draws = len(null)
    if n_draws < LEAST_DRAWS:
        raise ValueError(f"{n_draws} draws; p-values need at least {LEAST_DRAWS} draws of the null")
    pooled = float(null.var(axis=0, ddof=1).mean())
    scores = _scores(values, null.mean(axis=0), null.var(axis=0, ddof=1), pooled, n_draws)
    others_mean = (null.sum(axis=0) - null) / (n_draws - 1)
    centred = null - null.mean(axis=0)  # variances of the others by the update formula, without cancellation
    others_square = (centred**2).sum(axis=0) - centred**2 * n_draws / (n_draws - 1)
    others_variance = np.maximum(others_square, 0.0) / (n_draws - 2)
    draws = np.sort(_scores(null, others_mean, others_variance, pooled, n_draws - 1).ravel())
    at_least = len(draws) - np.searchsorted(draws, scores - TIE, side="left")
    return np.asarray((1.0 + at_least) / (1.0 + len(draws)))


def _scores(values: Float64, mean: Float64, variance: Float64, pooled: float, n_draws: int) -> Float64:
    """Distances of values from means of ``n_draws`` draws, in shrunk standard deviations."""
    shrunk = (PRIOR * pooled + (n_draws - 1) * variance) / (PRIOR + n_draws - 1)
    apart = values - mean
    apart = np.where(np.abs(apart) <= TIE, 0.0, apart)
    spread = np.sqrt(shrunk * (1.0 + 1.0 / n_draws))
    far = np.where(apart == 0.0, 0.0, np.copysign(np.inf, apart))
    return np.asarray(np.divide(apart, spread, out=far, where=spread > TIE))


def false_discovery_rates(p_values: Float64) -> Float64:
    """Adjusted p-values (n,) of Benjamini and Hochberg (1995), which control the false discovery rate."""
    n = len(p_values)
    order = np.argsort(p_values)
    least_above = np.minimum.accumulate((p_values[order] * (n / np.arange(1, n + 1)))[::-1])[::-1]
    found = np.empty(n)
    found[order] = np.clip(least_above, 0.0, 1.0)
    return found
