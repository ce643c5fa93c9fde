"""A comparison of an analysis, typed: members, units, pairs, all nets together, and means over pairs of nets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.analysis.file import Columns
from convergence.analysis.summaries import PopulationNumbers
from convergence.inference import Estimate, NetsNumber
from convergence.results.best_layers import BestLayers, read_best_layers
from convergence.results.causes import CauseMean, cause_means
from convergence.results.groups import SharedDimensions, dimensions_of_all
from convergence.results.pair import (
    ALL_IMAGES,
    KINDS,
    TRAINED_OR_NOT,
    Kind,
    PairResults,
)
from convergence.results.populations import Difference, Summary, difference_of, differences, summaries
from convergence.results.source import ComparisonSource, spans

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class UnitSummary:
    """Statistics of all units of a member, inactive ones included, (n_units,) each.

    ``zero_fraction`` and the percentiles are None where the statistics hold no histograms.
    """

    mean: Float64
    mean_error: Float64
    standard_deviation: Float64
    zero_fraction: Float64 | None
    median: Float64 | None
    percentile_90: Float64 | None
    percentile_99: Float64 | None
    active: npt.NDArray[np.bool_]
    inactive_reason: npt.NDArray[np.str_]
    rare: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ConsensusResults:
    """Nets of a kind aligned together.

    Attributes
    ----------
    kind, nets : of the nets, and their members of the comparison
    members, strength, present : (n_consensus, n_nets) unit of each net (-1 for none), its correlation with the mean of
        the others, and whether that exceeds the ``threshold``, the strength of units of a net in another basis
    unit_correlation, unit_correlation_error, n_nets : (n_consensus,) mean correlation of the members with its error,
        and the nets in which the unit is present
    mean_correlation, cycle_consistency : over all units, and share of paths through three nets that return
    shared : share of the consensus units present in at least 2, 3, … nets; empty without a threshold
    signed, sign : "r", or "|r|" for units without a preferred sign; (n_consensus, n_nets) signs of the members
    null_reason : why there is no threshold; "" if there is one
    dimensions : that all nets share
    cycle_chance, cycle_paths, held_out_mean_correlation : chance level, number of paths, mean on other images
    """

    kind: str
    nets: tuple[str, ...]
    members: Indices
    strength: Float64
    present: npt.NDArray[np.bool_]
    unit_correlation: Float64
    unit_correlation_error: Float64
    n_nets: Indices
    threshold: float
    mean_correlation: Estimate
    cycle_consistency: Estimate
    shared: dict[int, Estimate]
    cycle_chance: float
    cycle_paths: int
    held_out_mean_correlation: float
    signed: str
    sign: Indices
    null_reason: str
    dimensions: SharedDimensions


@dataclass(frozen=True, eq=False)
class NetMap:
    """Members as points of a plane: ``points`` (n, 2), ``distances`` (n, n) in rad, the share ``explained``."""

    nets: tuple[str, ...]
    points: Float64
    distances: Float64
    explained: float


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A mean over units by epoch, (n_epochs,) each."""

    epoch: Indices
    value: Float64
    standard_error: Float64


@dataclass(frozen=True, eq=False)
class LayerOverTime:
    """A layer over epochs: of each net, and of each pair of nets.

    Attributes
    ----------
    layer, epochs : which
    own : by net, correlation of units with themselves at the last epoch
    matched, final_partner, same_partner : by pair, correlation of matched units, correlation with the partner of the
        last epoch, and share of units with that partner
    first_matched : by pair, epoch of each unit of the first net from which on it has its final partner; -1 without one
    """

    layer: str
    epochs: Indices
    own: dict[str, Trajectory]
    matched: dict[tuple[str, str], Trajectory]
    final_partner: dict[tuple[str, str], Trajectory]
    same_partner: dict[tuple[str, str], Trajectory]
    first_matched: dict[tuple[str, str], Indices]


@dataclass(frozen=True, eq=False)
class ComparisonResults:
    """One comparison of an analysis.

    Attributes
    ----------
    name : of the comparison
    nets, trained, sources : per member its name, whether it is trained, and the graph node that was read
    of_net, layers, epochs : per member its net, the layer asked for, and the epoch (-1: the final weights)
    widths : per member its number of units
    pairs : those with results
    left_out : by the names of a pair, why it has no results
    """

    name: str
    nets: tuple[str, ...]
    trained: tuple[bool, ...]
    sources: tuple[str, ...]
    of_net: tuple[str, ...]
    layers: tuple[str, ...]
    epochs: tuple[int, ...]
    widths: tuple[int, ...]
    pairs: tuple[PairResults, ...]
    left_out: dict[tuple[str, str], str]
    source: ComparisonSource

    @property
    def whole(self) -> bool:
        """Whether every net takes part once: with one layer, at one epoch."""
        return len(set(self.of_net)) == len(self.nets)

    @property
    def signless(self) -> bool:
        """Whether no member has an activation function: signs of its units are arbitrary."""
        return bool((self.source.table("members")["null_kind"] == "sums").all())

    @property
    def unprivileged(self) -> bool:
        """Whether no member has a privileged basis: linear maps write it, and only linear maps and norms read it."""
        return not self.source.table("members")["privileged"].any()

    @property
    def null_reason(self) -> str:
        """Why there is no chance level from other bases; "" if every member has one."""
        return next((str(reason) for reason in self.source.table("members")["null_reason"] if reason), "")

    def of_kind(self, kind: Kind) -> list[PairResults]:
        """The pairs of one kind."""
        return [pair for pair in self.pairs if pair.kind == kind]

    @property
    def kinds(self) -> list[Kind]:
        """Kinds of pairs to draw side by side: trained and untrained; others where there are neither."""
        return [kind for kind in TRAINED_OR_NOT if kind in self.all_kinds] or self.all_kinds

    @property
    def all_kinds(self) -> list[Kind]:
        """Kinds of pairs that there are."""
        return [kind for kind in KINDS if self.of_kind(kind)]

    def pair(self, x: str, y: str) -> PairResults | None:
        """One pair, if it has results; members in the order of the file."""
        return next((pair for pair in self.pairs if (pair.x, pair.y) == (x, y)), None)

    def either_pair(self, x: str, y: str) -> PairResults | None:
        """One pair in the order of the file, named in either order; None if it has no results."""
        return self.pair(x, y) or self.pair(y, x)

    @property
    def first_pair(self) -> PairResults | None:
        """The first trained pair, else the first pair; None without any."""
        return next(iter([*self.of_kind("trained"), *self.pairs]), None)

    def why_left_out(self, x: str, y: str) -> str | None:
        """Why a pair has no results, in either order; None for other pairs."""
        return self.left_out.get((x, y)) or self.left_out.get((y, x))

    @cached_property
    def measures(self) -> list[str]:
        """Names of the similarity measures that were computed, from the first pair."""
        if not self.pairs:
            return []
        rows = self.source.rows("measures", (self.pairs[0].x, self.pairs[0].y))
        return list(dict.fromkeys(rows["measure"][rows["family"] == "similarity"].tolist()))

    def units(self, net: str) -> UnitSummary:
        """Statistics of a member's units."""
        rows = self.source.rows("units", (net,))
        found: dict[str, Any] = {field.name: rows[field.name] for field in fields(UnitSummary)}
        for name in ("zero_fraction", "median", "percentile_90", "percentile_99"):
            if np.isnan(found[name]).all():
                found[name] = None
        return UnitSummary(**found)

    def correlation(self, x: str, y: str, units_x: Any = slice(None), units_y: Any = slice(None)) -> Float64:
        """(n_x, n_y) correlations of (some) units of two members, or within one; 0 for inactive units."""
        matrix = self.source.matrix("correlation")
        return matrix[self._span(x), self._span(y)][units_x][:, units_y]

    def joint_correlation(self, pair: PairResults) -> Float64:
        """(n, n) correlations of the joined active units of a pair, those of x first."""
        at = np.concatenate(
            [np.arange(self._span(net).stop)[self._span(net)][units]
             for net, units in ((pair.x, pair.units_x), (pair.y, pair.units_y))]
        )  # fmt: skip
        return self.source.matrix("correlation")[np.ix_(at, at)]

    def _span(self, net: str) -> slice:
        return self.source.span("units", (net,))

    def summary(self, measure: str, kind: Kind, evaluation: str = ALL_IMAGES, group: str = "") -> Summary | None:
        """A number over the pairs of one kind, both directions where there are two; None without any.

        Intervals of numbers from all images are clipped to the number's range.
        """
        return self._summaries.get((measure, evaluation, kind, group))

    def difference(
        self, measure: str, first: Kind = "trained", second: Kind = "untrained", evaluation: str = ALL_IMAGES
    ) -> Difference | None:
        """A number of one kind of pairs minus that of another; None unless both kinds have it.

        Nets that are in pairs of both kinds are matched, and so are image groups.
        """
        found = self._differences.get((measure, evaluation, first, second))
        if found is not None:
            return found
        one, other = (self.number(measure, kind, evaluation) for kind in (first, second))
        if one is None or other is None:
            return None
        return difference_of(one, other, True, measure, evaluation, (first, second))

    def number(self, measure: str, kind: Kind, evaluation: str = ALL_IMAGES, group: str = "") -> NetsNumber | None:
        """The replicates behind a summary, over nets and images; None if no pair of the kind has the number."""
        key = (measure, evaluation)
        known = kind in self._numbers.groups and key in self._numbers.keys
        return self._numbers.number(key, kind, group) if known else None

    @cached_property
    def _summaries(self) -> dict[tuple[str, str, str, str], Summary]:
        found = summaries(self.source.table("summaries"))
        return {(one.measure, one.evaluation, one.kind, one.group): one for one in found}

    @cached_property
    def _differences(self) -> dict[tuple[str, str, str, str], Difference]:
        found = differences(self.source.table("differences"))
        return {(one.measure, one.evaluation, one.first, one.second): one for one in found}

    @cached_property
    def _numbers(self) -> PopulationNumbers:
        members, pairs, measures = (self.source.table(name) for name in ("members", "pairs", "measures"))
        without, draws = (self.source.matrix(f"measures_{rows}") for rows in ("without", "draws"))
        return PopulationNumbers(members, pairs, measures, without, draws)

    @cached_property
    def consensus(self) -> dict[str, ConsensusResults]:
        """By kind of nets: "trained", "untrained", with layer and epoch where these differ."""
        return {str(kind): self._consensus(str(kind)) for kind in self.source.table("consensus")["kind"]}

    def _consensus(self, kind: str) -> ConsensusResults:
        scalars, units, members = (
            self.source.rows(table, (kind,)) for table in ("consensus", "consensus_units", "consensus_members")
        )
        n = int(scalars["n_nets"][0])
        span = self.source.span("consensus_measures", (kind,))
        rows = self.source.rows("consensus_measures", (kind,))
        estimates = self._consensus_estimates[span]
        by_name = {
            (name, at): e
            for name, at, e in zip(rows["measure"].tolist(), rows["n_nets"].tolist(), estimates, strict=True)
        }
        return ConsensusResults(
            kind=kind,
            nets=tuple(members["member"][:n].tolist()),
            members=members["unit"].reshape(-1, n),
            strength=members["strength"].reshape(-1, n),
            present=members["present"].reshape(-1, n),
            unit_correlation=units["mean_correlation"],
            unit_correlation_error=units["standard_error"],
            n_nets=units["n_nets"],
            threshold=float(scalars["threshold"][0]),
            mean_correlation=by_name["mean_correlation", 0],
            cycle_consistency=by_name["cycle_consistency", 0],
            shared={at: e for (name, at), e in by_name.items() if name == "present"},
            cycle_chance=float(scalars["cycle_chance"][0]),
            cycle_paths=int(scalars["cycle_paths"][0]),
            held_out_mean_correlation=float(scalars["held_out_mean_correlation"][0]),
            signed=str(scalars["signed"][0]),
            sign=members["sign"].reshape(-1, n),
            null_reason=str(scalars["null_reason"][0]),
            dimensions=dimensions_of_all(scalars, self.source.rows("consensus_dimensions", (kind,))),
        )

    @cached_property
    def _consensus_estimates(self) -> list[Estimate]:
        return self.source.all_estimates("consensus_measures")

    @cached_property
    def causes(self) -> tuple[CauseMean, ...]:
        """Similarity of trained nets by what their trainings share; () where all pairs share the same."""
        return tuple(cause_means(self.source.table("causes")))

    @cached_property
    def map(self) -> NetMap | None:
        """The members as points of a plane; None for fewer than three with distances."""
        rows = self.source.table("map")
        if not len(rows["member"]):
            return None
        points = np.stack([rows["first"], rows["second"]], axis=1)
        nets = tuple(rows["member"].tolist())
        return NetMap(nets, points, self.source.matrix("map_distances"), float(rows["explained"][0]))

    @cached_property
    def best_layers(self) -> list[BestLayers]:
        """Pairs of nets, in both directions, with the layers of best partners; [] unless nets have several layers."""
        return read_best_layers(self.source)

    @cached_property
    def over_time(self) -> list[LayerOverTime]:
        """Layers over epochs; [] for comparisons of one epoch."""
        return [self._over_time(layer) for layer in dict.fromkeys(self.source.table("over_time")["layer"].tolist())]

    def _over_time(self, layer: str) -> LayerOverTime:
        rows = self.source.rows("over_time", (layer,))
        found: dict[str, dict[tuple[str, str], Trajectory]] = {}
        for (measure, x, y), span in runs_of(rows, ("measure", "x", "y")):
            found.setdefault(measure, {})[x, y] = Trajectory(
                *(rows[name][span] for name in ("epoch", "value", "standard_error"))
            )
        units = self.source.rows("over_time_units", (layer,))
        own = {x: trajectory for (x, _), trajectory in found.pop("own").items()}
        return LayerOverTime(
            layer=layer,
            epochs=next(iter(own.values())).epoch,
            own=own,
            matched=found.get("matched", {}),
            final_partner=found.get("final_partner", {}),
            same_partner=found.get("same_partner", {}),
            first_matched={(x, y): units["first_matched"][span] for (x, y), span in runs_of(units, ("x", "y"))},
        )


def runs_of(rows: Columns, names: tuple[str, ...]) -> list[tuple[tuple[str, ...], slice]]:
    """Consecutive rows of equal values of some columns, in order."""
    return list(spans(rows, names).items())


def kinds_of(comparisons: Sequence[ComparisonResults]) -> list[Kind]:
    """Kinds of pairs that any comparison has."""
    return [kind for kind in KINDS if any(kind in one.all_kinds for one in comparisons)]
