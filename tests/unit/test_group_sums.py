"""Sums of classes and products with the next image agree with their definitions."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from convergence.io import hdf5
from convergence.statistics.group_sums import HostGroupSums, ShiftedProducts, shift_of


def samples(n: int = 60, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((3, n))
    return np.maximum(rng.standard_normal((12, 3)) @ common + rng.standard_normal((12, n)), 0).astype(np.float32)


def test_shift_is_the_mean_in_float32():
    x = samples()
    shift = shift_of(x[:, :9])
    np.testing.assert_allclose(shift, x[:, :9].mean(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(shift, shift.astype(np.float32))  # the stored shift is exactly the one used
    assert (shift_of(np.full((12, 4), np.nan, np.float32)) == 0).all()


@pytest.mark.parametrize("per_image", [1, 4, 12])
def test_class_sums_are_those_of_the_samples(per_image):
    x, rng = samples(), np.random.default_rng(1)
    classes = rng.integers(3, size=60 // per_image)
    sums = HostGroupSums(shift_of(x[:, :20]), "float64", False, 4)
    for start in range(0, len(classes), 2):
        chosen = slice(start, start + 2)
        batch = x[:, start * per_image : (start + 2) * per_image]
        sums.update(batch, len(classes[chosen]), classes[chosen])
    found = dict(sums.arrays())
    of_sample = np.repeat(classes, per_image)
    np.testing.assert_array_equal(found["class_count"], np.bincount(of_sample, minlength=4))
    for c in range(4):
        wanted = (x[:, of_sample == c] - found["shift"][:, None]).sum(axis=1)
        np.testing.assert_allclose(found["class_sums"][c], wanted, rtol=1e-10, atol=1e-10)


def test_next_image_is_seen_at_the_positions_of_the_image():
    """With sampled positions an image and its successor are multiplied position by position."""
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((12, 15, 30)).astype(np.float32)
    drawn = np.sort(rng.permuted(np.tile(np.arange(30), (15, 1)), axis=1)[:, :4], axis=1)
    own = np.take_along_axis(maps, drawn[None], axis=2)
    later = np.take_along_axis(maps, np.roll(drawn, 1, axis=0)[None], axis=2)
    shifted = ShiftedProducts(np.zeros(12))
    for start in range(0, 15, 4):
        chosen = slice(start, start + 4)
        shifted.update(own[:, chosen].reshape(12, -1), 4, later[:, chosen].reshape(12, -1))
    wanted = sum(
        maps[:, t][:, drawn[t]].astype(float) @ maps[:, (t + 1) % 15][:, drawn[t]].astype(float).T for t in range(15)
    )
    np.testing.assert_allclose(shifted.finish(), wanted, rtol=1e-10, atol=1e-10)


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
