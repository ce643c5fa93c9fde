"""Numbers with their error bar and chance level.

Images are the units of resampling (positions of one image depend on each other strongly): the delete-one-group
jackknife recomputes a number without each image group in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number as it should be quoted.

    Attributes
    ----------
    value : the estimate from all images
    standard_error : of the value, over image groups (delete-one jackknife)
    low, high : 95 % interval, Student's t with (groups − 1) degrees of freedom
    null, null_sd : mean and standard deviation of the same number under the null, NaN where the null does not apply
    shifted : the same number where the second net sees the next image, NaN if that was not summed
    without : (n_groups,) the value without each image group, so that errors of means of estimates can be had
    """

    value: float
    standard_error: float
    low: float
    high: float
    null: float = float("nan")
    null_sd: float = float("nan")
    shifted: float = float("nan")
    without: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """All numbers by name; ``Estimate(**…)`` makes it again."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def against(self, null: tuple[float, float]) -> Estimate:
        """The same estimate with a chance level: its mean and standard deviation."""
        return replace(self, null=null[0], null_sd=null[1])


def jackknife(value: float, without: npt.ArrayLike) -> Estimate:
    """Estimate from the value on everything and ``without`` (n_groups,): the value without each group.

    Standard error: sqrt((G − 1)/G · Σ (θ₍g₎ − θ̄)²), Efron & Stein 1981 (Ann. Statist. 9). Groups differ by at most one
    image, so they weigh the same.

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
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n_groups - 1)) * error
    return Estimate(float(value), error, float(value) - reach, float(value) + reach, without=replicates)


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of numbers that come from the same image groups, with the error of that mean.

    Their errors are not independent, so the mean is jackknifed itself: averaged replicate by replicate, not in
    quadrature. Chance levels are averaged.
    """
    mean = jackknife(float(np.mean([e.value for e in estimates])), np.mean([e.without for e in estimates], axis=0))
    null, null_sd, shifted = (
        float(np.mean([getattr(e, name) for e in estimates])) for name in ("null", "null_sd", "shifted")
    )
    return replace(mean, null=null, null_sd=null_sd, shifted=shifted)


def jackknife_error(without: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Standard errors (…) of many numbers at once, from ``without`` (n_groups, …)."""
    replicates = np.asarray(without, dtype=np.float64)
    n_groups = len(replicates)
    spread = (replicates - replicates.mean(axis=0)) ** 2
    return np.asarray(np.sqrt((n_groups - 1) / n_groups * spread.sum(axis=0)))


def random_rotation(n: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """An orthogonal matrix (n, n), uniform over all of them (Haar): QR of a Gaussian matrix with signs fixed."""
    q, r = np.linalg.qr(generator.standard_normal((n, n)))
    signs = np.sign(np.diag(r))
    signs[signs == 0] = 1.0
    return np.asarray(q * signs)


def null_level(draw: Callable[[np.random.Generator], float], n_draws: int, seed: int) -> tuple[float, float]:
    """Mean and standard deviation over ``n_draws`` draws of a null; each draw has a generator of its own."""
    values = np.array([draw(np.random.default_rng([seed, k])) for k in range(n_draws)])
    return float(values.mean()), float(values.std(ddof=1))
