"""Results from sums with a planted truth: who is whose partner, who carries nothing, what an interval rests on."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.analysis.active_units import active_units, describe_units
from convergence.analysis.pair import analyze_pair
from convergence.analysis.pair_sums import PairSums
from convergence.config.stages import AnalysisConfig
from convergence.statistics.bin_edges import encode, equal_mass_bins
from convergence.statistics.file import ComparisonSums
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.hsic import NormSums, squared_norms
from convergence.statistics.information import leave_one_out
from convergence.statistics.joint_counts import JointCounts
from convergence.statistics.moments import Moments

CONFIG = AnalysisConfig(rotations=4, sparse={"alphas": 5, "max_units": 4})
GROUPS = 6


def sums_of(nets: dict[str, np.ndarray], n_groups: int = GROUPS) -> ComparisonSums:
    """Sums of nets given as samples (n_units, n_samples), sample s in group s mod ``n_groups``."""
    samples = np.concatenate(list(nets.values())).astype(np.float32)
    widths = [len(rows) for rows in nets.values()]
    parts, counts = [], []
    histograms = UnitHistograms.zeros(len(samples))
    histograms.update(samples)
    edges = equal_mass_bins(histograms, 8).edges
    for g in range(n_groups):
        part = Moments(np.nan_to_num(samples[:, :10].mean(axis=1)), "float64")
        part.update(samples[:, g::n_groups])
        parts.append(part)
        joint = JointCounts(len(samples), len(samples), 8)
        codes = encode(np.ascontiguousarray(samples[:, g::n_groups]), edges)
        joint.update(codes, codes)
        counts.append(joint.counts())
    information, without = leave_one_out(np.stack(counts))
    rows = np.concatenate([samples, squared_norms(samples, tuple(widths), parts[0].shift)]).astype(float)
    by_group = [rows[:, g::n_groups] for g in range(n_groups)]
    first = len(samples)
    return ComparisonSums(
        norms=NormSums(
            shift=np.full(len(nets), 0.5),
            sums=np.stack([(q[first:] - 0.5).sum(axis=1) for q in by_group]),
            products=np.stack([(q[first:] - 0.5) @ (q[first:] - 0.5).T for q in by_group]),
            cross=np.stack([(q[first:] - 0.5) @ (q[:first] - parts[0].shift[:, None]).T for q in by_group]),
        ),
        subset_samples=samples[:, :40].T.copy(),
        subset_group=np.arange(40) % n_groups,
        name="layer",
        nets=tuple(nets),
        trained=(True,) * len(nets),
        layers=("layer",) * len(nets),
        sources=("layer",) * len(nets),
        map_shape=(),
        unit_net=np.repeat(np.arange(len(nets)), widths),
        shift=parts[0].shift,
        group_count=np.array([part.count for part in parts]),
        group_sums=np.stack([part.sums for part in parts]),
        group_products=np.stack([part.products for part in parts]),
        group_shifted_products=np.stack(
            [shifted_products(samples[:, g::n_groups], parts[0].shift) for g in range(n_groups)]
        ),
        histograms=histograms,
        mutual_information=information,
        mutual_information_without=without,
        null_kind=("sums",) * len(nets),
    )


def unbiased_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2007 (arXiv 0805.2368), equation 5, with linear kernels of x, y (n_units, n)."""
    n = x.shape[1]
    k, l = (m - np.diag(np.diag(m)) for m in (x.T @ x, y.T @ y))
    total = np.trace(k @ l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * (k @ l).sum() / (n - 2)
    return float(total / (n * (n - 3)))


def shifted_products(samples: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Each sample with the next one of the group, in a ring."""
    centred = np.nan_to_num(samples.astype(float)) - shift[:, None]
    return centred @ np.roll(centred, -1, axis=1).T


def rectified(n_units: int, n_samples: int = 3_000, seed: int = 0) -> np.ndarray:
    """Units that share a few causes."""
    rng = np.random.default_rng(seed)
    causes = rng.standard_normal((4, n_samples))
    return np.maximum(rng.standard_normal((n_units, 4)) @ causes + rng.standard_normal((n_units, n_samples)), 0)


def test_permuted_and_scaled_units_come_back():
    x = rectified(9)
    order = np.random.default_rng(1).permutation(9)
    y = 3.0 * x[order] + 7.0
    sums = sums_of({"a": x, "b": y})
    tree = analyze_pair(sums, active_units(sums), "a", "b", CONFIG)
    for key in ("alignment", "information"):
        np.testing.assert_array_equal(tree[key]["matching"], np.argsort(order))
        np.testing.assert_array_equal(tree[key]["semi_xy"], np.argsort(order))
    assert tree["measures"]["matching"]["xy"]["value"] == pytest.approx(1, abs=1e-6)
    assert tree["measures"]["matching"]["xy"]["null"] < 0.9
    assert tree["alignment"]["same_assignment"] == 1
    assert tree["alignment"]["never_chosen"] == 0
    assert tree["sparse_xy"]["one_unit"]["value"] == pytest.approx(0, abs=1e-6)
    assert tree["information"]["same_semi"]["value"] == 1


def test_mutual_information_finds_nonlinear_partners():
    """A unit that fires at both ends of another's range: correlation misses it, mutual information does not."""
    x = np.random.default_rng(0).standard_normal((5, 4_000))
    y = np.concatenate([np.abs(x[:1]), x[1:4] + 0.5 * np.random.default_rng(1).standard_normal((3, 4_000))])
    sums = sums_of({"a": x, "b": y})
    found = analyze_pair(sums, active_units(sums), "a", "b", CONFIG)["information"]
    assert found["semi_xy"][0] == 0
    assert found["semi_xy_nats"][0] > 1


def test_units_without_variance_are_listed_and_excluded():
    x = rectified(8)
    x[1] = 0
    x[2] = 4.25
    x[3, 5] = np.nan
    x[4] = 0
    x[4, ::GROUPS] = np.abs(np.random.default_rng(0).standard_normal(len(x[4, ::GROUPS])))  # one group only
    y = rectified(6, seed=1)
    with np.errstate(invalid="ignore"):
        sums = sums_of({"a": x, "b": y})
        live = active_units(sums)
    assert live.reason[:6] == (
        "", "always zero", "constant", "non-finite values", "varies in too few image groups", "",
    )  # fmt: skip
    tree = analyze_pair(sums, live, "a", "b", CONFIG)
    np.testing.assert_array_equal(tree["units_x"], [0, 5, 6, 7])
    assert tree["n_x"] == 8
    assert set(tree["alignment"]["semi_yx"]) <= {0, 5, 6, 7}

    def numbers(node):
        return [v for item in node.values() for v in numbers(item)] if isinstance(node, dict) else [node]

    assert set(tree["unavailable"]) == {"debiased_cka"}, "norms have the unit that is not finite in them"
    for value in numbers({k: v for k, v in tree.items() if k != "unavailable"}):
        array = np.asarray(0.0 if isinstance(value, str) else value, dtype=float)
        assert np.isfinite(array).all() or np.isnan(array).all(), "NaN stands for a null that does not apply, only"
    assert np.isfinite(describe_units(sums, live)["mean"]).all()


@pytest.mark.parametrize("n_groups", [2, 3, 6, 7, 16, 17])
def test_live_units_vary_in_every_jackknife_replicate(n_groups):
    """Units that fire in a few groups, as those do that see one kind of picture."""
    rng = np.random.default_rng(n_groups)
    x = rectified(60, 40 * n_groups)
    fires = rng.random((60, n_groups)) < np.linspace(0.05, 0.95, 60)[:, None]
    x *= np.tile(fires, 40)
    x[0, :] = 0
    x[0, :: n_groups if n_groups < 4 else 1] = 1
    x[1] = 0
    x[1, 0::n_groups], x[1, 2 % n_groups :: n_groups] = rng.random(40), rng.random(40)  # in the first block of a half
    y = rectified(3, 40 * n_groups, seed=1)
    sums = sums_of({"a": x, "b": y}, n_groups)
    live = active_units(sums)
    assert 0 < live.alive[:60].sum() < 60
    assert n_groups < 6 or live.reason[1] == "varies in too few image groups"
    pair = PairSums.of(sums, live, "a", "b")
    for n_blocks in range(2, n_groups + 1):
        for moments in pair.without_blocks(n_blocks):
            assert np.isfinite(moments.corr_xy).all()
        for half in (0, 1):
            for moments in pair.half_without_blocks(half, n_blocks):
                assert np.isfinite(moments.corr_xy).all()
    assert all(np.isfinite(moments.corr_xy).all() for moments in pair.without())


def test_net_without_live_units_is_skipped_with_reason():
    sums = sums_of({"a": rectified(4), "b": np.zeros((4, 3_000))})
    tree = analyze_pair(sums, active_units(sums), "a", "b", CONFIG)
    assert tree["skip_reason"] == "b has no active unit"
    assert "measures" not in tree


def test_different_widths():
    x = rectified(7)
    sums = sums_of({"a": x, "b": x[[4, 0, 2]]})
    tree = analyze_pair(sums, active_units(sums), "a", "b", CONFIG)
    matched = tree["alignment"]["matching"]
    assert (matched[4], matched[0], matched[2]) == (0, 1, 2)
    assert (np.delete(matched, [4, 0, 2]) == -1).all()
    assert len(tree["alignment"]["order_x"]) == 7
    assert tree["sparse_xy"]["dense"]["value"] == pytest.approx(0, abs=1e-6)
    assert tree["sparse_yx"]["dense"]["value"] > 0.05


def test_replicates_leave_whole_groups_out():
    x, y = rectified(4, seed=2), rectified(5, seed=3)
    sums = sums_of({"a": x, "b": y})
    pair = PairSums.of(sums, active_units(sums), "a", "b")
    joined = np.concatenate([x, y]).astype(np.float32).astype(float)
    for g, moments in enumerate(pair.without()):
        kept = np.arange(joined.shape[1]) % GROUPS != g
        np.testing.assert_allclose(moments.corr_xy, np.corrcoef(joined[:, kept])[:4, 4:], atol=1e-12)
    even, odd = pair.halves
    np.testing.assert_allclose(
        even.corr_xx, np.corrcoef(joined[:, np.arange(joined.shape[1]) % 2 == 0])[:4, :4], atol=1e-12
    )
    assert even.n + odd.n == pair.pooled.n


def test_cross_fitting_removes_selection_bias_of_maxima():
    """Independent units: the best of forty correlations is far above zero, a partner chosen elsewhere is not."""
    rng = np.random.default_rng(0)
    sums = sums_of({"a": rng.standard_normal((40, 300)), "b": rng.standard_normal((40, 300))})
    tree = analyze_pair(sums, active_units(sums), "a", "b", CONFIG)
    assert tree["measures"]["semi_matching"]["xy"]["value"] > 0.1
    assert abs(tree["held_out"]["semi_matching"]["xy"]["value"]) < 0.05
    assert abs(tree["alignment"]["semi_xy_held_out"].mean()) < 0.05
    assert tree["alignment"]["significant_xy"] < 0.1
    dense = tree["sparse_xy"]
    assert dense["held_out_dense"]["value"] > 0.5 > dense["dense"]["value"]


def test_the_next_image_is_a_chance_level():
    """The same units, seeing other images: own covariances stay, everything in common goes."""
    x = rectified(8)
    sums = sums_of({"a": x, "b": x[::-1]})
    pair = PairSums.of(sums, active_units(sums), "a", "b")
    assert pair.shifted is not None
    np.testing.assert_array_equal(pair.shifted.corr_xx, pair.pooled.corr_xx)
    rolled = np.concatenate([np.roll(x[:, g::GROUPS], -1, axis=1) for g in range(GROUPS)], axis=1)
    ordered = np.concatenate([x[:, g::GROUPS] for g in range(GROUPS)], axis=1)
    wanted = np.corrcoef(np.concatenate([ordered, rolled[::-1]]))[:8, 8:]
    np.testing.assert_allclose(pair.shifted.corr_xy, wanted, atol=1e-6)
    tree = analyze_pair(sums, active_units(sums), "a", "b", CONFIG)
    found = tree["measures"]["matching"]["xy"]
    assert found["value"] == pytest.approx(1, abs=1e-6)
    assert abs(found["shifted"]) < 0.15
    for name in ("linear_cka", "rsa", "mutual_knn"):
        found = tree["measures"][name]["xy"]
        assert found["value"] == pytest.approx(1, abs=1e-6)
        assert found["shifted"] < 0.6


def test_debiased_cka_is_that_of_the_samples():
    x, y = rectified(5, n_samples=120), rectified(7, n_samples=120, seed=4)
    sums = sums_of({"a": x, "b": y})
    pair = PairSums.of(sums, active_units(sums), "a", "b")
    even = np.arange(120) % GROUPS % 2 == 0
    for moments, kept in ((pair.pooled, np.ones(120, dtype=bool)), (pair.halves[0], even)):
        samples = [np.asarray(v, dtype=np.float32).astype(float)[:, kept] for v in (x, y)]
        hsic = [unbiased_hsic(samples[a], samples[b]) for a, b in ((0, 0), (0, 1), (1, 1))]
        assert moments.hsic is not None
        np.testing.assert_allclose([moments.hsic.xx, moments.hsic.xy, moments.hsic.yy], hsic, rtol=1e-5)
        assert moments.swapped().hsic.yy == moments.hsic.xx
    dead = sums_of({"a": np.concatenate([x, np.full((1, 120), 2.5), np.zeros((1, 120))]), "b": y})
    again = PairSums.of(dead, active_units(dead), "a", "b").pooled.hsic
    np.testing.assert_allclose(again.xx, pair.pooled.hsic.xx, rtol=1e-5)
    rare = np.zeros((1, 120))
    rare[0, 6] = 3.0  # left out, and yet part of what the layer says of one image
    sums = sums_of({"a": np.concatenate([rare, x]), "b": y})
    pair = PairSums.of(sums, active_units(sums), "a", "b")
    np.testing.assert_array_equal(pair.units_x, [1, 2, 3, 4, 5])
    assert pair.pooled.cov_xx.shape == (5, 5)
    whole = np.concatenate([rare, np.asarray(x, dtype=np.float32)]).astype(float)
    np.testing.assert_allclose(pair.pooled.hsic.xx, unbiased_hsic(whole, whole), rtol=1e-5)


def test_layer_of_one_unit_has_all_defined_numbers():
    x = rectified(3)
    sums = sums_of({"a": x[:1], "b": x})
    tree = analyze_pair(sums, active_units(sums), "a", "b", CONFIG)
    assert tree["alignment"]["matching"][0] == 0
    assert tree["measures"]["r_squared"]["yx"]["value"] == pytest.approx(1, abs=1e-6)
    assert tree["unavailable"] == {}


def test_codes_of_three_kinds_are_distinguished():
    """Of six units of y one is a unit of x, one the sum of three, and one of all; the rest are nothing of x."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 6_000))
    y = np.stack([x[4], x[1] + x[2] + x[3], x.sum(axis=0), *rng.standard_normal((3, 6_000))])
    sums = sums_of({"a": x, "b": y})
    found = analyze_pair(sums, active_units(sums), "a", "b", AnalysisConfig(rotations=2))["sparse_xy"]
    np.testing.assert_array_equal(found["units_for_90"], [1, 3, -1, 0, 0, 0])
    np.testing.assert_array_equal(found["held_out_units_for_90"], [1, 3, -1, 0, 0, 0])
    assert set(found["forward_units"][1, :3]) == {1, 2, 3}
    assert set(found["recipe_units"][1, :3]) == {1, 2, 3}
    for kind, share in (("local", 1 / 6), ("few", 1 / 6), ("distributed", 1 / 6), ("unexplained", 1 / 2)):
        assert found["code"][kind]["value"] == pytest.approx(share)
        assert found["held_out_code"][kind]["value"] == pytest.approx(share)
    assert found["held_out_forward_loss"][0] > found["forward_loss"][0]
    assert found["kkt_gap"].max() <= 1e-8


def test_rotated_groups_share_subspace_but_not_basis():
    """Two blocks of units: in the first y has x's units, in the second a rotation of them."""
    rng = np.random.default_rng(0)
    n = 12_000

    def block(n_units):
        common = rng.standard_normal(n)
        return 1.5 * common + rng.standard_normal((n_units, n))

    same, turned = block(6), block(8)
    turned -= turned.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.cov(turned))
    white = (vectors / np.sqrt(values)).T @ turned
    q, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    back = np.linalg.cholesky(np.cov(turned)) @ q  # another basis of the same span, units correlated as before
    x, y = np.concatenate([same, turned]), np.concatenate([same, back @ white])
    sums = sums_of({"a": x, "b": y})
    found = analyze_pair(sums, active_units(sums), "a", "b", AnalysisConfig(rotations=5))["clusters"]
    assert found["n_clusters"] == 2
    np.testing.assert_array_equal(found["labels_x"], [1] * 6 + [0] * 8)
    np.testing.assert_array_equal(found["labels_y"], [1] * 6 + [0] * 8)
    assert found["stability"] == pytest.approx(1)
    spaces = found["subspaces"]
    np.testing.assert_array_equal(spaces["clusters"], [0, 1])
    np.testing.assert_allclose(spaces["mean_correlation"]["value"], 1, atol=1e-4)
    assert spaces["mean_correlation"]["chance"].max() < 0.9
    assert spaces["matched"]["value"][1] == pytest.approx(1, abs=1e-6)
    assert spaces["matched"]["value"][1] > spaces["matched"]["rotated"][1] + 5 * spaces["matched"]["rotated_sd"][1]
    assert spaces["matched"]["value"][0] < 0.95
    np.testing.assert_array_equal(found["hierarchical"]["sizes"].sum(axis=0), [14, 14])
    larger = found["hierarchical"]["sizes"].sum(axis=1) > max(found["hierarchical"]["limit"], 1)
    assert set(np.flatnonzero(larger)) == set(found["hierarchical"]["too_large"]), "nothing but one factor stays whole"
    assert found["of_weights"]["labels_x"].min() >= 0


def test_slices_of_targets_give_the_same_lasso(monkeypatch):
    x, y = rectified(8), rectified(11, seed=5)
    sums = sums_of({"a": x, "b": y})
    live = active_units(sums)
    whole = analyze_pair(sums, live, "a", "b", CONFIG)["sparse_xy"]
    monkeypatch.setattr("convergence.analysis.few_to_one.WEIGHTS_BYTES", 8 * 8 * 5 * 3)
    sliced = analyze_pair(sums, live, "a", "b", CONFIG)["sparse_xy"]
    for key in ("loss", "unit_loss", "held_out_loss", "held_out_error", "recipe_units", "kkt_gap", "forward_units"):
        np.testing.assert_allclose(sliced[key], whole[key], rtol=1e-12, atol=1e-15)
