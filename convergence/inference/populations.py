"""Uncertainty of a number that depends on nets and on images, where both are samples of populations.

Nets trained from other seeds would give another number, and so would other images. Two pairs of nets that share a net
depend on each other, so that the mean over all pairs is a U-statistic of the nets: its units of resampling are nets,
not pairs. Nets of one initialisation are one unit. The variance of a number is the sum of

* the delete-one jackknife over the units of each population of nets that takes part (Efron & Stein 1981, Ann. Statist.
  9; Arvesen 1969, Ann. Math. Statist. 40, for U-statistics),
* the delete-one-group jackknife over the images, and
* the Monte-Carlo variance of a null that is part of the number.

Its degrees of freedom are those of Welch and Satterthwaite; intervals are of Student's t. With K nets of one population
and many images these are K − 1.

The jackknife over nets also holds the part of the variance over images that differs from net to net, and it counts the
part that belongs to a pair of nets alone twice or more (Efron and Stein: it errs upwards). Coverage in per cent, of
10,000 simulations each (5,000 with images) of f_ij = μ + a_i + a_j + e_ij, by the share of the variance of f that is of
the nets (a_i and a_j) rather than of the pair (e_ij):

=====================================  ====  ====  ====  ====  ====
images; nets                              0   .15   .67   .89     1
=====================================  ====  ====  ====  ====  ====
none; 3                                98.7  98.4  97.0  96.0  94.9
none; 4                                98.9  98.1  95.8  95.6  94.9
none; 6                                98.9  98.4  95.8  95.5  95.0
none; 8                                99.0  97.9  95.9  95.1  94.9
SD .3, common to all pairs; 3          97.9  97.3  95.6  93.9  92.9
SD .3, common to all pairs; 4          98.4  98.2  96.1  94.2  93.6
SD .3, common to all pairs; 8          97.8  97.3  95.7  94.6  95.1
SD 1 common and 1 of each pair; 3      98.5  98.1  97.4  96.9  96.5
SD 1 common and 1 of each pair; 4      97.9  97.9  97.1  96.5  96.4
SD 1 common and 1 of each pair; 8      96.5  96.8  96.6  96.0  96.1
=====================================  ====  ====  ====  ====  ====

The unbiased variance from the mean squares of the round robin is smaller by up to two thirds, but its intervals cover
90.6 to 92.5 % for 4 to 8 nets and shares of .3 to .7, where the squares of the pairs are few. With a floor of .7 of the
jackknife's variance they cover 92.8 % at least, and are shorter by at most a sixth. The jackknife is used as it is.

Means over pairs of a trained with an untrained net cover 94 to 99 % for 3 to 8 nets of either kind. Two populations
that are equal differ at p <= 0.05 in 0.2 to 6.1 % of simulations; trained and mixed pairs, which share their trained
nets, in 0.5 to 6.1 %.

Similarities are at most 1, and those of trained nets are products of what both nets have: they are skewed, and their
error depends on their value. Student's t on their own scale then covers less than 95 % (Hall 1992, The Bootstrap and
Edgeworth Expansion). The jackknife covers better on a scale where the error does not depend on the value (Arvesen 1969;
Cressie 1981, J. R. Stat. Soc. B 43). Here that scale is the logit. A similarity that is positive by more than two
standard errors has the hull of both intervals. Others have that of their own scale, since similarities on held-out
images may be 0 or negative. Coverage in per cent, of 20,000 simulations each, by the scale:

======================================================  ====  ====  ====  ====  ====  ====  ====  ====
..                                                      own scale               hull of both
------------------------------------------------------  ----------------------  ----------------------
similarity of nets i and j                                 3     4     6     8     3     4     6     8
======================================================  ====  ====  ====  ====  ====  ====  ====  ====
mean correlation of 16 units, as in benchmarks/truth    93.3  93.5  93.6  93.6  95.0  95.4  95.3  95.2
their mean squared correlation                          89.8  89.8  90.7  91.5  93.8  94.0  94.7  95.0
expit(−2 + .5 (a_i + a_j)), a normal                    91.5  91.2  91.0  92.0  94.7  94.8  95.0  95.3
expit(−3 + .7 (a_i + a_j))                              86.4  85.8  86.2  87.3  90.9  90.2  91.7  93.2
expit(2 + .7 (a_i + a_j))                               88.3  88.1  89.0  89.8  94.6  94.8  94.5  94.8
======================================================  ====  ====  ====  ====  ====  ====  ====  ====

Corrections by the skewness of the nets' effects (Johnson 1978, J. Am. Stat. Assoc. 73; Hall 1992) need more nets: of
these similarities they cover 77 to 91 % with 4 nets. K − 2 degrees of freedom cover 87 to 97 %. Numbers without an
upper bound have their own scale alone: of net effects with an exponential distribution it covers 88 to 90 %.

A difference of two such similarities has the hull of its interval and of that of the difference of logits, times the
secant (x − y) / (logit x − logit y). Equal populations of these similarities, or of products of beta variables, then
differ at p <= 0.05 in 0.3 to 5.5 % of simulations with 4 or 8 nets of either kind, 1.6 to 6.4 % with 3 and 8 or with 12
and 4, and trained and mixed pairs of 3 trained and 8 untrained nets in 1.7 to 8.2 %. On the own scale these are up to
7.0, 7.6 and 10.2 %.

Shares of units near 0 or 1 are skewed, and so are their errors: of binomial shares of 16 or 64 units with a mean of .02
to .9, whose logit varies between pairs with an SD of 0, .4 or 1.1, Student's t covers 85 to 100 % for 3, 4 and 8 nets.
On the scale of logits it covers 94 to 100 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from convergence.inference.estimates import CONFIDENCE

Float64 = npt.NDArray[np.float64]
NumberKind = Literal["plain", "similarity", "share", "count", "difference"]
"""A similarity is at most 1; a difference is one of shares or counts."""
LEAST_NETS = 3
"""Nets of a population below which there is no interval over nets."""
LEAST_ERRORS = 2.0
"""Standard errors of a similarity above 0 at which its logit begins to be a scale."""
NO_SPREAD = "the value is equal in all nets, and an interval over nets needs a spread"
ROUNDING = 1e-12
NONE = float("nan")


@dataclass(frozen=True, eq=False)
class NetsNumber:
    """A number of populations of nets and of image groups, with its delete-one replicates.

    Attributes
    ----------
    value : from all nets and all images
    without_groups : (n_groups,) the value without each image group; of no length where it has no error over images
    without_nets : by the name of a population in the plural ("trained nets"), and in it by the name of a unit (a net,
        or an initialisation), the value without all nets of the unit; NaN where nothing is left
    smooth : whether the bias for want of images is estimated
    monte_carlo : variance of a null in the number from its finite number of draws, and its degrees of freedom
    kind : what the number is. Shares of units, counts and their differences have no interval without a spread over
        nets; similarities and shares have an interval on the scale of logits
    """

    value: float
    without_groups: Float64
    without_nets: Mapping[str, Mapping[str, float]]
    smooth: bool = True
    monte_carlo: tuple[float, int] = (0.0, 1)
    kind: NumberKind = "plain"
    least: Mapping[str, int] = field(default_factory=dict)
    """By population the units of that number of a difference which has fewer; those of ``without_nets`` otherwise."""
    of_logits: NetsNumber | None = None
    """Of a difference, the difference of the logits; None if either number has none."""

    def minus(self, other: NetsNumber, same_images: bool = True) -> NetsNumber:
        """The difference of two numbers. Units of equal names in populations of equal names are the same nets.

        Replicates are subtracted unit by unit and group by group, so that what both share cancels: pairs of trained
        nets and pairs of a trained with an untrained net depend on each other. Where a number has no unit of a name,
        the unit's deletion does not change it. With other images (``same_images`` false) both vary apart.
        """
        nets = {}
        for population in dict.fromkeys([*self.without_nets, *other.without_nets]):
            own, others = (number.without_nets.get(population, {}) for number in (self, other))
            nets[population] = {
                unit: own.get(unit, self.value) - others.get(unit, other.value) for unit in {**own, **others}
            }
        if same_images and len(self.without_groups) == len(other.without_groups):
            groups = self.without_groups - other.without_groups
        else:
            groups = _of_other_images(self, other)
        (first, its_df), (second, df) = self.monte_carlo, other.monte_carlo
        counts = [number.n_units for number in (self, other)]
        own_logits, logits = self.logits, other.logits
        return NetsNumber(
            value=self.value - other.value,
            without_groups=groups,
            without_nets=nets,
            smooth=self.smooth or other.smooth,
            monte_carlo=(first + second, its_df if first >= second else df),
            kind="difference" if {self.kind, other.kind} & {"share", "count", "difference"} else "plain",
            least={name: min(count[name] for count in counts if name in count) for name in nets},
            of_logits=own_logits.minus(logits, same_images) if own_logits and logits else None,
        )

    @property
    def logits(self) -> NetsNumber | None:
        """The number on the scale of logits, its replicates by the delta method; None where that is no scale for it.

        Of a share in (0, 1) always; of a similarity in (0, 1) of more than two standard errors.
        """
        if self.kind not in ("similarity", "share"):
            return self.of_logits
        v = self.value
        if self.missing or not ROUNDING < v < 1.0 - ROUNDING:
            return None
        if self.kind == "similarity" and v <= LEAST_ERRORS * np.sqrt(_variance(self)[0]):
            return None
        centre, slope = float(special.logit(v)), 1.0 / (v * (1.0 - v))
        return NetsNumber(
            value=centre,
            without_groups=centre + slope * (self.without_groups - v),
            without_nets={
                population: {unit: centre + slope * (value - v) for unit, value in units.items()}
                for population, units in self.without_nets.items()
            },
            smooth=self.smooth,
            monte_carlo=(slope**2 * self.monte_carlo[0], self.monte_carlo[1]),
            least=self.least,
        )

    def renamed(self, name: Callable[[str], str]) -> NetsNumber:
        """The number with other names of its units."""
        nets = {p: {name(unit): value for unit, value in units.items()} for p, units in self.without_nets.items()}
        return replace(self, without_nets=nets, of_logits=self.of_logits and self.of_logits.renamed(name))

    @property
    def n_units(self) -> dict[str, int]:
        """Units by population."""
        return {name: self.least.get(name, len(units)) for name, units in self.without_nets.items()}

    @property
    def missing(self) -> str:
        """Why there is no interval over nets; "" where there is one."""
        few = [_count(n, name) for name, n in self.n_units.items() if n < LEAST_NETS]
        if few or not self.without_nets:
            return f"{' and '.join(few) or 'no nets'}; {LEAST_NETS} are needed for an interval over nets"
        if not all(np.isfinite([*units.values()]).all() for units in self.without_nets.values()):
            return "one net takes part in every pair; the others have to be compared, too, for an interval over nets"
        return ""


@dataclass(frozen=True)
class NetsInterval:
    """A number with its uncertainty over nets and images.

    Attributes
    ----------
    value, bias : the number, and its bias for want of images (0 where it is not estimated)
    error, df : standard error over nets and images, and its degrees of freedom; NaN without an interval
    low, high : 95 % interval, by both readings of the bias, with and without its correction; NaN without one
    p : two-sided p-value of the value 0; at most 0.05 where the interval excludes 0; NaN for shares
    missing : why there is no interval; "" where there is one
    """

    value: float
    bias: float
    error: float
    df: float
    low: float
    high: float
    p: float
    missing: str


def nets_interval(number: NetsNumber) -> NetsInterval:
    """The 95 % interval of a number over nets and images, with its p-value against 0.

    A similarity has the hull of its interval and of that of its logit, a difference of similarities likewise; a share
    has that of its logit. A share that is equal in all nets has none. Intervals end at the bounds of the number: 1 for
    a similarity, 0 for a count.
    """
    bias = image_bias(number)
    if number.missing:
        return NetsInterval(number.value, bias, NONE, NONE, NONE, NONE, NONE, number.missing)
    at_end = number.kind == "share" and not ROUNDING < number.value < 1.0 - ROUNDING
    counted = number.kind not in ("plain", "similarity")
    if at_end or (counted and _variance_over_nets(number.without_nets)[0] < ROUNDING**2):
        return NetsInterval(number.value, bias, NONE, NONE, NONE, NONE, NONE, NO_SPREAD)
    own, logits = _of_student(number, bias), number.logits
    if number.kind == "count":
        own = replace(own, low=max(own.low, 0.0))
    if number.kind == "similarity":
        own = replace(own, high=max(min(own.high, 1.0), own.value))
    if logits is None:
        return own
    if number.kind == "share":
        low, high = _from_logits(_of_student(logits, 0.0))
        return replace(own, low=low, high=high, p=NONE)
    other = _of_student(logits, image_bias(logits))
    if number.kind == "similarity":
        low, high = _from_logits(other)
        return replace(own, low=min(own.low, low), high=max(own.high, high))
    slope = number.value / logits.value if abs(logits.value) > ROUNDING else own.error / max(other.error, ROUNDING)
    return replace(
        own,
        low=min(own.low, slope * other.low),
        high=max(own.high, slope * other.high),
        p=max(own.p, other.p),
    )


def _of_student(number: NetsNumber, bias: float) -> NetsInterval:
    """The interval of Student's t, by both readings of a bias for want of images."""
    variance, df = _variance(number)
    error = float(np.sqrt(variance))
    lower, upper = number.value - max(bias, 0.0), number.value - min(bias, 0.0)
    far = float(special.stdtrit(df, 0.5 + CONFIDENCE / 2)) * error
    distance = max(lower, -upper, 0.0)  # of 0 from the nearer reading of the bias; 0 between both
    p = 1.0 if distance == 0.0 else 0.0 if error == 0.0 else float(2.0 * special.stdtr(df, -distance / error))
    return NetsInterval(number.value, bias, error, float(df), lower - far, upper + far, p, "")


def _from_logits(found: NetsInterval) -> tuple[float, float]:
    """Ends of the interval of a number from that of its logit."""
    return float(special.expit(found.low)), float(special.expit(found.high))


def _variance(number: NetsNumber) -> tuple[float, float]:
    """Variance over nets, images and draws, and its degrees of freedom by Welch and Satterthwaite."""
    over_nets, df_nets = _variance_over_nets(number.without_nets)
    parts = [(over_nets, df_nets), number.monte_carlo]
    if len(number.without_groups) > 1:
        parts.append((jackknife_variance(number.without_groups), len(number.without_groups) - 1))
    variance = sum(part for part, _ in parts)
    share = sum((part / variance) ** 2 / df for part, df in parts) if variance > 0 else 0.0
    return variance, 1.0 / share if share > 0 else df_nets


def image_bias(number: NetsNumber) -> float:
    """Jackknife estimate of the bias for want of images; 0 where it is not estimated."""
    n_groups = len(number.without_groups)
    if not number.smooth or n_groups < 2:
        return 0.0
    return float((n_groups - 1) * (number.without_groups.mean() - number.value))


def jackknife_variance(without: npt.ArrayLike) -> float:
    """Delete-one jackknife variance (n − 1)/n · Σ (θ₍ᵢ₎ − θ̄)² from the replicates (n,)."""
    replicates = np.asarray(without, dtype=np.float64)
    return float((len(replicates) - 1) / len(replicates) * ((replicates - replicates.mean()) ** 2).sum())


def _variance_over_nets(without_nets: Mapping[str, Mapping[str, float]]) -> tuple[float, float]:
    """Jackknife variance over the units of all populations, and its degrees of freedom.

    A unit that is in two populations, like an initialisation before and after training, is deleted from both at once.
    """
    deviations: dict[str, float] = {}
    variances, df = [], []
    for units in without_nets.values():
        replicates = np.array([*units.values()])
        scaled = np.sqrt((len(replicates) - 1) / len(replicates)) * (replicates - replicates.mean())
        for unit, deviation in zip(units, scaled.tolist(), strict=True):
            deviations[unit] = deviations.get(unit, 0.0) + deviation
        variances.append(float((scaled**2).sum()))
        df.append(len(replicates) - 1)
    total = sum(variances)
    share = sum((v / total) ** 2 / d for v, d in zip(variances, df, strict=True)) if total > 0 else 1 / min(df)
    return float(sum(deviation**2 for deviation in deviations.values())), 1.0 / share


def _of_other_images(first: NetsNumber, second: NetsNumber) -> Float64:
    """Replicates of a difference whose two numbers are of different images: one deletes a group of either."""
    if not len(first.without_groups) or not len(second.without_groups):
        return np.zeros(0)
    of_first, of_second = first.without_groups, second.without_groups
    n, m = len(of_first), len(of_second)
    total = n + m
    value = first.value - second.value
    # Deviations are scaled so that the jackknife over n + m groups gives the sum of both variances and of both biases.
    scale = np.sqrt(total / (total - 1))
    deviations = np.concatenate(
        [
            scale * np.sqrt((n - 1) / n) * (of_first - of_first.mean()),
            -scale * np.sqrt((m - 1) / m) * (of_second - of_second.mean()),
        ]
    )
    bias = (n - 1) * (of_first.mean() - first.value) * first.smooth
    bias -= (m - 1) * (of_second.mean() - second.value) * second.smooth
    return np.asarray(value + bias / (total - 1) + deviations)


def _count(n: int, population: str) -> str:
    """A number of units of a population: "1 untrained net", "2 initialisations of trained nets"."""
    word, *others = population.split(" of ")
    return " of ".join([f"{n} {word.removesuffix('s') if n == 1 else word}", *others])
