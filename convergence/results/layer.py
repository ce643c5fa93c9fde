"""One comparison, opened: what its nets' units have in common. Cheap answers come from the sums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from convergence.alignment.matching import matching, semi_matching
from convergence.analysis.file import AnalysisFile, open_analysis
from convergence.analysis.layer import describe_units
from convergence.analysis.live import LiveUnits, live_units
from convergence.errors import UserError, did_you_mean
from convergence.io import hdf5
from convergence.results.labelled import Labelled, Table
from convergence.results.moments import pair_correlation
from convergence.results.pairs import Recipe, UnitClusters, UnitMatching, partners, row_of
from convergence.statistics.file import ComparisonSums, open_statistics
from convergence.summary import KINDS, Kind, PairResult, Summary, measured, read_layer
from convergence.summary import Layer as Results
from convergence.uncertainty import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from convergence.results.run import Run

NUMBERS = [field.name for field in fields(Estimate) if field.name != "without"]


class Layer:
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
                unit_net = sums.unit_net
        else:
            with self._analysis() as file:
                about = file.about(name)
                self.nets, self.trained = tuple(about["nets"]), tuple(about["trained"])
                unit_net = file.units(name)["net"]
        self.widths = tuple(np.bincount(unit_net, minlength=len(self.nets)).tolist())

    # ---- units ----

    def units(self, net: str) -> Table:
        """A row a unit of a net: mean activation with its error, spread, share of zeros, percentiles, why left out."""
        k = self._index(net)
        if self._run.statistics is None:
            with self._analysis() as file:
                columns = file.units(self.name)
        else:
            with self._sums() as sums:
                columns = {"net": sums.unit_net, **describe_units(sums, self._live)}
        own = columns["net"] == k
        rest = {name: np.asarray(values)[own] for name, values in columns.items() if name != "net"}
        return Table({"unit": np.arange(self.widths[k]), **rest})

    # ---- two nets ----

    def correlation(self, x: str, y: str | None = None) -> Labelled:
        """(n_x, n_y) correlations of all units of two nets, or within one; 0 for units that carry nothing."""
        y = x if y is None else y
        i, j = self._index(x), self._index(y)
        if self._run.statistics is None:
            with self._analysis() as file:
                starts = np.concatenate([[0], np.cumsum(self.widths)])
                values = file.raw_file["comparisons"][self.name]["correlation"][
                    starts[i] : starts[i + 1], starts[j] : starts[j + 1]
                ]
        else:
            with self._sums() as sums:
                values = pair_correlation(sums, self._live, x, y)
        return self._labelled(values, x, y, "correlation")

    def mutual_information(self, x: str, y: str | None = None) -> Labelled:
        """(n_x, n_y) mutual information in nats, corrected for the bias of counting.

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
            of_x, of_y = (sums.units(net) for net in (x, y))
            values = sums.mutual_information[of_x[0] : of_x[-1] + 1, of_y[0] : of_y[-1] + 1]
        return self._labelled(np.asarray(values), x, y, "mutual information (nats)")

    def matching(self, x: str, y: str) -> UnitMatching:
        """The one-to-one matching of two nets; errors, held-out values and chance levels where there is an analysis."""
        between = self.correlation(x, y)
        found = self._find(x, y)
        if found is None:
            live_x, live_y = self._live_of(x, y)
            one = matching(np.asarray(between)[np.ix_(live_x, live_y)])
            return UnitMatching(
                self.name, x, y, live_x[one.rows], live_y[one.columns], one.values, None, None, None, between
            )
        pair, turned = found
        rows, unit_x, unit_y = partners(pair.tree, "matching", turned)
        a = pair.tree["alignment"]
        estimates = pair.tree["measures"].get("matching")
        return UnitMatching(
            self.name, x, y, unit_x, unit_y, a["matching_correlation"][rows], a["matching_error"][rows],
            None if turned else a["matching_held_out"][rows], Estimate(**estimates["xy"]) if estimates else None,
            between,
        )  # fmt: skip

    def semi_matching(self, x: str, y: str) -> Table:
        """A row a live unit of x: its best partner in y, with replacement.

        With an analysis also ``standard_error``, ``held_out`` (with the partner that the other half of the images
        chooses), ``null`` (the best direction of a rotated basis), ``p`` and ``q`` (false discoveries controlled).
        """
        found = self._find(x, y)
        if found is None:
            live_x, live_y = self._live_of(x, y)
            r = np.asarray(self.correlation(x, y))[np.ix_(live_x, live_y)]
            best = semi_matching(r)
            return Table({"unit_x": live_x, "unit_y": live_y[best], "correlation": r[np.arange(len(r)), best]})
        pair, turned = found
        a, key = pair.tree["alignment"], "semi_yx" if turned else "semi_xy"
        extras = {"standard_error": "error", "held_out": "held_out", "null": "null", "p": "p", "q": "q"}
        return Table(
            {
                "unit_x": pair.tree["units_y" if turned else "units_x"],
                "unit_y": a[key],
                "correlation": a[f"{key}_correlation"],
                **{name: a[f"{key}_{ending}"] for name, ending in extras.items() if f"{key}_{ending}" in a},
            }
        )

    # ---- from the analysis ----

    def measures(self) -> Table:
        """A row a pair of nets, measure and direction: value with interval, chance levels, ceiling, held-out value."""
        rows = []
        for pair in self._results.pairs:
            for name, directions in pair.tree["measures"].items():
                for direction, numbers in directions.items():
                    held = pair.tree["held_out"].get(name, {}).get(direction, {}).get("value", np.nan)
                    row = {"x": pair.x, "y": pair.y, "kind": pair.kind, "measure": name, "direction": direction}
                    rows.append(row | {key: float(numbers[key]) for key in NUMBERS} | {"held_out": float(held)})
        columns = ["x", "y", "kind", "measure", "direction", *NUMBERS, "held_out"]
        return Table.of_rows(rows, columns)

    def estimate(self, measure: str, x: str, y: str) -> Estimate:
        """A measure of two nets, x to y, with its interval, chance levels and ceiling."""
        pair, turned = self._pair(x, y)
        known = pair.tree["measures"]
        if measure not in known:
            why = pair.tree["unavailable"].get(measure)
            raise UserError(f"{measure}: {why}." if why else f'no measure "{measure}"; {did_you_mean(measure, known)}.')
        return Estimate(**known[measure].get("yx" if turned else "xy", known[measure]["xy"]))

    def summary(self, measure: str, kind: Kind = "trained") -> Summary:
        """A measure over all pairs of nets of a kind ("trained", "untrained", "mixed"); its text has the interval."""
        if kind not in KINDS:
            raise UserError(f'no kind "{kind}" of pairs; {did_you_mean(kind, KINDS)}.')
        known = self._results.measures()
        if measure not in known:
            raise UserError(f'no measure "{measure}"; {did_you_mean(measure, known)}.')
        found = measured(self._results, measure, kind)
        if found is None:
            raise UserError(f"{self.name}: there is no pair of {kind} nets.")
        return found

    def clusters(self, x: str, y: str) -> UnitClusters:
        """Spectral clusters of the joined units of two nets."""
        pair, _ = self._pair(x, y)
        if "clusters" not in pair.tree:
            raise UserError(f"{self.name}: no clusters were computed (analysis.clustering, or several members a net).")
        found = pair.tree["clusters"]
        units = [pair.tree["units_x"], pair.tree["units_y"]]
        table = Table(
            {
                "net": np.repeat([pair.x, pair.y], [len(u) for u in units]),
                "unit": np.concatenate(units),
                "cluster": np.concatenate([found["labels_x"], found["labels_y"]]),
            }
        )
        return UnitClusters(
            self.name, pair.x, pair.y, table, int(found["n_clusters"]), found["sizes"], found["mean_similarity"],
            found["mean_similarity_error"], float(found["stability"]), lambda: self.figure("clusters", pair.x, pair.y),
        )  # fmt: skip

    def recipe(self, net: str, unit: int, predictors: str) -> Recipe:
        """How a unit of ``net`` is made of units of another net: few of them, and what all of them reach."""
        pair, turned = self._pair(predictors, net)
        key = "sparse_yx" if turned else "sparse_xy"
        if key not in pair.tree:
            raise UserError(
                f"{self.name}: no sparse mappings were computed (analysis.sparse, or several members a net)."
            )
        found = pair.tree[key]
        row = row_of(pair.tree["units_x" if turned else "units_y"], unit, net)
        chosen = found["recipe_units"][row] >= 0
        return Recipe(
            net, unit, predictors,
            Table({"predictor": found["recipe_units"][row][chosen], "weight": found["recipe_weights"][row][chosen]}),
            float(found["unit_loss"][found["chosen"], row]),
            Table({"predictor": found["forward_units"][row], "loss": found["forward_unit_loss"][row]}),
            float(found["dense_unit_loss"][row]), int(found["units_for_90"][row]),
        )  # fmt: skip

    def tree(self, x: str, y: str) -> dict[str, Any]:
        """All that was computed of two nets, in the order of the file, as in analysis.h5: see docs/files.md."""
        return self._pair(x, y)[0].tree

    @property
    def all_nets(self) -> dict[str, Any]:
        """What was computed of all nets at once: consensus units, map, trajectories; see docs/files.md."""
        return self._results.all_nets

    def figure(self, name: str, x: str, y: str) -> Figure:
        """A figure of the report for two nets: "matched_units", "matrices", "sparse", "codes", "clusters", …"""
        from convergence.figures import FIGURES
        from convergence.results.pictures import shown

        if name not in FIGURES:
            raise UserError(f'no figure "{name}"; {did_you_mean(name, FIGURES)}.')
        drawing = FIGURES.load(name)(self._results, self._pair(x, y)[0])
        if drawing is None:
            raise UserError(f"{self.name}: the analysis has nothing to show in the figure {name}.")
        return shown(drawing.figure)

    # ---- how ----

    def __repr__(self) -> str:
        nets = ", ".join(f"{net} ({width})" for net, width in zip(self.nets, self.widths, strict=True))
        return f"<layer {self.name}: units of {nets}{'' if self._run.analysis else '; not analysed'}>"

    def _repr_html_(self) -> str:
        import html

        table = Table({"net": np.array(self.nets), "trained": np.array(self.trained), "units": np.array(self.widths)})
        return f"<p>{html.escape(self.name)}</p>{table._repr_html_()}"

    @contextmanager
    def _sums(self) -> Iterator[ComparisonSums]:
        assert self._run.statistics is not None
        with open_statistics(self._run.statistics) as file:
            yield file.sums(self.name)

    @contextmanager
    def _analysis(self) -> Iterator[AnalysisFile]:
        if self._run.analysis is None:
            raise UserError(
                f"{self.name}: this needs the analysis. Make it with run.analyze(), or `convergence analyze "
                f"{self._run.statistics}`."
            )
        with open_analysis(self._run.analysis) as file:
            yield file

    @cached_property
    def _live(self) -> LiveUnits:
        with self._sums() as sums:
            return live_units(sums)

    @cached_property
    def _results(self) -> Results:
        with self._analysis() as file:
            return read_layer(file, self.name)

    def _find(self, x: str, y: str) -> tuple[PairResult, bool] | None:
        """The analysed pair and whether it is the other way round in the file; None without results of it."""
        self._different(x, y)
        if not self._run.is_analysed(self.name):
            return None
        pair, turned = self._results.pair(x, y), self._results.pair(y, x)
        return (pair, False) if pair else (turned, True) if turned else None

    def _pair(self, x: str, y: str) -> tuple[PairResult, bool]:
        self._different(x, y)
        found = self._results.pair(x, y) or self._results.pair(y, x)
        if found is None:
            why = self._results.left_out.get(f"{x}, {y}") or self._results.left_out.get(f"{y}, {x}") or "no results"
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

    def _live_of(self, x: str, y: str) -> list[Any]:
        starts = np.concatenate([[0], np.cumsum(self.widths)])
        found = []
        for net in (x, y):
            k = self._index(net)
            own = self._live.alive[starts[k] : starts[k + 1]]
            if not own.any():
                raise UserError(f"{self.name}: {net} has no unit that carries anything.")
            found.append(np.flatnonzero(own))
        return found

    def _labelled(self, values: Any, x: str, y: str, name: str) -> Labelled:
        dims = (f"unit of {x}", f"unit of {y}" if x != y else f"other unit of {x}")
        return Labelled(
            values, dims, {dim: np.arange(n) for dim, n in zip(dims, values.shape, strict=True)}, f"{self.name} {name}"
        )


def verify(layer: Layer) -> None:
    """Hold everything that a layer reads against its checksums; FileError for the first dataset that is damaged."""
    if layer._run.statistics is not None:
        with open_statistics(layer._run.statistics) as file:
            file.verify(layer.name)
    if layer._run.analysis is not None:
        with open_analysis(layer._run.analysis) as found:
            hdf5.verify(found.raw_file["comparisons"][layer.name])
