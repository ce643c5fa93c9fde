"""Random bases of standardised units: their span, variances and correlations, and the chance level that they give."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.alignment.matching import matching
from convergence.linalg import RandomBases, random_rotation, variances_of_bases

N = 40
SPECTRA = {
    "equal": np.ones(N),
    "falling": 1 / np.arange(1, N + 1),
    "one direction": np.r_[N / 2, np.ones(N - 1)],
    "rank 10": np.r_[1 / np.arange(1, 11), np.zeros(N - 10)],
}


def units(spectrum: np.ndarray, seed: int) -> np.ndarray:
    """Standardised units (N, N): coefficients of a rotation of directions with the variances of a spectrum."""
    turned = random_rotation(N, np.random.default_rng([seed, N])).T * np.sqrt(spectrum)
    return turned / np.linalg.norm(turned, axis=1, keepdims=True)


def matched(a: np.ndarray, b: np.ndarray) -> float:
    return matching(a @ b.T).mean


@pytest.mark.parametrize("name", SPECTRA)
def test_units_of_a_basis_have_unit_variance_and_the_same_span(name: str) -> None:
    z = units(SPECTRA[name], 0)
    basis = RandomBases(z @ z.T).draw(np.random.default_rng(1))
    drawn = basis.T @ z
    np.testing.assert_allclose((drawn**2).sum(axis=1), 1.0)
    rank = np.linalg.matrix_rank(z)
    assert np.linalg.matrix_rank(drawn) == rank
    assert np.linalg.matrix_rank(np.concatenate([z, drawn]), tol=1e-9) == rank


@pytest.mark.parametrize("name", SPECTRA)
def test_units_of_a_basis_have_the_eigenvalues_of_the_units(name: str) -> None:
    """Mean over draws; standardised units of a plain rotation have leading eigenvalues that are a fifth lower."""
    z = units(SPECTRA[name], 0)
    values = np.linalg.eigvalsh(z @ z.T)
    bases = RandomBases(z @ z.T)
    drawn = [bases.draw(np.random.default_rng([2, k])).T @ z for k in range(50)]
    found = np.mean([np.linalg.eigvalsh(one @ one.T) for one in drawn], axis=0)
    assert abs(found - values).max() < 0.05 * values.max()


def test_variances_of_directions_are_found_from_the_units() -> None:
    """The units are a rotation with variances of 20 and 1; their own eigenvalues are closer to each other."""
    truth = SPECTRA["one direction"] * N / SPECTRA["one direction"].sum()
    values = np.mean([np.linalg.eigvalsh(z @ z.T) for z in (units(truth, k) for k in range(50))], axis=0)
    assert values[-1] < 0.8 * truth.max()
    assert variances_of_bases(values)[-1] == pytest.approx(truth.max(), rel=0.05)


def test_variances_of_many_directions_are_those_of_fewer(monkeypatch) -> None:
    truth = np.sort(1 / np.arange(1, 401)) * 400 / np.sum(1 / np.arange(1, 401))
    q = random_rotation(400, np.random.default_rng(0))
    covariance = (q * truth) @ q.T
    scale = 1 / np.sqrt(np.diag(covariance))
    values = np.maximum(np.linalg.eigvalsh(covariance * scale * scale[:, None]), 0)
    exact = variances_of_bases(values)
    monkeypatch.setattr("convergence.linalg.MOST_DIRECTIONS", 100)
    pooled = variances_of_bases(values)
    assert exact[-1] == pytest.approx(truth[-1], rel=0.06)
    np.testing.assert_allclose(pooled[-5:], exact[-5:], rtol=0.08)
    assert np.abs(np.cumsum(pooled) - np.cumsum(exact)).max() < 0.02 * 400


@pytest.mark.parametrize("name", SPECTRA)
def test_matched_units_of_one_space_are_as_similar_as_its_random_bases(name: str) -> None:
    """Sixteen nets in one space share no unit. Rotations that are standardised again are 0.012 to 0.019 too low."""
    nets = [units(SPECTRA[name], k) for k in range(16)]
    excess = []
    for y, net in enumerate(nets):
        bases = RandomBases(net @ net.T)
        pseudo = [bases.draw(np.random.default_rng([3, y, k])).T @ net for k in range(4)]
        for x in [k for k in range(16) if k != y]:
            excess.append(matched(nets[x], net) - np.mean([matched(nets[x], one) for one in pseudo]))
    assert abs(np.mean(excess)) < 0.008


def test_copies_of_a_unit_and_no_units_have_bases() -> None:
    copies = np.ones((3, 3))
    drawn = RandomBases(copies).draw(np.random.default_rng(0))
    np.testing.assert_allclose(np.abs(drawn.T @ copies @ drawn), 1.0)
    assert RandomBases(np.ones((0, 0))).draw(np.random.default_rng(0)).shape == (0, 0)
    np.testing.assert_allclose(np.abs(RandomBases(np.ones((1, 1))).draw(np.random.default_rng(0))), 1.0)
