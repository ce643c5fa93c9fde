"""Similarity against width and time: which groups of nets make a series, and what its points are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from convergence.config.stages import AnalysisConfig
from convergence.figures import drawings_of
from convergence.figures.growth import growth, growth_across
from convergence.results import growths_across, growths_within
from convergence.results.growth import COLUMNS, Growth
from tests.helpers.analysed_sums import analysed
from tests.unit.test_analysis import sums_of

CONFIG = AnalysisConfig(
    rotations=4, sparse={"enabled": False}, clustering={"enabled": False}, measures=("matching", "linear_cka")
)
N, NETS = 600, 3


def net(rng: np.random.Generator, features: np.ndarray, n_units: int, noise: float) -> np.ndarray:
    """Units that are the first features, each with noise of its own."""
    return features[:n_units] + noise * rng.standard_normal((n_units, N))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Nets of two widths, the wide ones less noisy; nets at epochs that begin apart; a width a comparison."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((8, N))
    widths = {f"w{n}-{k}": net(rng, features, n, noise) for n, noise in ((4, 1.0), (8, 0.3)) for k in range(NETS)}
    epochs = {
        f"n{k}@{epoch}": net(rng, features, 5, noise) if epoch else rng.standard_normal((5, N))
        for k in range(NETS)
        for epoch, noise in ((0, 0.0), (2, 1.0), (6, 0.2))
    }

    def linear(sums, **more):
        plain = replace(sums, mutual_information=None, mutual_information_without=None, histograms=None)
        return replace(plain, null_kind=("sums",) * len(sums.nets), **more)

    time = sums_of(epochs)
    at = [int(name.split("@")[1]) for name in epochs]
    comparisons = {
        "widths": linear(sums_of(widths)),
        "time": linear(
            time, of_net=tuple(name.split("@")[0] for name in epochs), epochs=tuple(at),
            trained=tuple(epoch > 0 for epoch in at), initialisations=tuple(name.split("@")[0] for name in epochs),
        ),
        **{f"w{n}": linear(sums_of({name: x for name, x in widths.items() if len(x) == n})) for n in (4, 8)},
    }  # fmt: skip
    return analysed(tmp_path_factory.mktemp("growth") / "analysis.h5", comparisons, CONFIG)


def test_widths_of_a_comparison_are_a_series(results):
    matching, cka = growths_within(results.comparison("widths"), ("matching", "linear_cka"))
    assert (matching.along, matching.of, matching.kind) == ("width", "layer", "trained")
    assert [at for at, _ in matching.points] == [4, 8]
    (_, narrow), (_, wide) = matching.points
    assert narrow.n_pairs == wide.n_pairs == NETS
    assert narrow.value == pytest.approx(0.5, abs=0.05)
    assert wide.value == pytest.approx(1 / 1.09, abs=0.05)
    assert narrow.low < narrow.value < narrow.high
    assert wide.null > narrow.null, "each width has its own chance level"
    assert np.isnan([point.null for _, point in cka.points]).all()


def test_epochs_begin_with_the_initial_weights(results):
    (found,) = growths_within(results.comparison("time"), ("matching",))
    assert found.along == "epoch"
    assert [(at, point.kind) for at, point in found.points] == [(0, "untrained"), (2, "trained"), (6, "trained")]
    values = [point.value for _, point in found.points]
    assert values == sorted(values)
    assert values[0] < 0.2
    assert found.points[0][1].n_pairs == NETS


def test_comparisons_of_one_width_each_are_joined(results):
    alone = [results.comparison(name) for name in ("w4", "w8")]
    assert not any(growths_within(one, ("matching",)) for one in alone)
    (across,) = growths_across(alone, ("matching",))
    (within,) = growths_within(results.comparison("widths"), ("matching",))
    for (at, one), (place, other) in zip(across.points, within.points, strict=True):
        assert at == place
        assert one.value == pytest.approx(other.value, abs=1e-9)
    assert not growths_across([results.comparison("time"), alone[0]], ("matching",))


def test_figures_are_drawn_where_there_are_two_groups(results):
    widths = results.comparison("widths")
    (drawing,) = growth(widths)
    assert drawing.columns == COLUMNS
    assert len(drawing.rows) == 4
    assert "widths-growth-width-layer" in [d.name for d in drawings_of(widths, widths.first_pair)]
    assert not growth(results.comparison("w4"))
    assert len(growth_across([results.comparison(name) for name in ("w4", "w8")])) == 1


def test_points_of_several_runs(results):
    points = [(share, results.comparison(f"w{n}").summary("matching", "trained")) for share, n in ((0.5, 8), (0.1, 4))]
    found = Growth.along_values("training images", "conv1", points)
    assert [at for at, _ in found.points] == [0.1, 0.5]
    assert [row[0] for row in found.rows()] == ["training images"] * 2
    with pytest.raises(ValueError, match="two different values"):
        Growth.along_values("training images", "conv1", points[:1])
