"""Mutated configs are accepted or refused in one short paragraph, and the fuzzer notices when they are not."""

import pytest

from benchmarks.fuzz_configs import fuzz
from convergence.config import load
from convergence.errors import UserError


def test_mutated_configs_are_accepted_or_refused_in_short():
    assert fuzz(200, 7) == []


def refuse_at_length(*_):
    raise UserError("x" * 5000)


def fail(*_):
    raise KeyError("x")


@pytest.mark.parametrize(("defect", "words"), [(fail, "KeyError"), (refuse_at_length, "a message of 5000 characters")])
def test_the_fuzzer_finds_planted_defects(monkeypatch, defect, words):
    monkeypatch.setattr(load, "_check_values", defect)
    assert any(words in fault for fault in fuzz(10, 7))
