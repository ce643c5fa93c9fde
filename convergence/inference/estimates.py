"""Estimates with an error bar, a chance level and a ceiling, by the delete-one-group jackknife.

Images are the units of resampling, because positions of one image are strongly dependent. The jackknife recomputes a
number without each image group in turn. An interval is for the value over all images of the same kind.

Many numbers are biased upwards on finitely many images, for example explained variance with many predictors, or a
maximum over noise. The jackknife estimates this bias; for numbers that change in steps, like the best of several, the
estimate of the bias is itself rough. An interval therefore covers both readings, with and without the bias correction.
``benchmarks/coverage.py`` measures the coverage of the intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

CONFIDENCE = 0.95
Float64 = npt.NDArray[np.float64]
NONE = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A number with its error bar, chance levels and ceiling.

    Attributes
    ----------
    value : from all images
    standard_error : of the value, over image groups (delete-one jackknife)
    low, high : 95 % interval for the value over all images of the same kind: Student's t with (groups − 1) degrees of
        freedom; the union of the intervals about the value and about value − bias, and everything between
    bias : jackknife estimate of the bias from the finite number of images
    null, null_sd : mean and standard deviation of the number over draws of the null, for example over nets with the
        span of y in another basis; NaN without a null
    shifted : the number if the second net sees the next image; NaN if that was not summed
    ceiling : the best value that nets with the same covariances within the layers can have; NaN if unknown
    without : (n_groups,) the value without each image group, for errors of means of estimates
    draws : (n_draws,) the number in each draw of the null; draw k is the same in every pair, for the spread of means
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
    draws: Float64 = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return all attributes by name; ``Estimate(**values)`` restores the estimate."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def against(self, null: tuple[float, float]) -> Estimate:
        """Return the estimate with a chance level, given as (mean, standard deviation)."""
        return replace(self, null=null[0], null_sd=null[1])

    def with_draws(self, draws: npt.ArrayLike) -> Estimate:
        """Return the estimate with the draws of a null, and their mean and standard deviation; NaN for none."""
        values = np.asarray(draws, dtype=np.float64)
        mean = float(values.mean()) if len(values) else NONE
        spread = float(values.std(ddof=1)) if len(values) > 1 else NONE
        return replace(self, null=mean, null_sd=spread, draws=values)

    def above(self, draws: npt.ArrayLike) -> Estimate:
        """Return the number minus its mean under a null; the error includes that of the mean of the draws.

        The null of the difference is that of the number, moved to the mean 0. The bias is not estimated, because the
        null has a similar bias.
        """
        values = np.asarray(draws, dtype=np.float64)
        level, monte_carlo = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
        error = float(np.hypot(self.standard_error, monte_carlo))
        far, value = reach(len(self.without)) * error, self.value - level
        over = Estimate(value, error, value - far, value + far, without=self.without - level)
        return over.with_draws(values - level)

    def within(self, bounds: tuple[float, float]) -> Estimate:
        """Return the estimate with its interval clipped to the possible range of the number.

        The symmetric interval of a bounded number may exceed its bounds. Values outside are impossible, so clipping
        does not change the coverage.
        """
        low, high = bounds
        return replace(self, low=min(max(self.low, low), high), high=max(min(self.high, high), low))

    def calibrated(self) -> Estimate | None:
        """Scale the value so that chance is 0 and the ceiling is 1: (value − null) / (ceiling − null).

        Chance is the rotation null, or else the level for the next image. The result is None without a chance level,
        or if chance equals the ceiling. The error includes the spread of the null, because a net that shares nothing is
        itself one draw from the null. The bias is not removed: the null has a similar bias, and they cancel.
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
    """Estimate a number from its value on all images and ``without`` (n_groups,), the values without each group.

    Standard error: sqrt((G − 1)/G · Σ (θ₍g₎ − θ̄)²), Efron & Stein 1981 (Ann. Statist. 9); bias: (G − 1)(θ̄ − θ),
    Quenouille 1956 (Biometrika 43). All groups have the same weight: their sizes differ by one image, or by the size of
    a family where images come in families, of which groups are made so that they are of nearly equal size. A number
    that is not ``smooth``, like a share of units with the same partner, changes in steps: its bias is not estimated,
    and its error is rough.

    Raises
    ------
    ValueError
        for fewer than two groups.
    """
    replicates = np.asarray(without, dtype=np.float64)
    n_groups = len(replicates)
    if n_groups < 2:
        raise ValueError(f"{n_groups} groups; the jackknife needs at least 2 groups")
    error = float(np.sqrt((n_groups - 1) / n_groups * ((replicates - replicates.mean()) ** 2).sum()))
    bias = float((n_groups - 1) * (replicates.mean() - value)) if smooth else 0.0
    far = reach(n_groups) * error
    low, high = float(value) - max(bias, 0.0) - far, float(value) - min(bias, 0.0) + far
    return Estimate(float(value), error, low, high, bias, without=replicates)


def reach(n_groups: int) -> float:
    """Half-width of a 95 % interval in standard errors, by Student's t with (n_groups − 1) degrees of freedom."""
    return float(special.stdtrit(max(n_groups - 1, 1), 0.5 + CONFIDENCE / 2))


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """Average estimates from the same image groups, with the standard error of the mean.

    The errors are dependent, so the replicates are averaged and the mean itself is jackknifed. Chance levels and
    ceilings are averaged.
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
    """Jackknife standard errors (…) of many numbers, from ``without`` (n_groups, …)."""
    replicates = np.asarray(without, dtype=np.float64)
    n_groups = len(replicates)
    spread = (replicates - replicates.mean(axis=0)) ** 2
    return np.asarray(np.sqrt((n_groups - 1) / n_groups * spread.sum(axis=0)))
