"""Results of two nets for a notebook: a matching, clusters, and the recipe of a unit, with tables and figures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from convergence.errors import UserError
from convergence.inference import Estimate
from convergence.registry import load_object
from convergence.results.labelled import Labelled, ResultsTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class UnitMatching:
    """A one-to-one matching of the active units of two nets with the largest total correlation.

    Attributes
    ----------
    layer, x, y : names
    unit_x, unit_y : (n_pairs,) indices within the layer, ``unit_x`` ascending
    correlation : (n_pairs,)
    standard_error : (n_pairs,) over image groups; None without an analysis
    held_out : (n_pairs,) correlation of each unit of x with the partner that the other half of the images chooses;
        None without an analysis, and where x and y are in the other order than in the file
    estimate : mean correlation with interval, chance level and ceiling; None without an analysis
    correlations : (n_x, n_y) of all units, 0 for inactive units
    """

    layer: str
    x: str
    y: str
    unit_x: Indices
    unit_y: Indices
    correlation: Float64
    standard_error: Float64 | None
    held_out: Float64 | None
    estimate: Estimate | None
    correlations: Labelled

    @property
    def mean(self) -> float:
        """Mean correlation of the pairs."""
        return float(self.correlation.mean())

    @property
    def partners(self) -> Indices:
        """(n_x,) the unit of y of every unit of x, −1 for none."""
        found = np.full(self.correlations.shape[0], -1)
        found[self.unit_x] = self.unit_y
        return found

    @cached_property
    def table(self) -> ResultsTable:
        """A row a pair: unit_x, unit_y, correlation, and what the analysis adds."""
        columns: dict[str, Any] = {"unit_x": self.unit_x, "unit_y": self.unit_y, "correlation": self.correlation}
        if self.standard_error is not None:
            columns["standard_error"] = self.standard_error
        if self.held_out is not None:
            columns["held_out"] = self.held_out
        return ResultsTable(columns)

    def figure(self) -> Figure:
        """Correlations as they come and with pairs on the diagonal, and the pairs' correlations, best first."""
        figure: Figure = load_object("convergence.figures.notebook:matching_figure")(self)
        return figure

    def __repr__(self) -> str:
        e = self.estimate
        said = f"{self.mean:.3f}" if e is None else f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}], chance {e.null:.3f}"
        return f"<matching of {self.x} and {self.y} in {self.layer}: {len(self.unit_x)} pairs, mean r {said}>"

    def _repr_html_(self) -> str:
        import html

        return f"<p>{html.escape(repr(self)[1:-1])}</p>{self.table._repr_html_()}"


@dataclass(frozen=True, eq=False)
class ClusterTable:
    """Spectral clusters of the joined active units of two nets.

    Attributes
    ----------
    table : a row a unit: net, unit, cluster (−1: no edge to any other)
    n_clusters : how many
    sizes : (n_clusters, 2) units of x and of y
    mean_similarity : (n_clusters, 3) within x, within y, between; with ``standard_error``
    stability : adjusted Rand index with the clusters without each image group, mean
    """

    layer: str
    x: str
    y: str
    table: ResultsTable
    n_clusters: int
    sizes: Indices
    mean_similarity: Float64
    standard_error: Float64
    stability: float
    _draw: Any

    def units(self, cluster: int, net: str) -> Indices:
        """The units of a net in a cluster."""
        return np.asarray(self.table.where(cluster=cluster, net=net)["unit"])

    def figure(self) -> Figure:
        """Units in the order of their clusters, and the eigenvalues that say how many there are."""
        found: Figure = self._draw()
        return found

    def __repr__(self) -> str:
        return f"<{self.n_clusters} clusters of {self.x} and {self.y} in {self.layer}, stability {self.stability:.2f}>"

    def _repr_html_(self) -> str:
        import html

        return f"<p>{html.escape(repr(self)[1:-1])}</p>{self.table._repr_html_()}"


@dataclass(frozen=True, eq=False)
class Recipe:
    """A unit of one net, predicted from units of another: loss ½(1 − R²), .5 nothing explained, 0 all.

    Attributes
    ----------
    net, unit, predictors : the unit and its net, and the net that predicts it
    lasso : the strongest weights of standardised units at the chosen penalty: predictor, weight
    lasso_loss : the loss there
    forward : units added one by one, the best each time: predictor, loss with it and those before
    all_units_loss : from all units of the other net
    units_for_90 : units that reach 90 % of the R² of all; −1 if none of the steps does, 0 if all explain less than 5 %
    """

    net: str
    unit: int
    predictors: str
    lasso: ResultsTable
    lasso_loss: float
    forward: ResultsTable
    all_units_loss: float
    units_for_90: int

    def __repr__(self) -> str:
        parts = " + ".join(f"{row['weight']:.2f}·{row['predictor']}" for row in self.lasso.head(5))
        return (
            f"<{self.net}[{self.unit}] ≈ {parts or 'nothing'} of {self.predictors}, loss {self.lasso_loss:.3f} "
            f"(all units {self.all_units_loss:.3f})>"
        )

    def _repr_html_(self) -> str:
        import html

        return f"<p>{html.escape(repr(self)[1:-1])}</p>{self.lasso._repr_html_()}{self.forward._repr_html_()}"


def row_of(units: Indices, unit: int, net: str) -> int:
    """Position of a unit among the active ones; UserError if it is not among them."""
    found = np.flatnonzero(units == unit)
    if not len(found):
        raise UserError(f"unit {unit} of {net} has no results: it is inactive, or there is no such unit.")
    return int(found[0])
