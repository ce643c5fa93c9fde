"""Values that are known for conv1 of two real AlexNets, from correlations recovered from a published figure.

x is Net1 and y Net2: semi-matching and regression go from Net1 to Net2.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ortho_group

from convergence.alignment import sparse
from convergence.alignment.matching import matching, overlap
from convergence.similarity import MEASURES
from convergence.similarity.pair import PairMoments

FILE = Path(os.environ.get("CONVERGENCE_REFERENCE", "conv1_correlations.npz"))
pytestmark = pytest.mark.skipif(
    not FILE.exists(),
    reason=f"{FILE}: the recovered correlations are not there; CONVERGENCE_REFERENCE says where they are",
)


@pytest.fixture(scope="module")
def pair() -> PairMoments:
    with np.load(FILE) as file:
        return PairMoments.of(151_250_000.0, file["A"], file["C"], file["B"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("semi_matching", 0.703),
        ("matching", 0.663),
        ("linear_cka", 0.864),
        ("procrustes", 0.824),
        ("r_squared", 1 - 2 * 0.107),
    ],
)
def test_measures_equal_published_values(pair: PairMoments, name: str, value: float) -> None:
    # The figure has 8 bits: recovered correlations are within .003 of the authors' own.
    tolerance = 0.003 if "matching" in name else 0.001
    assert MEASURES.load(name)(pair) == pytest.approx(value, abs=tolerance)


def test_alignment_equals_published_values(pair: PairMoments) -> None:
    agreement = overlap(pair.corr_xy, matching(pair.corr_xy))
    assert agreement.share == pytest.approx(0.729167, abs=1e-6)
    assert len(agreement.never_chosen) == 24
    assert len(agreement.mutual) == 59


def test_dense_fit_equals_published_values(pair: PairMoments) -> None:
    _, loss, rank = sparse.dense_fit(pair.corr_xx, pair.corr_xy)
    assert rank == 96
    assert loss.mean() == pytest.approx(0.107, abs=0.0006)


def test_lasso_equals_published_values(pair: PairMoments) -> None:
    lambdas = np.array([1e-4, 1e-3, 10**-2.6])
    path = sparse.lasso_path(pair.corr_xx, pair.corr_xy, lambdas * 96)
    np.testing.assert_allclose(sparse.paper_lambda(path.alphas, 96), lambdas)
    assert path.kkt_gap.max() <= 1e-8
    np.testing.assert_allclose(path.loss.mean(axis=1), [0.115, 0.157, 0.213], atol=0.0006)
    np.testing.assert_allclose(path.n_nonzero.mean(axis=1), [41, 6.1, 2.7], rtol=0.02)


def test_forward_selection_equals_published_values(pair: PairMoments) -> None:
    _, loss = sparse.forward_selection(pair.corr_xx, pair.corr_xy, 5)
    np.testing.assert_allclose(loss.mean(axis=0)[[0, 1, 2, 4]], [0.226, 0.176, 0.158, 0.141], atol=0.0006)


def test_rotation_null_equals_published_values(pair: PairMoments) -> None:
    rotations = ortho_group.rvs(96, size=60, random_state=0)
    for name, value, spread in [("semi_matching", 0.363, 0.008), ("matching", 0.289, 0.010)]:
        measure = MEASURES.load(name)
        null = np.array([measure(pair.in_basis(q)) for q in rotations])
        assert null.mean() == pytest.approx(value, abs=0.004)
        assert null.std() == pytest.approx(spread, abs=0.003)
