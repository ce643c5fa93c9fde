"""Bars that the results have to clear, and the table of everything that was read."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.truth.readings import NONE, Reading, mean_of

COVERS = "interval over nets covers"
"""Quantity of a bar on the coverage over nets, of all measures together."""


@dataclass(frozen=True)
class Bar:
    """The least and the largest mean of a quantity, in the scenarios whose name matches.

    The scenarios are judged together where ``pooled``, each alone otherwise.
    """

    scenarios: str
    quantity: str
    low: float
    high: float
    pooled: bool = False

    def __str__(self) -> str:
        """The range that is asked for."""
        if self.low == -np.inf:
            return f"≤ {self.high:g}"
        return f"≥ {self.low:g}" if self.high == np.inf else f"{self.low:g} … {self.high:g}"


BARS = (
    Bar("nets-?", COVERS, 0.93, 0.99),
    Bar("nets-*", "A differs from B, equal populations", -np.inf, 0.06),
    Bar("rotated-*", "P(p ≤ .05)", 0.03, 0.07),
    Bar("*", "any false discovery", -np.inf, 0.08),
    Bar("half-*", "share of units in all nets", 0.47, 0.53),
    Bar("clusters-*", "ARI with the planted clusters", 0.95, np.inf),
)


@dataclass(frozen=True)
class Judged:
    """A bar on one scenario: the mean, its Monte-Carlo error, and whether the bar is cleared."""

    bar: Bar
    scenario: str
    mean: float
    error: float
    holds: bool


def judged(found: Mapping[str, Sequence[Reading]], allowance: float = 0.0) -> list[Judged]:
    """Every bar on every scenario that has its quantity.

    A mean may miss its bar by ``allowance`` Monte-Carlo errors, those of a proportion of as many draws at least.
    """
    out = []
    for bar in BARS:
        for scenario, readings in found.items():
            if not fnmatch.fnmatchcase(scenario, bar.scenarios):
                continue
            chosen = quantity_of(readings, bar.quantity)
            if not chosen:
                continue
            mean, error = mean_of(chosen)
            error = max(error if np.isfinite(error) else 0.0, np.sqrt(0.05 * 0.95 / len(chosen)))
            holds = bar.low - allowance * error <= mean <= bar.high + allowance * error
            out.append(Judged(bar, scenario, mean, error, bool(holds)))
    return out


def quantity_of(readings: Sequence[Reading], quantity: str) -> list[Reading]:
    """The readings of a quantity; coverage is of all numbers with an interval over nets."""
    if quantity != COVERS:
        return [reading for reading in readings if reading.quantity == quantity]
    return [Reading(COVERS, float(r.over_nets), NONE) for r in readings if r.over_nets is not None]


def table(found: Mapping[str, Sequence[Reading]], about: Mapping[str, str], results: Sequence[Judged]) -> str:
    """All quantities of all scenarios, as a Markdown table."""
    bars = {(one.scenario, one.bar.quantity): one for one in results}
    lines = [
        "| population | quantity | truth | mean of draws | SD | interval over nets covers | over images | bar |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for scenario, readings in found.items():
        title = about[scenario]
        for quantity in dict.fromkeys(reading.quantity for reading in readings):
            own = [reading for reading in readings if reading.quantity == quantity]
            values = np.array([reading.value for reading in own])
            truth = own[0].truth if len({reading.truth for reading in own}) == 1 else np.mean([r.truth for r in own])
            cells = [
                title,
                quantity,
                _number(truth),
                _number(float(np.nanmean(values))),
                _number(float(np.nanstd(values))),
                _share([r.over_nets for r in own]),
                _share([r.over_images for r in own]),
                _verdict(bars.get((scenario, quantity))),
            ]
            lines.append("| " + " | ".join(cells) + " |")
            title = ""
        if (scenario, COVERS) in bars:
            one = bars[scenario, COVERS]
            lines.append(f"| | all of them | | | | {100 * one.mean:.1f} % | | {_verdict(one)} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def _share(covered: Sequence[bool | None]) -> str:
    known = [one for one in covered if one is not None]
    return f"{100 * np.mean(known):.0f} %" if known else ""


def _verdict(one: Judged | None) -> str:
    return "" if one is None else f"{one.bar}: {'holds' if one.holds else '**fails**'}"
