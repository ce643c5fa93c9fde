"""Results from sums with a planted truth: who is whose partner, who carries nothing, what an interval rests on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from convergence.analysis.active_units import active_units, describe_units
from convergence.analysis.group_pairs import hsic_plain
from convergence.analysis.net_sums import NetSums
from convergence.analysis.pair import PairAnalysis, analyze_pair
from convergence.analysis.pair_sums import PairSums
from convergence.analysis.steps import computed
from convergence.config.stages import AnalysisConfig
from convergence.similarity import MEASURES
from convergence.statistics.bin_edges import encode, equal_mass_bins
from convergence.statistics.file import ComparisonSums
from convergence.statistics.histograms import UnitHistograms
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
    starts = np.cumsum(widths) - widths
    stored = [samples[a : a + w, :40].astype(float) for a, w in zip(starts, widths, strict=True)]
    return ComparisonSums(
        image_gram=np.stack([x.T @ x for x in stored]),
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
        "", "always zero", "constant", "non-finite values", "", "",
    )  # fmt: skip
    tree = analyze_pair(sums, live, "a", "b", CONFIG)
    np.testing.assert_array_equal(np.flatnonzero(live.rare), [4])
    np.testing.assert_array_equal(tree["units_x"], [0, 4, 5, 6, 7])
    assert tree["n_x"] == 8
    assert set(tree["alignment"]["semi_yx"]) <= {0, 4, 5, 6, 7}

    def numbers(node):
        return [v for item in node.values() for v in numbers(item)] if isinstance(node, dict) else [node]

    assert set(tree["unavailable"]) == {"image_cka", "within_class"}, (
        "the maps have the unit that is not finite in them"
    )
    for value in numbers({k: v for k, v in tree.items() if k != "unavailable"}):
        array = np.asarray(0.0 if isinstance(value, str) else value, dtype=float)
        assert np.isfinite(array).all() or np.isnan(array).all(), "NaN stands for a null that does not apply, only"
    assert np.isfinite(describe_units(sums, live)["mean"]).all()


@pytest.mark.parametrize("n_groups", [2, 3, 6, 7, 16, 17])
def test_rare_units_have_finite_correlations_in_every_jackknife_replicate(n_groups):
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
    assert 0 < live.rare[:60].sum() < 60
    assert n_groups < 6 or live.rare[1]
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


def test_debiased_cka_is_that_of_pairs_of_groups():
    x, y = rectified(5, n_samples=120), rectified(7, n_samples=120, seed=4)
    dead = [np.full((1, 120), 2.5), np.zeros((1, 120))]
    rare = np.zeros((1, 120))
    rare[0, 6] = 3.0  # in one group only
    for a in (x, np.concatenate([x, *dead]), np.concatenate([rare, x])):
        sums = sums_of({"a": a, "b": y})
        pair = PairSums.of(sums, active_units(sums), "a", "b")
        varying = [v[np.ptp(v, axis=1) > 0].astype(np.float32).astype(float) for v in (a, y)]
        groups = {None: range(GROUPS), 0: range(1, GROUPS), 4: [0, 1, 2, 3, 5]}
        for left_out, kept in groups.items():
            found = pair.replicate(left_out)
            chosen = np.isin(np.arange(120) % GROUPS, list(kept))
            deviations = [v[:, chosen].std(axis=1, keepdims=True) for v in varying]
            scaled = [v / np.where(s > 0, s, np.inf) for v, s in zip(varying, deviations, strict=True)]
            parts = [[v[:, g::GROUPS] for g in kept] for v in scaled]
            wanted = [hsic_plain(parts[i], parts[j]) / chosen.sum() ** 2 for i, j in ((0, 0), (0, 1), (1, 1))]
            np.testing.assert_allclose([found.x.hsic, found.hsic, found.y.hsic], wanted, rtol=1e-9)
            assert found.swapped().y.hsic == found.x.hsic == found.of_x_alone().hsic
            value = MEASURES.load("debiased_cka")(found)
            assert value == pytest.approx(wanted[1] / np.sqrt(wanted[0] * wanted[2]))
            assert MEASURES.load("debiased_cka")(found.swapped()) == value


def test_debiased_cka_of_independent_nets_with_dependent_positions_is_zero_on_average():
    """All 25 positions of an image are the same: there are 60 samples, not 1,500."""
    values, linear = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        groups = rng.permutation(np.arange(60) % 6)
        order = np.argsort(groups, kind="stable")
        maps = {n: np.repeat(rng.standard_normal((8, 60))[:, order], 25, axis=1) for n in "ab"}
        by_group = [[m[:, np.repeat(groups[order], 25) == g] for g in range(6)] for m in maps.values()]
        xx, xy, yy = (hsic_plain(by_group[i], by_group[j]) for i, j in ((0, 0), (0, 1), (1, 1)))
        values.append(xy / np.sqrt(xx * yy))
        r = np.corrcoef(np.concatenate(list(maps.values())))
        linear.append((r[:8, 8:] ** 2).sum() / np.sqrt((r[:8, :8] ** 2).sum() * (r[8:, 8:] ** 2).sum()))
    assert np.mean(linear) > 0.08
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_rare_units_are_kept_without_correlation_where_they_do_not_vary():
    x, y = rectified(4, 600), rectified(5, 600, seed=1)
    x[1] = 0
    x[1, [6, 12, 18]] = [2.0, 3.0, 1.0]  # of group 0 alone
    y[2] = x[1]
    sums = sums_of({"a": x, "b": y})
    live = active_units(sums)
    assert live.alive.all()
    np.testing.assert_array_equal(np.flatnonzero(live.rare), [1, 6])
    assert describe_units(sums, live)["rare"].sum() == 2
    pair = PairSums.of(sums, live, "a", "b")
    assert pair.pooled.corr_xy[1, 2] == pytest.approx(1, abs=1e-6)
    without = pair.replicate(0)
    assert (without.corr_xy[1] == 0).all()
    assert (without.corr_xy[:, 2] == 0).all()
    assert without.corr_xx[1, 1] == 1
    assert pair.replicate(1).corr_xy[1, 2] == pytest.approx(1, abs=1e-6)
    assert pair.halves[1].corr_xy[1, 2] == 0
    found = analyze_pair(sums, live, "a", "b", CONFIG)["measures"]["semi_matching"]["xy"]
    assert np.isfinite(found["standard_error"])


@pytest.mark.parametrize("scale", [1e-30, 1e17])
def test_units_of_any_scale_are_ordinary_units(scale):
    x = rectified(6, 900)
    y = (x[::-1] * scale).astype(np.float32)
    samples = np.concatenate([x.astype(np.float32), y])
    moments = Moments(samples[:, :10].mean(axis=1))
    moments.update(samples)
    np.testing.assert_allclose(moments.correlation()[:6, 6:], np.corrcoef(x)[:, ::-1], atol=1e-6)
    sums = sums_of({"a": x, "b": y})
    live = active_units(sums)
    assert live.alive.all()
    tree = analyze_pair(sums, live, "a", "b", CONFIG)
    np.testing.assert_array_equal(tree["alignment"]["matching"], np.arange(6)[::-1])
    assert tree["measures"]["debiased_cka"]["xy"]["value"] == pytest.approx(1, abs=1e-6)


def test_covariances_within_classes_are_those_of_residuals():
    rng = np.random.default_rng(0)
    classes = rng.integers(4, size=600)
    means = {n: 3 * rng.standard_normal((5, 4)) for n in "ab"}
    nets = {
        n: (m[:, classes] + rng.standard_normal((5, 600))).astype(np.float32).astype(float) for n, m in means.items()
    }
    sums = sums_of(nets)
    joined = np.concatenate(list(nets.values())) - sums.shift[:, None]
    of_class = classes == np.arange(4)[:, None]
    by_group = np.arange(600) % GROUPS == np.arange(GROUPS)[:, None]
    sums = replace(
        sums,
        class_count=np.array([(of_class & g).sum(axis=1) for g in by_group]),
        class_sums=np.array([(joined @ (of_class & g).T).T for g in by_group]),
    )
    pair = PairSums.of(sums, active_units(sums), "a", "b")
    assert pair.within_reason == ""
    for left_out in (None, 2):
        kept = np.ones(600, bool) if left_out is None else ~by_group[left_out]
        residual = joined.copy()
        for c in of_class:
            residual[:, c & kept] -= residual[:, c & kept].mean(axis=1, keepdims=True)
        wanted = residual[:, kept] @ residual[:, kept].T / kept.sum()
        found = pair.within_classes(left_out)
        np.testing.assert_allclose(found.cov_xx, wanted[:5, :5], atol=1e-9)
        np.testing.assert_allclose(found.cov_xy, wanted[:5, 5:], atol=1e-9)
        np.testing.assert_allclose(found.cov_yy, wanted[5:, 5:], atol=1e-9)
    assert np.abs(pair.pooled.corr_xy).max() > 0.5 > 0.2 > np.abs(pair.within_classes().corr_xy).max()
    without = replace(sums, class_count=None, class_sums=None)
    pair = PairSums.of(without, active_units(without), "a", "b")
    assert pair.within_classes() is None
    assert "no labels" in pair.within_reason


def test_next_of_stored_images_is_of_another_family():
    x = np.random.default_rng(0).standard_normal((6, 600))
    sums = replace(sums_of({"a": x, "b": x}), subset_family=np.arange(40) // 4)
    pair = PairSums.of(sums, active_units(sums), "a", "b")
    following = np.array([np.flatnonzero((pair.x.images.samples == s).all(axis=1))[0] for s in pair.shifted.y.samples])
    assert sorted(following) == list(range(40))
    assert (following // 4 != np.arange(40) // 4).all()
    np.testing.assert_array_equal(pair.shifted.y.gram, pair.y.images.gram[np.ix_(following, following)])


def test_layer_of_one_unit_has_all_defined_numbers():
    x = rectified(3)
    sums = sums_of({"a": x[:1], "b": x})
    tree = analyze_pair(sums, active_units(sums), "a", "b", CONFIG)
    assert tree["alignment"]["matching"][0] == 0
    assert tree["measures"]["r_squared"]["yx"]["value"] == pytest.approx(1, abs=1e-6)
    assert set(tree["unavailable"]) == {"within_class"}


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
    config = AnalysisConfig(rotations=5, clustering={"n_clusters": "eigengap"})
    found = analyze_pair(sums, active_units(sums), "a", "b", config)["clusters"]
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


def test_pairs_that_share_the_sums_of_a_net_have_the_bits_of_pairs_alone():
    x = rectified(5)
    sums = sums_of({"a": x, "b": rectified(6), "c": rectified(7)})
    live = active_units(sums)
    nets = {name: NetSums(sums, live, name) for name in "abc"}
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        alone, shared = (PairAnalysis(sums, live, one, other, CONFIG, net) for net in (None, nets.__getitem__))
        for left, right in zip(leaves(computed(alone)), leaves(computed(shared)), strict=True):
            np.testing.assert_array_equal(left, right)


def leaves(tree):
    for key in sorted(tree):
        yield from leaves(tree[key]) if isinstance(tree[key], dict) else [tree[key]]
