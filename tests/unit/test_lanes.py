"""Compiled sums have the order that is written in the source, to the last bit."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numba as nb
import numpy as np

from convergence.kernels import lanes

ROOT = Path(__file__).parents[2]


@nb.njit
def dot(x, y, begin, end):
    return lanes.dot(x, y, begin, end)


@nb.njit
def sums(row, base, whole):
    total = lanes.zeros()
    for k in range(0, whole, lanes.LANES):
        total = lanes.plus(total, lanes.minus(lanes.load(row, k), base))
    return lanes.total(total)


def fused(a: float, b: float, c: float) -> float:
    """a * b + c, rounded once."""
    return float(Fraction(a) * Fraction(b) + Fraction(c))


def tree(values: list[float]) -> float:
    while len(values) > 1:
        half = len(values) // 2
        values = [values[k] + values[k + half] for k in range(half)]
    return values[0]


def test_dot_adds_eight_partial_sums_in_a_fixed_tree():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 71)) * 10.0 ** rng.integers(-6, 7, (2, 71))
    for begin, end in ((0, 0), (0, 7), (3, 11), (5, 71), (1, 65)):
        whole = begin + (end - begin) // 8 * 8
        partial = [0.0] * 8
        for k in range(begin, whole):
            lane = (k - begin) % 8
            partial[lane] = fused(x[k], y[k], partial[lane])
        value = tree(partial)
        for k in range(whole, end):
            value = fused(x[k], y[k], value)
        assert dot(x, y, begin, end) == value


def test_sums_of_float32_are_taken_in_float64():
    row = np.random.default_rng(1).standard_normal(40).astype(np.float32)
    base = float(row[0])
    partial = (row.astype(np.float64) - base).reshape(5, 8)
    expected = np.zeros(8)
    for part in partial:
        expected = expected + part
    assert sums(row, base, 40) == tree(list(expected))


def test_no_kernel_lets_the_compiler_reorder_sums():
    for path in ROOT.glob("convergence/**/*.py"):
        code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(encoding="utf-8"), flags=re.S)
        assert "fastmath" not in code, f"{path}: fastmath makes bits depend on the cache of compiled kernels"
