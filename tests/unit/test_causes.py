"""Causes of similarity: planted effects of initial weights, image order and training images come back."""

from itertools import combinations

import numpy as np
import pytest

from convergence.inference.causes import plain_effect, shared_causes
from convergence.inference.populations import nets_interval

ALPHA, BETA = 0.3, 0.1


def crossed(n_init, n_order):
    """Nets of a crossed design: (initialisation, order) of each, shares of each pair, units of each pair."""
    nets = [(i, o) for i in range(n_init) for o in range(n_order)]
    pairs = list(combinations(range(len(nets)), 2))
    shares = np.array([[nets[a][0] == nets[b][0], nets[a][1] == nets[b][1], True] for a, b in pairs])
    units = [[("initialisations of trained nets", f"seed {nets[k][0]}") for k in pair] for pair in pairs]
    return nets, pairs, shares, units


def simulated(rng, n_init, n_order, of_init=0.05, of_pair=0.05, groups=8):
    nets, pairs, shares, units = crossed(n_init, n_order)
    own, within = of_init * rng.standard_normal((2, n_init))
    values = np.array([0.4 + own[nets[a][0]] + own[nets[b][0]] for a, b in pairs])
    values += shares[:, 0] * (ALPHA + within[[nets[a][0] for a, _ in pairs]]) + shares[:, 1] * BETA
    values += of_pair * rng.standard_normal(len(pairs))
    images = 0.02 * np.sqrt(groups) * rng.standard_normal(groups)
    per_group = values[:, None] + images
    without = (per_group.sum(axis=1, keepdims=True) - per_group) / (groups - 1)
    return per_group.mean(axis=1), without, shares, units


def test_planted_effects_come_back_without_noise():
    rng = np.random.default_rng(0)
    found = shared_causes(*simulated(rng, 3, 2, of_init=0, of_pair=0))
    assert [one.causes for one in found] == [(), (0,), (1,)]
    assert [len(one.pairs) for one in found] == [6, 3, 6]
    none, init, order = found
    assert none.effect is None
    assert order.effect.value == pytest.approx(BETA)
    assert init.effect.value == pytest.approx(ALPHA)
    assert nets_interval(init.effect).error == pytest.approx(0, abs=1e-12)


def test_effects_equal_their_plain_definition():
    values, without, shares, units = simulated(np.random.default_rng(1), 4, 3)
    differing = shares[:, :2]
    for one in shared_causes(values, without, shares, units)[1:]:
        (cause,) = one.causes
        assert one.effect.value == pytest.approx(plain_effect(values, differing, cause))
    same = shared_causes(values, without, differing, units)
    assert [one.effect and one.effect.value for one in same] == pytest.approx(
        [one.effect and one.effect.value for one in shared_causes(values, without, shares, units)]
    )


@pytest.mark.parametrize("n_init", [3, 5])
def test_intervals_cover_the_planted_effects(n_init):
    rng = np.random.default_rng(n_init)
    covered, found = [], []
    for _ in range(300):
        _, init, order = shared_causes(*simulated(rng, n_init, 2))
        both = [nets_interval(one.effect) for one in (init, order)]
        covered.append([one.low <= truth <= one.high for truth, one in zip((ALPHA, BETA), both, strict=True)])
        found.append([one.low > 0 for one in both])
    assert (np.mean(covered, axis=0) > 0.92).all()
    assert (np.mean(found, axis=0) > ([0.3, 0.1] if n_init == 3 else [0.9, 0.4])).all()


def test_no_effect_is_rarely_found():
    rng = np.random.default_rng(9)
    found = 0
    for _ in range(300):
        values, without, shares, units = simulated(rng, 4, 2)
        change = shares[:, 1] * BETA
        _, _, order = shared_causes(values - change, without - change[:, None], shares, units)
        found += nets_interval(order.effect).p <= 0.05
    assert found / 300 < 0.08


def test_two_initialisations_give_no_interval_but_say_why():
    _, init, _ = shared_causes(*simulated(np.random.default_rng(0), 2, 3))
    interval = nets_interval(init.effect)
    assert np.isnan(interval.low)
    assert "2 initialisations of trained nets" in interval.missing


def test_causes_that_all_pairs_share_or_that_lack_pairs_are_left_out():
    values, without, shares, units = simulated(np.random.default_rng(0), 4, 1)
    assert shared_causes(values, without, shares, units) == []  # one order: every pair shares it
    values, without, shares, units = simulated(np.random.default_rng(0), 1, 4)
    assert shared_causes(values, without, shares, units) == []  # one initialisation
    values, without, shares, units = simulated(np.random.default_rng(0), 3, 2)
    values[shares[:, 0]] = np.nan  # pairs of one initialisation were not compared
    assert [one.causes for one in shared_causes(values, without, shares, units)] == [(), (1,)]
