"""Which layer of another net has a unit's best partner: results of pairs of nets, and their mean over pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from convergence.analysis.summaries import units_of_members
from convergence.inference import NetsInterval, PairUnits, nets_interval
from convergence.results.source import ComparisonSource, spans

if TYPE_CHECKING:
    from convergence.results.comparison import ComparisonResults
    from convergence.results.pair import Kind

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BestLayers:
    """Partners of the units of net x in the layers of net y; means over the units of a layer of x.

    Attributes
    ----------
    x, y, layers_x, layers_y : the nets and their layers
    n_units : (n_layers_x,) active units
    correlation, correlation_error, null : (n_layers_x, n_layers_y) with the best partner in a layer of y, its error
        over image groups, and its chance level
    share, share_null : (n_layers_x, n_layers_y) of the units whose best partner in all layers of y is in that layer,
        and its chance level
    best, best_error, best_null, best_null_sd : (n_layers_x,) correlation with the best partner in all layers of y, its
        error over image groups, and its chance level with the standard deviation over draws
    null_draws : draws of the chance level; without any it is NaN
    """

    x: str
    y: str
    layers_x: tuple[str, ...]
    layers_y: tuple[str, ...]
    n_units: npt.NDArray[np.int64]
    correlation: Float64
    correlation_error: Float64
    null: Float64
    share: Float64
    share_null: Float64
    best: Float64
    best_error: Float64
    best_null: Float64
    best_null_sd: Float64
    null_draws: int

    @property
    def excess(self) -> Float64:
        """(n_layers_x,) best − best_null."""
        return self.best - self.best_null


@dataclass(frozen=True, eq=False)
class MeanBestLayers:
    """Means over the ordered pairs of different nets.

    Attributes
    ----------
    layers_x, layers_y, n_pairs : layers of either net, and unordered pairs of nets
    correlation, null, share, share_null : (n_layers_x, n_layers_y), NaN for layers that no pair joins
    best, best_null : (n_layers_x,)
    best_interval, excess_interval : by layer of x, best and best − best_null with intervals over nets; no excess
        without a chance level
    """

    layers_x: tuple[str, ...]
    layers_y: tuple[str, ...]
    n_pairs: int
    correlation: Float64
    null: Float64
    share: Float64
    share_null: Float64
    best: Float64
    best_null: Float64
    best_interval: dict[str, NetsInterval]
    excess_interval: dict[str, NetsInterval]


def read_best_layers(source: ComparisonSource) -> list[BestLayers]:
    """The pairs of nets of the table ``best_layers``, each in both directions; [] for other comparisons."""
    table = source.table("best_layers")
    found = []
    for (x, y), span in spans(table, ("x", "y")).items():
        rows = {name: values[span] for name, values in table.items()}
        layers_x, layers_y = (tuple(dict.fromkeys(rows[f"layer_{of}"].tolist())) for of in "xy")
        shape = (len(layers_x), len(layers_y))
        matrices = {
            name: rows[name].reshape(shape)
            for name in ("correlation", "correlation_error", "null", "share", "share_null")
        }
        columns = {
            name: rows[name].reshape(shape)[:, 0]
            for name in ("n_units", "best", "best_error", "best_null", "best_null_sd")
        }
        draws = int(rows["null_draws"][0])
        found.append(BestLayers(x, y, layers_x, layers_y, **matrices, **columns, null_draws=draws))
    return found


def mean_best_layers(comparison: ComparisonResults, kind: Kind) -> MeanBestLayers | None:
    """The mean over the pairs of nets of a kind, both directions of each; None without any."""
    place = dict(zip(comparison.nets, comparison.of_net, strict=True))
    kinds = {frozenset((place[pair.x], place[pair.y])): pair.kind for pair in comparison.pairs}
    pairs = [found for found in comparison.best_layers if kinds.get(frozenset((found.x, found.y))) == kind]
    if not pairs:
        return None
    units = {net: unit for net, _, unit in units_of_members(comparison.source.table("members")).values()}
    layers_x = tuple(dict.fromkeys(layer for pair in pairs for layer in pair.layers_x))
    layers_y = tuple(dict.fromkeys(layer for pair in pairs for layer in pair.layers_y))
    matrices = {name: _mean(pairs, name, layers_x, layers_y) for name in ("correlation", "null", "share", "share_null")}
    over_nets = {
        name: {layer: _over_nets(pairs, name, layer, units) for layer in layers_x} for name in ("best", "excess")
    }
    best, null = (np.array([_of_layer(pairs, name, layer).mean() for layer in layers_x])
                  for name in ("best", "best_null"))  # fmt: skip
    n_pairs = len({frozenset((pair.x, pair.y)) for pair in pairs})
    return MeanBestLayers(
        layers_x, layers_y, n_pairs, **matrices, best=best, best_null=null, best_interval=over_nets["best"],
        excess_interval={layer: found for layer, found in over_nets["excess"].items() if np.isfinite(found.value)},
    )  # fmt: skip


def _mean(pairs: Sequence[BestLayers], name: str, layers_x: Sequence[str], layers_y: Sequence[str]) -> Float64:
    """Mean (n_layers_x, n_layers_y) of a matrix over the pairs that join the layers; NaN for layers that none joins."""
    values: dict[tuple[int, int], list[float]] = {}
    for pair in pairs:
        matrix = getattr(pair, name)
        for i, j in np.ndindex(matrix.shape):
            place = layers_x.index(pair.layers_x[i]), layers_y.index(pair.layers_y[j])
            values.setdefault(place, []).append(float(matrix[i, j]))
    out = np.full((len(layers_x), len(layers_y)), np.nan)
    for at, found in values.items():
        out[at] = np.mean(found)
    return out


def _of_layer(pairs: Sequence[BestLayers], name: str, layer: str) -> Float64:
    """A number of a layer of x in the pairs that have it."""
    return np.array([getattr(pair, name)[pair.layers_x.index(layer)] for pair in pairs if layer in pair.layers_x])


def _over_nets(
    pairs: Sequence[BestLayers], name: str, layer: str, units: Mapping[str, tuple[str, str]]
) -> NetsInterval:
    """The mean over pairs with its interval over nets; ``units`` are by net its (population, initialisation)."""
    values = _of_layer(pairs, name, layer)
    nets = [[units[net] for net in (pair.x, pair.y)] for pair in pairs if layer in pair.layers_x]
    if not np.isfinite(values).any():
        nothing = float("nan")
        return NetsInterval(nothing, nothing, nothing, nothing, nothing, nothing, nothing, "no chance level")
    number = PairUnits.of(nets).mean(values, np.zeros((len(values), 0)), smooth=False, kind="similarity")
    return nets_interval(number)
