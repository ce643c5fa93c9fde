"""How similarity grows: a number over pairs of nets against the width of the layer, training time, or a given quantity.

Every point is a mean over the pairs of nets of one group with its interval over nets and its own chance level: the best
of many units is larger than the best of few, so that values of different widths are compared with the chance level of
their width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convergence.analysis.summaries import labels_of_members
from convergence.results.populations import Summary

if TYPE_CHECKING:
    from convergence.results.comparison import ComparisonResults

WIDTH, EPOCH = "width", "epoch"
STATES = ("trained", "untrained")
COLUMNS = (
    "along", "of", "measure", "kind", "at", "n_nets", "n_pairs", "value", "low", "high", "missing", "null", "null_sd",
    "excess", "excess_low", "excess_high",
)  # fmt: skip


@dataclass(frozen=True)
class Growth:
    """A number over pairs of nets against a quantity in which groups of nets differ.

    Attributes
    ----------
    along : the quantity: "width", "epoch", or what the caller says, like "training images"
    of : the layer, and what else is the same for all points
    measure, kind : the number, and the kind of pairs; epochs begin with the initial weights, of kind "untrained"
    points : value of the quantity and the number of the group's pairs, ascending
    """

    along: str
    of: str
    measure: str
    kind: str
    points: tuple[tuple[float, Summary], ...]

    @classmethod
    def along_values(cls, along: str, of: str, points: Sequence[tuple[float, Summary]]) -> Growth:
        """From summaries of any comparisons and runs, each at a value of the quantity.

        Raises
        ------
        ValueError
            for fewer than two values, or summaries of different numbers.
        """
        found = sorted(points, key=lambda point: point[0])
        numbers = {(summary.measure, summary.evaluation) for _, summary in found}
        if len({at for at, _ in found}) < max(len(found), 2) or len(numbers) != 1:
            raise ValueError("growth needs one number at two different values or more, once at each")
        last = found[-1][1]
        return cls(along, of, last.measure, last.kind, tuple(found))

    def rows(self) -> Iterator[tuple[object, ...]]:
        """The points as rows of ``COLUMNS``."""
        for at, found in self.points:
            numbers = (getattr(found, name) for name in COLUMNS[5:])
            yield (self.along, self.of, self.measure, found.kind, at, *numbers)


@dataclass(frozen=True)
class _Group:
    """Members of equal layer, epoch, width and state of training, and the group of their pairs in ``summaries``."""

    layer: str
    epoch: int
    width: int
    kind: str
    group: str
    label: str


def growths_within(comparison: ComparisonResults, measures: Sequence[str]) -> list[Growth]:
    """Every measure along the widths and the epochs in which groups of nets of a comparison differ; [] without any."""
    groups = _groups(comparison)
    found: list[Growth] = []
    for along in (WIDTH, EPOCH):
        for of, points in _series(groups, along):
            found += _growths(along, of, [(at, comparison, group) for at, group in points], measures)
    return found


def growths_across(comparisons: Sequence[ComparisonResults], measures: Sequence[str]) -> list[Growth]:
    """Every measure along the widths of comparisons that have one group of nets each, all of the same layer."""
    by_layer: dict[tuple[str, str], list[tuple[float, ComparisonResults, _Group]]] = {}
    for comparison in comparisons:
        groups = _groups(comparison)
        if len({group.label for group in groups}) == 1:
            for group in groups:
                place = (float(group.width), comparison, group)
                by_layer.setdefault((group.layer, group.kind), []).append(place)
    found: list[Growth] = []
    for (layer, _), places in by_layer.items():
        if 1 < len(places) == len({at for at, _, _ in places}):
            found += _growths(WIDTH, layer, sorted(places, key=lambda place: place[0]), measures)
    return found


def _growths(
    along: str, of: str, places: Sequence[tuple[float, ComparisonResults, _Group]], measures: Sequence[str]
) -> Iterator[Growth]:
    for measure in measures:
        points = [
            (at, summary)
            for at, comparison, group in places
            if (summary := comparison.summary(measure, group.kind, group=group.group)) is not None  # type: ignore[arg-type]
        ]
        if len(points) > 1:
            yield Growth.along_values(along, of, points)


def _series(groups: Sequence[_Group], along: str) -> Iterator[tuple[str, list[tuple[float, _Group]]]]:
    """Groups that differ in one quantity alone: what they have in common, and their values of it."""
    last = {g.layer: max(other.epoch for other in groups if other.layer == g.layer) for g in groups}
    common: dict[tuple[object, ...], list[tuple[float, _Group]]] = {}
    for group in groups:
        if along == WIDTH and group.epoch == last[group.layer]:
            common.setdefault((group.layer, group.kind), []).append((float(group.width), group))
        elif along == EPOCH and group.epoch >= 0 and (group.kind == "trained") == (group.epoch > 0):
            common.setdefault((group.layer, group.width), []).append((float(group.epoch), group))
    several = len({group.width for group in groups}) > 1
    for (layer, other), places in common.items():
        if len({at for at, _ in places}) > 1:
            fixed = f", width {other}" if along == EPOCH and several else ""
            yield f"{layer}{fixed}", sorted(places, key=lambda place: place[0])


def _groups(comparison: ComparisonResults) -> list[_Group]:
    """Groups of members that have everything in common."""
    members = comparison.source.table("members")
    labels = labels_of_members(members)
    one = len(set(labels.values())) == 1
    found = []
    columns = (members[name].tolist() for name in ("member", "layer", "epoch", "n_units", "trained"))
    for member, layer, epoch, width, trained in zip(*columns, strict=True):
        kind = STATES[0] if trained else STATES[1]
        found.append(_Group(layer, epoch, width, kind, "" if one else labels[member], labels[member]))
    return list(dict.fromkeys(found))
