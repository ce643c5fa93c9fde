"""The vector type of compiled code agrees with numpy."""

from __future__ import annotations

import numba as nb
import numpy as np

from convergence.kernels.simd import WORDS, add_bits, aligned_zeros, any_bit, load, store, zeros

RNG = np.random.default_rng(0)


@nb.njit
def add_rows(table, row, sums, carries):
    bits, carry = add_bits(load(table, row), load(table, row + 1), load(table, row + 2))
    store(sums, row, bits)
    store(carries, row, carry)
    return any_bit(bits), any_bit(carry), any_bit(zeros())


def test_vector_addition_equals_numpy_for_every_bit():
    table = RNG.integers(0, 2**64, (6, WORDS), dtype=np.uint64)
    sums, carries = np.zeros((2, 6, WORDS), np.uint64)
    assert add_rows(table, np.uint16(2), sums, carries) == (True, True, False)
    a, b, c = table[2:5]
    np.testing.assert_array_equal(sums[2], a ^ b ^ c)
    np.testing.assert_array_equal(carries[2], (a & b) | (a & c) | (b & c))
    assert not sums[[0, 1, 3, 4, 5]].any()
    assert not carries[[0, 1, 3, 4, 5]].any()


def test_any_bit_finds_a_bit_in_every_column():
    for column in (0, 63, 64, 511):
        table = np.zeros((3, WORDS), np.uint64)
        table[0, column // 64] = np.uint64(1) << np.uint64(column % 64)
        out = np.zeros((2, 1, WORDS), np.uint64)
        assert add_rows(table, 0, out[0], out[1]) == (True, False, False)


def test_rows_are_aligned_to_cache_lines():
    for n in (1, 3, 1000):
        table = aligned_zeros((n, 2, WORDS))
        assert table.shape == (n, 2, WORDS)
        assert table.ctypes.data % 64 == 0
        assert not table.any()
