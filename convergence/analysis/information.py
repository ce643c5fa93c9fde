"""Alignments by mutual information, and their agreement with those by correlation."""

from __future__ import annotations

import numpy as np

from convergence.alignment.matching import matching, semi_matching
from convergence.analysis.one_to_one import same_partners
from convergence.analysis.section import Tree, full, to_units
from convergence.analysis.units import PairSums
from convergence.statistics.file import ComparisonSums
from convergence.uncertainty import jackknife, jackknife_error


def information(sums: ComparisonSums, pair: PairSums, x: str, y: str) -> Tree:
    """Results of a comparison that holds mutual information.

    Errors are over blocks of image groups; each replicate matches anew, by both measures. ``same_halves`` says how far
    a choice can be trusted: the share of units whose best partner by correlation is the same on either half of the
    images, the most that agreement of two measures can be expected to reach.
    """
    assert sums.mutual_information is not None
    assert sums.mutual_information_without is not None
    all_x, all_y = sums.units(x), sums.units(y)
    of_x, of_y = slice(all_x[0], all_x[-1] + 1), slice(all_y[0], all_y[-1] + 1)
    live = np.ix_(pair.units_x, pair.units_y)
    nats = np.asarray(sums.mutual_information[of_x, of_y])[live]
    n_blocks = sums.mutual_information_without.shape[0]
    without = [np.asarray(sums.mutual_information_without[block, of_x, of_y])[live] for block in range(n_blocks)]
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
