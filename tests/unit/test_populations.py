"""Intervals over nets and images: simulated populations of nets whose mean is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from convergence.inference import NetsNumber, PairUnits, jackknife, nets_interval
from convergence.inference.pair_units import plain_mean_without

DRAWS, GROUPS = 400, 16


def nets(population, n):
    return [(population, f"{population} {k}") for k in range(n)]


def planted(rng, n_trained, n_untrained, of_net, of_pair, common=0.0, own=0.0, untrained=0.0):
    """Numbers of trained, untrained and mixed pairs: a net adds its share to all pairs that it is in.

    ``common`` and ``own`` are the SDs of the means over image groups of a deviation of all pairs, and of one pair.
    """
    members = nets("trained nets", n_trained) + nets("untrained nets", n_untrained)
    of_nets = of_net * rng.standard_normal(len(members))
    of_images = common * np.sqrt(GROUPS) * rng.standard_normal(GROUPS)
    found = {}
    for kind, pairs in (
        ("trained", list(combinations(range(n_trained), 2))),
        ("untrained", list(combinations(range(n_trained, len(members)), 2))),
        ("mixed", list(product(range(n_trained), range(n_trained, len(members))))),
    ):
        if not pairs:
            continue
        a, b = np.array(pairs).T
        values = of_nets[a] + of_nets[b] + of_pair * rng.standard_normal(len(a)) + untrained * (kind == "untrained")
        groups = values[:, None] + of_images + own * np.sqrt(GROUPS) * rng.standard_normal((len(a), GROUPS))
        without = (groups.sum(axis=1, keepdims=True) - groups) / (GROUPS - 1)
        units = PairUnits.of([(members[i], members[j]) for i, j in pairs])
        found[kind] = units.mean(groups.mean(axis=1), without, smooth=False)
    return found


@pytest.mark.parametrize("k", [3, 4, 6, 8])
@pytest.mark.parametrize(
    ("of_net", "of_pair", "common", "own"),
    [(0, 1, 0, 0), (0.5, 1, 0.3, 0.2), (1, 1, 0, 0.3), (1, 0, 0, 0), (1, 0.3, 0.5, 0.2), (0.1, 0.1, 1, 0)],
)
def test_intervals_over_nets_cover_the_mean_of_the_population(k, of_net, of_pair, common, own):
    rng = np.random.default_rng([k, int(10 * of_net), int(10 * common)])
    found = [nets_interval(planted(rng, k, 0, of_net, of_pair, common, own)["trained"]) for _ in range(DRAWS)]
    assert 0.915 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 1.0, "93 to 99 %, and what 400 draws add"
    assert all((one.p <= 0.05) == (not one.low <= 0 <= one.high) for one in found)


@pytest.mark.parametrize("sizes", [(3, 3), (4, 4), (8, 3)])
@pytest.mark.parametrize(("first", "second"), [("trained", "untrained"), ("trained", "mixed")])
def test_equal_populations_rarely_differ_and_unequal_ones_do(sizes, first, second):
    rng = np.random.default_rng([*sizes, len(second)])
    same = [planted(rng, *sizes, 1.0, 0.5, 0.5, 0.2) for _ in range(DRAWS)]
    differ = [nets_interval(one[first].minus(one[second])) for one in same]
    assert np.mean([one.p <= 0.05 for one in differ]) <= 0.07, "6 %, and what 400 draws add"
    apart = planted(rng, 6, 6, 0.1, 0.1, untrained=3.0)
    found = nets_interval(apart["trained"].minus(apart["untrained"]))
    assert found.high < -2
    assert found.p < 1e-4


def similarities(rng, n, logit, spread):
    """Similarities of the pairs of n nets, a net adding its share to the logit of all pairs that it is in."""
    a, b = np.array([*combinations(range(n), 2)]).T
    of_nets = spread * rng.standard_normal(n)
    return 1 / (1 + np.exp(-logit - of_nets[a] - of_nets[b]))


def of_similarities(population, values, n):
    units = PairUnits.of([*combinations(nets(population, n), 2)])
    return units.mean(values, np.zeros((len(values), 0)), kind="similarity")


@pytest.mark.parametrize("k", [4, 6, 8])
@pytest.mark.parametrize(("logit", "spread"), [(-2.0, 0.5), (0.0, 0.5), (2.0, 0.7)])
def test_intervals_of_skewed_similarities_cover_the_mean_of_the_population(k, logit, spread):
    rng = np.random.default_rng(k)
    pairs = logit + spread * np.sqrt(2) * rng.standard_normal(200_000)
    truth, covered, of_student = np.mean(1 / (1 + np.exp(-pairs))), [], []
    for _ in range(2 * DRAWS):
        number = of_similarities("trained nets", similarities(rng, k, logit, spread), k)
        found = nets_interval(number)
        covered.append(found.low <= truth <= found.high)
        plain = nets_interval(replace(number, kind="plain"))
        of_student.append(plain.low <= truth <= plain.high)
        assert found.low <= plain.low < min(plain.high, 1.0) <= found.high
        assert (found.p, found.error, found.df) == (plain.p, plain.error, plain.df)
    assert 0.925 <= np.mean(covered) <= 1.0, "93 to 99 %, and what 800 draws add"
    assert logit == 0 or np.mean(of_student) < 0.93, "Student's t covers 88 to 92 %"


@pytest.mark.parametrize(("logit", "spread"), [(-2.0, 0.5), (2.0, 0.7)])
def test_equal_populations_of_skewed_similarities_rarely_differ_and_unequal_ones_do(logit, spread):
    rng = np.random.default_rng(0)
    sizes = {"trained nets": 8, "untrained nets": 3}
    differ = []
    for _ in range(DRAWS):
        first, second = (of_similarities(one, similarities(rng, n, logit, spread), n) for one, n in sizes.items())
        found = nets_interval(first.minus(second))
        assert (found.p <= 0.05) == (not found.low <= 0 <= found.high)
        assert found.low <= found.value <= found.high
        differ.append(found.p <= 0.05)
    assert np.mean(differ) <= 0.07
    first = of_similarities("trained nets", similarities(rng, 6, 1.0, 0.1), 6)
    second = of_similarities("untrained nets", similarities(rng, 6, -2.0, 0.1), 6)
    found = nets_interval(first.minus(second))
    truth = 1 / (1 + np.exp(-1)) - 1 / (1 + np.exp(2))
    assert found.low <= truth <= found.high
    assert found.low > 0.4
    assert found.p < 1e-4


@pytest.mark.parametrize("values", [[0.01, 0.02, -0.01, 0.03, -0.02, 0.01], [1.2, 0.9, 1.1, 1.0, 1.0, 0.9], [1.0] * 6])
def test_similarity_beyond_the_range_of_logits_has_the_interval_of_student(values):
    number = of_similarities("trained nets", np.array(values), 4)
    plain = nets_interval(replace(number, kind="plain"))
    assert nets_interval(number) == replace(plain, high=max(min(plain.high, 1.0), plain.value))
    nothing = nets_interval(number.minus(number))
    assert (nothing.value, nothing.error, nothing.p) == (0, 0, 1)


def test_both_readings_of_the_bias_are_on_the_scale_of_logits_as_well():
    rng = np.random.default_rng(2)
    values = similarities(rng, 6, 0.0, 0.1)
    units = PairUnits.of([*combinations(nets("trained nets", 6), 2)])
    without = values[:, None] + 0.01 + np.zeros(8)
    found, plain = (nets_interval(units.mean(values, without, smooth, kind="similarity")) for smooth in (True, False))
    assert found.bias == pytest.approx(0.07)
    assert (found.high, found.low) == pytest.approx((plain.high, plain.low - 0.07), abs=5e-3)


def test_common_deviation_of_images_cancels_in_differences():
    rng = np.random.default_rng(0)
    found = planted(rng, 4, 4, 0.1, 0.1, common=10.0)
    assert nets_interval(found["trained"]).error > 5
    assert nets_interval(found["trained"].minus(found["untrained"])).error < 1
    assert nets_interval(found["trained"].minus(found["untrained"], same_images=False)).error > 5


def test_number_and_itself_do_not_differ():
    found = planted(np.random.default_rng(0), 4, 0, 1.0, 1.0, 1.0, 1.0)["trained"]
    nothing = nets_interval(found.minus(found))
    assert (nothing.value, nothing.error, nothing.low, nothing.high, nothing.p) == (0, 0, 0, 0, 1)


def test_mean_of_independent_nets_has_the_classical_interval():
    values = np.array([0.3, 0.7, 0.4, 0.9])
    units = PairUnits.of([[("initialisations of trained nets", name)] for name in "abcd"])
    found = nets_interval(units.mean(values, np.repeat(values[:, None], 5, axis=1)))
    far = stats.t.ppf(0.975, 3) * values.std(ddof=1) / 2
    assert (found.df, found.value) == pytest.approx((3, values.mean()))
    assert (found.low, found.high) == pytest.approx((values.mean() - far, values.mean() + far))


def test_images_alone_give_the_jackknife_over_images():
    groups = np.random.default_rng(1).standard_normal((1, 12))
    without = (groups.sum() - groups) / 11
    pairs = PairUnits.of([(a, b) for a, b in combinations(nets("trained nets", 4), 2)])
    found = nets_interval(pairs.mean(np.full(6, groups.mean() + 0.1), np.repeat(without, 6, axis=0)))
    expected = jackknife(groups.mean() + 0.1, without[0])
    assert (found.low, found.high, found.df) == pytest.approx((expected.low, expected.high, 11))
    assert found.bias == pytest.approx(expected.bias)


def test_replicates_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    pairs = [*product(nets("trained nets", 4), nets("untrained nets", 3))]
    values = rng.standard_normal(len(pairs))
    values[2] = np.nan
    found = PairUnits.of(pairs).mean(values, np.zeros((len(pairs), 0)))
    left = np.isfinite(values)
    kept = [pair for pair, has in zip(pairs, left, strict=True) if has]
    assert found.value == pytest.approx(values[left].mean())
    for population, units in found.without_nets.items():
        for unit, value in units.items():
            assert value == pytest.approx(plain_mean_without(values[left], kept, (population, unit)))
    assert {name: len(units) for name, units in found.without_nets.items()} == {"trained nets": 4, "untrained nets": 3}


def test_initialisation_in_two_populations_is_deleted_from_both():
    shared = [("trained nets", k) for k in "abcd"], [("untrained nets", k) for k in "abcd"]
    values = np.array([1.0, 2.0, 4.0, 3.0])
    numbers = [PairUnits.of([[one] for one in of]).mean(values, np.zeros((4, 0))) for of in shared]
    assert nets_interval(numbers[0].minus(numbers[1])).error == pytest.approx(0), "what a seed adds to both cancels"
    apart = PairUnits.of([[("untrained nets", k)] for k in "efgh"]).mean(values, np.zeros((4, 0)))
    assert nets_interval(numbers[0].minus(apart)).error == pytest.approx(np.sqrt(2) * values.std(ddof=1) / 2)


def test_missing_intervals_say_what_is_missing():
    values = np.zeros(8)
    mixed = PairUnits.of([*product(nets("trained nets", 4), nets("untrained nets", 2))]).mean(values, values[:, None])
    found = nets_interval(mixed)
    assert found.missing == "2 untrained nets; 3 are needed for an interval over nets"
    assert np.isnan([found.error, found.low, found.high, found.p]).all()
    one = PairUnits.of([[("initialisations of trained nets", "a")] * 2]).mean(values[:1], values[:1, None])
    assert nets_interval(one).missing.startswith("1 initialisation of trained nets; 3 are needed")
    assert nets_interval(one.minus(mixed)).missing.startswith(
        "1 initialisation of trained nets and 2 untrained nets; 3"
    )
    star = PairUnits.of([(("trained nets", "a"), ("trained nets", k)) for k in "bcd"]).mean(
        values[:3], values[:3, None]
    )
    assert "one net takes part in every pair" in nets_interval(star).missing


def test_monte_carlo_error_of_a_null_widens_the_interval():
    replicates = {"trained nets": dict(zip("abcd", (0.1, 0.2, 0.3, 0.4), strict=True))}
    plain = NetsNumber(0.25, np.zeros(0), replicates)
    noisy = NetsNumber(0.25, np.zeros(0), replicates, monte_carlo=(0.04, 4))
    assert nets_interval(noisy).error ** 2 == pytest.approx(nets_interval(plain).error ** 2 + 0.04)
    assert 4 <= nets_interval(noisy).df <= 7


def test_interval_of_a_share_is_inside_its_range_and_covers():
    rng = np.random.default_rng(0)
    pairs = [(a, b) for a, b in combinations(nets("trained nets", 4), 2)]
    units, place = PairUnits.of(pairs), np.array([*combinations(range(4), 2)])
    logit, spread = np.log(0.1 / 0.9), 0.5
    truth = np.mean(1 / (1 + np.exp(-logit - spread * rng.standard_normal((100_000, 2)).sum(axis=1))))
    covered = []
    for _ in range(DRAWS):
        p = 1 / (1 + np.exp(-logit - spread * rng.standard_normal(4)[place].sum(axis=1)))
        found = nets_interval(units.mean(rng.binomial(32, p) / 32, np.zeros((6, 0)), kind="share"))
        if not found.missing:
            assert 0 < found.low < found.value < found.high < 1
            covered.append(found.low <= truth <= found.high)
    assert len(covered) > 0.9 * DRAWS
    assert np.mean(covered) >= 0.92


def test_share_that_is_equal_in_all_nets_has_no_interval():
    units = PairUnits.of([(a, b) for a, b in combinations(nets("trained nets", 4), 2)])
    for share in (0.0, 0.3, 1.0):
        same = units.mean(np.full(6, share), np.full((6, 8), share), kind="share")
        for number in (same, same.minus(same)):
            found = nets_interval(number)
            assert "equal in all nets" in found.missing
            assert np.isnan([found.low, found.high, found.p]).all()
    images = np.zeros((6, 8))
    images[:, 3] = 0.1
    assert "equal in all nets" in nets_interval(units.mean(np.zeros(6), images, kind="share")).missing


def test_intervals_end_at_the_bounds_of_the_number():
    units = PairUnits.of([(("trained nets", a), ("trained nets", b)) for a, b in combinations("abc", 2)])
    for kind, values in (("similarity", [0.99, 0.5, 0.98]), ("count", [0.0, 7.0, 1.0])):
        values = np.array(values)
        without = np.repeat(values[:, None], GROUPS, axis=1)
        wide = nets_interval(units.mean(values, without, smooth=False))
        found = nets_interval(units.mean(values, without, smooth=False, kind=kind))
        assert wide.low < 0
        assert wide.high > 1
        assert (found.high if kind == "similarity" else found.low) == (1.0 if kind == "similarity" else 0.0)
        assert found.low <= found.value <= found.high
