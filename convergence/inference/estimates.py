"""Numbers with their error bar, chance level and ceiling.

Images are the units of resampling (positions of one image depend on each other strongly): the delete-one-group
jackknife recomputes a number without each image group in turn. An interval is for the value over all images like these.
Many numbers are too large on finitely many (a share of variance explained with many predictors, a maximum over noise),
and the jackknife estimates by how much; for numbers that jump, like the best of several, that estimate is itself rough.
So an interval holds both readings, with the bias taken out and with it left in. How often intervals hold the truth is
measured by ``benchmarks/coverage.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
Float64 = npt.NDArray[np.float64]
NONE = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A number as it should be quoted.

    Attributes
    ----------
    value : from all images
    standard_error : of the value, over image groups (delete-one jackknife)
    low, high : 95 % interval for the value over all images like these: Student's t with (groups − 1) degrees of
        freedom, about the value and about value − bias, and all between
    bias : the jackknife's estimate of how far the value is too large for want of images
    null, null_sd : mean and standard deviation of the same number in random rotations of y's basis, NaN where those
        change nothing
    shifted : the same number where the second net sees the next image, NaN if that was not summed
    ceiling : the same number for a net beside itself, aligned and scored on the same images as the value; NaN if
        unknown
    without : (n_groups,) the value without each image group, so that errors of means of estimates can be had
    """

    value: float
    standard_error: float
    low: float
    high: float
    bias: float = 0.0
    null: float = NONE
    null_sd: float = NONE
    shifted: float = NONE
    ceiling: float = NONE
    without: Float64 = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """All numbers by name; ``Estimate(**…)`` makes it again."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def against(self, null: tuple[float, float]) -> Estimate:
        """The same estimate with a chance level: its mean and standard deviation."""
        return replace(self, null=null[0], null_sd=null[1])

    def within(self, bounds: tuple[float, float]) -> Estimate:
        """The same estimate with its interval cut off where the range ends that the number can have.

        The interval is a symmetric one about a number whose range has ends, so that it may reach beyond them; no value
        out there is possible, and cutting it off leaves what it covers as it is.
        """
        low, high = bounds
        return replace(self, low=min(max(self.low, low), high), high=max(min(self.high, high), low))

    def calibrated(self) -> Estimate | None:
        """Where the value stands between chance (0) and the ceiling (1): (value − null) / (ceiling − null).

        Chance is the rotation null, else the next image's level; None without one, or where it reaches the ceiling. The
        error has the null's spread in it: a net that shares nothing is itself one draw from the null. The bias stays
        in: the null has one like it, and they cancel.
        """
        rotated = bool(np.isfinite(self.null))
        null, spread = (self.null, self.null_sd) if rotated else (self.shifted, 0.0)
        if not np.isfinite(null) or not np.isfinite(self.ceiling) or abs(self.ceiling - null) < 1e-9:
            return None
        scale = self.ceiling - null
        error = float(np.hypot(self.standard_error, spread))
        far = reach(len(self.without)) * error
        low, high = sorted(((self.value - far - null) / scale, (self.value + far - null) / scale))
        return Estimate(
            (self.value - null) / scale, error / abs(scale), low, high,
            without=(self.without - null) / scale,
        )  # fmt: skip


def jackknife(value: float, without: npt.ArrayLike, smooth: bool = True) -> Estimate:
    """Estimate from the value on everything and ``without`` (n_groups,): the value without each group.

    Standard error: sqrt((G − 1)/G · Σ (θ₍g₎ − θ̄)²), Efron & Stein 1981 (Ann. Statist. 9); bias: (G − 1)(θ̄ − θ),
    Quenouille 1956 (Biometrika 43). Groups differ by at most one image, so they weigh the same. A number that is not
    ``smooth``, like a share of units with the same partner, changes in steps: its bias is not estimated, and its error
    is rough.

    Raises
    ------
    ValueError
        for fewer than two groups.
    """
    replicates = np.asarray(without, dtype=np.float64)
    n_groups = len(replicates)
    if n_groups < 2:
        raise ValueError(f"a jackknife needs at least 2 groups, not {n_groups}")
    error = float(np.sqrt((n_groups - 1) / n_groups * ((replicates - replicates.mean()) ** 2).sum()))
    bias = float((n_groups - 1) * (replicates.mean() - value)) if smooth else 0.0
    far = reach(n_groups) * error
    low, high = float(value) - max(bias, 0.0) - far, float(value) - min(bias, 0.0) + far
    return Estimate(float(value), error, low, high, bias, without=replicates)


def reach(n_groups: int) -> float:
    """Standard errors to either side of a 95 % interval."""
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, max(n_groups - 1, 1)))


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of numbers that come from the same image groups, with the error of that mean.

    Their errors are not independent, so the mean is jackknifed itself: averaged replicate by replicate, not in
    quadrature. Chance levels and ceilings are averaged.
    """
    mean = jackknife(
        float(np.mean([e.value for e in estimates])),
        np.mean([e.without for e in estimates], axis=0),
        smooth=any(e.bias != 0.0 for e in estimates),
    )
    levels: dict[str, Any] = {
        name: float(np.mean([getattr(e, name) for e in estimates]))
        for name in ("null", "null_sd", "shifted", "ceiling")
    }
    return replace(mean, **levels)


def jackknife_error(without: npt.ArrayLike) -> Float64:
    """Standard errors (…) of many numbers at once, from ``without`` (n_groups, …)."""
    replicates = np.asarray(without, dtype=np.float64)
    n_groups = len(replicates)
    spread = (replicates - replicates.mean(axis=0)) ** 2
    return np.asarray(np.sqrt((n_groups - 1) / n_groups * spread.sum(axis=0)))


def random_rotation(n: int, generator: np.random.Generator) -> Float64:
    """An orthogonal matrix (n, n), uniform over all of them (Haar): QR of a Gaussian matrix with signs fixed."""
    q, r = np.linalg.qr(generator.standard_normal((n, n)))
    signs = np.sign(np.diag(r))
    signs[signs == 0] = 1.0
    return np.asarray(q * signs)


def generator_of(seed: int, k: int) -> np.random.Generator:
    """The generator of draw ``k`` of a null: draws can be made in any order, by anyone."""
    return np.random.default_rng([seed, k])


def null_draws(draw: Callable[[np.random.Generator], Any], n_draws: int, seed: int) -> list[Any]:
    """``n_draws`` draws of a null; each draw has a generator of its own."""
    return [draw(generator_of(seed, k)) for k in range(n_draws)]


def null_level(draw: Callable[[np.random.Generator], float], n_draws: int, seed: int) -> tuple[float, float]:
    """Mean and standard deviation over ``n_draws`` draws of a null."""
    values = np.array(null_draws(draw, n_draws, seed))
    return float(values.mean()), float(values.std(ddof=1))


def unit_p_values(values: Float64, errors: Float64, null: Float64) -> Float64:
    """(n_units,) chance that a null reaches each unit's value; never below 1 / (1 + n_draws · n_units).

    Parameters
    ----------
    values, errors : (n_units,)
        The units' numbers with their standard errors.
    null : (n_draws, n_units)
        The same numbers under the null.

    Notes
    -----
    A few draws say little of one unit's tail, so units share one: every number is taken relative to its unit's mean and
    spread under the null (with the value's own error in it), and compared with those of all draws of all units. Draws
    are standardised by the mean and spread of the *other* draws of their unit, as the value is.
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
    """(n,) adjusted p-values of Benjamini and Hochberg (1995): of those up to q at most a share q is chance."""
    return np.asarray(stats.false_discovery_control(p_values, method="bh"))
