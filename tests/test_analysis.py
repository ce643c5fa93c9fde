"""Results from sums with a planted truth: who is whose partner, who carries nothing, what an interval rests on."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.analysis.layer import describe_units, mean_activation_distance, unit_means
from convergence.analysis.pair import analyze_pair
from convergence.analysis.units import PairSums, live_units
from convergence.experiment import AnalysisConfig
from convergence.statistics.bin_edges import encode
from convergence.statistics.file import Sums
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.information import leave_one_out
from convergence.statistics.joint import JointCounts
from convergence.statistics.moments import Moments

CONFIG = AnalysisConfig(rotations=4, sparse={"alphas": 5, "max_units": 4})
GROUPS = 6


def sums_of(nets: dict[str, np.ndarray], n_groups: int = GROUPS) -> Sums:
    """Sums of nets given as samples (n_units, n_samples), sample s in group s mod ``n_groups``."""
    samples = np.concatenate(list(nets.values())).astype(np.float32)
    widths = [len(rows) for rows in nets.values()]
    parts, counts = [], []
    histograms = UnitHistograms.zeros(len(samples))
    histograms.update(samples)
    edges = histograms.edges(8).edges
    for g in range(n_groups):
        part = Moments(np.nan_to_num(samples[:, :10].mean(axis=1)), "float64")
        part.update(samples[:, g::n_groups])
        parts.append(part)
        joint = JointCounts(len(samples), len(samples), 8)
        codes = encode(np.ascontiguousarray(samples[:, g::n_groups]), edges)
        joint.update(codes, codes)
        counts.append(joint.counts())
    information, without = leave_one_out(np.stack(counts))
    return Sums(
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
        shifted_products=np.sum(
            [shifted_products(samples[:, g::n_groups], parts[0].shift) for g in range(n_groups)], axis=0
        ),
        histograms=histograms,
        mutual_information=information,
        mutual_information_without=without,
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
    tree = analyze_pair(sums, live_units(sums), "a", "b", CONFIG)
    for key in ("alignment", "information"):
        np.testing.assert_array_equal(tree[key]["matching"], np.argsort(order))
        np.testing.assert_array_equal(tree[key]["semi_xy"], np.argsort(order))
    assert tree["measures"]["matching"]["xy"]["value"] == pytest.approx(1, abs=1e-6)
    assert tree["measures"]["matching"]["xy"]["null"] < 0.9
    assert tree["alignment"]["same_assignment"] == 1
    assert tree["alignment"]["never_chosen"] == 0
    assert tree["sparse_xy"]["one_unit"]["value"] == pytest.approx(0, abs=1e-6)
    assert tree["information"]["same_semi"]["value"] == 1


def test_what_only_mutual_information_sees():
    """A unit that fires at both ends of another's range: correlation misses it, mutual information does not."""
    x = np.random.default_rng(0).standard_normal((5, 4_000))
    y = np.concatenate([np.abs(x[:1]), x[1:4] + 0.5 * np.random.default_rng(1).standard_normal((3, 4_000))])
    sums = sums_of({"a": x, "b": y})
    found = analyze_pair(sums, live_units(sums), "a", "b", CONFIG)["information"]
    assert found["semi_xy"][0] == 0
    assert found["semi_xy_nats"][0] > 1


def test_units_that_carry_nothing_are_named_and_left_out():
    x = rectified(8)
    x[1] = 0
    x[2] = 4.25
    x[3, 5] = np.nan
    x[4] = 0
    x[4, ::GROUPS] = np.abs(np.random.default_rng(0).standard_normal(len(x[4, ::GROUPS])))  # one group only
    y = rectified(6, seed=1)
    with np.errstate(invalid="ignore"):
        sums = sums_of({"a": x, "b": y})
        live = live_units(sums)
    assert live.reason[:6] == (
        "", "always zero", "constant", "non-finite values", "varies in too few image groups", "",
    )  # fmt: skip
    tree = analyze_pair(sums, live, "a", "b", CONFIG)
    np.testing.assert_array_equal(tree["units_x"], [0, 5, 6, 7])
    assert tree["n_x"] == 8
    assert set(tree["alignment"]["semi_yx"]) <= {0, 5, 6, 7}

    def numbers(node):
        return [v for item in node.values() for v in numbers(item)] if isinstance(node, dict) else [node]

    for value in numbers({k: v for k, v in tree.items() if k != "measures"} | {"m": tree["measures"]["matching"]}):
        array = np.asarray(value, dtype=float)
        assert np.isfinite(array).all() or np.isnan(array).all(), "NaN stands for a null that does not apply, only"
    assert np.isfinite(describe_units(sums, live)["mean"]).all()


def test_a_dead_net_gives_a_reason_and_no_results():
    sums = sums_of({"a": rectified(4), "b": np.zeros((4, 3_000))})
    tree = analyze_pair(sums, live_units(sums), "a", "b", CONFIG)
    assert tree["nothing_because"] == "b has fewer than two units that carry anything"
    assert "measures" not in tree


def test_different_widths():
    x = rectified(7)
    sums = sums_of({"a": x, "b": x[[4, 0, 2]]})
    tree = analyze_pair(sums, live_units(sums), "a", "b", CONFIG)
    matched = tree["alignment"]["matching"]
    assert (matched[4], matched[0], matched[2]) == (0, 1, 2)
    assert (np.delete(matched, [4, 0, 2]) == -1).all()
    assert len(tree["alignment"]["order_x"]) == 7
    assert tree["sparse_xy"]["dense"]["value"] == pytest.approx(0, abs=1e-6)
    assert tree["sparse_yx"]["dense"]["value"] > 0.05


def test_replicates_leave_whole_groups_out():
    x, y = rectified(4, seed=2), rectified(5, seed=3)
    sums = sums_of({"a": x, "b": y})
    pair = PairSums.of(sums, live_units(sums), "a", "b")
    joined = np.concatenate([x, y]).astype(np.float32).astype(float)
    for g, moments in enumerate(pair.without):
        kept = np.arange(joined.shape[1]) % GROUPS != g
        np.testing.assert_allclose(moments.corr_xy, np.corrcoef(joined[:, kept])[:4, 4:], atol=1e-12)
    even, odd = pair.halves
    np.testing.assert_allclose(
        even.corr_xx, np.corrcoef(joined[:, np.arange(joined.shape[1]) % 2 == 0])[:4, :4], atol=1e-12
    )
    assert even.n + odd.n == pair.pooled.n


def test_cross_fitting_takes_the_best_of_noise_away():
    """Independent units: the best of forty correlations is far above zero, a partner chosen elsewhere is not."""
    rng = np.random.default_rng(0)
    sums = sums_of({"a": rng.standard_normal((40, 300)), "b": rng.standard_normal((40, 300))})
    tree = analyze_pair(sums, live_units(sums), "a", "b", CONFIG)
    assert tree["measures"]["semi_matching"]["xy"]["value"] > 0.1
    assert abs(tree["alignment"]["cross_fitted_semi_xy"]) < 0.05


def test_mean_activations():
    x = rectified(6)
    sums = sums_of({"a": x, "b": x[::-1], "c": 2 * x})
    live = live_units(sums)
    np.testing.assert_allclose(unit_means(sums)[:6], x.astype(np.float32).mean(axis=1, dtype=float), rtol=1e-6)
    assert mean_activation_distance(sums, live, "a", "b").value == pytest.approx(0, abs=1e-6)
    assert mean_activation_distance(sums, live, "a", "c").value == pytest.approx(1 / 1.5, rel=1e-6)


def test_the_next_image_is_a_chance_level():
    """The same units, seeing other images: own covariances stay, everything in common goes."""
    x = rectified(8)
    sums = sums_of({"a": x, "b": x[::-1]})
    pair = PairSums.of(sums, live_units(sums), "a", "b")
    assert pair.shifted is not None
    np.testing.assert_array_equal(pair.shifted.corr_xx, pair.pooled.corr_xx)
    rolled = np.concatenate([np.roll(x[:, g::GROUPS], -1, axis=1) for g in range(GROUPS)], axis=1)
    ordered = np.concatenate([x[:, g::GROUPS] for g in range(GROUPS)], axis=1)
    wanted = np.corrcoef(np.concatenate([ordered, rolled[::-1]]))[:8, 8:]
    np.testing.assert_allclose(pair.shifted.corr_xy, wanted, atol=1e-6)
    tree = analyze_pair(sums, live_units(sums), "a", "b", CONFIG)
    found = tree["measures"]["matching"]["xy"]
    assert found["value"] == pytest.approx(1, abs=1e-6)
    assert abs(found["shifted"]) < 0.15
