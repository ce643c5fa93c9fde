"""Some nets of an analysed comparison as a population, without analysing their pairs again.

Pairs are analysed one by one, so that the tables of some nets are the rows of their pairs; the means over pairs, their
intervals and the differences between kinds are computed from these rows as they are from all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from convergence.analysis.summaries import PopulationNumbers, summary_rows
from convergence.results import ComparisonResults, Kind
from convergence.results.populations import Summary, bounds_of

NONE = float("nan")
EXCESS = tuple(field.name for field in fields(Summary) if field.name.startswith("excess"))
"""Numbers that a summary has only with a chance level."""


def numbers_of(comparison: ComparisonResults, nets: Sequence[str], untrained: Sequence[str] = ()) -> PopulationNumbers:
    """The numbers of some nets, of which some are called untrained and the others trained."""
    source = comparison.source
    members, pairs, measures = (dict(source.table(name)) for name in ("members", "pairs", "measures"))
    without, draws = (source.matrix(f"measures_{rows}") for rows in ("without", "draws"))
    own = np.isin(members["member"], nets)
    members = {name: values[own] for name, values in members.items()}
    members["trained"] = ~np.isin(members["member"], untrained)
    kept = np.isin(pairs["x"], nets) & np.isin(pairs["y"], nets)
    pairs = {name: values[kept] for name, values in pairs.items()}
    n_untrained = np.isin(pairs["x"], untrained).astype(int) + np.isin(pairs["y"], untrained)
    pairs["kind"] = np.array(["trained", "mixed", "untrained"])[n_untrained]
    rows = np.isin(measures["x"], nets) & np.isin(measures["y"], nets)
    measures = {name: values[rows] for name, values in measures.items()}
    return PopulationNumbers(members, pairs, measures, without[rows], draws[rows])


def summary_of(numbers: PopulationNumbers, measure: str, evaluation: str, kind: Kind = "trained") -> Summary:
    """The mean of a number over the pairs of a kind."""
    for row in summary_rows(numbers):
        if (row["measure"], row["evaluation"], row["kind"], row["group"]) == (measure, evaluation, kind, ""):
            return Summary(**(dict.fromkeys(EXCESS, NONE) | row)).within(bounds_of(measure, evaluation))
    raise KeyError(f"{measure}, {evaluation}, {kind}")
