"""Partners of single units by correlation: with replacement, one-to-one, and in part."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from convergence.alignment.matching import aligned_order, cycle_order, matching, overlap, semi_matching
from convergence.alignment.soft_matching import SoftMatching, partial_soft_matching
from convergence.analysis import cost
from convergence.analysis.nulls import SUMS, PairNull
from convergence.analysis.pair_sums import PairSums
from convergence.analysis.steps import (
    Float64,
    Numbers,
    PairShape,
    Parts,
    Replicated,
    Step,
    Tree,
    full,
    ranges,
    replicates,
    to_units,
)
from convergence.config.stages import AnalysisConfig
from convergence.inference import LEAST_DRAWS, false_discovery_rates, unit_p_values
from convergence.similarity.pair import PairMoments

MASSES = np.arange(1, 11) / 10
"""Shares of the units that partial matching has to match."""
SIGNIFICANT = 0.05
WEAK = 0.5
"""Below this correlation with its best partner a unit counts as having none (Li et al. 2016)."""


class OneToOne:
    """Partners chosen on all images; errors are those of the correlation with the partner so chosen.

    Steps: the partners (``found``), partial matching (``partial``, a range of masses each), replicates, draws of the
    null for the p-values (``null``), and partners of one half of the images on the other (``held_out``).
    """

    name = "alignment"

    def __init__(self, pair: PairSums, config: AnalysisConfig, nulls: Mapping[str, PairNull]) -> None:
        self._pair, self._config, self._nulls = pair, config, nulls

    @classmethod
    def steps(cls, shape: PairShape, config: AnalysisConfig) -> list[Step]:
        """Steps of the method for a pair of a shape."""
        n = shape.n
        once, rotated = cost.MATCHING * n**3 + cost.MOMENTS * n**2, 2 * cost.ROTATION * n**3
        found = [Step(cls.name, "found", seconds=3 * once), Step(cls.name, "held_out", seconds=3 * once)]
        for name, count, each, after in (
            ("partial", len(MASSES), cost.PARTIAL * n**3, ()),
            ("null", max(shape.null_draws), rotated, ()),
            ("numbers", shape.n_groups + 1, once, (f"{cls.name}/found", f"{cls.name}/partial")),
        ):
            found += [
                Step(cls.name, name, first, last, after=after, seconds=each * (last - first))
                for first, last in (ranges(count, each, cost.GOAL) if count else ())
            ]
        return found

    def compute(self, step: Step, parts: Parts) -> Tree:
        """The part of a step."""
        if step.name == "found":
            return self._found()
        if step.name == "held_out":
            return dict(zip(("semi_xy", "semi_yx", "matching"), self._held_out(), strict=True))
        if step.name == "partial":
            return {str(k): _nonzero(partial_soft_matching(self._r, MASSES[k])) for k in range(step.first, step.last)}
        if step.name == "null":
            return {
                direction: np.reshape(
                    [_best(null.draw(k).corr_xy, null) for k in range(step.first, min(step.last, null.n_draws))],
                    (-1, len(self._pair.units_x if direction == "xy" else self._pair.units_y)),
                )
                for direction, null in self._nulls.items()
            }
        partners = parts.one(self.name, "found")
        partial = [plan for part in parts.of(self.name, "partial") for _, plan in _in_order(part)]
        return replicates(step, lambda left_out: self._numbers(self._pair.replicate(left_out), partners, partial))

    @property
    def _r(self) -> Float64:
        return self._pair.pooled.corr_xy

    def _found(self) -> Tree:
        r, absolute = self._r, np.abs(self._r)
        matched, absolute_matched = matching(r), matching(absolute)
        agreement = overlap(r, matched)
        order_x, order_y = aligned_order(r)
        cycle_x, cycle_y = cycle_order(matched, *r.shape)
        return {
            "rows": matched.rows,
            "columns": matched.columns,
            "values": matched.values,
            "absolute_rows": absolute_matched.rows,
            "absolute_columns": absolute_matched.columns,
            "semi_xy": semi_matching(r),
            "semi_yx": semi_matching(r.T),
            "absolute_xy": semi_matching(absolute),
            "absolute_yx": semi_matching(absolute.T),
            "share": agreement.share,
            "mutual": agreement.mutual,
            "in_degree": agreement.in_degree,
            "never_chosen": len(agreement.never_chosen),
            "order_x": order_x,
            "order_y": order_y,
            "cycle_x": cycle_x,
            "cycle_y": cycle_y,
        }

    def _numbers(self, moments: PairMoments, partners: Tree, partial: list[Tree]) -> Numbers:
        r = moments.corr_xy
        return {
            "semi_xy": r[np.arange(len(r)), partners["semi_xy"]],
            "semi_yx": r[partners["semi_yx"], np.arange(r.shape[1])],
            "matching": r[partners["rows"], partners["columns"]],
            "partial_mean": np.array(
                [np.sum(plan["moved"] * r[plan["rows"], plan["columns"]]) / plan["mass"] for plan in partial]
            ),
            "same_assignment": overlap(r).share,
            "below_half_xy": np.mean(r.max(axis=1) < WEAK),
            "below_half_yx": np.mean(r.max(axis=0) < WEAK),
        }

    def tree(self, parts: Parts) -> Tree:
        pair, n_x = self._pair, len(self._pair.units_x)
        found = Replicated.of(parts.of(self.name, "numbers"))
        partners, held_out = parts.one(self.name, "found"), parts.one(self.name, "held_out")
        rows = partners["rows"]
        partner = full(n_x, rows, partners["columns"])
        absolute = full(n_x, partners["absolute_rows"], partners["absolute_columns"])
        tree: Tree = {
            "semi_xy": to_units(partners["semi_xy"], pair.units_y),
            "semi_xy_correlation": found.values["semi_xy"],
            "semi_xy_error": found.error("semi_xy"),
            "semi_xy_held_out": held_out["semi_xy"],
            "semi_yx": to_units(partners["semi_yx"], pair.units_x),
            "semi_yx_correlation": found.values["semi_yx"],
            "semi_yx_error": found.error("semi_yx"),
            "semi_yx_held_out": held_out["semi_yx"],
            "matching": to_units(partner, pair.units_y),
            "matching_correlation": full(n_x, rows, partners["values"], empty=0.0),
            "matching_error": full(n_x, rows, found.error("matching"), empty=0.0),
            "matching_held_out": held_out["matching"],
            "absolute_semi_xy": to_units(partners["absolute_xy"], pair.units_y),
            "absolute_semi_yx": to_units(partners["absolute_yx"], pair.units_x),
            "absolute_matching": to_units(absolute, pair.units_y),
            "same_absolute": float(np.mean(partners["absolute_xy"] == partners["semi_xy"])),
            "same_assignment": partners["share"],
            "same_assignment_error": found.error("same_assignment"),
            "mutual_best": len(partners["mutual"]),
            "mutual_x": pair.units_x[partners["mutual"][:, 0]],
            "mutual_y": pair.units_y[partners["mutual"][:, 1]],
            "in_degree": partners["in_degree"],
            "never_chosen": partners["never_chosen"],
            "below_half_xy": found.estimate("below_half_xy", smooth=False).as_dict(),
            "below_half_yx": found.estimate("below_half_yx", smooth=False).as_dict(),
            "partial_mass": MASSES,
            "partial_mean": found.values["partial_mean"],
            "partial_error": found.error("partial_mean"),
            "order_x": pair.units_x[partners["order_x"]],
            "order_y": pair.units_y[partners["order_y"]],
            "cycle_x": pair.units_x[partners["cycle_x"]],
            "cycle_y": pair.units_y[partners["cycle_y"]],
        }
        for direction, null in self._nulls.items():
            values = _best(self._r if direction == "xy" else self._r.T, null)
            drawn = [part[direction] for part in parts.of(self.name, "null")] or [np.zeros((0, len(values)))]
            tree |= _significance(direction, np.concatenate(drawn), values, null.reason)
        return tree

    def _held_out(self) -> tuple[Float64, Float64, Float64]:
        """Correlation of each unit with the partner that the other half of the images chose, mean of both ways.

        For matching 0 where a half leaves the unit unmatched.
        """
        n_x, n_y = len(self._pair.units_x), len(self._pair.units_y)
        semi_xy, semi_yx, matched = np.zeros(n_x), np.zeros(n_y), np.zeros(n_x)
        for fit, score in (self._pair.halves, self._pair.halves[::-1]):
            r, held = fit.corr_xy, score.corr_xy
            one = matching(r)
            semi_xy += held[np.arange(n_x), semi_matching(r)] / 2
            semi_yx += held[semi_matching(r.T), np.arange(n_y)] / 2
            matched[one.rows] += held[one.rows, one.columns] / 2
        return semi_xy, semi_yx, matched


def _best(r: Float64, null: PairNull) -> Float64:
    """(n,) correlation of each row with its best partner; |r| for a net without activation function: no signs."""
    return np.asarray((np.abs(r) if null.kind == SUMS else r).max(axis=1))


def _significance(direction: str, null: Float64, values: Float64, reason: str) -> Tree:
    """Per unit, whether its best partner is better than the best unit of a net in another basis.

    ``null`` (n_draws, n_units): correlations with that unit. With too few draws everything is NaN, with a reason.
    """
    key, n_units = f"semi_{direction}", len(values)
    if not reason and len(null) < LEAST_DRAWS:
        reason = f"{len(null)} draws of the null; p-values need at least {LEAST_DRAWS}"
    if reason:
        p = q = np.full(n_units, np.nan)
    else:
        p = unit_p_values(values, null)
        q = false_discovery_rates(p)
    return {
        f"{key}_null": null.mean(axis=0) if len(null) else np.full(n_units, np.nan),
        f"{key}_null_sd": null.std(axis=0, ddof=1) if len(null) > 1 else np.full(n_units, np.nan),
        f"{key}_p": p,
        f"{key}_q": q,
        f"significant_{direction}": float("nan") if reason else float(np.mean(q <= SIGNIFICANT)),
        f"null_reason_{direction}": reason,
    }


def _nonzero(found: SoftMatching) -> Tree:
    """A plan by its entries: at most as many as there are units in both nets."""
    rows, columns = np.nonzero(found.plan)
    return {"rows": rows, "columns": columns, "moved": found.plan[rows, columns], "mass": found.mass}


def _in_order(part: Tree) -> list[tuple[str, Tree]]:
    return sorted(part.items(), key=lambda item: int(item[0]))
