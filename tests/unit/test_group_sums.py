"""Norms for the unbiased HSIC and products with the next image agree with their definitions."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from convergence.io import hdf5
from convergence.statistics.group_sums import HostGroupSums, ShiftedProducts, shift_of
from convergence.statistics.hsic import squared_norms
from convergence.statistics.moments import symmetric

WIDTHS = (5, 7)


def samples(n: int = 60, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((3, n))
    return np.maximum(rng.standard_normal((12, 3)) @ common + rng.standard_normal((12, n)), 0).astype(np.float32)


def unbiased_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2007 (arXiv 0805.2368), equation 5, with linear kernels of x, y (n_units, n)."""
    n = x.shape[1]
    k, l = x.T @ x, y.T @ y
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    ones = np.ones(n)
    total = np.trace(k @ l) + (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
    return float((total - 2 / (n - 2) * ones @ k @ l @ ones) / (n * (n - 3)))


def hsic_from_sums(count, sums, products, shift, a: int, b: int) -> float:
    """The same of nets ``a`` and ``b`` from the sums of units and norms, as docs/files.md says."""
    n = float(count)
    starts, n_units = np.concatenate([[0], np.cumsum(WIDTHS)]), sum(WIDTHS)
    x, y = (slice(starts[k], starts[k + 1]) for k in (a, b))
    q, r = n_units + a, n_units + b
    norms = {k: sums[k] + n * shift[k] for k in (q, r)}  # norms were summed about their own shift t

    def with_unit(k, units):
        return products[k, units] + shift[k] * sums[units]

    both = products[q, r] + shift[q] * sums[r] + shift[r] * sums[q] + n * shift[q] * shift[r]
    cross = products[x, y]
    one = np.sum(cross**2) - both
    k_total, l_total = (sums[units] @ sums[units] - norms[m] for units, m in ((x, q), (y, r)))
    mixed = sums[x] @ cross @ sums[y] - with_unit(q, y) @ sums[y] - with_unit(r, x) @ sums[x] + both
    return float((one + k_total * l_total / ((n - 1) * (n - 2)) - 2 / (n - 2) * mixed) / (n * (n - 3)))


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-6), ("float32", 1e-5)])
@pytest.mark.parametrize(("a", "b"), [(0, 1), (0, 0), (1, 0)])
def test_norms_give_the_unbiased_hsic(precision, tolerance, a, b):
    x = samples()
    sums = HostGroupSums(WIDTHS, shift_of(x[:, :20], WIDTHS), precision, shifted=False)
    for start in range(0, 60, 13):
        batch = x[:, start : start + 13]
        sums.update(batch, batch.shape[1])
    arrays = dict(sums.arrays())
    found = hsic_from_sums(arrays["count"], arrays["sums"], symmetric(arrays["products"]), arrays["shift"], a, b)
    exact = x.astype(np.float64)
    parts = (exact[:5], exact[5:])
    assert found == pytest.approx(unbiased_hsic(parts[a], parts[b]), rel=tolerance)


def test_norms_are_those_of_each_net():
    x = samples()
    shift = shift_of(x[:, :9], WIDTHS)
    rows = squared_norms(x, WIDTHS, shift)
    centred = x - shift[:12, None]
    np.testing.assert_allclose(rows[0], (centred[:5] ** 2).sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(rows[1], (centred[5:] ** 2).sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(shift[12:], rows[:, :9].mean(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(shift, shift.astype(np.float32))  # the stored shift is exactly the one used
    assert (shift_of(np.full((12, 4), np.nan, np.float32), WIDTHS) == 0).all()


@pytest.mark.parametrize("per_image", [1, 4])
@pytest.mark.parametrize("batch", [1, 2, 15])
@pytest.mark.parametrize("in_file", [False, True])
def test_shifted_products_are_of_each_image_with_the_next(tmp_path, monkeypatch, per_image, batch, in_file):
    monkeypatch.setattr("convergence.statistics.group_sums.BAND", 5)
    x = samples()
    shift = np.full(12, 0.25)
    with h5py.File(tmp_path / "shifted.h5", "w") as file:
        total = hdf5.create_blocks(file, "shifted", (12, 12)) if in_file else None
        shifted = ShiftedProducts(shift, total)
        for start in range(0, 60, batch * per_image):
            shifted.update(x[:, start : start + batch * per_image], per_image)
        found = shifted.finish()[...]
    centred = x.astype(np.float64) - 0.25
    wanted = centred @ np.roll(centred, -per_image, axis=1).T
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)


def test_shifted_products_one_image_at_a_time(monkeypatch):
    monkeypatch.setattr("convergence.statistics.group_sums.CHUNK_VALUES", 1)
    x = samples()
    shifted = ShiftedProducts(np.zeros(12))
    shifted.update(x, 4)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(shifted.finish(), exact @ np.roll(exact, -4, axis=1).T, rtol=1e-10)
