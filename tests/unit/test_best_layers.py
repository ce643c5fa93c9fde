"""The layer of another net that has a unit's best partner: planted layers, and nets that share nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from convergence.analysis.active_units import active_units
from convergence.analysis.best_layers import best_layer_steps, members_by_net
from convergence.analysis.nets import analyze_nets
from convergence.config.stages import AnalysisConfig
from convergence.figures.best_layers import best_layers as best_layers_figure
from convergence.results import mean_best_layers
from convergence.statistics.file import ComparisonSums
from tests.helpers.analysed_sums import analysed
from tests.unit.test_analysis import sums_of

CONFIG = AnalysisConfig(rotations=6)


def joined(nets: dict[str, dict[str, np.ndarray]]) -> ComparisonSums:
    """Sums of nets by name, each with samples (n_units, n_samples) by layer; all layers are linear."""
    members = [(net, layer) for net, layers in nets.items() for layer in layers]
    sums = sums_of({f"{net}:{layer}": nets[net][layer] for net, layer in members})
    of_net, layers = zip(*members, strict=True)
    return replace(sums, of_net=of_net, layers=layers, null_kind=("sums",) * len(members))


def found_in(sums: ComparisonSums, direction: str) -> dict:
    return analyze_nets(sums, active_units(sums), CONFIG, {})["best_layers"]["0"][direction]


def test_units_find_the_layer_that_has_them():
    """The deep layer of b has units of the shallow one of a, and of its own deep one."""
    rng = np.random.default_rng(0)
    shallow, deep = rng.standard_normal((6, 800)), rng.standard_normal((8, 800))
    sums = joined(
        {
            "a": {"1": shallow, "2": deep},
            "b": {"1": rng.standard_normal((5, 800)), "2": np.concatenate([shallow, deep])[::-1]},
        }
    )
    found = found_in(sums, "xy")
    np.testing.assert_array_equal(found["share"], [[0, 1], [0, 1]])
    np.testing.assert_allclose(found["best"], 1, atol=1e-6)
    np.testing.assert_allclose(found["correlation"][:, 1], 1, atol=1e-6)
    assert (found["correlation"][:, 0] < 0.2).all()
    assert (found["best"] > found["best_null"] + 4 * found["best_null_sd"]).all()
    back = found_in(sums, "yx")
    np.testing.assert_allclose(back["share"][1], [6 / 14, 8 / 14])
    assert back["best"][0] == pytest.approx(back["best_null"][0], abs=4 * back["best_null_sd"][0])
    np.testing.assert_array_equal(back["n_units"], [5, 14])


def test_nets_that_share_nothing_have_the_levels_of_chance():
    """The wide layer has most of the best partners, by chance."""
    rng = np.random.default_rng(1)
    sums = joined(
        {net: {"narrow": rng.standard_normal((4, 900)), "wide": rng.standard_normal((30, 900))} for net in "ab"}
    )
    found = found_in(sums, "xy")
    assert found["share"][1, 1] > 0.6
    np.testing.assert_allclose(found["share"], found["share_null"], atol=0.3)
    np.testing.assert_allclose(found["share_null"].sum(axis=1), 1)
    np.testing.assert_allclose(found["best"], found["best_null"], atol=0.02)


def test_layers_without_a_null_have_none():
    rng = np.random.default_rng(2)
    nets = {net: {"1": rng.standard_normal((3, 300)), "2": rng.standard_normal((3, 300))} for net in "ab"}
    sums = replace(joined(nets), null_kind=("sums", "sums", "", "sums"))
    assert np.isnan(found_in(sums, "xy")["best_null"]).all()
    assert np.isfinite(found_in(sums, "yx")["best_null"]).all()


def test_other_comparisons_have_no_steps():
    rng = np.random.default_rng(3)
    plain = sums_of({net: rng.standard_normal((3, 300)) for net in "ab"})
    epochs = replace(
        sums_of({f"{net}@{epoch}": rng.standard_normal((3, 300)) for net in "ab" for epoch in (0, 1)}),
        of_net=("a", "a", "b", "b"), epochs=(0, 1, 0, 1),
    )  # fmt: skip
    for sums in (plain, epochs):
        assert not members_by_net(sums, active_units(sums))
        assert not best_layer_steps(sums, active_units(sums), CONFIG)


def test_mean_over_pairs_of_nets(tmp_path):
    """Three nets with the same two layers: every direction of every pair finds its own layer."""
    rng = np.random.default_rng(4)
    features = {"1": rng.standard_normal((4, 600)), "2": rng.standard_normal((7, 600))}
    nets = {
        net: {layer: x[rng.permutation(len(x))] + 0.3 * rng.standard_normal(x.shape) for layer, x in features.items()}
        for net in "abc"
    }
    config = CONFIG.model_copy(update={"measures": ("matching",)})
    layer = analysed(tmp_path / "analysis.h5", {"joined": joined(nets)}, config).comparison("joined")
    assert [(found.x, found.y) for found in layer.best_layers] == [
        ("a", "b"),
        ("b", "a"),
        ("a", "c"),
        ("c", "a"),
        ("b", "c"),
        ("c", "b"),
    ]
    found = mean_best_layers(layer, "trained")
    assert (found.layers_x, found.layers_y, found.n_pairs) == (("1", "2"), ("1", "2"), 3)
    np.testing.assert_array_equal(found.share, np.eye(2))
    np.testing.assert_allclose(found.best, 1 / 1.09, atol=0.03)
    for name in "12":
        assert 0 < found.excess_interval[name].low < found.excess_interval[name].value
    assert mean_best_layers(layer, "untrained") is None
    (drawing,) = best_layers_figure(layer)
    assert len(drawing.rows) == 4
    assert "2 of 2 layers" in drawing.caption
