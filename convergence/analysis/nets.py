"""All nets of a kind at once: units that several of them have, cycles of matchings, and the nets as points of a map.

Nets of a kind are those of a comparison with the same layer, the same epoch, and the same state of training, one of
each initialisation.
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
from convergence.analysis.steps import Float64, Numbers, Parts, Replicated, Step, Tree, computed, full, ranges
from convergence.config.stages import AnalysisConfig
from convergence.inference import generator_of
from convergence.linalg import random_rotation
from convergence.statistics.file import ComparisonSums

MAX_ROTATIONS = 5
"""Draws of the null: each aligns all nets anew, and gives as many strengths as there are units."""
CHANCE_QUANTILE = 0.95
LEAST_NETS = 3
OVER_TIME = "over_time"


def nets_steps(sums: ComparisonSums, live: ActiveUnits, config: AnalysisConfig) -> list[Step]:
    """All steps about all nets of a comparison: those of every kind of three live nets or more."""
    steps = best_layer_steps(sums, live, config)
    if len(set(sums.epochs)) > 1:
        seconds = (len(sums.group_count) + 1) * cost.MOMENTS * len(sums.unit_net) ** 2
        steps.append(Step(OVER_TIME, "trajectories", seconds=seconds))
    for kind, nets in _alive(sums, live).items():
        widths = [int(live.alive[sums.units(net)].sum()) for net in nets]
        pairs, rotations = len(nets) * (len(nets) - 1) // 2, min(config.rotations, MAX_ROTATIONS)
        aligned = cost.CONSENSUS * pairs * max(widths) ** 3
        scored = pairs * cost.MATCHING * max(widths) ** 3 + cost.MOMENTS * sum(widths) ** 2
        steps += [Step(kind, "found", seconds=aligned + scored), Step(kind, "held_out", seconds=2 * aligned)]
        for name, n, each, after in (
            ("rotated", rotations, aligned + cost.ROTATION * sum(widths) ** 3, ()),
            ("numbers", len(sums.group_count), scored, (f"{kind}/found", f"{kind}/rotated")),
        ):
            steps += [
                Step(kind, name, first, last, after=after, seconds=each * (last - first))
                for first, last in ranges(n, each, cost.GOAL)
            ]
    return steps


class NetsAnalysis:
    """All nets of a comparison: computes steps, and puts their parts together.

    Steps of a kind: consensus units of all images (``found``), those of rotated bases (``rotated``) and so the strength
    that chance gives, numbers without each image group, and what stays on other images (``held_out``).

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

    def compute(self, step: Step, parts: Parts) -> Tree:
        """The part of a step, from those of the steps before."""
        if step.method == OVER_TIME:
            return trajectories(self.sums, self._live)
        if step.method == BEST_LAYERS:
            return best_layers(self.sums, self._live, self._config, step)
        joint = self._joint(step.method)
        if step.name == "found":
            pooled = joint.pooled()
            found = consensus_units(pooled, joint.net_of_unit)
            cycles = cycle_consistency(_matchings(pooled, joint), _widths(joint))
            return _written(found) | {
                "cycle_mean": cycles.mean,
                "cycle_chance": cycles.chance,
                "cycle_paths": cycles.n_paths,
                "cycle_units": dict(zip(_alive(self.sums, self._live)[step.method], cycles.unit_share, strict=True)),
            }
        if step.name == "rotated":
            pooled, draws = joint.pooled(), range(step.first, step.last)
            rotated = ((k, _rotated(pooled, joint, generator_of(self._config.seed, k))) for k in draws)
            return {str(k): _written(consensus_units(matrix, joint.net_of_unit)) for k, matrix in rotated}
        if step.name == "held_out":
            halves = [joint.half(k) for k in (0, 1)]
            members = [consensus_units(half, joint.net_of_unit).members for half in halves]
            return {"objectives": np.array([score_members(halves[1 - k], members[k]).objective for k in (0, 1)])}
        members, threshold = parts.one(step.method, "found")["members"], self._threshold(step.method, parts)
        found_numbers: Tree = {}
        for g in range(step.first, step.last):
            correlation = joint.without_group(g)
            consistency = cycle_consistency(_matchings(correlation, joint), _widths(joint)).mean
            found_numbers[str(g)] = _numbers(score_members(correlation, members), threshold, consistency, joint)
        return found_numbers

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

    def _threshold(self, kind: str, parts: Parts) -> float:
        return _chance_strength(_draws(kind, parts))

    def _kind(self, kind: str, parts: Parts) -> Tree:
        """Consensus units of all images, the strength that chance gives, and what stays of them on other images."""
        part, threshold, joint = parts.one(kind, "found"), self._threshold(kind, parts), self._joint(kind)
        nets, found = _alive(self.sums, self._live)[kind], _read(part)
        present = presence(found, threshold)
        without = [numbers for piece in parts.of(kind, "numbers") for _, numbers in _in_order(piece)]
        replicated = Replicated(_numbers(found, threshold, part["cycle_mean"], joint), without)
        index = joint.units - np.array([self.sums.units(nets[k])[0] for k in joint.net_of_unit])
        objectives = [draw.objective for draw in _draws(kind, parts)]
        level = (float(np.mean(objectives)), float(np.std(objectives, ddof=1)))
        shares = [f"in {k}" for k in range(2, len(nets) + 1)]
        return {
            "nets": np.array(nets, dtype=object),
            "members": np.where(found.members >= 0, index[found.members], -1),
            "strength": found.strength,
            "unit_correlation": found.mean_correlation,
            "unit_correlation_error": replicated.error("unit_correlation"),
            "threshold": threshold,
            "n_nets": present.n_nets,
            "stays": present.stays,
            "mean_correlation": replicated.estimate("mean_correlation").against(level).as_dict(),
            "held_out_mean_correlation": float(parts.one(kind, "held_out")["objectives"].mean()),
            "shared": {name: replicated.estimate(name, smooth=False).as_dict() for name in shares},
            "cycle_consistency": replicated.estimate("cycle_consistency", smooth=False).as_dict(),
            "cycle_chance": part["cycle_chance"],
            "cycle_paths": part["cycle_paths"],
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
    n_present = presence(scored, threshold).n_nets
    n_nets = int(joint.net_of_unit.max()) + 1
    return {
        "mean_correlation": scored.objective,
        "unit_correlation": scored.mean_correlation,
        "cycle_consistency": consistency,
        **{f"in {k}": float(np.mean(n_present >= k)) for k in range(2, n_nets + 1)},
    }


def _written(found: Consensus) -> Tree:
    return {field.name: getattr(found, field.name) for field in fields(found)}


def _read(part: Tree) -> Consensus:
    return Consensus(**{field.name: part[field.name] for field in fields(Consensus)})


def _in_order(part: Tree) -> list[tuple[str, Tree]]:
    return sorted(part.items(), key=lambda item: int(item[0]))


def _draws(kind: str, parts: Parts) -> list[Consensus]:
    return [_read(draw) for piece in parts.of(kind, "rotated") for _, draw in _in_order(piece)]


def _widths(joint: JointCorrelations) -> list[int]:
    return [int(width) for width in np.bincount(joint.net_of_unit)]


def _matchings(correlation: Float64, joint: JointCorrelations) -> dict[tuple[int, int], Any]:
    n_nets = int(joint.net_of_unit.max()) + 1
    places = [np.flatnonzero(joint.net_of_unit == k) for k in range(n_nets)]
    found = {}
    for a, b in combinations(range(n_nets), 2):
        one = matching(correlation[np.ix_(places[a], places[b])])
        found[a, b] = full(len(places[a]), one.rows, one.columns)
    return found


def _chance_strength(rotated: Sequence[Consensus]) -> float:
    """The strength that one member in twenty has when every net's basis is rotated and all are aligned anew."""
    strengths = np.concatenate([draw.strength[draw.members >= 0] for draw in rotated])
    return float(np.clip(np.quantile(strengths, CHANCE_QUANTILE), np.finfo(float).eps, 1.0))


def _rotated(pooled: Float64, joint: JointCorrelations, generator: np.random.Generator) -> Float64:
    """Correlations after each net's standardised units are rotated, every rotated unit standardised again."""
    out = pooled.copy()
    for k in range(joint.net_of_unit.max() + 1):
        own = np.flatnonzero(joint.net_of_unit == k)
        q = random_rotation(len(own), generator)
        out[own] = q.T @ out[own]
        out[:, own] = out[:, own] @ q
    deviation = np.sqrt(np.diagonal(out))
    out = np.clip(out / np.outer(deviation, deviation), -1.0, 1.0)
    out = (out + out.T) / 2
    np.fill_diagonal(out, 1.0)
    return out
