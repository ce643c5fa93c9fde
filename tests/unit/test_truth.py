"""A quick part of ``benchmarks/truth``: populations with a known truth, and what the results say of them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.truth import populations
from benchmarks.truth.bars import judged, table
from benchmarks.truth.net_population import NetPopulation, rectified_correlation
from benchmarks.truth.readings import EQUAL, Reading, mean_of
from benchmarks.truth.simulation import simulate


def mean(found: list[Reading], quantity: str) -> float:
    return float(np.mean([reading.value for reading in found if reading.quantity == quantity]))


def test_truth_of_a_population_of_nets_is_that_of_many_images():
    nets = NetPopulation(width=6, n_images=200_000)
    population, loadings = nets.draw(np.random.default_rng(0), 2)
    x, y = population.activations.values()
    r = np.corrcoef(x.T, y.T)[:6, 6:]
    found = np.sort(r.max(axis=1))[-int((loadings[0] * loadings[1] > 0).sum()) :]
    expected = np.sort(rectified_correlation(loadings[0] * loadings[1]))[-len(found) :]
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert nets.of_these(loadings)["linear_cka"] == pytest.approx((r**2).sum() / 6, abs=0.01)


def test_units_share_the_causes_that_a_population_names():
    population = populations.share_of_units(np.random.default_rng(0), 5, n_nets=2, width=8, n_images=4000)
    (x, y), (of_x, of_y) = population.activations.values(), population.causes.values()
    r = np.corrcoef(x.T, y.T)[:8, 8:]
    same = (of_x[:, None] == of_y) & (of_x[:, None] >= 0)
    assert same.sum() == 5
    assert r[same].min() > 0.5
    assert np.abs(r[~same]).max() < 0.1


def test_half_of_the_units_shared_one_to_one_are_found():
    found = simulate(["half-shared"], 8)["half-shared"]
    assert mean(found, "share of units in all nets") == pytest.approx(0.5, abs=0.05)
    assert mean(found, "shared units discovered") > 0.95
    assert mean(found, "private units among discoveries") < 0.15
    assert mean(found, "dimensions beyond chance, all nets") == pytest.approx(12, abs=1)
    assert {one.verdict for one in found if one.quantity.startswith("“Matched units")} == {"right"}


def test_units_of_one_subspace_in_other_bases_are_not_discovered():
    found = simulate(["rotated-relu"], 4)["rotated-relu"]
    assert 0.01 < mean(found, "P(p ≤ .05)") < 0.11
    assert mean(found, "any false discovery") < 0.25
    assert mean(found, "share of units in all nets") < 0.1


def test_planted_clusters_are_found():
    found = simulate(["clusters-21"], 2)["clusters-21"]
    assert mean(found, "ARI with the planted clusters") > 0.95


@pytest.mark.slow
def test_intervals_over_some_nets_are_those_of_their_pairs():
    found = simulate(["nets"], 2)["nets"]
    for n in (4, 6, 8):
        for measure in ("matched r", "matched r, held out", "linear CKA", "R²"):
            (first, second) = (one for one in found if one.quantity == f"{measure}, {n} nets")
            assert first.over_nets is not None
            assert first.over_images is not None
            assert (first.value + second.value) / 2 == pytest.approx(first.truth, abs=0.12)
    differences = [one for one in found if one.quantity == EQUAL]
    assert len(differences) == 20  # five numbers of two draws, with untrained and with mixed pairs
    assert np.mean([one.value for one in differences]) < 0.5


def test_bars_judge_the_mean_of_all_draws():
    def of(n_covered: int) -> dict[str, list[Reading]]:
        return {"nets": [Reading("R², 4 nets", 0.3, 0.3, over_nets=k < n_covered, draw=k) for k in range(64)]}

    (bar,) = judged(of(60))
    assert bar.bar.covers
    assert bar.holds
    assert "| 0.300 |" in table(of(60), {"nets": "nets"}, {"nets": 64}, [bar])
    (bar,) = judged(of(50))
    assert not bar.holds
    assert "**fails**" in table(of(50), {"nets": "nets"}, {"nets": 64}, [bar])
    assert judged(of(57), allowance=3.0)[0].holds


def test_readings_of_one_draw_are_one_sample():
    rng = np.random.default_rng(0)
    values = rng.random(50)
    alone = [Reading("r", value, draw=k) for k, value in enumerate(values)]
    mean, error = mean_of(alone)
    assert (mean, error) == pytest.approx((values.mean(), values.std(ddof=1) / np.sqrt(50)))
    assert mean_of([one for one in alone for _ in range(4)]) == pytest.approx((mean, error))
    assert np.isnan(mean_of([alone[0]] * 4)[1])
