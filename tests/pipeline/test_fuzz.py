"""A few seeded mutants of files; ``python -m benchmarks.fuzz files`` makes more of them."""

from __future__ import annotations

import time

import numpy as np
import pytest

from benchmarks.fuzz import FAULTS, fuzz_files, outcome, run_cases
from convergence.errors import FileError

KINDS = ("statistics", "pictures", "functional", "npz", "gzip", "cifar", "record")


def test_mutants_are_refused_or_have_the_same_numbers(tmp_path):
    found = fuzz_files(56, 3, tmp_path, KINDS)
    assert not [one for one in found if one.kind in FAULTS]
    assert sum(one.kind == "refused" for one in found) > 40


def test_faults_are_told_apart(monkeypatch):
    def refuse():
        raise FileError("no")

    assert outcome(lambda: "1", "1")[0] == "same numbers"
    assert outcome(lambda: "2", "1")[0] == "different numbers"
    assert outcome(lambda: "2", None)[0] == "valid"
    assert outcome(refuse, "1")[0] == "refused"
    assert outcome(lambda: str(1 / 0), "1")[0] == "traceback"


@pytest.mark.slow
def test_hangs_and_crashes_cost_one_mutant():
    import os

    def read(act):
        return lambda: (act(), [("reader", "same numbers", "")])[1]

    cases = [
        ("a 0", read(lambda: None)), ("b 1", read(lambda: time.sleep(60))), ("c 2", read(lambda: os._exit(3))),
        ("d 3", read(lambda: np.zeros(3))),
    ]  # fmt: skip
    found = [(one.mutant, one.kind) for one in run_cases(cases, seconds=1.5)]
    assert ("b 1", "hang") in found
    assert ("c 2", "crash") in found
    assert [name for name, kind in found if kind == "same numbers"] == ["a 0", "d 3"]
