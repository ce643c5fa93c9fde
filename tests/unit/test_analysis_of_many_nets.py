"""All nets at once, over epochs, and distributions: planted units come back, and what is not there is not found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from convergence.alignment.matching import matching
from convergence.analysis.active_units import active_units
from convergence.analysis.distributions import compare_distributions, shape_distances
from convergence.analysis.joint import JointCorrelations, trajectories
from convergence.analysis.kinds import kinds_of_nets
from convergence.analysis.net_sums import NetSums
from convergence.analysis.nets import analyze_nets
from convergence.analysis.pair_sums import PairSums
from convergence.config.stages import AnalysisConfig
from tests.unit.test_analysis import sums_of

CONFIG = AnalysisConfig(rotations=3)


def nets_with_common_units(n_common: int, n_own: int, n_nets: int = 4, n_samples: int = 4_000):
    """Nets of shuffled units, the first ``n_common`` of which (before shuffling) all have; where each unit went."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal((n_common, n_samples))
    nets, places = {}, []
    for k in range(n_nets):
        units = np.concatenate(
            [common + 0.3 * rng.standard_normal(common.shape), rng.standard_normal((n_own, n_samples))]
        )
        order = rng.permutation(len(units))
        nets[f"net{k + 1}"] = units[order]
        places.append(np.argsort(order))
    return nets, np.array(places)


def test_units_shared_by_all_nets_are_found():
    nets, places = nets_with_common_units(5, 4)
    sums = sums_of(nets)
    found = analyze_nets(sums, active_units(sums), CONFIG, {})["kinds"]["trained"]
    wanted = {tuple(places[:, unit]) for unit in range(5)}
    assert {tuple(members) for members in found["members"][:5]} == wanted
    np.testing.assert_array_equal(found["n_nets"], [4] * 5 + [1] * 4)
    assert found["shared"]["in 4"]["value"] == pytest.approx(5 / 9)
    assert found["shared"]["in 2"]["value"] == pytest.approx(5 / 9)
    assert found["unit_correlation"][:5].min() > 0.9
    assert (
        found["mean_correlation"]["value"]
        > found["mean_correlation"]["null"] + 5 * found["mean_correlation"]["null_sd"]
    )
    assert found["held_out_mean_correlation"] == pytest.approx(found["mean_correlation"]["value"], abs=0.03)
    assert found["cycle_consistency"]["value"] > 5 / 9 > found["cycle_chance"] == pytest.approx(1 / 9)
    for net, place in zip(nets, places, strict=True):
        assert found["unit_cycles"][net][place[:5]].min() == 1, "common units come back to themselves"


def test_units_of_the_wider_net_remain_unmatched():
    """The last net is wider than the others: its last units have no partner, and still a place in every array."""
    nets, _ = nets_with_common_units(3, 0, n_nets=3)
    nets["net3"] = np.concatenate([nets["net3"], np.random.default_rng(1).standard_normal((4, 4_000))])
    sums = sums_of(nets)
    found = analyze_nets(sums, active_units(sums), CONFIG, {})["kinds"]["trained"]
    assert [len(found["unit_cycles"][net]) for net in nets] == [3, 3, 7]
    assert (found["members"][:, :2] == -1).sum() == 8
    assert set(found["members"][:, 2]) == set(range(7))


def test_only_nets_of_one_kind_are_joined():
    nets, _ = nets_with_common_units(3, 1)
    sums = replace(sums_of(nets), trained=(True, True, False, False))
    assert kinds_of_nets(sums) == {"trained": ["net1", "net2"], "untrained": ["net3", "net4"]}
    assert analyze_nets(sums, active_units(sums), CONFIG, {})["kinds"] == {}
    several = replace(sums, layers=("a", "b", "a", "b"), epochs=(1, 1, 0, 2))
    assert list(kinds_of_nets(several)) == [
        "trained a epoch 1",
        "trained b epoch 1",
        "untrained a epoch 0",
        "untrained b epoch 2",
    ]


def test_map_of_nets_keeps_planar_distances():
    nets, _ = nets_with_common_units(3, 1)
    sums = sums_of(nets)
    points = np.array([[0.0, 0], [0.3, 0], [0, 0.4], [0.3, 0.4]])
    names = list(nets)
    distances = {
        (names[a], names[b]): float(np.linalg.norm(points[a] - points[b])) for a in range(4) for b in range(a + 1, 4)
    }
    found = analyze_nets(sums, active_units(sums), CONFIG, distances)["map"]
    apart = np.linalg.norm(found["points"][:, None] - found["points"][None], axis=2)
    np.testing.assert_allclose(apart, found["distances"], atol=1e-9)
    assert found["explained"] == pytest.approx(1)


def test_joint_correlations_are_those_of_the_samples():
    nets, _ = nets_with_common_units(3, 2, n_nets=3, n_samples=300)
    nets["net2"][1] = 4.0
    sums = sums_of(nets)
    joint = JointCorrelations(sums, active_units(sums), ["net3", "net2"])
    samples = np.concatenate([nets["net3"], np.delete(nets["net2"], 1, axis=0)]).astype(np.float32).astype(float)
    np.testing.assert_allclose(joint.pooled(), np.corrcoef(samples), atol=1e-9)
    group = np.arange(300) % joint.n_groups
    for g, correlation in enumerate(joint.without()):
        np.testing.assert_allclose(correlation, np.corrcoef(samples[:, group != g]), atol=1e-9)
    np.testing.assert_allclose(joint.half(1), np.corrcoef(samples[:, group % 2 == 1]), atol=1e-9)
    np.testing.assert_array_equal(joint.net_of_unit, [0] * 5 + [1] * 4)


def test_first_matching_epoch_is_found():
    """Half of ten units are there from epoch 1, the others from epoch 5; y has them in another order."""
    rng = np.random.default_rng(0)
    final = rng.standard_normal((10, 3_000))
    order = rng.permutation(10)
    members = {}
    for net, permutation in (("net1", np.arange(10)), ("net2", order)):
        for epoch, n_learnt in ((0, 0), (1, 5), (5, 10)):
            units = rng.standard_normal((10, 3_000))
            units[:n_learnt] = final[:n_learnt] + 0.1 * units[:n_learnt]
            members[f"{net}@{epoch}"] = units[permutation]
    sums = replace(sums_of(members), of_net=("net1",) * 3 + ("net2",) * 3, epochs=(0, 1, 5) * 2)
    found = trajectories(sums, active_units(sums))["layer"]
    np.testing.assert_array_equal(found["epochs"], [0, 1, 5])
    pair = found["pairs"]["net1|net2"]
    np.testing.assert_array_equal(pair["partner"], np.argsort(order))
    assert pair["first_matched"][:5].max() <= 1
    assert np.mean(pair["first_matched"] == 1) >= 0.3
    assert np.mean(pair["first_matched"] == 5) >= 0.3
    same = pair["same_partner"]["value"]
    assert same[0] < 0.5 <= same[1] < 1 == same[2], "both halves of the images find the partners"
    np.testing.assert_allclose(pair["final_partner"]["value"], [0, 0.5, 1], atol=0.05)
    for net in ("net1", "net2"):
        np.testing.assert_allclose(found["own"][net]["value"], [0, 0.5, 1], atol=0.05)
        assert found["own"][net]["value"][-1] == pytest.approx(1, abs=1e-12)
    once = sums_of({"a": final, "b": final})
    assert trajectories(once, active_units(once)) == {}


def test_same_partner_is_not_1_at_the_end_by_construction():
    """Half of the units are private: their partners are noise, other partners on other images."""
    rng = np.random.default_rng(1)
    members = {}
    final = rng.standard_normal((8, 1_200))
    for net in ("net1", "net2"):
        private = rng.standard_normal((8, 1_200))
        for epoch in (0, 3):
            members[f"{net}@{epoch}"] = np.concatenate([final if epoch else rng.standard_normal((8, 1_200)), private])
    sums = replace(sums_of(members), of_net=("net1",) * 2 + ("net2",) * 2, epochs=(0, 3) * 2)
    found = trajectories(sums, active_units(sums))["layer"]["pairs"]["net1|net2"]["same_partner"]
    assert 0.5 <= found["value"][1] < 0.8
    assert found["value"][0] < 0.3
    half = [sums_of({name: x[:, [s for s in range(1_200) if s % 6 % 2 == k]] for name, x in members.items()}, 3)
            for k in (0, 1)]  # fmt: skip
    partners = [matching(PairSums.of(one, active_units(one), "net1@3", "net2@3").pooled.corr_xy) for one in half]
    assert found["value"][1] == pytest.approx(np.mean(partners[0].columns == partners[1].columns))


def test_distributions_of_partners_are_alike():
    """Units of four shapes, each in both nets with another scale; any two are further apart than partners."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((4, 5_000))
    shapes = np.stack([np.maximum(normal[0], 0), np.exp(normal[1]), normal[2] ** 2, np.maximum(normal[3] - 1, 0)])
    sums = sums_of({"a": shapes, "b": 3 * shapes[[2, 0, 3, 1]]})
    live = active_units(sums)
    partners = matching(PairSums.of(sums, live, "a", "b").pooled.corr_xy)
    found = compare_distributions(NetSums(sums, live, "a"), NetSums(sums, live, "b"), partners)
    assert found["matched"] == pytest.approx(0, abs=0.01)
    assert found["assigned"] <= found["matched"] + 1e-12
    assert found["any"] > 0.2
    assert found["within_x"] == pytest.approx(found["within_y"], abs=0.01)
    assert found["sparsity"] == pytest.approx(0, abs=1e-9)


def test_shape_distances_are_wasserstein_distances():
    from scipy.stats import wasserstein_distance

    rng = np.random.default_rng(0)
    x, y = np.sort(rng.standard_normal((3, 100))), np.sort(rng.standard_normal((5, 100)) ** 2)
    wanted = [[wasserstein_distance(a, b) for b in y] for a in x]
    np.testing.assert_allclose(shape_distances(x, y), wanted, rtol=1e-12)
