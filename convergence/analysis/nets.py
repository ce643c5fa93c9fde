"""All nets of a kind at once: units that several of them have, cycles of matchings, and the nets as points of a map.

Nets of a kind are those of a comparison with the same layer, the same epoch, and the same state of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from convergence.alignment.consensus import Consensus, consensus_units, presence, score_members
from convergence.alignment.cycles import cycle_consistency
from convergence.alignment.embedding import embed
from convergence.alignment.matching import matching
from convergence.analysis.joint import JointCorrelations
from convergence.analysis.section import Float64, Numbers, Replicated, Tree, full
from convergence.analysis.units import LiveUnits
from convergence.experiment import AnalysisConfig
from convergence.statistics.file import Sums
from convergence.uncertainty import null_draws, random_rotation

MAX_ROTATIONS = 5
"""Draws of the null: each aligns all nets anew, and gives as many strengths as there are units."""
CHANCE_QUANTILE = 0.95
LEAST_NETS = 3


def kinds_of_nets(sums: Sums) -> dict[str, list[str]]:
    """Members of a comparison by kind: "trained" and "untrained", with layer and epoch where these differ."""
    kinds: dict[str, list[str]] = {}
    many_layers, many_epochs = len(set(sums.layers)) > 1, len(set(sums.epochs)) > 1
    for net, trained, layer, epoch in zip(sums.nets, sums.trained, sums.layers, sums.epochs, strict=True):
        words = ["trained" if trained else "untrained"]
        words += [layer] if many_layers else []
        words += [f"epoch {epoch}"] if many_epochs and epoch >= 0 else []
        kinds.setdefault(" ".join(words), []).append(net)
    return kinds


def analyze_nets(
    sums: Sums, live: LiveUnits, config: AnalysisConfig, distances: Mapping[tuple[str, str], float]
) -> Tree:
    """Results of every kind of three nets or more, and the map of all nets with a distance to every other.

    ``distances`` of pairs of nets, of those that have one.
    """
    tree: Tree = {"kinds": {}}
    for kind, nets in kinds_of_nets(sums).items():
        alive = [net for net in nets if live.alive[sums.units(net)].any()]
        if len(alive) >= LEAST_NETS:
            tree["kinds"][kind] = _consensus(JointCorrelations(sums, live, alive), sums, alive, config)
    placed = [net for net in sums.nets if any(net in pair for pair in distances)]
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
    return tree


def _consensus(joint: JointCorrelations, sums: Sums, nets: list[str], config: AnalysisConfig) -> Tree:
    """Consensus units of all images, the strength that chance gives, and what stays of them on other images."""
    pooled = joint.pooled()
    found = consensus_units(pooled, joint.net_of_unit)
    rotated = null_draws(
        lambda generator: consensus_units(_rotated(pooled, joint, generator), joint.net_of_unit),
        min(config.rotations, MAX_ROTATIONS), config.seed,
    )  # fmt: skip
    threshold = _chance_strength(rotated)
    present = presence(found, threshold)
    n_nets = len(nets)
    widths = np.bincount(joint.net_of_unit).tolist()

    def numbers(correlation: Float64, scored: Consensus) -> Numbers:
        n_present = presence(scored, threshold).n_nets
        return {
            "mean_correlation": scored.objective,
            "unit_correlation": scored.mean_correlation,
            "cycle_consistency": cycle_consistency(_matchings(correlation, joint, n_nets), widths).mean,
            **{f"in {k}": float(np.mean(n_present >= k)) for k in range(2, n_nets + 1)},
        }

    replicated = Replicated(
        numbers(pooled, found), [numbers(other, score_members(other, found.members)) for other in joint.without()]
    )
    held_out = [
        score_members(joint.half(1 - k), consensus_units(joint.half(k), joint.net_of_unit).members) for k in (0, 1)
    ]
    cycles = cycle_consistency(_matchings(pooled, joint, n_nets), widths)
    index = joint.units - np.array([sums.units(nets[k])[0] for k in joint.net_of_unit])
    objectives = [draw.objective for draw in rotated]
    level = (float(np.mean(objectives)), float(np.std(objectives, ddof=1)))
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
        "held_out_mean_correlation": float(np.mean([scored.objective for scored in held_out])),
        "shared": {f"in {k}": replicated.estimate(f"in {k}", smooth=False).as_dict() for k in range(2, n_nets + 1)},
        "cycle_consistency": replicated.estimate("cycle_consistency", smooth=False).as_dict(),
        "cycle_chance": cycles.chance,
        "cycle_paths": cycles.n_paths,
        "unit_cycles": dict(zip(nets, cycles.unit_share, strict=True)),
    }


def _matchings(correlation: Float64, joint: JointCorrelations, n_nets: int) -> dict[tuple[int, int], Any]:
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
