"""Why two trained nets are similar: the same initial weights, the same image order, or the same training images.

Pairs of nets are divided by which of these causes they share. The effect of a cause is the mean similarity of the pairs
that share it and no other one, minus that of the pairs that share none:

    y_ij = μ + α · [same initial weights] + β · [same image order] + γ · [same training images] + the rest

gives effects α, β and γ; pairs that share several causes show whether the effects add up. A cause that all pairs share,
or none, is no cause of differences and is left out.

Intervals are over nets and images (:mod:`convergence.inference.populations`): nets of one initialisation are deleted
together, so three initialisations are needed. Image orders and training subsets are taken as given: the intervals are
for other initialisations under the same orders and subsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convergence.inference.pair_units import PairUnits
from convergence.inference.populations import NetsNumber, NumberKind

Float64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
CAUSES = {"same_init": "initial weights", "same_order": "image order", "same_data": "training images"}
"""Causes of similarity, each with its name."""


@dataclass(frozen=True, eq=False)
class SharedCauses:
    """Similarity of the pairs of nets that share the same causes.

    Attributes
    ----------
    shared : (n_causes,) whether the pairs share each cause
    differing : (n_causes,) whether some pairs share the cause and some do not
    pairs : positions of these pairs
    mean : of the similarity over these pairs
    effect : the mean minus that of the pairs that share no differing cause; None for these, and without such pairs
    """

    shared: tuple[bool, ...]
    differing: tuple[bool, ...]
    pairs: npt.NDArray[np.int64]
    mean: NetsNumber
    effect: NetsNumber | None

    @property
    def causes(self) -> tuple[int, ...]:
        """Positions of the differing causes that the pairs share."""
        return tuple(np.flatnonzero(np.logical_and(self.shared, self.differing)).tolist())


def shared_causes(
    values: Float64,
    without_groups: Float64,
    shares: Flags,
    units: Sequence[Sequence[tuple[str, str]]],
    smooth: bool = True,
    kind: NumberKind = "plain",
) -> list[SharedCauses]:
    """Similarity by the causes that two nets share, fewest causes first; [] where all pairs share the same ones.

    Parameters
    ----------
    values : (n_pairs,)
        Similarity of each pair; NaN for pairs without it.
    without_groups : (n_pairs, n_groups)
        The similarity without each image group.
    shares : (n_pairs, n_causes)
        Whether a pair shares a cause.
    units
        The (population, unit) of both nets of each pair; a unit is an initialisation.
    smooth
        Whether the bias for want of images is estimated.
    kind
        What the mean over pairs is, for its interval.
    """
    known = np.flatnonzero(np.isfinite(values))
    rows: list[tuple[bool, ...]] = [tuple(row) for row in shares[known].tolist()]
    common = tuple(all(flags) for flags in zip(*rows, strict=True))  # what pairs share that share no differing cause
    differing = tuple(any(flags) and not all(flags) for flags in zip(*rows, strict=True))
    if not any(differing):
        return []
    found: dict[tuple[bool, ...], tuple[npt.NDArray[np.int64], NetsNumber]] = {}
    for shared in sorted(set(rows), key=lambda row: (sum(row), row[::-1])):
        at = known[(shares[known] == shared).all(axis=1)]
        mean = PairUnits.of([units[k] for k in at]).mean(values[at], without_groups[at], smooth, kind=kind)
        found[shared] = at, mean
    base = found[common][1] if common in found else None
    return [
        SharedCauses(shared, differing, at, mean, None if base is None or shared == common else mean.minus(base))
        for shared, (at, mean) in found.items()
    ]


def plain_effect(values: Float64, shares: Flags, cause: int) -> float:
    """The effect of a cause as its definition says it; every cause has to be one that not all pairs share."""
    alone, none = [], []
    for value, shared in zip(values.tolist(), shares.tolist(), strict=True):
        if not any(shared):
            none.append(value)
        elif shared[cause] and sum(shared) == 1:
            alone.append(value)
    return float(np.mean(alone) - np.mean(none))
