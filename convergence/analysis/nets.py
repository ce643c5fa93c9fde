"""All nets of a kind at once: units that several of them have, cycles of matchings, and the nets as points of a map.

Nets of a kind are those of a comparison with the same layer, the same epoch, and the same state of training, one of
each initialisation. Units of layers without a preferred basis and sign are aligned by |r|.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import combinations
from typing import Any

import numpy as np

from convergence.alignment.consensus import Consensus, consensus_units, presence, score_members
from convergence.alignment.cycles import cycle_consistency
from convergence.alignment.embedding import embed
from convergence.alignment.matching import matching
from convergence.analysis import cost
from convergence.analysis.active_units import ActiveUnits
from convergence.analysis.best_layers import BEST_LAYERS, best_layer_steps, best_layers
from convergence.analysis.joint import JointCorrelations, trajectories
from convergence.analysis.kinds import kinds_of_nets
from convergence.analysis.nulls import SUMS, NetNull, n_draws, null_reason
from convergence.analysis.shared_dimensions import (
    CrossFit,
    NetsHalves,
    dimension_part,
    dimension_spectrum,
    dimension_steps,
    spectrum_columns,
)
from convergence.analysis.steps import Float64, Numbers, Parts, Replicated, Step, Tree, computed, full, ranges
from convergence.config.stages import AnalysisConfig
from convergence.inference import jackknife_error
from convergence.statistics.file import ComparisonSums

LEAST_RUNS = 5
"""Runs of the null, one for each net at least: a run aligns all nets anew, one of them in another basis."""
CHANCE_QUANTILE = 0.95
LEAST_NETS = 3
DIMENSIONS = "dimension_"
OVER_TIME = "over_time"


def nets_steps(sums: ComparisonSums, live: ActiveUnits, config: AnalysisConfig) -> list[Step]:
    """All steps about all nets of a comparison: those of every kind of three live nets or more."""
    steps = best_layer_steps(sums, live, config)
    if len(set(sums.epochs)) > 1:
        seconds = 3 * (len(sums.group_count) + 1) * cost.MOMENTS * len(sums.unit_net) ** 2
        steps.append(Step(OVER_TIME, "trajectories", seconds=seconds))
    for kind, nets in _alive(sums, live).items():
        widths = [int(live.alive[sums.units(net)].sum()) for net in nets]
        pairs, n_runs = len(nets) * (len(nets) - 1) // 2, len(null_runs(sums, nets, config))
        aligned = cost.CONSENSUS * pairs * max(widths) ** 3
        scored = pairs * cost.MATCHING * max(widths) ** 3 + cost.MOMENTS * sum(widths) ** 2
        steps += [Step(kind, "found", seconds=aligned + scored), Step(kind, "held_out", seconds=2 * aligned)]
        steps += dimension_steps(kind, widths, len(sums.group_count), DIMENSIONS)
        for name, n, each, after in (
            ("null", n_runs, aligned + cost.ROTATION * max(widths) ** 3, ()),
            ("numbers", len(sums.group_count), scored, (f"{kind}/found", f"{kind}/null")),
        ):
            steps += [
                Step(kind, name, first, last, after=after, seconds=each * (last - first))
                for first, last in (ranges(n, each, cost.GOAL) if n else ())
            ]
    return steps


def null_runs(sums: ComparisonSums, nets: Sequence[str], config: AnalysisConfig) -> list[tuple[int, int]]:
    """(net, draw) of the runs of the null: the nets of a kind that have a null take turns."""
    able = [(k, n_draws(sums, net, config)) for k, net in enumerate(nets)]
    able = [(k, n) for k, n in able if n]
    turns = range(max(LEAST_RUNS, len(able)) if able else 0)
    runs = [(*able[r % len(able)], r // len(able)) for r in turns]
    return [(k, draw) for k, n, draw in runs if draw < n]


def without_sign(sums: ComparisonSums, nets: Sequence[str]) -> bool:
    """Whether the units of all nets lack a preferred sign: unrectified layers whose sums may be rotated."""
    places = [sums.nets.index(net) for net in nets]
    return not any(sums.rectified[k] for k in places if sums.rectified) and all(
        sums.null_kind[k] == SUMS for k in places
    )


class NetsAnalysis:
    """All nets of a comparison: computes steps, and puts their parts together.

    Steps of a kind: consensus units of all images (``found``), those with one net in another basis (``null``) and so
    the strength that chance gives, numbers without each image group, and what stays on other images (``held_out``).
    ``dimension_both`` and ``dimension_numbers`` count the dimensions that all nets share.

    ``distances`` of pairs of nets, of those that have one, make the map; :meth:`tree` alone needs them.
    """

    def __init__(
        self,
        sums: ComparisonSums,
        live: ActiveUnits,
        config: AnalysisConfig,
        distances: Mapping[tuple[str, str], float],
    ) -> None:
        self.sums, self.distances = sums, distances
        self._live, self._config = live, config
        self.steps = nets_steps(sums, live, config)
        self._joints: dict[str, JointCorrelations] = {}
        self._fits: dict[str, CrossFit] = {}

    def compute(self, step: Step, parts: Parts) -> Tree:
        """The part of a step, from those of the steps before."""
        if step.method == OVER_TIME:
            return trajectories(self.sums, self._live)
        if step.method == BEST_LAYERS:
            return best_layers(self.sums, self._live, self._config, step)
        joint, absolute = self._joint(step.method), self._absolute(step.method)
        if step.name.startswith(DIMENSIONS):
            if step.method not in self._fits:
                self._fits = {step.method: CrossFit(NetsHalves(joint))}
            return dimension_part(self._fits[step.method], step)
        if step.name == "found":
            pooled = joint.pooled()
            found = consensus_units(pooled, joint.net_of_unit, absolute=absolute)
            cycles = cycle_consistency(_matchings(pooled, joint, absolute), _widths(joint))
            return _written(found) | {
                "cycle_mean": cycles.mean,
                "cycle_chance": cycles.chance,
                "cycle_paths": cycles.n_paths,
                "cycle_units": dict(zip(_alive(self.sums, self._live)[step.method], cycles.unit_share, strict=True)),
            }
        if step.name == "null":
            return self._null(step, joint, absolute)
        if step.name == "held_out":
            halves = [joint.half(k) for k in (0, 1)]
            fits = [consensus_units(half, joint.net_of_unit, absolute=absolute) for half in halves]
            scores = [score_members(halves[1 - k], fit.members, fit.signs) for k, fit in enumerate(fits)]
            return {"objectives": np.array([scored.objective for scored in scores])}
        of_all, threshold = parts.one(step.method, "found"), self._threshold(step.method, parts)
        found_numbers: Tree = {}
        for g in range(step.first, step.last):
            correlation = joint.without_group(g)
            consistency = cycle_consistency(_matchings(correlation, joint, absolute), _widths(joint)).mean
            scored = score_members(correlation, of_all["members"], of_all["signs"])
            found_numbers[str(g)] = _numbers(scored, threshold, consistency, joint)
        return found_numbers

    def _null(self, step: Step, joint: JointCorrelations, absolute: bool) -> Tree:
        """By run, strengths of the members of the net in another basis, and their mean correlation with the others."""
        nets = _alive(self.sums, self._live)[step.method]
        null = NetNull(self.sums, self._live, nets, joint, self._config)
        tree: Tree = {}
        for r in range(step.first, step.last):
            k, draw = null_runs(self.sums, nets, self._config)[r]
            replaced = null.replaced(k, draw)
            strengths, correlations = np.zeros(0), np.zeros(0)
            if replaced is not None:
                found = consensus_units(*replaced, absolute=absolute)
                there = found.members >= 0
                strengths = found.strength[there[:, k], k]
                pairs = there[:, [k]] & there & (np.arange(len(nets)) != k)
                correlations = found.within[:, k][pairs]
            mean = float(correlations.mean()) if len(correlations) else float("nan")
            tree[str(r)] = {"strengths": strengths, "mean_correlation": mean}
        return tree

    def tree(self, parts: Parts) -> Tree:
        """Results of every kind of three nets or more, the map of all nets with a distance to every other, and time."""
        tree: Tree = {"kinds": {kind: self._kind(kind, parts) for kind in _alive(self.sums, self._live)}}
        distances = self.distances
        placed = [net for net in self.sums.nets if any(net in pair for pair in distances)]
        if len(placed) >= LEAST_NETS and all(pair in distances for pair in combinations(placed, 2)):
            matrix = np.zeros((len(placed), len(placed)))
            for a, b in combinations(range(len(placed)), 2):
                matrix[a, b] = matrix[b, a] = distances[placed[a], placed[b]]
            points, explained = embed(matrix)
            tree["map"] = {
                "nets": np.array(placed, dtype=object),
                "distances": matrix,
                "points": points,
                "explained": explained,
            }
        tree[BEST_LAYERS] = {k: found for part in parts.of(BEST_LAYERS, "found") for k, found in _in_order(part)}
        tree[OVER_TIME] = parts.one(OVER_TIME, "trajectories") if parts.steps(OVER_TIME, "trajectories") else {}
        return tree

    def _joint(self, kind: str) -> JointCorrelations:
        if kind not in self._joints:
            self._joints = {kind: JointCorrelations(self.sums, self._live, _alive(self.sums, self._live)[kind])}
        return self._joints[kind]

    def _absolute(self, kind: str) -> bool:
        return without_sign(self.sums, _alive(self.sums, self._live)[kind])

    def _threshold(self, kind: str, parts: Parts) -> float:
        """The strength that one in twenty of the units of a net in another basis exceeds; NaN without a null."""
        strengths = np.concatenate([np.zeros(0), *(run["strengths"] for run in _runs(kind, parts))])
        if not len(strengths):
            return float("nan")
        return float(np.clip(np.quantile(strengths, CHANCE_QUANTILE), np.finfo(float).eps, 1.0))

    def _null_reason(self, kind: str, threshold: float) -> str:
        """Why no unit is said to be present; "" if the null gives a threshold."""
        if np.isfinite(threshold):
            return ""
        reasons = [null_reason(self.sums, net) for net in _alive(self.sums, self._live)[kind]]
        return next(filter(None, reasons), "no unit of a net in another basis varies")

    def _dimensions(self, kind: str, parts: Parts) -> Tree:
        """Dimensions that all nets of a kind share."""
        found = dimension_spectrum(kind, parts, DIMENSIONS)
        return spectrum_columns(found) | {
            "shared_dimensions": found.shared,
            "dimensions_beyond_chance": found.beyond_chance,
            "shared_dimensions_effective": found.effective,
            "shared_dimensions_effective_error": float(jackknife_error(found.without[:, 2])),
        }

    def _kind(self, kind: str, parts: Parts) -> Tree:
        """Consensus units of all images, the strength that chance gives, and what stays of them on other images."""
        part, threshold, joint = parts.one(kind, "found"), self._threshold(kind, parts), self._joint(kind)
        nets, found, known = _alive(self.sums, self._live)[kind], _read(part), bool(np.isfinite(threshold))
        present = presence(found, threshold) if known else None
        without = [numbers for piece in parts.of(kind, "numbers") for _, numbers in _in_order(piece)]
        replicated = Replicated(_numbers(found, threshold, part["cycle_mean"], joint), without)
        index = joint.units - np.array([self.sums.units(nets[k])[0] for k in joint.net_of_unit])
        levels = np.array([run["mean_correlation"] for run in _runs(kind, parts)])
        mean_correlation = replicated.estimate("mean_correlation").with_draws(levels[np.isfinite(levels)])
        shares = [f"in {k}" for k in range(2, len(nets) + 1)] if known else []
        return {
            "nets": np.array(nets, dtype=object),
            "signed": "|r|" if self._absolute(kind) else "r",
            "null_reason": self._null_reason(kind, threshold),
            "signs": found.signs,
            "members": np.where(found.members >= 0, index[found.members], -1),
            "strength": found.strength,
            "unit_correlation": found.mean_correlation,
            "unit_correlation_error": replicated.error("unit_correlation"),
            "threshold": threshold,
            "n_nets": np.full(len(found.members), -1) if present is None else present.n_nets,
            "stays": np.zeros(found.members.shape, dtype=bool) if present is None else present.stays,
            "mean_correlation": mean_correlation.as_dict(),
            "held_out_mean_correlation": float(parts.one(kind, "held_out")["objectives"].mean()),
            "shared": {name: replicated.estimate(name, smooth=False).as_dict() for name in shares},
            "cycle_consistency": replicated.estimate("cycle_consistency", smooth=False).as_dict(),
            "cycle_chance": part["cycle_chance"],
            "cycle_paths": part["cycle_paths"],
            "dimensions": self._dimensions(kind, parts),
            "unit_cycles": part["cycle_units"],
            "active_units": {net: index[joint.net_of_unit == k] for k, net in enumerate(nets)},
        }


def analyze_nets(
    sums: ComparisonSums, live: ActiveUnits, config: AnalysisConfig, distances: Mapping[tuple[str, str], float]
) -> Tree:
    """Everything about all nets of a comparison, here and now."""
    return computed(NetsAnalysis(sums, live, config, distances))


def _alive(sums: ComparisonSums, live: ActiveUnits) -> dict[str, list[str]]:
    """Kinds of three nets or more that have an active unit."""
    kinds = {
        kind: [net for net in nets if live.alive[sums.units(net)].any()] for kind, nets in kinds_of_nets(sums).items()
    }
    return {kind: nets for kind, nets in kinds.items() if len(nets) >= LEAST_NETS}


def _numbers(scored: Consensus, threshold: float, consistency: float, joint: JointCorrelations) -> Numbers:
    """Numbers of consensus units; shares of those present in 2, 3, … nets where the null gives a threshold."""
    n_nets = int(joint.net_of_unit.max()) + 1
    shares = {}
    if np.isfinite(threshold):
        n_present = presence(scored, threshold).n_nets
        shares = {f"in {k}": float(np.mean(n_present >= k)) for k in range(2, n_nets + 1)}
    return {
        "mean_correlation": scored.objective,
        "unit_correlation": scored.mean_correlation,
        "cycle_consistency": consistency,
        **shares,
    }


def _written(found: Consensus) -> Tree:
    return {field.name: getattr(found, field.name) for field in fields(found)}


def _read(part: Tree) -> Consensus:
    return Consensus(**{field.name: part[field.name] for field in fields(Consensus)})


def _in_order(part: Tree) -> list[tuple[str, Tree]]:
    return sorted(part.items(), key=lambda item: int(item[0]))


def _runs(kind: str, parts: Parts) -> list[Tree]:
    return [run for piece in parts.of(kind, "null") for _, run in _in_order(piece)]


def _widths(joint: JointCorrelations) -> list[int]:
    return [int(width) for width in np.bincount(joint.net_of_unit)]


def _matchings(correlation: Float64, joint: JointCorrelations, absolute: bool) -> dict[tuple[int, int], Any]:
    n_nets = int(joint.net_of_unit.max()) + 1
    places = [np.flatnonzero(joint.net_of_unit == k) for k in range(n_nets)]
    found = {}
    for a, b in combinations(range(n_nets), 2):
        between = correlation[np.ix_(places[a], places[b])]
        one = matching(np.abs(between) if absolute else between)
        found[a, b] = full(len(places[a]), one.rows, one.columns)
    return found
