"""Which layer of another net has a unit's best partner: results of pairs of nets, and their mean over pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convergence.inference import NetsInterval, PairUnits, nets_interval
from convergence.results.source import ComparisonSource, spans

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
    best_interval, excess_interval : by layer of x, with intervals over nets
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


def mean_best_layers(pairs: Sequence[BestLayers], units: Mapping[str, tuple[str, str]]) -> MeanBestLayers:
    """The mean over pairs; ``units`` are by net its (population, initialisation), for the interval over nets."""
    layers_x, layers_y = (tuple(dict.fromkeys(name for pair in pairs for name in getattr(pair, of)))
                          for of in ("layers_x", "layers_y"))  # fmt: skip

    def mean(name: str) -> Float64:
        total = np.full((len(pairs), len(layers_x), len(layers_y)), np.nan)
        for k, pair in enumerate(pairs):
            rows, columns = ([all_of.index(layer) for layer in of]
                             for all_of, of in ((layers_x, pair.layers_x), (layers_y, pair.layers_y)))  # fmt: skip
            total[k][np.ix_(rows, columns)] = getattr(pair, name)
        present = np.isfinite(total)
        sums = np.where(present, total, 0.0).sum(axis=0)
        return np.where(present.any(axis=0), sums / np.maximum(present.sum(axis=0), 1), np.nan)

    def over_nets(name: str, layer: str) -> NetsInterval | None:
        own = [pair for pair in pairs if layer in pair.layers_x]
        values = np.array([getattr(pair, name)[pair.layers_x.index(layer)] for pair in own])
        if not np.isfinite(values).any():
            return None
        nets = [[units[net] for net in (pair.x, pair.y)] for pair in own]
        return nets_interval(PairUnits.of(nets).mean(values, np.zeros((len(own), 0)), smooth=False))

    best, excess = (
        {layer: found for layer in layers_x if (found := over_nets(name, layer)) is not None}
        for name in ("best", "excess")
    )

    def of_layers(name: str) -> Float64:
        return np.array(
            [np.mean([getattr(p, name)[p.layers_x.index(layer)] for p in pairs if layer in p.layers_x])
             for layer in layers_x]
        )  # fmt: skip

    return MeanBestLayers(
        layers_x, layers_y, len({frozenset((pair.x, pair.y)) for pair in pairs}), mean("correlation"), mean("null"),
        mean("share"), mean("share_null"), of_layers("best"), of_layers("best_null"), best, excess,
    )  # fmt: skip
