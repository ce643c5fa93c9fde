"""A finding: a question of the study with its answer and a table of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convergence.results.sentences import MISSING


@dataclass(frozen=True)
class StudyFinding:
    """A question, the answer in a sentence or two, and its numbers.

    Attributes
    ----------
    question, verdict : the question and its answer
    columns, rows : the numbers
    asks : question of the study. RQ1: do nets trained apart learn the same features? RQ2: can single units be aligned?
        RQ3: are subspaces shared? RQ4: is the code local? RQ5: do activation statistics converge?
    """

    question: str
    verdict: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    asks: str


def study_finding(
    asks: str, question: str, verdict: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]
) -> StudyFinding | None:
    """The finding without empty columns; None without rows."""
    if not rows:
        return None
    kept = [k for k in range(len(columns)) if any(row[k] != MISSING for row in rows)]
    shown = [tuple(row[k] for k in kept) for row in rows]
    return StudyFinding(question, verdict.strip(), tuple(columns[k] for k in kept), shown, asks)
