"""Maps of nets: distances in a plane come back, and what a plane cannot hold is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convergence.alignment.embedding import embed
from convergence.errors import UserError

Matrix = NDArray[np.float64]


def between(points: Matrix) -> Matrix:
    return np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=-1))


def test_planar_distances_are_recovered() -> None:
    points = np.random.default_rng(0).normal(size=(7, 2)) * [3.0, 1.0] + [10.0, -4.0]
    found, explained = embed(between(points))
    np.testing.assert_allclose(between(found), between(points), atol=1e-10)
    assert explained == pytest.approx(1.0)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-12)
    assert found[:, 0].std() > found[:, 1].std()
    largest = np.abs(found).argmax(axis=0)
    assert np.all(found[largest, [0, 1]] > 0)
    line, on_line = embed(between(points), dimensions=1)
    np.testing.assert_array_equal(line, found[:, :1])
    values = np.linalg.eigvalsh(np.cov(points.T))
    assert on_line == pytest.approx(values[1] / values.sum())


def test_embedding_reports_explained_share() -> None:
    corners, explained = embed(1 - np.eye(4), dimensions=2)
    assert explained == pytest.approx(2 / 3)  # four equal distances need three dimensions
    assert corners.shape == (4, 2)
    full, explained = embed(1 - np.eye(4), dimensions=4)
    np.testing.assert_allclose(between(full), 1 - np.eye(4), atol=1e-10)
    assert explained == pytest.approx(1.0)
    # No points have these distances: the way from 0 to 1 is longer than by 2.
    far = np.array([[0.0, 10.0, 1.0], [10.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    points, explained = embed(far)
    assert np.isfinite(points).all()
    np.testing.assert_array_equal(points[:, 1], 0)
    assert 0.5 < explained < 0.9


def test_small_embeddings() -> None:
    points, explained = embed([[0.0, 2.0], [2.0, 0.0]])
    np.testing.assert_allclose(points, [[1.0, 0.0], [-1.0, 0.0]], atol=1e-12)
    assert explained == pytest.approx(1.0)
    points, explained = embed(np.zeros((3, 3)))
    assert not points.any()
    assert explained == 1.0


@pytest.mark.parametrize("scale", [1.0, 0.1, 1 / 3, 1e-9, 7e5])
def test_embedding_signs_are_stable_under_rounding(scale: float) -> None:
    # Corners of rectangles and ends of lines: every entry of a column has the same size.
    corners = scale * np.array([[3.0, 1.0], [-3.0, 1.0], [-3.0, -1.0], [3.0, -1.0]])
    np.testing.assert_allclose(embed(between(corners))[0], corners, rtol=1e-9)


@pytest.mark.parametrize(
    ("distances", "dimensions"),
    [
        (np.ones((2, 3)), 2),
        (np.empty((0, 0)), 1),
        ([[0.0, np.nan], [np.nan, 0.0]], 1),
        ([[0.0, 1.0], [2.0, 0.0]], 1),
        ([[0.0, -1.0], [-1.0, 0.0]], 1),
        ([[0.5, 1.0], [1.0, 0.5]], 1),
        ([[0.0, 1.0], [1.0, 0.0]], 3),
        ([[0.0, 1.0], [1.0, 0.0]], 0),
    ],
)
def test_unusable_distances_are_refused(distances: Any, dimensions: int) -> None:
    with pytest.raises(UserError):
        embed(distances, dimensions)
