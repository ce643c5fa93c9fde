"""One comparison of a run in a notebook: answers from its analysis, or from the sums where there is none."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from convergence.alignment.matching import matching, semi_matching
from convergence.analysis.active_units import ActiveUnits, active_units, describe_units, group_squares
from convergence.analysis.file import open_analysis
from convergence.analysis.layout import WITHIN_CLASS
from convergence.analysis.mutual_information import pair_information
from convergence.errors import UserError, did_you_mean
from convergence.inference import Estimate
from convergence.io import hdf5
from convergence.registry import load_object
from convergence.results.analysis_file import read_analysis
from convergence.results.comparison import ComparisonResults
from convergence.results.growth import COLUMNS, growths_within
from convergence.results.labelled import Labelled, ResultsTable
from convergence.results.pair import DIRECTIONS, HELD_OUT, KINDS, Kind, PairResults
from convergence.results.populations import Difference, Summary
from convergence.results.source import LEVELS
from convergence.results.unit_tables import ClusterTable, Recipe, UnitMatching, row_of
from convergence.statistics.file import ComparisonSums, open_statistics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from convergence.results.run import Run

KIND_NETS = {
    "trained": "trained nets",
    "untrained": "untrained nets",
    "mixed": "a trained and an untrained net",
    "same_init": "trained nets of one initialisation",
}


class ComparisonView:
    """A comparison of a run: units of its nets, joined.

    Attributes
    ----------
    name : of the comparison
    nets : names of its nets (or members, as ``net1@5``), in order
    trained : whether each was trained
    widths : units of each
    """

    def __init__(self, run: Run, name: str) -> None:
        self._run, self.name = run, name
        if run.statistics is not None:
            with open_statistics(run.statistics) as file:
                sums = file.sums(name)
                self.nets, self.trained = sums.nets, sums.trained
                self.widths = tuple(np.bincount(sums.unit_net, minlength=len(self.nets)).tolist())
        else:
            found = self.results
            self.nets, self.trained, self.widths = found.nets, found.trained, found.widths

    @cached_property
    def results(self) -> ComparisonResults:
        """The analysis of the comparison, typed; UserError without one."""
        if self._run.analysis is None:
            raise UserError(
                f"{self.name}: this needs the analysis. Make it with run.analyze(), or `convergence analyze "
                f"{self._run.statistics}`."
            )
        return read_analysis(self._run.analysis).comparison(self.name)

    # ---- units ----

    def units(self, net: str) -> ResultsTable:
        """A row a unit of a net: mean activation with its error, spread, share of zeros, percentiles, reason."""
        k = self._index(net)
        if self._run.statistics is None:
            units = self.results.units(net)
            columns = {f.name: v for f in fields(units) if (v := getattr(units, f.name)) is not None}
        else:
            with self._sums() as sums:
                own = sums.unit_net == k
                columns = {name: np.asarray(v)[own] for name, v in describe_units(sums, self._active).items()}
        return ResultsTable({"unit": np.arange(self.widths[k]), **columns})

    # ---- two nets ----

    def correlation(self, x: str, y: str | None = None) -> Labelled:
        """(n_x, n_y) correlations of all units of two nets, or within one; 0 for inactive units."""
        y = x if y is None else y
        i, j = self._index(x), self._index(y)
        if self._run.statistics is None:
            starts = np.concatenate([[0], np.cumsum(self.widths)])
            rows, columns = (slice(starts[k], starts[k + 1]) for k in (i, j))
            values = self.results.source.correlation_block(rows, columns)
        else:
            with self._sums() as sums:
                values = pair_correlation(sums, self._active, x, y)
        return self._labelled(values, x, y, "correlation")

    def mutual_information(self, x: str, y: str | None = None) -> Labelled:
        """(n_x, n_y) mutual information in nats, corrected for the bias of few images: that of independent units is 0.

        Single values of independent units scatter about 0, so some are negative.

        Raises
        ------
        UserError
            where none was counted, or the run is an analysis without its statistics.
        """
        y = x if y is None else y
        self._index(x), self._index(y)
        if self._run.statistics is None:
            raise UserError("mutual information of all pairs of units is in the statistics; open statistics.h5.")
        with self._sums() as sums:
            if sums.mutual_information is None:
                raise UserError(f"{self.name}: no mutual information was counted (or it was cut away with groups).")
            values, _ = pair_information(sums, x, y)
        return self._labelled(values, x, y, "mutual information (nats)")

    def matching(self, x: str, y: str) -> UnitMatching:
        """The one-to-one matching of two nets; errors, held-out values and chance levels where there is an analysis."""
        between = self.correlation(x, y)
        found = self._find(x, y)
        if found is None:
            active_x, active_y = self._active_of(x, y)
            one = matching(np.asarray(between)[np.ix_(active_x, active_y)])
            return UnitMatching(
                self.name, x, y, active_x[one.rows], active_y[one.columns], one.values, None, None, None, between
            )
        pair, turned = found
        matched = pair.matching
        rows = np.flatnonzero(matched.unit_y >= 0)
        unit_x, unit_y = matched.unit_x[rows], matched.unit_y[rows]
        if turned:
            order = np.argsort(unit_y, kind="stable")
            rows, unit_x, unit_y = rows[order], unit_y[order], unit_x[order]
        return UnitMatching(
            self.name, x, y, unit_x, unit_y, matched.correlation[rows], matched.standard_error[rows],
            None if turned else matched.held_out[rows], pair.measure("matching"), between,
        )  # fmt: skip

    def semi_matching(self, x: str, y: str) -> ResultsTable:
        """A row an active unit of x: its best partner in y, with replacement.

        With an analysis also ``standard_error``, ``held_out`` (with the partner that the other half of the images
        gives), ``null`` (the best direction of a random basis), ``p``, and ``q`` (adjusted for false discoveries).
        """
        found = self._find(x, y)
        if found is None:
            active_x, active_y = self._active_of(x, y)
            r = np.asarray(self.correlation(x, y))[np.ix_(active_x, active_y)]
            best = semi_matching(r)
            correlation = r[np.arange(len(r)), best]
            return ResultsTable({"unit_x": active_x, "unit_y": active_y[best], "correlation": correlation})
        pair, turned = found
        semi = pair.semi_matching("yx" if turned else "xy")
        more = ("correlation", "standard_error", "held_out", "null", "p", "q")
        return ResultsTable(
            {"unit_x": semi.unit, "unit_y": semi.partner} | {name: getattr(semi, name) for name in more}
        )

    # ---- from the analysis ----

    def measures(self) -> ResultsTable:
        """A row a pair of nets, measure and direction: value with interval, chance levels, ceiling, other evaluations.

        ``held_out`` is fitted and scored on different images, ``within_class`` of the covariances within classes.
        """
        rows = []
        for pair in self.results.pairs:
            for name in self.results.measures:
                for direction in DIRECTIONS:
                    estimate = pair.measure(name, direction)
                    if estimate is not None:
                        row = {"x": pair.x, "y": pair.y, "kind": pair.kind, "measure": name, "direction": direction}
                        others = {of: pair.measure(name, direction, of) for of in (HELD_OUT, WITHIN_CLASS)}
                        more = {of: np.nan if found is None else found.value for of, found in others.items()}
                        rows.append(row | {level: getattr(estimate, level) for level in LEVELS} | more)
        columns = ["x", "y", "kind", "measure", "direction", *LEVELS, HELD_OUT, WITHIN_CLASS]
        return ResultsTable.of_rows(rows, columns)

    def estimate(self, measure: str, x: str, y: str) -> Estimate:
        """A measure of two nets, x to y, with its interval, chance levels and ceiling."""
        pair, turned = self._pair(x, y)
        found = pair.measure(measure, "yx" if turned else "xy") or pair.measure(measure)
        if found is None:
            reasons = self.results.source.rows("unavailable", (pair.x, pair.y))
            why = dict(zip(reasons["measure"].tolist(), reasons["reason"].tolist(), strict=True)).get(measure)
            raise UserError(
                f"{measure}: {why}."
                if why
                else f'no measure "{measure}"; {did_you_mean(measure, self.results.measures)}.'
            )
        return found

    def summary(self, measure: str, kind: Kind = "trained") -> Summary:
        """A measure over all pairs of nets of a kind; its text has the interval over nets, or says that there is none.

        Kinds are "trained", "untrained", "mixed" (a trained and an untrained net) and "same_init" (trained nets of one
        initialisation).
        """
        self._known(measure, kind)
        found = self.results.summary(measure, kind)
        if found is None:
            raise UserError(f"{self.name}: there is no pair of {KIND_NETS[kind]}.")
        return found

    def difference(self, measure: str, first: Kind = "trained", second: Kind = "untrained") -> Difference:
        """A measure of one kind of pairs minus that of another, with its interval over nets and its p-value."""
        for kind in (first, second):
            self.summary(measure, kind)
        found = self.results.difference(measure, first, second)
        assert found is not None
        return found

    def _known(self, measure: str, kind: str) -> None:
        if kind not in KINDS:
            raise UserError(f'no kind "{kind}" of pairs; {did_you_mean(kind, KINDS)}.')
        if measure not in self.results.measures:
            raise UserError(f'no measure "{measure}"; {did_you_mean(measure, self.results.measures)}.')

    def growth(self, *measures: str) -> ResultsTable:
        """A row a width or epoch in which groups of nets differ: means over pairs, and the chance level of each.

        ``measures`` default to all; no rows where the nets do not differ in width or epoch.
        """
        for measure in measures:
            self._known(measure, KINDS[0])
        found = growths_within(self.results, measures or self.results.measures)
        rows = [dict(zip(COLUMNS, row, strict=True)) for one in found for row in one.rows()]
        return ResultsTable.of_rows(rows, list(COLUMNS))

    def clusters(self, x: str, y: str) -> ClusterTable:
        """Spectral clusters of the joined units of two nets."""
        pair, _ = self._pair(x, y)
        found = pair.clusters
        if found is None:
            raise UserError(f"{self.name}: no clusters were computed (analysis.clustering, or several members a net).")
        units = [pair.units_x, pair.units_y]
        table = ResultsTable(
            {
                "net": np.repeat([pair.x, pair.y], [len(u) for u in units]),
                "unit": np.concatenate(units),
                "cluster": np.concatenate([found.labels_x, found.labels_y]),
            }
        )
        return ClusterTable(
            self.name, pair.x, pair.y, table, found.n_clusters, found.sizes, found.similarity, found.similarity_error,
            found.stability, lambda: self.figure("clusters", pair.x, pair.y),
        )  # fmt: skip

    def recipe(self, net: str, unit: int, predictors: str) -> Recipe:
        """Prediction of a unit of ``net`` from few units of another net, and from all of them."""
        pair, turned = self._pair(predictors, net)
        found = pair.sparse("yx" if turned else "xy")
        if found is None:
            raise UserError(
                f"{self.name}: no sparse mappings were computed (analysis.sparse, or several members a net)."
            )
        row = row_of(found.target, unit, net)
        chosen = found.recipe_units[row] >= 0
        return Recipe(
            net, unit, predictors,
            ResultsTable({"predictor": found.recipe_units[row][chosen], "weight": found.recipe_weights[row][chosen]}),
            float(found.recipe_loss[row]),
            ResultsTable({"predictor": found.forward_units[row], "loss": found.forward_losses[row]}),
            float(found.dense_loss[row]), int(found.units_for_90[row]),
        )  # fmt: skip

    def pair(self, x: str, y: str) -> PairResults:
        """All results of two nets, typed, in the order of the file."""
        return self._pair(x, y)[0]

    def figure(self, name: str, x: str, y: str) -> Figure:
        """A figure of the report for two nets: "matched_units", "matrices", "sparse", "codes", "clusters", …"""
        figures = load_object("convergence.figures:FIGURES")
        if name not in figures:
            raise UserError(f'no figure "{name}"; {did_you_mean(name, figures)}.')
        drawing = figures.load(name)(self.results, self._pair(x, y)[0])
        if drawing is None:
            raise UserError(f"{self.name}: the analysis has no results for the figure {name}.")
        figure: Figure = load_object("convergence.figures.notebook:shown")(drawing.figure)
        return figure

    def verify(self) -> None:
        """Verify the checksums of everything that the comparison reads; FileError for the first damaged dataset."""
        if self._run.statistics is not None:
            with open_statistics(self._run.statistics) as file:
                file.verify(self.name)
        if self._run.analysis is not None:
            with open_analysis(self._run.analysis) as found:
                hdf5.verify(found.raw(self.name))

    # ---- how ----

    def __repr__(self) -> str:
        nets = ", ".join(f"{net} ({width})" for net, width in zip(self.nets, self.widths, strict=True))
        return f"<comparison {self.name}: units of {nets}{'' if self._run.analysis else '; not analysed'}>"

    def _repr_html_(self) -> str:
        table = ResultsTable(
            {"net": np.array(self.nets), "trained": np.array(self.trained), "units": np.array(self.widths)}
        )
        return f"<p>{html.escape(self.name)}</p>{table._repr_html_()}"

    @contextmanager
    def _sums(self) -> Iterator[ComparisonSums]:
        assert self._run.statistics is not None
        with open_statistics(self._run.statistics) as file:
            yield file.sums(self.name)

    @cached_property
    def _active(self) -> ActiveUnits:
        with self._sums() as sums:
            return active_units(sums)

    def _find(self, x: str, y: str) -> tuple[PairResults, bool] | None:
        """The analysed pair and whether it is the other way round in the file; None without results of it."""
        self._different(x, y)
        if not self._run.is_analysed(self.name):
            return None
        found = self.results.either_pair(x, y)
        return None if found is None else (found, (found.x, found.y) != (x, y))

    def _pair(self, x: str, y: str) -> tuple[PairResults, bool]:
        self._different(x, y)
        found = self.results.either_pair(x, y)
        if found is None:
            why = self.results.why_left_out(x, y) or "no results"
            raise UserError(f"{self.name}, {x} and {y}: {why}.")
        return found, (found.x, found.y) != (x, y)

    def _different(self, x: str, y: str) -> None:
        self._index(x), self._index(y)
        if x == y:
            raise UserError(
                f"{x} beside itself: every unit is its own partner. Give two nets; {did_you_mean(x, self.nets)}."
            )

    def _index(self, net: str) -> int:
        if net not in self.nets:
            raise UserError(f'{self.name} has no net "{net}"; {did_you_mean(net, self.nets)}.')
        return self.nets.index(net)

    def _active_of(self, x: str, y: str) -> list[Any]:
        starts = np.concatenate([[0], np.cumsum(self.widths)])
        found = []
        for net in (x, y):
            k = self._index(net)
            own = self._active.alive[starts[k] : starts[k + 1]]
            if not own.any():
                raise UserError(f"{self.name}: {net} has no active unit.")
            found.append(np.flatnonzero(own))
        return found

    def _labelled(self, values: Any, x: str, y: str, name: str) -> Labelled:
        dims = (f"unit of {x}", f"unit of {y}" if x != y else f"other unit of {x}")
        return Labelled(
            values, dims, {dim: np.arange(n) for dim, n in zip(dims, values.shape, strict=True)}, f"{self.name} {name}"
        )


def pair_correlation(sums: ComparisonSums, active: ActiveUnits, x: str, y: str) -> npt.NDArray[np.float64]:
    """(n_x, n_y) correlations of all units of two nets; 0 for inactive units.

    The same numbers as :attr:`convergence.similarity.pair.PairMoments.corr_xy`, without the matrices within the nets.
    """
    units_x, units_y = sums.units(x), sums.units(y)
    of_x, of_y = slice(units_x[0], units_x[-1] + 1), slice(units_y[0], units_y[-1] + 1)
    kept = np.ix_(np.flatnonzero(active.alive[of_x]), np.flatnonzero(active.alive[of_y]))
    products: Any = 0.0
    for group in range(len(sums.group_count)):
        products = products + np.asarray(sums.group_products[group, of_x, of_y])[kept]
    n, total = float(sums.group_count.sum()), sums.group_sums.sum(axis=0)
    variance = group_squares(sums).sum(axis=0) / n - total * total / n**2
    active_x, active_y = units_x[active.alive[of_x]], units_y[active.alive[of_y]]
    covariance = products / n - np.outer(total[active_x], total[active_y]) / n**2
    out = np.zeros((len(units_x), len(units_y)))
    scale = np.outer(np.sqrt(variance[active_x]), np.sqrt(variance[active_y]))
    out[kept] = np.clip(covariance / scale, -1.0, 1.0)
    if x == y:
        np.fill_diagonal(out, active.alive[of_x].astype(np.float64))
    return out
