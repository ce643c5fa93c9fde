"""Partners of single units by mutual information, without the bias of few images."""

from __future__ import annotations

import numpy as np

from convergence.alignment.matching import matching, semi_matching
from convergence.analysis.pair_sums import PairSums
from convergence.analysis.steps import Float64, Indices, Tree, full, to_units
from convergence.inference import jackknife, jackknife_error
from convergence.statistics.file import ComparisonSums
from convergence.statistics.information import without_bias


def same_partners(one: Float64, other: Float64) -> tuple[float, float]:
    """Shares of x's units with the same semi-matched, and the same matched partner, by two similarities (n_x, n_y)."""
    semi = float((semi_matching(one) == semi_matching(other)).mean())
    matched: list[Indices] = []
    for similarity in (one, other):
        found = matching(similarity)
        matched.append(full(len(similarity), found.rows, found.columns))
    return semi, float((matched[0] == matched[1]).mean())


def pair_information(sums: ComparisonSums, x: str, y: str) -> tuple[Float64, list[Float64]]:
    """Mutual information (n_x, n_y) in nats of all units of two nets without its bias, and its replicates.

    The replicates are the estimates without each block of image groups, moved so that their mean is the estimate:
    their spread is its error.
    """
    assert sums.mutual_information is not None
    assert sums.mutual_information_without is not None
    units_x, units_y = sums.units(x), sums.units(y)
    rows, columns = slice(units_x[0], units_x[-1] + 1), slice(units_y[0], units_y[-1] + 1)
    n_blocks = sums.mutual_information_without.shape[0]
    without = [np.asarray(sums.mutual_information_without[block, rows, columns]) for block in range(n_blocks)]
    nats = without_bias(sums.mutual_information[rows, columns], without)
    moved = nats - np.mean(without, axis=0)
    return nats, [one + moved for one in without]


def information(sums: ComparisonSums, pair: PairSums, x: str, y: str) -> Tree:
    """Results of a comparison that holds mutual information.

    Errors are over blocks of image groups; each replicate matches anew, by both measures. ``same_halves`` says how far
    a choice can be trusted: the share of units whose best partner by correlation is the same on either half of the
    images.
    """
    live = np.ix_(pair.units_x, pair.units_y)
    all_nats, all_without = pair_information(sums, x, y)
    nats, without = all_nats[live], [one[live] for one in all_without]
    n_blocks = len(without)
    errors = jackknife_error(without)
    everyone = np.arange(len(nats))
    semi, matched = semi_matching(nats), matching(nats)
    same = same_partners(nats, pair.pooled.corr_xy)
    same_without = [
        same_partners(one, moments.corr_xy) for one, moments in zip(without, pair.without_blocks(n_blocks), strict=True)
    ]
    even, odd = pair.halves
    return {
        "semi_xy": to_units(semi, pair.units_y),
        "semi_xy_nats": nats[everyone, semi],
        "semi_xy_error": errors[everyone, semi],
        "matching": to_units(full(len(nats), matched.rows, matched.columns), pair.units_y),
        "matching_nats": full(len(nats), matched.rows, matched.values, empty=0.0),
        "matching_error": full(len(nats), matched.rows, errors[matched.rows, matched.columns], empty=0.0),
        "mean_semi": jackknife(nats.max(axis=1).mean(), [w.max(axis=1).mean() for w in without]).as_dict(),
        "mean_matching": jackknife(matched.mean, [matching(w).mean for w in without]).as_dict(),
        "same_semi": jackknife(same[0], [semi for semi, _ in same_without], smooth=False).as_dict(),
        "same_matching": jackknife(same[1], [one for _, one in same_without], smooth=False).as_dict(),
        "same_halves": same_partners(even.corr_xy, odd.corr_xy)[0],
    }
