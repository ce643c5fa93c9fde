"""Numbers agree with peers and definitions to the digits that docs/conformance.md states, and its tables are these."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from benchmarks.conformance import AGREEMENT, LEGEND, OUTCOMES
from benchmarks.conformance_table import HOSTILE, ROWS, Hostile, Outcome, Row, agreement_cells, difference, number
from convergence.similarity.pair import PairMoments

TEXT = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")


def table(header: list[str]) -> list[list[str]]:
    """Cells of the lines below a header of the document."""
    lines = TEXT.splitlines()
    first = lines.index(f"| {' | '.join(header)} |") + 2
    last = next((k for k in range(first, len(lines)) if not lines[k].startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first:last]]


def key(what: str, against: str, which: str) -> tuple[str, str, str]:
    """What a row is, whatever version its peer has."""
    return what, re.sub(r"^([\w-]+) [\w.]+,", r"\1,", against), which


def key_of(row: Row) -> tuple[str, str, str]:
    what, against, _, which, _, _ = agreement_cells(row, None)
    return key(what, against, which)


def number_and_reason(here: str) -> tuple[float | None, str]:
    """What "0.5043; left out: x 2 always zero" says."""
    first, _, rest = here.partition("; ")
    return (float(first), rest) if re.fullmatch(r"-?\d\.\d{4}", first) else (None, here)


DOCUMENTED = {key(line[0], line[1], line[3]): line for line in table(AGREEMENT)}
OUTCOME = {(line[0], line[1], line[4]): line for line in table(OUTCOMES)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices are small: threads would wait for each other."""
    with threadpool_limits(1):
        yield


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.what} {row.peer}")
def test_numbers_agree_to_the_digits_that_the_document_states(row: Row) -> None:
    _, _, n_cases, _, largest, said = DOCUMENTED[key_of(row)]
    stated = 0.0 if said == "equal" else float(said.removeprefix("≤ "))
    assert float(largest) <= stated == row.within
    found = row.measure()
    if found is None:
        pytest.skip(f"{row.peer} is not installed")
    assert found.n_cases == int(n_cases)
    assert found.difference <= stated


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: f"{case.given} {case.asked}")
def test_hostile_input_gives_the_truth_or_a_reason(case: Hostile) -> None:
    found = case.compute()
    assert found.right
    assert found.plain_is_wrong
    here, reason = number_and_reason(OUTCOME[case.given, case.asked, case.usual][3])
    assert reason == found.reason
    assert found.here == (here if here is None else pytest.approx(here, abs=2e-4))


def test_the_document_has_these_rows_and_no_others() -> None:
    assert [key(line[0], line[1], line[3]) for line in table(AGREEMENT)] == [key_of(row) for row in ROWS]
    assert len(DOCUMENTED) == len(ROWS)
    cases = [(case.given, case.asked, case.usual) for case in HOSTILE]
    assert [(line[0], line[1], line[4]) for line in table(OUTCOMES)] == cases
    assert len(OUTCOME) == len(HOSTILE)
    assert LEGEND in TEXT


def test_conformance_check_detects_planted_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Covariances between layers are too large by a millionth: all rows that rest on them say so."""
    right = PairMoments.__dict__["std_xy"].fget
    monkeypatch.setattr(PairMoments, "std_xy", property(lambda pair: right(pair) * (1 + 1e-6)))
    names = {"svcca", "pwcca", "procrustes", "ridge_r_squared"}
    found = {row.what: row.measure() for row in ROWS if row.what in names}
    assert {row.what for row in ROWS if (f := found.get(row.what)) and f.difference > 10 * row.within} == names


def test_nan_agrees_with_no_number() -> None:
    assert difference([1.0, np.nan], [1.0, 2.0]) == np.inf
    assert difference([1.0, 3.0], [1.0, 2.0]) == 1.0
    with pytest.raises(ValueError, match="compares nothing"):
        difference([1.0], [1.0, 2.0])
    assert not Outcome(0.5, float("nan"), "nan", 1e-3).right
    assert not Outcome(0.5, None, "nan", 1e-3, "a reason").right
    assert not Outcome(None, 0.5, "nan", 1e-3, "a reason").right
    assert not Outcome(0.5, 0.5, 0.5, 1e-3).plain_is_wrong


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1.95e-3, "2e-3"), (1e-6, "1e-6"), (9.4e-15, "1e-14"), (np.inf, "inf")]
)
def test_a_difference_is_written_rounded_up(value: float, text: str) -> None:
    assert number(value) == text
    assert float(text) >= value
