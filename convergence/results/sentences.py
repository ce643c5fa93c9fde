"""The sentences of findings: one template for each verdict, filled with layers and their numbers.

A verdict is that of a 95 % interval over nets and images: above 0, below 0, or neither. It is withheld where there is
no interval, and the sentence then gives the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

Verdict = Literal["above", "below", "neither", "withheld"]
MISSING = "–"
NAMED = 4
"""Layers that a sentence lists with their numbers; of more it gives the first and the last."""


class Interval(Protocol):
    """A number with its interval over nets; NaN without one, and then ``missing`` says why."""

    @property
    def value(self) -> float: ...

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...

    @property
    def missing(self) -> str: ...


@dataclass(frozen=True)
class Templates:
    """Sentences by verdict; each has the place ``{cases}`` for layers, and ``withheld`` also ``{reason}``."""

    above: str
    below: str
    neither: str
    withheld: str


@dataclass
class Sentences:
    """Sentences with the layers that they hold for, in the order in which they were first used."""

    _cases: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, template: str, layer: str, numbers: str = "", reason: str = "") -> None:
        """Add a layer to a sentence; ``numbers`` stand in brackets behind its name."""
        sentence = template.replace("{reason}", reason)
        self._cases.setdefault(sentence, []).append((layer, numbers))

    def judge(self, templates: Templates, interval: Interval, layer: str, numbers: str = "") -> None:
        """Add a layer to the sentence of its verdict."""
        verdict = verdict_of(interval)
        self.add(getattr(templates, verdict), layer, numbers, interval.missing)

    def __str__(self) -> str:
        return " ".join(sentence.replace("{cases}", cases(found)) for sentence, found in self._cases.items())


def verdict_of(interval: Interval) -> Verdict:
    """The verdict of a difference, by whether its interval excludes 0."""
    if not np.isfinite([interval.low, interval.high]).all():
        return "withheld"
    return "above" if interval.low > 0 else "below" if interval.high < 0 else "neither"


def number(interval: Interval | None, digits: int = 3) -> str:
    """A value with its interval, or the value alone; "–" for None."""
    if interval is None or not np.isfinite(interval.value):
        return MISSING
    text = f"{interval.value:z.{digits}f}"
    if np.isfinite([interval.low, interval.high]).all():
        text += f" [{interval.low:z.{digits}f}, {interval.high:z.{digits}f}]"
    return text


def signed(interval: Interval | None, digits: int = 3) -> str:
    """A difference with its sign and its interval."""
    text = number(interval, digits)
    return text if text == MISSING or text.startswith("-") else f"+{text}"


def percent(interval: Interval | None) -> str:
    """A share in per cent with its interval."""
    if interval is None or not np.isfinite(interval.value):
        return MISSING
    text = f"{100 * interval.value:z.0f} %"
    if np.isfinite([interval.low, interval.high]).all():
        text += f" [{100 * interval.low:z.0f}, {100 * interval.high:z.0f}]"
    return text


def cases(found: Sequence[tuple[str, str]]) -> str:
    """Layers, each with its numbers in brackets; of many the first and the last with numbers. "" without any."""
    if not found:
        return ""
    named = [f"{layer} ({numbers})" if numbers else layer for layer, numbers in found]
    if len(found) > NAMED:
        named = [named[0], *(layer for layer, _ in found[1:-1]), named[-1]]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
