"""The measures: what each declares about itself holds, and planted truth comes back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ortho_group

from convergence.analysis.group_pairs import hsic_plain
from convergence.errors import UserError
from convergence.similarity import MEASURES
from convergence.similarity.measure import Measure
from convergence.similarity.pair import PairMoments
from convergence.similarity.stored_images import StoredImages

N_GROUPS = 4


def moments(x: np.ndarray, y: np.ndarray) -> PairMoments:
    """The covariances of samples x units arrays, by their definition, and everything else a measure may ask for."""
    joint = np.atleast_2d(np.cov(np.hstack([x, y]), rowvar=False))
    k = x.shape[1]
    grams = [v[:60] @ v[:60].T for v in (x, y)]
    layers = {"x": x.T / x.std(axis=0)[:, None], "y": y.T / y.std(axis=0)[:, None]}

    def hsic(part: str) -> float:
        return hsic_plain(*([layers[of][:, g::N_GROUPS] for g in range(N_GROUPS)] for of in part))

    return PairMoments.of(
        float(len(x)), joint[:k, :k], joint[:k, k:], joint[k:, k:], False, hsic, (x[:60], y[:60]), (grams[0], grams[1])
    )


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


def partly_shared_pair(seed: int) -> PairMoments:
    """Half of the units of either layer are the other's too."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((200, 8)), rng.standard_normal((200, 7))
    y[:, :4] = x[:, :4] + 0.2 * y[:, :4]
    return moments(x, y)


PAIRS = [
    *(random_pair(seed) for seed in range(4)),
    random_pair(7, n_x=5, n_y=12),
    random_pair(8, n=8),  # fewer samples than units
    random_pair(9, n_x=1, n_y=1),
    duplicated_pair(1),
    partly_shared_pair(2),
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
        rotated = pair.in_basis(q, standardise=measure.scale_invariant)
        differences.append(abs(measure(pair) - measure(rotated)))
        differences.append(abs(measure(pair.swapped()) - measure(rotated.swapped())))
    assert (max(differences) < 1e-7) == measure.rotation_invariant


@measures
def test_a_rotation_null_is_declared_where_rotations_of_y_matter(measure: Measure) -> None:
    differences = [
        abs(measure(pair) - measure(pair.in_basis(ortho_group.rvs(len(pair.cov_yy), random_state=seed))))
        for seed, pair in enumerate(PAIRS)
        if len(pair.cov_yy) > 1 and measure.scale_invariant
    ]
    assert measure.rotation_null == (max(differences, default=0.0) > 1e-7)


@measures
def test_fitted_measures_score_held_out_images(measure: Measure) -> None:
    """The measure is the score on the images of the fit; on others a copy of the layer gets no less than that."""
    if measure.fit is None:
        assert measure.score is None
        return
    for pair in PAIRS:
        assert measure.held_out(measure.fit(pair), pair) == pytest.approx(measure.function(pair), abs=1e-9)
    rng = np.random.default_rng(4)
    x = np.maximum(rng.standard_normal((900, 9)) @ rng.standard_normal((9, 9)), 0)
    y = x[:, rng.permutation(9)] * 2.0
    fitted = measure.fit(moments(x[:450], y[:450]))
    assert measure.held_out(fitted, moments(x[450:], y[450:])) == pytest.approx(1.0, abs=1e-3)
    noise = rng.standard_normal((900, 9))
    fitted = measure.fit(moments(x[:450], noise[:450]))
    assert measure.held_out(fitted, moments(x[450:], noise[450:])) < 0.1


@measures
def test_value_is_the_score_of_the_fit_on_the_same_images(measure: Measure) -> None:
    for pair in PAIRS if measure.fit is not None else []:
        for direction in (pair, pair.swapped()):
            score = measure.held_out(measure.fit(direction), direction)
            assert measure(direction) == pytest.approx(np.clip(score, *measure.bounds), abs=1e-9)


@measures
def test_declared_scale_invariance_holds(measure: Measure) -> None:
    rng = np.random.default_rng(0)
    for pair in PAIRS:
        a, b = rng.uniform(0.01, 100, len(pair.cov_xx)), rng.uniform(0.01, 100, len(pair.cov_yy))
        layers = [
            replace(of, cov=of.cov * np.outer(c, c), images=StoredImages(of.samples * c, of.gram))
            for of, c in ((pair.x, a), (pair.y, b))
        ]
        scaled = replace(pair, x=layers[0], cov_xy=pair.cov_xy * np.outer(a, b), y=layers[1])
        if measure.scale_invariant:
            assert measure(scaled) == pytest.approx(measure(pair), abs=1e-9)


@measures
def test_measures_do_not_depend_on_unit_order(measure: Measure) -> None:
    rng = np.random.default_rng(3)
    x = np.maximum(rng.standard_normal((300, 12)), 0)
    value = measure(moments(x, x[:, rng.permutation(12)] * 3.0))
    alone = measure(moments(x, x))
    assert value == pytest.approx(alone, abs=2e-2 if measure.of_itself is None else 1e-6)
    if measure.of_itself is not None:
        assert alone == pytest.approx(measure.of_itself, abs=1e-6)
    shuffled = measure(moments(x, x[rng.permutation(300)]))
    assert (shuffled > value + 0.1) if measure.distance else (shuffled < value - 0.1)


@measures
def test_no_pair_exceeds_the_ceiling(measure: Measure) -> None:
    for pair in PAIRS:
        for moments_of in (pair, pair.swapped()):
            ceiling, value = measure.ceiling(moments_of), measure(moments_of)
            if np.isfinite(ceiling):
                assert (value >= ceiling - 1e-7) if measure.distance else (value <= ceiling + 1e-7)
    if measure.bound is not None and measure.of_itself is not None:
        alone = random_pair(3).of_x_alone()
        assert measure.ceiling(alone) == pytest.approx(measure.of_itself, abs=1e-6)


@pytest.mark.parametrize("name", ["procrustes", "shape_distance", "linear_cka", "r_squared", "mean_cca"])
def test_ceilings_of_unequal_widths_are_reached(measure: Measure) -> None:
    """The pair whose principal directions, falling, are perfectly correlated."""
    for x, y in ((9, 5), (4, 8)):
        pair = random_pair(12, n_x=x, n_y=y)
        (a, u), (b, v) = pair.directions_x, pair.directions_y
        k = min(x, y)
        between = (u[:, :k] * np.sqrt(a[:k] * b[:k])) @ v[:, :k].T
        best = PairMoments.of(pair.n, pair.corr_xx, between, pair.corr_yy, True)
        assert measure(best) == pytest.approx(measure.ceiling(pair), abs=1e-7)
    assert np.isnan(MEASURES.load("soft_matching").ceiling(random_pair(1)))


def test_matching_by_magnitude_finds_units_with_other_signs() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 8))
    signs, order = rng.choice([-1.0, 1.0], 8), rng.permutation(8)
    pair = moments(x, (x * signs)[:, order])
    for name in ("absolute_matching", "absolute_semi_matching"):
        assert MEASURES.load(name)(pair) == pytest.approx(1.0)
    assert MEASURES.load("matching")(pair) < 0.9
    fitted = MEASURES.load("absolute_matching").fit(pair)  # type: ignore[misc]
    other = moments(x, -(x * signs)[:, order])
    assert MEASURES.load("absolute_matching").held_out(fitted, other) == pytest.approx(-1.0), "signs are fitted, too"


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


def test_correlations_have_unit_diagonal_and_stay_in_range() -> None:
    for pair in PAIRS:
        for square in (pair.corr_xx, pair.corr_yy):
            assert np.all(np.diagonal(square) == 1.0)
            assert np.abs(square).max() <= 1.0
        assert np.abs(pair.corr_xy).max() <= 1.0


def test_rotation_follows_the_definition() -> None:
    pair = random_pair(11)
    q = ortho_group.rvs(6, random_state=0)
    rotated = pair.in_basis(q)
    np.testing.assert_allclose(rotated.std_xy, pair.corr_xy @ q)
    np.testing.assert_allclose(rotated.std_yy, q.T @ pair.corr_yy @ q)
    np.testing.assert_allclose(rotated.in_basis(q.T).corr_xy, pair.corr_xy)  # turning back undoes it


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
        PairMoments.of(10.0, xx, xy, yy)
