"""Results over all pairs of nets of a kind: what the overview, the tables and the sentences of the report say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from convergence.analysis.file import AnalysisFile
from convergence.similarity import MEASURES
from convergence.uncertainty import Estimate, mean_estimate

Kind = Literal["trained", "untrained", "mixed"]
KINDS: tuple[Kind, ...] = ("trained", "untrained", "mixed")
TRAINED_OR_NOT: tuple[Kind, ...] = KINDS[:2]


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
    nets, trained, sources : per member its name, whether it was trained, and the graph node that was read
    of_net, layers, epochs : per member its net, the layer asked for, and the epoch (−1: the final weights)
    units : per unit of the joined axis, see docs/files.md
    correlation : (n_units, n_units)
    pairs : those with results, and ``left_out`` the reason of each one without
    all_nets : what is about all nets at once
    """

    name: str
    nets: tuple[str, ...]
    trained: tuple[bool, ...]
    sources: tuple[str, ...]
    of_net: tuple[str, ...]
    layers: tuple[str, ...]
    epochs: tuple[int, ...]
    units: dict[str, Any]
    correlation: Any
    pairs: tuple[PairResult, ...]
    left_out: dict[str, str]
    all_nets: dict[str, Any]

    @property
    def whole(self) -> bool:
        """Whether every net takes part once: with one layer, at one epoch."""
        return len(set(self.of_net)) == len(self.nets)

    def of_kind(self, kind: Kind) -> list[PairResult]:
        """The pairs of one kind."""
        return [pair for pair in self.pairs if pair.kind == kind]

    @property
    def kinds(self) -> list[Kind]:
        """Kinds of pairs to show side by side: trained and untrained; mixed ones where there are no others."""
        return [kind for kind in TRAINED_OR_NOT if self.of_kind(kind)] or [kind for kind in KINDS if self.of_kind(kind)]

    def pair(self, x: str, y: str) -> PairResult | None:
        """One pair, if it has results; nets in the order of the file."""
        return next((pair for pair in self.pairs if (pair.x, pair.y) == (x, y)), None)

    def measures(self) -> list[str]:
        """Names of the measures that were computed."""
        return list(self.pairs[0].tree["measures"]) if self.pairs else []


def read_layers(analysis: AnalysisFile, names: Sequence[str] | None = None) -> list[Layer]:
    """Comparisons of an analysis; all if no names are given."""
    return [read_layer(analysis, name) for name in (analysis.comparisons if names is None else names)]


def read_layer(analysis: AnalysisFile, name: str) -> Layer:
    """One comparison of an analysis."""
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
    return Layer(
        name=name,
        nets=tuple(about["nets"]),
        trained=tuple(about["trained"]),
        sources=tuple(about["sources"]),
        of_net=tuple(about["of_net"]),
        layers=tuple(about["layers"]),
        epochs=tuple(about["epochs"]),
        units=analysis.units(name),
        correlation=analysis.correlation(name),
        pairs=tuple(pairs),
        left_out=left_out,
        all_nets=analysis.all_nets(name),
    )


def kinds_of(layers: Sequence[Layer]) -> list[Kind]:
    """Kinds of pairs that any layer shows."""
    return [kind for kind in KINDS if any(kind in layer.kinds for layer in layers)]


@dataclass(frozen=True)
class Summary:
    """A number over pairs of nets: its mean with error over images, and the spread over pairs."""

    estimate: Estimate
    lowest: float
    highest: float
    n_pairs: int

    def __str__(self) -> str:
        """As it is quoted in a sentence: value and 95 % interval."""
        e = self.estimate
        return f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"


SHARE = (0.0, 1.0)
LOSS = (0.0, 0.5)
"""Range of ½ (1 − R²) of a least-squares fit, scored where it was fitted."""


def over_pairs(
    pairs: list[PairResult], *paths: tuple[str, ...], bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Summary | None:
    """Mean over pairs of the estimate at a path of their trees, both directions where there are two; None without any.

    A path leads to an estimate, or to several by direction; of several paths the mean is taken as well. ``bounds`` is
    the range of the number, see :meth:`Estimate.within`.
    """
    per_pair = [mean_estimate(found) for pair in pairs if (found := _estimates(pair.tree, paths))]
    if not per_pair:
        return None
    values = [estimate.value for estimate in per_pair]
    return Summary(mean_estimate(per_pair).within(bounds), min(values), max(values), len(per_pair))


def measured(layer: Layer, measure: str, kind: Kind) -> Summary | None:
    """A measure over the pairs of one kind."""
    return over_pairs(layer.of_kind(kind), ("measures", measure), bounds=_bounds(measure))


def _bounds(measure: str) -> tuple[float, float]:
    """The range that a measure declares; none for one that is not registered any more."""
    return MEASURES.load(measure).bounds if measure in MEASURES else (-np.inf, np.inf)


def held_out(layer: Layer, measure: str, kind: Kind) -> Summary | None:
    """What a measure aligned on one half of the image groups scores on the other, over the pairs of one kind."""
    return over_pairs(layer.of_kind(kind), ("held_out", measure))


def one_unit_loss(layer: Layer, kind: Kind) -> Summary | None:
    """Loss of predicting a unit from the best one of another net, over both directions of the pairs of one kind."""
    return over_pairs(layer.of_kind(kind), ("sparse_xy", "one_unit"), ("sparse_yx", "one_unit"), bounds=LOSS)


def dense_loss(layer: Layer, kind: Kind) -> Summary | None:
    """Loss of predicting a unit from all of another net, over both directions of the pairs of one kind."""
    return over_pairs(layer.of_kind(kind), ("sparse_xy", "dense"), ("sparse_yx", "dense"), bounds=LOSS)


def _estimates(tree: dict[str, Any], paths: tuple[tuple[str, ...], ...]) -> list[Estimate]:
    found: list[Estimate] = []
    for path in paths:
        node: Any = tree
        for part in path:
            node = node.get(part, {})
        if node:
            found += [Estimate(**n) for n in ([node] if "value" in node else node.values())]
    return found


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
