"""Similarity of trained nets by what their trainings share: initial weights, image order, training images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from convergence.analysis.file import Columns
from convergence.inference import Estimate
from convergence.results.populations import bounds_of


@dataclass(frozen=True)
class CauseMean:
    """A number over the pairs of trained nets that share the same causes of similarity.

    Attributes
    ----------
    network : of the nets; "" if all nets have one network
    measure, evaluation : which number
    shared : causes that the pairs share, out of those in which pairs differ; "nothing" without any
    same_init, same_order, same_data : whether they share the initial weights, image order, and training images
    n_pairs, n_initialisations : pairs, and initialisations of the nets in them
    value, net_error, df, low, high, missing : mean over pairs, standard error over nets and images with its degrees of
        freedom, 95 % interval, and why there is none
    effect, effect_error, effect_df, effect_low, effect_high, effect_p, effect_missing : the mean minus that of the
        pairs that share nothing, with its uncertainty; NaN for these, and without such pairs
    """

    network: str
    measure: str
    evaluation: str
    shared: str
    same_init: bool
    same_order: bool
    same_data: bool
    n_pairs: int
    n_initialisations: int
    value: float
    net_error: float
    df: float
    low: float
    high: float
    missing: str
    effect: float
    effect_error: float
    effect_df: float
    effect_low: float
    effect_high: float
    effect_p: float
    effect_missing: str

    @property
    def mean(self) -> Estimate:
        """The mean over pairs with its interval over nets and images."""
        return Estimate(self.value, self.net_error, self.low, self.high)

    @property
    def contrast(self) -> Estimate:
        """The effect with its interval over nets and images."""
        return Estimate(self.effect, self.effect_error, self.effect_low, self.effect_high)


def cause_means(rows: Columns) -> Iterator[CauseMean]:
    """The rows of the table ``causes``; intervals of means are clipped to the range of the number."""
    names = [field.name for field in fields(CauseMean)]
    for values in zip(*(rows[name].tolist() for name in names), strict=True):
        found = CauseMean(*values)
        shown = found.mean.within(bounds_of(found.measure, found.evaluation))
        yield found if found.missing else replace(found, low=shown.low, high=shown.high)
