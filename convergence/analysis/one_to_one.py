"""Unit by unit: the partner of every unit with replacement, one-to-one and in part, and whether it is one at all."""

from __future__ import annotations

import numpy as np

from convergence.alignment.matching import aligned_order, cycle_order, matching, overlap, semi_matching
from convergence.alignment.soft_matching import partial_soft_matching
from convergence.analysis.section import Float64, Indices, Numbers, Replicated, Tree, full, to_units
from convergence.analysis.units import PairSums
from convergence.experiment import AnalysisConfig
from convergence.similarity.pair import PairMoments
from convergence.uncertainty import false_discovery_rates, null_draws, random_rotation, unit_p_values

MASSES = np.arange(1, 11) / 10
"""Shares of the units that partial matching has to match."""
SIGNIFICANT = 0.05
WEAK = 0.5
"""Below this correlation with its best partner a unit counts as having none (Li et al. 2016)."""


class OneToOne:
    """Partners chosen on all images; errors are those of the correlation with the partner so chosen."""

    name = "alignment"

    def __init__(self, pair: PairSums, config: AnalysisConfig) -> None:
        self._pair, self._config = pair, config
        r = pair.pooled.corr_xy
        self._r = r
        self._matched = matching(r)
        self._semi = {"xy": semi_matching(r), "yx": semi_matching(r.T)}
        self._absolute = {"xy": semi_matching(np.abs(r)), "yx": semi_matching(np.abs(r).T)}
        self._absolute_matched = matching(np.abs(r))
        self._partial = [partial_soft_matching(r, mass) for mass in MASSES]

    def numbers(self, moments: PairMoments) -> Numbers:
        r = moments.corr_xy
        rows, columns = self._matched.rows, self._matched.columns
        return {
            "semi_xy": r[np.arange(len(r)), self._semi["xy"]],
            "semi_yx": r[self._semi["yx"], np.arange(r.shape[1])],
            "matching": r[rows, columns],
            "partial_mean": np.array([np.sum(found.plan * r) / found.mass for found in self._partial]),
            "same_assignment": overlap(r).share,
            "below_half_xy": np.mean(r.max(axis=1) < WEAK),
            "below_half_yx": np.mean(r.max(axis=0) < WEAK),
        }

    def tree(self, found: Replicated) -> Tree:
        pair, r, matched = self._pair, self._r, self._matched
        agreement = overlap(r, matched)
        order_x, order_y = aligned_order(r)
        cycle_x, cycle_y = cycle_order(matched, *r.shape)
        partner = full(len(r), matched.rows, matched.columns)
        absolute = full(len(r), self._absolute_matched.rows, self._absolute_matched.columns)
        held_xy, held_yx, held_matching = self._held_out()
        tree: Tree = {
            "semi_xy": to_units(self._semi["xy"], pair.units_y),
            "semi_xy_correlation": found.values["semi_xy"],
            "semi_xy_error": found.error("semi_xy"),
            "semi_xy_held_out": held_xy,
            "semi_yx": to_units(self._semi["yx"], pair.units_x),
            "semi_yx_correlation": found.values["semi_yx"],
            "semi_yx_error": found.error("semi_yx"),
            "semi_yx_held_out": held_yx,
            "matching": to_units(partner, pair.units_y),
            "matching_correlation": full(len(r), matched.rows, matched.values, empty=0.0),
            "matching_error": full(len(r), matched.rows, found.error("matching"), empty=0.0),
            "matching_held_out": held_matching,
            "absolute_semi_xy": to_units(self._absolute["xy"], pair.units_y),
            "absolute_semi_yx": to_units(self._absolute["yx"], pair.units_x),
            "absolute_matching": to_units(absolute, pair.units_y),
            "same_absolute": float(np.mean(self._absolute["xy"] == self._semi["xy"])),
            "same_assignment": agreement.share,
            "same_assignment_error": found.error("same_assignment"),
            "mutual_best": len(agreement.mutual),
            "mutual_x": pair.units_x[agreement.mutual[:, 0]],
            "mutual_y": pair.units_y[agreement.mutual[:, 1]],
            "in_degree": agreement.in_degree,
            "never_chosen": len(agreement.never_chosen),
            "below_half_xy": found.estimate("below_half_xy", smooth=False).as_dict(),
            "below_half_yx": found.estimate("below_half_yx", smooth=False).as_dict(),
            "partial_mass": MASSES,
            "partial_mean": found.values["partial_mean"],
            "partial_error": found.error("partial_mean"),
            "order_x": pair.units_x[order_x],
            "order_y": pair.units_y[order_y],
            "cycle_x": pair.units_x[cycle_x],
            "cycle_y": pair.units_y[cycle_y],
        }
        for direction, moments in (("xy", pair.pooled), ("yx", pair.pooled.swapped())):
            tree |= self._significance(direction, moments, found)
        return tree

    def _significance(self, direction: str, moments: PairMoments, found: Replicated) -> Tree:
        """Per unit, whether its best partner is better than the best direction of a rotated basis."""
        n = len(moments.cov_yy)
        null = np.stack(
            null_draws(
                lambda generator: moments.rotated(random_rotation(n, generator)).corr_xy.max(axis=1),
                self._config.rotations,
                self._config.seed,
            )
        )
        key = f"semi_{direction}"
        p = unit_p_values(found.values[key], found.error(key), null)
        q = false_discovery_rates(p)
        return {
            f"{key}_null": null.mean(axis=0),
            f"{key}_null_sd": null.std(axis=0, ddof=1),
            f"{key}_p": p,
            f"{key}_q": q,
            f"significant_{direction}": float(np.mean(q <= SIGNIFICANT)),
        }

    def _held_out(self) -> tuple[Float64, Float64, Float64]:
        """Correlation of each unit with the partner that the other half of the images chose, mean of both ways.

        For matching 0 where a half leaves the unit unmatched.
        """
        n_x, n_y = self._r.shape
        semi_xy, semi_yx, matched = np.zeros(n_x), np.zeros(n_y), np.zeros(n_x)
        for fit, score in (self._pair.halves, self._pair.halves[::-1]):
            r, held = fit.corr_xy, score.corr_xy
            one = matching(r)
            semi_xy += held[np.arange(n_x), semi_matching(r)] / 2
            semi_yx += held[semi_matching(r.T), np.arange(n_y)] / 2
            matched[one.rows] += held[one.rows, one.columns] / 2
        return semi_xy, semi_yx, matched


def same_partners(one: Float64, other: Float64) -> tuple[float, float]:
    """Shares of x's units with the same semi-matched, and the same matched partner, by two similarities (n_x, n_y)."""
    semi = float((semi_matching(one) == semi_matching(other)).mean())
    matched: list[Indices] = []
    for similarity in (one, other):
        found = matching(similarity)
        matched.append(full(len(similarity), found.rows, found.columns))
    return semi, float((matched[0] == matched[1]).mean())
