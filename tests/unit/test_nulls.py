"""Chance levels from pseudo-nets and rotated sums: their level, their power, and where there is none."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import erf

from convergence.alignment.matching import matching
from convergence.analysis.active_units import active_units
from convergence.analysis.joint import JointCorrelations
from convergence.analysis.measures import Measures, draws_for
from convergence.analysis.nets import analyze_nets
from convergence.analysis.nulls import NetNull, NullUnits, PairNull, pair_nulls
from convergence.analysis.one_to_one import OneToOne
from convergence.analysis.pair import PairAnalysis, analyze_pair, shape_of
from convergence.analysis.pair_sums import PairSums
from convergence.analysis.steps import Parts, Tree, computed, levels
from convergence.config.stages import AnalysisConfig
from convergence.inference import unit_p_values
from convergence.linalg import RandomBases
from convergence.statistics.file import ComparisonSums
from convergence.statistics.moments import Moments
from convergence.statistics.null_sums import null_sums_plain

Matrix = NDArray[np.float64]
Function = Callable[[Matrix], Matrix]
GROUPS, DRAWS = 8, 8
CONFIG = AnalysisConfig(sparse={"alphas": 4, "max_units": 4, "enabled": False}, clustering={"enabled": False})
ReLU: Function = lambda a: np.maximum(a, 0)  # noqa: E731
GELU: Function = lambda a: a * (1 + erf(a / np.sqrt(2))) / 2  # noqa: E731


def pseudo_net(z: Matrix, f: Function, seed: int, draw: int) -> Matrix:
    """Pseudo-units (n_units, n_samples), by their definition."""
    mean, deviation = z.mean(axis=1, keepdims=True), z.std(axis=1, keepdims=True)
    basis = RandomBases(np.corrcoef(z)).draw(np.random.default_rng([seed, draw]))
    return f(basis.T @ ((z - mean) / deviation) * deviation + mean)


def sums_of(nets: Mapping[str, Matrix], f: Function | None = None, n_draws: int = DRAWS) -> ComparisonSums:
    """Sums of nets of pre-activations (n_units, n_samples) with pseudo-nets; of linear nets without ``f``."""
    widths = [len(z) for z in nets.values()]
    real = np.concatenate([z if f is None else f(z) for z in nets.values()])
    unit_net, shift = np.repeat(np.arange(len(nets)), widths), real[:, :10].mean(axis=1)
    parts = []
    for g in range(GROUPS):
        part = Moments(shift, "float64")
        part.update(real[:, g::GROUPS])
        parts.append(part)
    null = None
    if f is not None:
        pseudo = np.stack(
            [np.concatenate([pseudo_net(z, f, k, d) for k, z in enumerate(nets.values())]) for d in range(n_draws)]
        )
        half = np.arange(real.shape[1]) % GROUPS % 2
        null = null_sums_plain(real, pseudo, half, unit_net, shift, pseudo[:, :, :10].mean(axis=2))
    return ComparisonSums(
        name="layer",
        nets=tuple(nets),
        trained=(True,) * len(nets),
        layers=("layer",) * len(nets),
        sources=("layer",) * len(nets),
        map_shape=(),
        unit_net=unit_net,
        shift=shift,
        group_count=np.array([part.count for part in parts]),
        group_sums=np.stack([part.sums for part in parts]),
        group_products=np.stack([part.products for part in parts]),
        group_shifted_products=None,
        histograms=None,
        mutual_information=None,
        mutual_information_without=None,
        rectified=(f is ReLU,) * len(nets),
        null=null,
        null_kind=("sums" if f is None else "pre-activations",) * len(nets),
    )


def nulls_of(sums: ComparisonSums, config: AnalysisConfig = CONFIG) -> tuple[PairSums, dict[str, PairNull]]:
    live = active_units(sums)
    pair = PairSums.of(sums, live, *sums.nets[:2])
    return pair, pair_nulls(sums, live, pair, *sums.nets[:2], config)


def p_values(sums: ComparisonSums) -> Matrix:
    """P-values of the best partners of the first net's units, without the other results."""
    pair, nulls = nulls_of(sums)
    null = np.stack([nulls["xy"].draw(k).corr_xy.max(axis=1) for k in nulls["xy"].draws()])
    return unit_p_values(pair.pooled.corr_xy.max(axis=1), null)


def causes(rng: np.random.Generator, n_causes: int, n: int, w: int, noise: float, bias: float = 0.0) -> list[Matrix]:
    """Two nets of ``w`` random mixtures of the same causes: one subspace, no unit in common."""
    z = rng.standard_normal((n_causes, n))
    return [
        rng.standard_normal((w, n_causes)) @ z / np.sqrt(n_causes) + noise * rng.standard_normal((w, n)) + bias
        for _ in range(2)
    ]


@pytest.mark.parametrize("f", [ReLU, GELU, None], ids=["ReLU", "GELU", "linear"])
def test_p_values_have_their_level_where_only_a_subspace_is_shared(f: Function | None) -> None:
    found = []
    for seed in range(5 if f is GELU else 8):
        rng = np.random.default_rng(seed)
        a, b = causes(rng, 20, 600, 40, 0.1, bias=-0.5 if f is ReLU and seed % 2 else 0.0)
        found.append(p_values(sums_of({"a": a, "b": b}, f)))
    assert 0.015 < np.mean(np.array(found) <= 0.05) < 0.1


def half_shared(rng: np.random.Generator, n_nets: int, w: int = 20, n: int = 2000, signs: bool = False):
    """Nets whose first half of units is shared one to one, the others private; shuffled units, and their causes."""
    common, nets, cause = rng.standard_normal((w // 2, n)), {}, []
    for k in range(n_nets):
        z = np.concatenate([common, rng.standard_normal((w // 2, n))]) + 0.5 * rng.standard_normal((w, n))
        if signs:
            z *= rng.choice([-1.0, 1.0], w)[:, None]
        order = rng.permutation(w)
        nets[f"net{k + 1}"], cause = z[order], [*cause, order]
    return nets, np.array(cause)


@pytest.mark.parametrize("f", [ReLU, None], ids=["ReLU", "linear"])
def test_shared_units_are_significant(f: Function | None) -> None:
    nets, cause = half_shared(np.random.default_rng(0), 2)
    sums = sums_of(nets, f)
    p = p_values(sums)
    assert (p[cause[0] < 10] < 0.01).all()
    assert np.mean(p[cause[0] >= 10] <= 0.05) <= 0.3


def test_shared_units_of_random_signs_are_significant_without_activation_function() -> None:
    nets, cause = half_shared(np.random.default_rng(1), 2, signs=True)
    sums = sums_of(nets)
    found = analyze_pair(sums, active_units(sums), *sums.nets, CONFIG)["alignment"]
    assert (found["semi_xy_p"][cause[0] < 10] < 0.01).all()
    assert found["significant_xy"] == pytest.approx(0.5, abs=0.1)


def test_draws_of_the_null_are_those_of_the_samples() -> None:
    nets, _ = half_shared(np.random.default_rng(1), 2, w=8, n=400)
    sums = sums_of(nets, ReLU)
    _, nulls = nulls_of(sums)
    for direction, (real, other, k) in {"xy": ("net1", "net2", 1), "yx": ("net2", "net1", 0)}.items():
        pseudo = pseudo_net(nets[other], ReLU, k, 3)
        for half, chosen in ((None, slice(None)), (0, np.arange(400) % GROUPS % 2 == 0)):
            both = np.corrcoef(np.concatenate([ReLU(nets[real])[:, chosen], pseudo[:, chosen]]))
            moments = nulls[direction].draw(3, half)
            np.testing.assert_allclose(moments.corr_xx, both[:8, :8], atol=1e-6)
            np.testing.assert_allclose(moments.corr_xy, both[:8, 8:], atol=1e-6)
            np.testing.assert_allclose(moments.corr_yy, both[8:, 8:], atol=1e-6)


def test_a_draw_has_the_same_basis_of_a_net_in_every_pair() -> None:
    nets, _ = half_shared(np.random.default_rng(2), 3, w=6, n=300)
    sums = sums_of(nets)
    live = active_units(sums)
    draws = []
    for x in ("net1", "net2"):
        pair = PairSums.of(sums, live, x, "net3")
        draws.append(PairNull(sums, live, pair, (x, "net3"), "xy", CONFIG).draw(2).corr_yy)
    np.testing.assert_allclose(draws[0], draws[1])
    joint = JointCorrelations(sums, live, list(nets))
    matrix, net = NetNull(sums, live, list(nets), joint, CONFIG).replaced(2, 2) or (None, None)
    pair = PairSums.of(sums, live, "net1", "net3")
    expected = PairNull(sums, live, pair, ("net1", "net3"), "xy", CONFIG).draw(2).corr_xy
    np.testing.assert_allclose(matrix[np.ix_(net == 0, net == 2)], expected)


def test_pseudo_units_that_do_not_vary_are_left_out() -> None:
    nets, _ = half_shared(np.random.default_rng(3), 2, w=8, n=400)
    nets["net2"][:3] -= 60  # always zero
    sums = sums_of(nets, ReLU)
    _, nulls = nulls_of(sums)
    assert nulls["xy"].draw(0).corr_xy.shape == (8, 5)
    assert nulls["yx"].draw(0).corr_xy.shape == (5, 8)
    assert sums.null is not None
    dead = replace(sums, null=replace(sums.null, own=0 * sums.null.own))
    _, nulls = nulls_of(dead)
    assert nulls["xy"].n_draws == 0
    assert "no pseudo-unit of net2 varies" in nulls["xy"].reason


def test_without_a_null_everything_that_needs_it_is_withheld() -> None:
    nets, _ = half_shared(np.random.default_rng(4), 3, w=8, n=400)
    sums = replace(
        sums_of(nets), null_kind=("", "sums", ""), null_reason=("given without pre-activations", "", "no function")
    )
    tree = analyze_pair(sums, active_units(sums), "net1", "net2", CONFIG)
    alignment, measures = tree["alignment"], tree["measures"]
    assert alignment["null_reason_xy"] == ""
    assert alignment["null_reason_yx"] == "given without pre-activations"
    assert np.isfinite(alignment["semi_xy_p"]).all()
    for name in ("p", "q", "null", "null_sd"):
        assert np.isnan(alignment[f"semi_yx_{name}"]).all()
    assert np.isnan(alignment["significant_yx"])
    assert np.isfinite(measures["semi_matching"]["xy"]["null"])
    assert np.isnan(measures["semi_matching"]["yx"]["null"])
    assert len(measures["semi_matching"]["yx"]["draws"]) == 0
    assert set(tree["excess"]) == {"xy"}
    nothing = replace(sums, null_kind=("",) * 3)
    found = analyze_nets(nothing, active_units(nothing), CONFIG, {})["kinds"]["trained"]
    assert found["null_reason"] == "given without pre-activations"
    assert found["shared"] == {}
    assert np.isnan(found["threshold"])
    assert not found["stays"].any()
    few = replace(sums, null_kind=("sums",) * 3)
    tree = analyze_pair(few, active_units(few), "net1", "net2", CONFIG.model_copy(update={"rotations": 2}))
    assert "at least 3" in tree["alignment"]["null_reason_xy"]
    assert np.isfinite(tree["measures"]["matching"]["xy"]["null_sd"])


def computed_excess(sums: ComparisonSums) -> Tree:
    """The excess correlation and its null, without other measures."""
    live, config = active_units(sums), CONFIG.model_copy(update={"measures": ("semi_matching",)})
    pair = PairSums.of(sums, live, *sums.nets)
    method = Measures(pair, config, pair_nulls(sums, live, pair, *sums.nets, config))
    steps, left = Measures.steps(shape_of(sums, live, *sums.nets, config), config), {}
    parts = Parts(steps, left.__getitem__)
    for level in levels(steps):
        for step in level:
            left[step] = method.compute(step, parts)
    return method.excess(parts)


def test_excess_correlation_does_not_depend_on_the_numbering_of_units() -> None:
    rng = np.random.default_rng(5)
    a, b = causes(rng, 6, 400, 16, 0.7)
    values, errors, n_draws = [], [], []
    for _ in range(8):
        one = computed_excess(sums_of({"a": a, "b": b[rng.permutation(16)]}))["xy"]
        values.append(one["value"])
        errors.append(one["standard_error"])
        n_draws.append(len(one["draws"]))
    assert np.std(values) < 0.35 * np.mean(errors)
    assert 20 <= min(n_draws) <= max(n_draws) <= 200
    shared = computed_excess(sums_of({"a": a, "b": a[rng.permutation(16)]}))["yx"]
    assert shared["low"] > 0.2
    assert shared["null"] == pytest.approx(0, abs=1e-12)


def test_draws_are_as_many_as_the_monte_carlo_error_needs() -> None:
    assert draws_for(0.02, 0.02) == 26
    assert 0.02 / np.sqrt(draws_for(0.02, 0.02)) < 0.02 / 5
    assert draws_for(0.0, 0.02) == 0
    assert draws_for(1.0, 0.001) == draws_for(1.0, 0.0) == 200


def test_units_shared_by_all_rectified_nets_are_present() -> None:
    nets, cause = half_shared(np.random.default_rng(6), 4)
    sums = sums_of(nets, ReLU, 2)
    found = analyze_nets(sums, active_units(sums), CONFIG, {})["kinds"]["trained"]
    assert found["signed"] == "r"
    assert found["shared"]["in 4"]["value"] == pytest.approx(0.5, abs=0.05)
    members = found["members"][found["n_nets"] == 4]
    causes_of = np.stack([cause[k][members[:, k]] for k in range(4)])
    assert (causes_of == causes_of[0]).all()
    mean = found["mean_correlation"]
    assert mean["null"] + 3 * mean["null_sd"] < mean["value"]
    assert len(mean["draws"]) == 5


def test_units_with_random_signs_are_aligned_by_magnitude() -> None:
    nets, _ = half_shared(np.random.default_rng(7), 4, signs=True)
    sums = sums_of(nets)
    found = analyze_nets(sums, active_units(sums), CONFIG, {})["kinds"]["trained"]
    assert found["signed"] == "|r|"
    assert found["shared"]["in 4"]["value"] == pytest.approx(0.5, abs=0.05)
    core = found["n_nets"] == 4
    assert found["strength"][core].min() > 0.7
    assert found["unit_correlation"][core].min() > 0.7
    assert set(np.unique(found["signs"])) == {-1.0, 1.0}
    assert found["held_out_mean_correlation"] == pytest.approx(found["mean_correlation"]["value"], abs=0.05)
    rectified = replace(sums, rectified=(True,) * 4)
    by_r = analyze_nets(rectified, active_units(rectified), CONFIG, {})["kinds"]["trained"]
    assert by_r["signed"] == "r"
    assert by_r["shared"]["in 4"]["value"] < 0.25


@pytest.mark.parametrize("f", [ReLU, None], ids=["ReLU", "linear"])
def test_private_units_are_present_in_no_other_net(f: Function | None) -> None:
    rng = np.random.default_rng(8)
    sums = sums_of({f"net{k}": rng.standard_normal((20, 1000)) for k in range(4)}, f, 2)
    found = analyze_nets(sums, active_units(sums), CONFIG, {})["kinds"]["trained"]
    assert found["shared"]["in 4"]["value"] == 0
    assert found["shared"]["in 2"]["value"] <= 0.1
    mean = found["mean_correlation"]
    assert abs(mean["value"] - mean["null"]) < 0.02


def test_the_null_of_matching_is_that_of_pseudo_nets() -> None:
    nets, _ = half_shared(np.random.default_rng(9), 2, w=10, n=500)
    sums = sums_of(nets, ReLU, 4)
    found = analyze_pair(sums, active_units(sums), "net1", "net2", CONFIG)
    draws = [
        matching(np.corrcoef(ReLU(nets["net1"]), pseudo_net(nets["net2"], ReLU, 1, d))[:10, 10:]).mean for d in range(4)
    ]
    np.testing.assert_allclose(found["measures"]["matching"]["xy"]["draws"], draws, atol=1e-6)
    held_out = found["held_out"]["matching"]["xy"]
    assert held_out["null"] < np.mean(draws) < held_out["value"]
    assert len(held_out["draws"]) == 4


def test_held_out_errors_leave_the_group_out_of_the_fit() -> None:
    nets, _ = half_shared(np.random.default_rng(10), 2, w=10, n=320)
    sums = sums_of(nets)
    live = active_units(sums)
    found = analyze_pair(sums, live, "net1", "net2", CONFIG)["held_out"]["r_squared"]["xy"]
    samples = list(nets.values())
    group = np.arange(320) % GROUPS

    def score(left_out: int) -> float:
        halves = [np.flatnonzero((group % 2 == k) & (group != left_out)) for k in (0, 1)]
        return float(np.mean([explained(samples, halves[k], halves[1 - k]) for k in (0, 1)]))

    np.testing.assert_allclose(found["value"], score(-1), atol=1e-6)
    np.testing.assert_allclose(found["without"], [score(g) for g in range(GROUPS)], atol=1e-6)


def explained(samples: list[Matrix], fit: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Mean R² on other samples, every unit standardised where it is used."""
    (a, b), (c, d) = ([(s[:, at] - s[:, at].mean(1, keepdims=True)) / s[:, at].std(1, keepdims=True) for s in samples]
                      for at in (fit, other))  # fmt: skip
    weights = np.linalg.lstsq(a.T, b.T, rcond=None)[0]
    residual = d - (weights.T @ c)
    return float(1 - (residual**2).mean())


def test_codes_have_a_chance_level() -> None:
    """Local codes: y has x's units. The null mixes x's units, so that one of them is not enough."""
    rng = np.random.default_rng(11)
    x = rng.standard_normal((12, 1200))
    y = x[rng.permutation(12)] + 0.1 * rng.standard_normal((12, 1200))
    sums = sums_of({"x": x, "y": y}, ReLU, 3)
    config = AnalysisConfig(measures=("matching",), sparse={"alphas": 4, "max_units": 4}, clustering={"enabled": False})
    for direction in ("xy", "yx"):
        found = analyze_pair(sums, active_units(sums), "x", "y", config)[f"sparse_{direction}"]
        local = found["held_out_code"]["local"]
        assert local["value"] == 1
        assert local["null"] < 0.2
        assert len(local["draws"]) == 3
        assert len(local["without"]) == 8
        assert found["one_unit"]["value"] < 0.1 < 0.2 < found["one_unit"]["null"]


def test_significance_takes_part_in_the_steps() -> None:
    nets, _ = half_shared(np.random.default_rng(12), 2, w=8, n=300)
    sums = sums_of(nets, ReLU, 5)
    pair, nulls = nulls_of(sums)
    method = OneToOne(pair, CONFIG, nulls)
    names = {step.name for step in OneToOne.steps(shape_of(sums, active_units(sums), *sums.nets, CONFIG), CONFIG)}
    assert "null" in names
    assert method.name == "alignment"
    none = replace(sums, null_kind=("", ""))
    names = {step.name for step in OneToOne.steps(shape_of(none, active_units(none), *none.nets, CONFIG), CONFIG)}
    assert "null" not in names


def test_a_pair_is_freed_after_its_last_use() -> None:
    """A reference cycle would keep the products of every pair until the next collection."""
    rng = np.random.default_rng(0)
    sums = sums_of({name: rng.standard_normal((6, 400)) for name in "ab"}, ReLU)
    live = active_units(sums)
    gc.disable()
    try:
        analysis = PairAnalysis(sums, live, "a", "b", CONFIG)
        computed(analysis)
        pair = weakref.ref(analysis._pair)
        del analysis
        assert pair() is None
    finally:
        gc.enable()


def test_pseudo_units_in_the_place_of_constant_units_are_left_out_where_they_are_constant():
    rng = np.random.default_rng(0)
    real = np.stack([np.full(40, 0.1), rng.standard_normal(40)]).astype(np.float32)
    pseudo = np.stack([np.full(40, 0.3), rng.standard_normal(40)]).astype(np.float32)[None]
    shift = np.zeros(2)
    null = null_sums_plain(real, pseudo, np.arange(40) % 2, np.zeros(2, np.int64), shift, shift[None])
    null.real_squares[:, 0] -= 1e-15  # what rounding may do to a constant unit
    sums = SimpleNamespace(null=null, units=lambda member: np.arange(2))
    found = NullUnits(sums, SimpleNamespace(alive=np.ones(2, dtype=bool)), "net")
    assert null.real_variance(None, slice(0, 2))[0] < 0
    assert found.live(0).tolist() == [1]
