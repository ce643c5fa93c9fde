"""Results over all pairs of nets of a kind: what the overview, the tables and the sentences of the report say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from convergence.analysis.file import AnalysisFile
from convergence.uncertainty import Estimate, jackknife

Kind = Literal["trained", "untrained", "mixed"]
KINDS: tuple[Kind, ...] = ("trained", "untrained", "mixed")
TRAINED_OR_NOT = KINDS[:2]


@dataclass(frozen=True)
class PairResult:
    """One pair of nets in one comparison: ``tree`` is as in analysis.h5."""

    x: str
    y: str
    kind: Kind
    tree: dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """One comparison with everything that was computed of it.

    Attributes
    ----------
    nets, trained, sources : per net its name, whether it was trained, and the graph node that was read
    units : per unit of the joined axis, see docs/files.md
    correlation : (n_units, n_units)
    pairs : those with results, and ``left_out`` the reason of each one without
    """

    name: str
    nets: tuple[str, ...]
    trained: tuple[bool, ...]
    sources: tuple[str, ...]
    units: dict[str, Any]
    correlation: Any
    pairs: tuple[PairResult, ...]
    left_out: dict[str, str]

    def of_kind(self, kind: Kind) -> list[PairResult]:
        """The pairs of one kind."""
        return [pair for pair in self.pairs if pair.kind == kind]

    def pair(self, x: str, y: str) -> PairResult | None:
        """One pair, if it has results; nets in the order of the file."""
        return next((pair for pair in self.pairs if (pair.x, pair.y) == (x, y)), None)

    def measures(self) -> list[str]:
        """Names of the measures that were computed."""
        return list(self.pairs[0].tree["measures"]) if self.pairs else []


def read_layers(analysis: AnalysisFile) -> list[Layer]:
    """All comparisons of an analysis."""
    layers = []
    for name in analysis.comparisons:
        about = analysis.about(name)
        trained = dict(zip(about["nets"], about["trained"], strict=True))
        pairs, left_out = [], {}
        for x, y in analysis.pairs(name):
            tree = analysis.pair(name, x, y)
            if "nothing_because" in tree:
                left_out[f"{x}, {y}"] = tree["nothing_because"]
                continue
            kind: Kind = "mixed" if trained[x] != trained[y] else "trained" if trained[x] else "untrained"
            pairs.append(PairResult(x, y, kind, tree))
        layers.append(
            Layer(
                name=name,
                nets=tuple(about["nets"]),
                trained=tuple(about["trained"]),
                sources=tuple(about["sources"]),
                units=analysis.units(name),
                correlation=analysis.correlation(name),
                pairs=tuple(pairs),
                left_out=left_out,
            )
        )
    return layers


@dataclass(frozen=True)
class Summary:
    """A measure over the pairs of one kind: its mean with error over images, and the spread over pairs."""

    estimate: Estimate
    lowest: float
    highest: float
    n_pairs: int


def over_pairs(layer: Layer, measure: str, kind: Kind) -> Summary | None:
    """Mean of a measure over the pairs of a kind, both directions where they differ; None if there is no such pair.

    The jackknife is of the mean itself: every pair's replicates come from the same images, so their errors are not
    independent and are averaged replicate by replicate, not in quadrature.
    """
    pairs = layer.of_kind(kind)
    if not pairs:
        return None
    per_pair = [list(pair.tree["measures"][measure].values()) for pair in pairs]
    values = np.array([np.mean([d["value"] for d in directions]) for directions in per_pair])
    without = np.mean([np.mean([d["without"] for d in directions], axis=0) for directions in per_pair], axis=0)
    estimate = jackknife(float(values.mean()), without).as_dict()
    for key in ("null", "null_sd"):
        estimate[key] = float(np.mean([np.mean([d[key] for d in directions]) for directions in per_pair]))
    return Summary(Estimate(**estimate), float(values.min()), float(values.max()), len(pairs))


def mean_over(pairs: list[PairResult], *path: str) -> Any:
    """Mean over pairs of the number or array at a path of their trees; None without pairs."""
    if not pairs:
        return None
    found = []
    for pair in pairs:
        value: Any = pair.tree
        for part in path:
            value = value[part]
        found.append(value)
    return np.mean(found, axis=0)
