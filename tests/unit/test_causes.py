"""Causes of similarity: planted effects of initial weights, image order and training images come back."""

from itertools import combinations

import numpy as np
import pytest

from convergence.analysis.cause_rows import cause_rows
from convergence.analysis.population_tables import CAUSES_TABLE
from convergence.analysis.summaries import OF_PAIRS, PopulationNumbers
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


def tables(nets, layers=("conv1",)):
    """Tables of a comparison of nets (name, initialisation, order); the similarity is planted."""
    members = [(f"{name}{layer}", name, start, layer) for name, start, _ in nets for layer in layers]
    order = {name: seed for name, _, seed in nets}
    start = {name: text for name, text, _ in nets}
    pairs = [(x, y) for x, y in combinations(members, 2) if x[1] != y[1]]
    same_init = np.array([start[x[1]] == start[y[1]] for x, y in pairs])
    same_order = np.array([order[x[1]] == order[y[1]] for x, y in pairs])
    value = 0.4 + ALPHA * same_init + BETA * same_order
    n = len(pairs)
    nothing = np.full(n, np.nan)
    columns = {"x": np.array([x[0] for x, _ in pairs]), "y": np.array([y[0] for _, y in pairs])}
    of_pairs = columns | {
        "kind": np.where(same_init, "same_init", "trained"), "skip_reason": np.full(n, ""), "same_init": same_init,
        "same_order": same_order, "same_data": np.full(n, True),
        **dict.fromkeys({name for names in OF_PAIRS.values() for name in names}, nothing),
    }  # fmt: skip
    measures = columns | {
        "measure": np.full(n, "matching"), "evaluation": np.full(n, "all_images"), "value": value,
        "bias": np.zeros(n), "n_replicates": np.full(n, 4), "null_draws": np.zeros(n, int),
        **dict.fromkeys(("null", "null_sd", "shifted", "ceiling"), nothing),
    }  # fmt: skip
    of_members = {
        "member": np.array([m[0] for m in members]), "net": np.array([m[1] for m in members]),
        "initialisation": np.array([m[2] for m in members]), "layer": np.array([m[3] for m in members]),
        "trained": np.full(len(members), True), "epoch": np.full(len(members), -1),
        "n_units": np.full(len(members), 8),
    }  # fmt: skip
    return PopulationNumbers(of_members, of_pairs, measures, np.tile(value[:, None], 4), np.zeros((n, 0))), of_members


def nets_of(network, n_init, n_order):
    return [(f"{network}{i}{o}", f"{network} abc, seed {i}", o) for i in range(n_init) for o in range(n_order)]


def test_rows_of_the_table_name_what_pairs_share():
    rows = list(cause_rows(*tables(nets_of("small", 3, 2))))
    assert [(row["shared"], row["n_pairs"], row["n_initialisations"]) for row in rows] == [
        ("nothing", 6, 3), ("initial weights", 3, 3), ("image order", 6, 3)
    ]  # fmt: skip
    assert [(row["same_init"], row["same_order"], row["same_data"]) for row in rows] == [
        (False, False, True), (True, False, True), (False, True, True)
    ]  # fmt: skip
    assert [row.get("effect") for row in rows] == [None, pytest.approx(ALPHA), pytest.approx(BETA)]
    assert {row["network"] for row in rows} == {""}
    known = {column.name for column in CAUSES_TABLE.columns}
    assert all(set(row) <= known for row in rows)


def test_only_nets_of_one_network_are_compared():
    rows = list(cause_rows(*tables(nets_of("small", 3, 2) + nets_of("wide", 2, 1))))
    assert {row["network"] for row in rows} == {"small abc"}
    assert sum(row["n_pairs"] for row in rows) == 15


def test_no_rows_without_differing_causes_or_with_several_layers():
    assert not list(cause_rows(*tables(nets_of("small", 4, 1))))
    assert not list(cause_rows(*tables(nets_of("small", 3, 2), layers=("conv1", "conv2"))))
