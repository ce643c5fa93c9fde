"""Results of stitching as tables, and each comparison's means over pairs of nets. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from convergence.functional.scores import RANGE, Scores
from convergence.inference import Estimate, mean_estimate

PairRow = TypeVar("PairRow", bound="PairOfNets")


@dataclass(frozen=True)
class PairOfNets:
    """A layer of net ``a`` computed from the layer of net ``b``."""

    comparison: str
    a: str
    b: str


@dataclass(frozen=True)
class StitchedPair(PairOfNets):
    """The two layers of a pair; ``order`` is the comparison's place in the config.

    ``source`` is the graph node that is replaced, ``bypassing`` are nodes of ``a`` whose values bypass the layer,
    ``dead_a`` is the number of units of ``a`` that do not vary.
    """

    order: int
    layer: str
    source: str
    bypassing: str
    n_a: int
    n_b: int
    dead_a: int
    a_trained: bool
    b_trained: bool


@dataclass(frozen=True)
class StitchedMap(PairOfNets):
    """Held-out scores of a stitched net by map; null maps are means over draws, ``own`` is net ``a`` itself.

    ``explained`` is the mean R² of the units of ``a`` on images that the map was not fitted on.
    """

    map: str
    accuracy: Estimate
    loss: Estimate
    accuracy_minus_own: Estimate
    loss_minus_own: Estimate
    explained: float
    scores: Scores


@dataclass(frozen=True)
class NullDraw(PairOfNets):
    """Accuracy of one draw of a null map."""

    map: str
    draw: int
    accuracy: float


@dataclass(frozen=True)
class TransplantedLayer(PairOfNets):
    """Number of units matched in both halves, and the scores of net ``a`` with its own units."""

    n_matched: int
    own: Scores


@dataclass(frozen=True)
class UnitReplacement(PairOfNets):
    """Effect of replacing one unit.

    ``strength`` is the held-out correlation of the unit with its partner, ``gain`` the rise of the mean loss in nats
    with its standard ``error``; ``felt`` marks units whose ablation raises the loss by two standard errors.
    """

    kind: str
    unit: int
    strength: float
    felt: bool
    gain: float
    error: float
    scores: Scores


@dataclass(frozen=True)
class ReplacementEffect(PairOfNets):
    """Mean rise of the loss over units, and its share of the rise by ablation (missing where that rise is unclear)."""

    kind: str
    mean: Estimate
    of_ablation: Estimate | None


@dataclass(frozen=True)
class RankCorrelation(PairOfNets):
    """Spearman correlation over units of match strength and effect; missing for fewer than four units."""

    kind: str
    n_units: int
    p: float
    rank: Estimate | None


@dataclass(frozen=True)
class CumulativeStep(PairOfNets):
    """Scores with the first ``units`` of ``n_units`` matched units replaced together, in one order."""

    order: str
    units: int
    n_units: int
    accuracy: Estimate
    loss: Estimate


@dataclass(frozen=True)
class SkippedPair(PairOfNets):
    """Why a part ("stitched", "transplants" or "cumulative") was skipped."""

    part: str
    reason: str


@dataclass(frozen=True)
class StitchingResults:
    """The tables of ``functional/stitch.h5``."""

    pairs: tuple[StitchedPair, ...] = ()
    maps: tuple[StitchedMap, ...] = ()
    draws: tuple[NullDraw, ...] = ()
    transplanted_layers: tuple[TransplantedLayer, ...] = ()
    unit_replacements: tuple[UnitReplacement, ...] = ()
    effects: tuple[ReplacementEffect, ...] = ()
    ranks: tuple[RankCorrelation, ...] = ()
    cumulative: tuple[CumulativeStep, ...] = ()
    skipped: tuple[SkippedPair, ...] = ()

    def layers(self) -> list[StitchedLayer]:
        """The comparisons in the order of the config."""
        order = {pair.comparison: pair.order for pair in self.pairs}
        names = dict.fromkeys(row.comparison for row in (*self.pairs, *self.skipped))
        return [StitchedLayer(name, self) for name in sorted(names, key=lambda name: order.get(name, 0))]


@dataclass(frozen=True, eq=False)
class StitchedLayer:
    """One comparison; ``kind`` is "trained" for pairs of two trained nets, "untrained" for the others.

    Means are over all pairs of a kind, and None where a pair has no such number.
    """

    name: str
    results: StitchingResults

    def pairs(self, kind: str | None = None) -> list[StitchedPair]:
        """The stitched pairs, of one kind or all."""
        pairs = [pair for pair in self.results.pairs if pair.comparison == self.name]
        return [p for p in pairs if kind is None or (p.a_trained and p.b_trained) == (kind == "trained")]

    @property
    def kinds(self) -> list[str]:
        """Kinds that have pairs."""
        return [kind for kind in ("trained", "untrained") if self.pairs(kind)] or ["trained"]

    def maps(self, name: str, kind: str) -> list[StitchedMap]:
        """A map's scores, one row per pair."""
        return [row for row in self._rows(self.results.maps, kind) if row.map == name]

    def accuracy(self, name: str, kind: str) -> Estimate | None:
        """Mean accuracy through a map."""
        return self._mean(kind, [row.accuracy for row in self.maps(name, kind)], RANGE)

    def loss(self, name: str, kind: str) -> Estimate | None:
        """Mean cross-entropy through a map, in nats."""
        return self._mean(kind, [row.loss for row in self.maps(name, kind)])

    def map_names(self) -> list[str]:
        """Maps of the first pair."""
        first = self.pairs()[:1]
        return [row.map for row in self.results.maps for pair in first if _of(row, pair)]

    def units_per_target(self) -> list[int]:
        """Numbers of units of the sparse maps."""
        return sorted(int(name.removeprefix("sparse_")) for name in self.map_names() if name.startswith("sparse_"))

    def ranks(self, name: str, kind: str) -> list[RankCorrelation]:
        """Rank correlations of a replacement, one row per pair."""
        return [row for row in self._rows(self.results.ranks, kind) if row.kind == name]

    def rank(self, name: str, kind: str) -> Estimate | None:
        """Mean rank correlation of match strength and effect."""
        return self._mean(kind, [row.rank for row in self.ranks(name, kind)], (-1.0, 1.0))

    def effect(self, name: str, kind: str) -> Estimate | None:
        """Mean rise of the loss by a replacement, in nats."""
        return self._mean(kind, [row.mean for row in self._rows(self.results.effects, kind) if row.kind == name])

    def share_of_ablation(self, name: str, kind: str) -> Estimate | None:
        """Mean rise of the loss by a replacement as a share of the rise by ablation."""
        rows = self._rows(self.results.effects, kind)
        return self._mean(kind, [row.of_ablation for row in rows if row.kind == name])

    def replacements(self, name: str, kind: str) -> list[tuple[StitchedPair, list[UnitReplacement]]]:
        """Single-unit effects of a replacement, by pair."""
        rows = [row for row in self._rows(self.results.unit_replacements, kind) if row.kind == name]
        return self._by_pair(rows, kind)

    def cumulative(self, order: str, kind: str) -> list[tuple[StitchedPair, list[CumulativeStep]]]:
        """Scores with more and more units replaced, by pair."""
        rows = [row for row in self._rows(self.results.cumulative, kind) if row.order == order]
        return self._by_pair(rows, kind)

    def skipped(self) -> list[SkippedPair]:
        """Pairs that could not be stitched."""
        return [row for row in self.results.skipped if row.comparison == self.name and row.part == "stitched"]

    def _rows(self, rows: Iterable[PairRow], kind: str) -> list[PairRow]:
        pairs = {(pair.a, pair.b) for pair in self.pairs(kind)}
        return [row for row in rows if row.comparison == self.name and (row.a, row.b) in pairs]

    def _by_pair(self, rows: Sequence[PairRow], kind: str) -> list[tuple[StitchedPair, list[PairRow]]]:
        found = [(pair, [row for row in rows if _of(row, pair)]) for pair in self.pairs(kind)]
        return [(pair, own) for pair, own in found if own]

    def _mean(
        self, kind: str, found: Sequence[Estimate | None], bounds: tuple[float, float] | None = None
    ) -> Estimate | None:
        estimates = [e for e in found if e is not None]
        if not estimates or len(estimates) < len(self.pairs(kind)):
            return None
        mean = mean_estimate(estimates)
        return mean.within(bounds) if bounds else mean


def _of(row: Any, pair: PairOfNets) -> bool:
    return (row.comparison, row.a, row.b) == (pair.comparison, pair.a, pair.b)
