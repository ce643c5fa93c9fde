"""Means of the numbers of a comparison over pairs of nets, with intervals over nets and images.

:class:`PopulationNumbers` reads the tables of a comparison, before they are written or from the file, and gives every
number over the pairs of a kind; :func:`summary_rows` and :func:`difference_rows` are the rows of the tables of
:mod:`convergence.analysis.population_tables`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.analysis.layout import ALL_IMAGES, CODE_SHARES, COUNTS, SHARES
from convergence.inference import NetsInterval, NetsNumber, PairUnits, image_bias, jackknife, nets_interval
from convergence.inference.populations import NumberKind
from convergence.similarity import MEASURES

Array = npt.NDArray[Any]
Columns = dict[str, Array]
Row = dict[str, Any]
Key = tuple[str, str]
"""Name of a number, and evaluation."""
KINDS = ("trained", "untrained", "mixed", "same_init")
COMPARED = (("trained", "untrained"), ("trained", "mixed"), ("same_init", "trained"))
"""Kinds of pairs whose differences are taken."""
OF_PAIRS = {
    "significant": ("significant_xy", "significant_yx"),
    **{name: (name,) for name in ("same_partner", "same_absolute", "same_halves", "sparsity")},
    **{f"distribution_{name}": (f"distribution_{name}",) for name in ("matched", "assigned", "any")},
    "distribution_within": ("distribution_within_x", "distribution_within_y"),
}
"""Numbers of the table pairs, each the mean of some columns; they have no error over images."""
UNKNOWN = "net "
"""Beginning of the names of units that are nets of unknown initialisation."""
NOT_OF_ALL_IMAGES = "shares of code sizes depend on the number of images, so that intervals would not cover"
NONE = float("nan")


@dataclass(frozen=True, eq=False)
class PairValues:
    """A number of every pair, both directions averaged; NaN for pairs without it.

    Attributes
    ----------
    value, null, null_sd, shifted, ceiling : (n_pairs,)
    without : (n_pairs, n_groups) the value without each image group; of no groups without an error over images
    draws : (n_pairs, n_draws) draws of the chance level, the same basis of a net in every pair
    n_draws : draws of the chance level of a pair; 0 for levels that are no draws
    smooth : whether the bias for want of images is estimated
    """

    value: Array
    null: Array
    null_sd: Array
    shifted: Array
    ceiling: Array
    without: Array
    draws: Array
    n_draws: int
    smooth: bool


class PopulationNumbers:
    """Every number of a comparison, over pairs of nets.

    Parameters
    ----------
    members, pairs, measures : tables of the comparison
    without : (n_rows of measures, n_groups) jackknife replicates of the measures
    draws : (n_rows of measures, n_draws) draws of their chance levels, NaN where there are fewer

    Attributes
    ----------
    pairs : the table of pairs, of those that have results
    """

    def __init__(self, members: Columns, pairs: Columns, measures: Columns, without: Array, draws: Array) -> None:
        kept = pairs["skip_reason"] == ""
        self.pairs: Columns = {name: values[kept] for name, values in pairs.items()}
        self._measures, self._without, self._draws = measures, without, draws
        self._place = {pair: k for k, pair in enumerate(zip(self.pairs["x"], self.pairs["y"], strict=True))}
        self._nets = units_of_members(members)
        self._labels = labels_of_members(members)
        self._epochs = dict(zip(members["member"].tolist(), members["epoch"].tolist(), strict=True))
        self._rows = self._rows_by_key()
        self._values: dict[Key, PairValues] = {}
        self._chosen: dict[tuple[str, str], tuple[Array, PairUnits]] = {}
        groups = [self._group(x, y) for x, y in self._place]
        self._group_of_pair = np.array(groups, dtype=np.str_)
        kinds = self.pairs["kind"]
        self.groups: dict[str, list[str]] = {
            kind: [name for name in dict.fromkeys(self._group_of_pair[self._of_kind(kind)].tolist()) if name]
            for kind in KINDS
            if (kinds == kind).any()
        }
        """Kinds of pairs, each with the groups of its pairs."""

    @property
    def keys(self) -> list[Key]:
        """Numbers that any pair has."""
        return [*self._rows, *((name, ALL_IMAGES) for name, of in OF_PAIRS.items() if self._of_pairs(of) is not None)]

    def unit(self, member: str) -> tuple[str, str]:
        """The (population, unit) of a member; members of one initialisation are one unit."""
        return self._nets[member][2]

    def number(self, key: Key, kind: str, group: str = "") -> NetsNumber | None:
        """A number over the pairs of a kind, and of a group of them; None if no pair has it."""
        values = self.values(key)
        at, units = self._pairs_of(kind, group)
        if not np.isfinite(values.value[at]).any():
            return None
        return units.mean(values.value[at], values.without[at], values.smooth, kind=kind_of(key[0]))

    def excess(self, key: Key, kind: str, group: str = "") -> NetsNumber | None:
        """A number minus its chance level, pair by pair; None without a chance level.

        The bias is not estimated, since the chance level is of as many images and has a similar one.
        """
        values = self.values(key)
        at, units = self._pairs_of(kind, group)
        above = (values.value - values.null)[at]
        if not np.isfinite(above).any():
            return None
        _, spread, n_draws = self.null(key, kind, group)
        monte_carlo = (spread**2 / n_draws, n_draws - 1) if n_draws > 1 and np.isfinite(spread) else (0.0, 1)
        without = values.without[at] - values.null[at][:, None]
        of_excess: NumberKind = "difference" if key[0] in SHARES else "similarity" if at_most_one(key[0]) else "plain"
        return units.mean(above, without, False, monte_carlo, of_excess)

    def null(self, key: Key, kind: str, group: str = "") -> tuple[float, float, int]:
        """Mean of the chance level over pairs and draws, its standard deviation over draws, and the number of draws.

        Draws are averaged over the pairs draw by draw, since the rotation of a net is the same in all of its pairs.
        Without the draws, the standard deviation is the mean of that of single pairs, which is larger.
        """
        values = self.values(key)
        at, _ = self._pairs_of(kind, group)
        at = at[np.isfinite(values.null[at])]
        if not len(at):
            return NONE, NONE, 0
        draws = values.draws[at]
        draws = draws[:, np.isfinite(draws).all(axis=0)].mean(axis=0)
        if len(draws) > 1:
            return float(draws.mean()), float(draws.std(ddof=1)), len(draws)
        return float(values.null[at].mean()), float(values.null_sd[at].mean()), values.n_draws

    def taking_part(self, key: Key, kind: str, group: str = "") -> tuple[Array, int, int]:
        """Positions of the pairs that have a number, and the trained and untrained nets in them."""
        at, _ = self._pairs_of(kind, group)
        at = at[np.isfinite(self.values(key).value[at])]
        members = {str(name) for column in ("x", "y") for name in self.pairs[column][at]}
        nets = {self._nets[name][:2] for name in members}
        trained = sum(state for _, state in nets)
        return at, trained, len(nets) - trained

    def values(self, key: Key) -> PairValues:
        """A number of every pair."""
        if key not in self._values:
            self._values[key] = self._of_measures(key) if key in self._rows else self._of_table(key)
        return self._values[key]

    def _rows_by_key(self) -> dict[Key, Array]:
        rows: dict[Key, list[int]] = {}
        names = zip(self._measures["measure"].tolist(), self._measures["evaluation"].tolist(), strict=True)
        for k, key in enumerate(names):
            rows.setdefault(key, []).append(k)
        return {key: np.array(found) for key, found in rows.items()}

    def _of_measures(self, key: Key) -> PairValues:
        rows = self._rows[key]
        table = {name: values[rows] for name, values in self._measures.items()}
        at = np.array([self._place[pair] for pair in zip(table["x"], table["y"], strict=True)])
        n_directions = np.bincount(at, minlength=len(self._place))

        def averaged(values: Array) -> Array:
            out = np.zeros((len(n_directions), *values.shape[1:]))
            np.add.at(out, at, values)
            n = n_directions.reshape(-1, *[1] * (values.ndim - 1))
            return np.where(n > 0, out / np.maximum(n, 1), NONE)

        counts = set(table["n_replicates"].tolist())
        n_groups = counts.pop() if len(counts) == 1 else 0
        return PairValues(
            **{name: averaged(table[name]) for name in ("value", "null", "null_sd", "shifted", "ceiling")},
            without=averaged(self._without[rows][:, :n_groups]),
            draws=averaged(self._draws[rows]),
            n_draws=int(table["null_draws"].max()),
            smooth=bool((table["bias"] != 0.0).any()),
        )

    def _of_pairs(self, columns: tuple[str, ...]) -> Array | None:
        values = np.mean([self.pairs[name] for name in columns], axis=0)
        return values if np.isfinite(values).any() else None

    def _of_table(self, key: Key) -> PairValues:
        values = self._of_pairs(OF_PAIRS[key[0]])
        nothing, no_columns = np.full(len(self._place), NONE), np.zeros((len(self._place), 0))
        return PairValues(
            value=nothing if values is None else values, null=nothing, null_sd=nothing, shifted=nothing,
            ceiling=nothing, without=no_columns, draws=no_columns, n_draws=0, smooth=False,
        )  # fmt: skip

    def _of_kind(self, kind: str) -> Array:
        """Positions of the pairs of a kind: those of two nets, or those within one net if there are no others."""
        at = np.flatnonzero(self.pairs["kind"] == kind)
        apart = [self._nets[x][0] != self._nets[y][0] for x, y in zip(*(self.pairs[c][at] for c in "xy"), strict=True)]
        return at[np.array(apart, dtype=bool)] if any(apart) else at

    def _pairs_of(self, kind: str, group: str) -> tuple[Array, PairUnits]:
        if (kind, group) not in self._chosen:
            at = self._of_kind(kind)
            if group:
                at = at[self._group_of_pair[at] == group]
            nets = [[self._nets[self.pairs[column][k]][2] for column in ("x", "y")] for k in at]
            self._chosen[kind, group] = at, PairUnits.of(nets)
        return self._chosen[kind, group]

    def _group(self, x: str, y: str) -> str:
        """The label of a pair's members, or both labels in the order of the members; "" for different epochs."""
        if self._epochs[x] != self._epochs[y]:
            return ""
        return " & ".join(sorted({self._labels[x], self._labels[y]}, key=[*self._labels.values()].index))


def at_most_one(measure: str) -> bool:
    """Whether a measure is 1 at most, on held-out images as well."""
    return measure in MEASURES and MEASURES.load(measure).bounds[1] == 1.0


def kind_of(measure: str) -> NumberKind:
    """What the mean of a number over pairs is, for its interval."""
    if measure in SHARES or measure in COUNTS:
        return "share" if measure in SHARES else "count"
    return "similarity" if at_most_one(measure) else "plain"


def summary_rows(numbers: PopulationNumbers) -> Iterator[Row]:
    """Rows of the table ``summaries``."""
    several = len({group for groups in numbers.groups.values() for group in groups}) > 1
    for kind, groups in numbers.groups.items():
        for group in ("", *(groups if several else ())):
            for key in numbers.keys:
                number = numbers.number(key, kind, group)
                if number is not None:
                    yield _summary(numbers, number, key, kind, group)


def _summary(numbers: PopulationNumbers, number: NetsNumber, key: Key, kind: str, group: str) -> Row:
    at, n_trained, n_untrained = numbers.taking_part(key, kind, group)
    values, found = numbers.values(key), nets_interval(number)
    null, null_sd, n_draws = numbers.null(key, kind, group)
    row: Row = {
        "kind": kind, "group": group, "measure": key[0], "evaluation": key[1], "n_pairs": len(at),
        "n_trained": n_trained, "n_untrained": n_untrained, "value": number.value,
        "lowest": values.value[at].min(), "highest": values.value[at].max(), "bias": image_bias(number),
        **_over_images(number, key[0]),
        "net_error": found.error, "df": found.df, "low": found.low, "high": found.high, "missing": found.missing,
        "null": null, "null_sd": null_sd, "null_draws": n_draws,
        "shifted": values.shifted[at].mean(), "ceiling": values.ceiling[at].mean(),
    }  # fmt: skip
    excess = numbers.excess(key, kind, group)
    if excess is not None:
        above = nets_interval(excess)
        row |= {
            "excess": above.value, "excess_error": above.error, "excess_df": above.df, "excess_low": above.low,
            "excess_high": above.high, "excess_p": above.p,
        }  # fmt: skip
    if key[0] in CODE_SHARES:
        row |= {"low": NONE, "high": NONE, "missing": found.missing or NOT_OF_ALL_IMAGES}
    best = numbers.number(key, "same_init", group) if kind == "trained" and "same_init" in numbers.groups else None
    return row if best is None else row | {"ceiling": best.value}


def difference_rows(numbers: PopulationNumbers) -> Iterator[Row]:
    """Rows of the table ``differences``."""
    for key in numbers.keys:
        for kinds in COMPARED:
            first, second = (numbers.number(key, kind) if kind in numbers.groups else None for kind in kinds)
            if first is None or second is None:
                continue
            number = first.minus(second)
            found = nets_interval(number)
            lacking = [one.missing for one in map(nets_interval, (first, second)) if one.missing]
            if key[0] in COUNTS and lacking and not found.missing:
                found = NetsInterval(found.value, found.bias, NONE, NONE, NONE, NONE, NONE, lacking[0])
            yield {
                "measure": key[0], "evaluation": key[1], "first": kinds[0], "second": kinds[1],
                "difference": found.value, **_over_images(number, key[0]), "net_error": found.error, "df": found.df,
                "low": found.low, "high": found.high, "p": found.p, "missing": found.missing,
            }  # fmt: skip


def _over_images(number: NetsNumber, measure: str) -> Row:
    """The error of a number over images, for these nets; no interval for shares of units."""
    if len(number.without_groups) < 2:
        return {}
    estimate = jackknife(number.value, number.without_groups, number.smooth)
    ends = {} if measure in SHARES else {"image_low": estimate.low, "image_high": estimate.high}
    return {"image_error": estimate.standard_error, **ends}


def units_of_members(members: Columns) -> dict[str, tuple[str, bool, tuple[str, str]]]:
    """By member its net, whether it is trained, and its (population, unit).

    Units are initialisations, or nets whose initialisation is unknown: it has the name of the net.
    """
    nets, trained, starts = (members[name].tolist() for name in ("net", "trained", "initialisation"))
    units = [f"{UNKNOWN}{net}" if start == net else start for start, net in zip(starts, nets, strict=True)]
    words = {}
    for state, word in ((True, "trained nets"), (False, "untrained nets")):
        of_state = {(net, unit) for net, unit, is_so in zip(nets, units, trained, strict=True) if is_so == state}
        n_nets, n_units = (len({one[k] for one in of_state}) for k in (0, 1))
        words[state] = word if n_nets == n_units else f"initialisations of {word}"
    return {
        member: (net, state, (words[state], unit))
        for member, net, state, unit in zip(members["member"].tolist(), nets, trained, units, strict=True)
    }


def labels_of_members(members: Columns) -> dict[str, str]:
    """By member its layer, epoch and width as far as they differ; the width where members of one layer differ in it."""
    widths: dict[str, set[int]] = {}
    for layer, width in zip(members["layer"].tolist(), members["n_units"].tolist(), strict=True):
        widths.setdefault(layer, set()).add(width)
    several = {name: len(set(members[name].tolist())) > 1 for name in ("layer", "epoch")}
    labels = {}
    columns = (members[name].tolist() for name in ("member", "layer", "epoch", "n_units"))
    for member, layer, epoch, width in zip(*columns, strict=True):
        words = [layer] * several["layer"] + [f"epoch {epoch}"] * (several["epoch"] and epoch >= 0)
        labels[member] = " ".join([*words, *[f"width {width}"] * (len(widths[layer]) > 1)]) or "all"
    return labels
