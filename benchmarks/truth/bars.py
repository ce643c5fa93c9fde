"""Bars that the results have to clear, and the table of everything that was read."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.truth.readings import EQUAL, Reading, mean_of


@dataclass(frozen=True)
class Bar:
    """The least and the largest mean of the quantities whose names match, in the scenarios whose names match.

    ``covers``: of the coverage of intervals over nets instead of the mean, over all such quantities together.
    """

    scenarios: str
    quantity: str
    low: float
    high: float
    covers: bool = False

    def __str__(self) -> str:
        """The range that is asked for."""
        if self.low == -np.inf:
            return f"≤ {self.high:g}"
        return f"≥ {self.low:g}" if self.high == np.inf else f"{self.low:g} … {self.high:g}"


BARS = (
    *(Bar("nets", f"*, {n} nets", 0.93, 0.99, covers=True) for n in (4, 6, 8)),
    Bar("nets", EQUAL, -np.inf, 0.06),
    Bar("rotated-*", "P(p ≤ .05)", 0.03, 0.07),
    Bar("falling-*", "P(p ≤ .05)", 0.03, 0.07),
    *(Bar(kind, "matched r − chance", -0.01, 0.01) for kind in ("rotated-*", "falling-*")),
    Bar("*", "any false discovery", -np.inf, 0.08),
    Bar("half-*", "share of units in all nets", 0.47, 0.53),
    Bar("clusters-*", "ARI with the planted clusters", 0.95, np.inf),
)


@dataclass(frozen=True)
class Judged:
    """A bar on one scenario: the mean, its Monte-Carlo error over draws, and whether the bar is cleared."""

    bar: Bar
    scenario: str
    mean: float
    error: float
    holds: bool

    def __str__(self) -> str:
        """The range, and whether it holds."""
        return f"{self.bar}: {'holds' if self.holds else '**fails**'}"


def judged(found: Mapping[str, Sequence[Reading]], allowance: float = 0.0) -> list[Judged]:
    """Every bar on every scenario that has its quantity.

    A mean may miss its bar by ``allowance`` Monte-Carlo errors, those of a proportion of .05 of the draws at least.
    """
    out = []
    for bar in BARS:
        for scenario, readings in found.items():
            chosen = [one for one in readings if fnmatch.fnmatchcase(one.quantity, bar.quantity)]
            if bar.covers:
                chosen = [replace(one, value=float(one.over_nets)) for one in chosen if one.over_nets is not None]
            if chosen and fnmatch.fnmatchcase(scenario, bar.scenarios):
                mean, error = mean_of(chosen)
                n_draws = len({one.draw for one in chosen})
                error = max(error if np.isfinite(error) else 0.0, float(np.sqrt(0.05 * 0.95 / n_draws)))
                holds = bar.low - allowance * error <= mean <= bar.high + allowance * error
                out.append(Judged(bar, scenario, mean, error, bool(holds)))
    return out


def table(
    found: Mapping[str, Sequence[Reading]],
    about: Mapping[str, str],
    draws: Mapping[str, int],
    results: Sequence[Judged],
) -> str:
    """All quantities of all scenarios, as a Markdown table; ``draws`` is the number of draws of each."""
    lines = [
        "| population | quantity | truth | mean of draws | SD | interval over nets covers | over images | bar |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for scenario, readings in found.items():
        title = f"{about[scenario]} ({draws[scenario]} draws)"
        for quantity in dict.fromkeys(reading.quantity for reading in readings):
            own = [reading for reading in readings if reading.quantity == quantity]
            values = np.array([reading.value for reading in own])
            verdicts = [reading.verdict for reading in own if reading.verdict]
            cells = [
                title,
                quantity,
                "said" if verdicts else _number(own[0].truth),
                _said(verdicts) if verdicts else _number(float(values.mean())),
                "" if verdicts else _number(float(values.std())),
                _share([reading.over_nets for reading in own]),
                _share([reading.over_images for reading in own]),
                next((str(one) for one in results if _is_of(one, scenario, quantity)), ""),
            ]
            lines.append("| " + " | ".join(cells) + " |")
            title = ""
        lines += [
            f"| | all of {one.bar.quantity.lstrip('*, ')} | | | | {_percent(one)} | | {one} |"
            for one in results
            if one.bar.covers and one.scenario == scenario
        ]
    return "\n".join(lines)


def _percent(one: Judged) -> str:
    """The mean and its Monte-Carlo error."""
    return f"{100 * one.mean:.1f} ± {100 * one.error:.1f} %"


def _is_of(one: Judged, scenario: str, quantity: str) -> bool:
    matches = fnmatch.fnmatchcase(quantity, one.bar.quantity)
    return one.scenario == scenario and matches and not one.bar.covers


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def _said(verdicts: Sequence[str]) -> str:
    """How often a sentence was right, withheld and wrong, as far as it was."""
    shares = {one: verdicts.count(one) / len(verdicts) for one in ("right", "withheld", "wrong")}
    return ", ".join(f"{one} {100 * share:.0f} %" for one, share in shares.items() if share)


def _share(covered: Sequence[bool | None]) -> str:
    known = [one for one in covered if one is not None]
    return f"{100 * np.mean(known):.0f} %" if known else ""
