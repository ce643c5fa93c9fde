"""The measures: what each declares about itself holds, and planted truth comes back."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group

from convergence.errors import UserError
from convergence.similarity import MEASURES
from convergence.similarity.pair import Measure, PairMoments


def moments(x: np.ndarray, y: np.ndarray) -> PairMoments:
    """The covariances of samples x units arrays, by their definition."""
    joint = np.cov(np.hstack([x, y]), rowvar=False)
    k = x.shape[1]
    return PairMoments(float(len(x)), joint[:k, :k], joint[:k, k:], joint[k:, k:])


def random_pair(seed: int, n_x: int = 9, n_y: int = 6, n: int = 200) -> PairMoments:
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, 4))
    x = shared @ rng.standard_normal((4, n_x)) + rng.standard_normal((n, n_x))
    y = shared @ rng.standard_normal((4, n_y)) + rng.standard_normal((n, n_y))
    return moments(np.maximum(x, 0) * rng.uniform(0.1, 50, n_x), np.maximum(y, 0) * rng.uniform(0.1, 50, n_y))


def duplicated_pair(seed: int) -> PairMoments:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((100, 5))
    return moments(x[:, [0, 1, 1, 2, 0, 3]], x[:, [4, 4, 2, 1]] + 0.1 * rng.standard_normal((100, 1)))


PAIRS = [
    *(random_pair(seed) for seed in range(4)),
    random_pair(7, n_x=5, n_y=12),
    random_pair(8, n=8),  # fewer samples than units
    random_pair(9, n_x=1, n_y=1),
    duplicated_pair(1),
]
measures = pytest.mark.parametrize("name", list(MEASURES))


@pytest.fixture
def measure(name: str) -> Measure:
    return MEASURES.load(name)


@measures
def test_every_measure_describes_itself(measure: Measure) -> None:
    assert measure.title
    assert measure.source
    assert measure.function.__doc__
    assert measure.bounds[0] < measure.bounds[1]


@measures
def test_values_stay_within_the_declared_bounds(measure: Measure) -> None:
    low, high = measure.bounds
    for pair in PAIRS:
        value = measure(pair)
        assert type(value) is float
        assert low <= value <= high
        # Not for want of clipping either: the definition itself stays within, up to rounding.
        assert low - 1e-7 <= measure.function(pair) <= high + 1e-7


@measures
def test_declared_symmetry_holds(measure: Measure) -> None:
    differences = [abs(measure(pair) - measure(pair.swapped())) for pair in PAIRS]
    assert (max(differences) < 1e-10) == measure.symmetric


@measures
def test_declared_rotation_invariance_holds(measure: Measure) -> None:
    differences = []
    for seed, pair in enumerate(PAIRS):
        n_y = len(pair.cov_yy)
        q = ortho_group.rvs(n_y, random_state=seed) if n_y > 1 else np.eye(1)
        differences.append(abs(measure(pair) - measure(pair.rotated(q))))
        differences.append(abs(measure(pair.swapped()) - measure(pair.rotated(q).swapped())))
    assert (max(differences) < 1e-9) == measure.rotation_invariant


@measures
def test_declared_scale_invariance_holds(measure: Measure) -> None:
    rng = np.random.default_rng(0)
    for pair in PAIRS:
        a, b = rng.uniform(0.01, 100, len(pair.cov_xx)), rng.uniform(0.01, 100, len(pair.cov_yy))
        scaled = PairMoments(
            pair.n, pair.cov_xx * np.outer(a, a), pair.cov_xy * np.outer(a, b), pair.cov_yy * np.outer(b, b)
        )
        if measure.scale_invariant:
            assert measure(scaled) == pytest.approx(measure(pair), abs=1e-9)


@measures
def test_permuted_units_are_the_same_layer(measure: Measure) -> None:
    rng = np.random.default_rng(3)
    x = np.maximum(rng.standard_normal((300, 12)), 0)
    assert measure(moments(x, x[:, rng.permutation(12)] * 3.0)) == pytest.approx(1.0)


def test_measures_match_their_definition_on_samples() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((400, 5)) @ rng.standard_normal((5, 5))
    y = x[:, :4] + rng.standard_normal((400, 4))
    pair = moments(x, y)
    zx, zy = ((v - v.mean(0)) / v.std(0) for v in (x, y))
    kx, ky = zx @ zx.T, zy @ zy.T
    assert MEASURES.load("linear_cka")(pair) == pytest.approx(np.sum(kx * ky) / np.sqrt(np.sum(kx**2) * np.sum(ky**2)))
    residual = zy - zx @ np.linalg.lstsq(zx, zy, rcond=None)[0]
    assert MEASURES.load("r_squared")(pair) == pytest.approx(np.mean(1 - residual.var(0)))
    nuclear = np.linalg.norm(zx.T @ zy, "nuc") / (np.linalg.norm(zx) * np.linalg.norm(zy))
    assert MEASURES.load("procrustes")(pair) == pytest.approx(nuclear)
    r = np.array([[np.corrcoef(x[:, i], y[:, j])[0, 1] for j in range(4)] for i in range(5)])
    assert MEASURES.load("semi_matching")(pair) == pytest.approx(r.max(1).mean())


def test_correlations_have_an_exact_diagonal_and_range() -> None:
    for pair in PAIRS:
        for square in (pair.corr_xx, pair.corr_yy):
            assert np.all(np.diagonal(square) == 1.0)
            assert np.abs(square).max() <= 1.0
        assert np.abs(pair.corr_xy).max() <= 1.0


def test_rotation_follows_the_definition() -> None:
    pair = random_pair(11)
    q = ortho_group.rvs(6, random_state=0)
    rotated = pair.rotated(q)
    np.testing.assert_allclose(rotated.std_xy, pair.corr_xy @ q)
    np.testing.assert_allclose(rotated.std_yy, q.T @ pair.corr_yy @ q)
    np.testing.assert_allclose(rotated.rotated(q.T).corr_xy, pair.corr_xy)  # turning back undoes it


@pytest.mark.parametrize("fault", ["nan", "dead", "shape", "empty"])
def test_unusable_covariances_are_refused(fault: str) -> None:
    xx, xy, yy = np.eye(3), np.zeros((3, 2)), np.eye(2)
    if fault == "nan":
        xy[0, 0] = np.nan
    elif fault == "dead":
        yy[1, 1] = 0.0
    elif fault == "shape":
        xy = xy.T
    else:
        xx, xy = np.empty((0, 0)), np.empty((0, 2))
    with pytest.raises(UserError):
        PairMoments(10.0, xx, xy, yy)
