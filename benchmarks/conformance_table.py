"""Rows of agreement with other implementations: what a row is, how it is measured, and how tables are written.

A row is a generator that gives, for each of its cases, our number and the peer's, as arrays of one shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

import numpy as np
import numpy.typing as npt

Cases = Iterator[tuple[npt.ArrayLike, npt.ArrayLike]]
DEFINITION = "definition"


@dataclass(frozen=True)
class Row:
    """A function held against a peer.

    Attributes
    ----------
    what : the function
    peer : the distribution that it is held against, as pip names it, or "definition"
    call : what of the peer; or how the definition is computed
    cases : what they are, the hostile ones by name
    within : largest absolute difference that is stated; 0 for what has to be equal
    compute : the cases
    """

    what: str
    peer: str
    call: str
    cases: str
    within: float
    compute: Callable[[], Cases]

    @property
    def version(self) -> str | None:
        """The peer's version, "" of a definition, None if it is not installed."""
        if self.peer == DEFINITION:
            return ""
        try:
            return metadata.version(self.peer)
        except metadata.PackageNotFoundError:
            return None

    def measure(self) -> Agreement | None:
        """All cases and their largest difference; None if the peer is not installed."""
        if self.version is None:
            return None
        differences = [difference(ours, theirs) for ours, theirs in self.compute()]
        return Agreement(len(differences), max(differences))


@dataclass(frozen=True)
class Agreement:
    """How many cases, and the largest difference: infinite if ours is not finite."""

    n_cases: int
    difference: float


@dataclass(frozen=True)
class Outcome:
    """What hostile input gives.

    Attributes
    ----------
    truth : the value, or None where there is none to give and the answer is a reason
    here : what the toolkit gives
    plain : what the usual few lines give, or the name of the exception that they end with
    within : how near ``here`` should be to ``truth``
    reason : what the toolkit says of the input, "" if nothing is amiss
    """

    truth: float | None
    here: float | None
    plain: float | str
    within: float
    reason: str = ""

    @property
    def right(self) -> bool:
        """Ours is the truth, or a reason where there is none."""
        if self.truth is None:
            return self.here is None and bool(self.reason)
        return self.here is not None and abs(self.here - self.truth) <= self.within

    @property
    def plain_is_wrong(self) -> bool:
        """The usual lines fail, or give no number, or one that is not the truth, or one where there is none."""
        if isinstance(self.plain, str) or not np.isfinite(self.plain) or self.truth is None:
            return True
        return abs(self.plain - self.truth) > 3 * self.within


@dataclass(frozen=True)
class Hostile:
    """A kind of input that others get wrong.

    Attributes
    ----------
    given, asked : the input, and what is asked of it
    usual : the usual lines, in words
    compute : the outcome
    """

    given: str
    asked: str
    usual: str
    compute: Callable[[], Outcome]


def module(name: str) -> Any:
    """A peer that may be missing, imported where its row is measured."""
    return import_module(name)


ROWS: list[Row] = []
HOSTILE: list[Hostile] = []


def row(
    what: str, peer: str, call: str, cases: str, within: float
) -> Callable[[Callable[[], Cases]], Callable[[], Cases]]:
    """Decorator that adds a row; arguments as of :class:`Row`."""

    def add(compute: Callable[[], Cases]) -> Callable[[], Cases]:
        ROWS.append(Row(what, peer, call, cases, within, compute))
        return compute

    return add


def hostile(given: str, asked: str, usual: str) -> Callable[[Callable[[], Outcome]], Callable[[], Outcome]]:
    """Decorator that adds a kind of hostile input; arguments as of :class:`Hostile`."""

    def add(compute: Callable[[], Outcome]) -> Callable[[], Outcome]:
        HOSTILE.append(Hostile(given, asked, usual, compute))
        return compute

    return add


def difference(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> float:
    """Largest absolute difference of two arrays of one shape; infinite where one holds no number."""
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if a.shape != b.shape or not a.size:
        raise ValueError(f"a case of shapes {a.shape} and {b.shape} compares nothing")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a - b).max())


def number(value: float) -> str:
    """A difference in one digit, rounded up, so that what is written holds."""
    if value == 0 or not np.isfinite(value):
        return f"{value:.0f}"
    exponent = math.floor(math.log10(value))
    digit = math.ceil(round(value / 10.0**exponent, 6))
    return f"{digit}e{exponent}" if digit < 10 else f"1e{exponent + 1}"


def agreement_cells(row: Row, found: Agreement | None) -> list[str]:
    """What, against, cases, largest difference, stated."""
    named = " ".join(part for part in (row.peer, row.version) if part)
    against = f"{named}: {row.call}" if row.peer == DEFINITION else f"{named}, {row.call}"
    count, largest = ("–", "not installed") if found is None else (str(found.n_cases), number(found.difference))
    return [f"`{row.what}`", against, count, row.cases, largest, f"≤ {number(row.within)}" if row.within else "equal"]


def outcome_cells(case: Hostile, found: Outcome) -> list[str]:
    """Input, asked, truth, here, the usual lines, and what those give."""
    here = "; ".join(part for part in ("" if found.here is None else f"{found.here:.4f}", found.reason) if part)
    plain = found.plain if isinstance(found.plain, str) else f"{found.plain:.4g}"
    return [case.given, case.asked, "none" if found.truth is None else f"{found.truth:.4f}", here, case.usual, plain]


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *lines))
