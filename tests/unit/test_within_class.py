"""Similarity within classes: units that are the label lose theirs, features that do not depend on it keep theirs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from convergence.analysis.active_units import active_units
from convergence.analysis.pair import analyze_pair
from convergence.analysis.pair_sums import PairSums
from convergence.config.stages import AnalysisConfig
from convergence.similarity.correlation import mean_matching
from convergence.statistics.file import ComparisonSums
from tests.unit.test_analysis import GROUPS, sums_of

CONFIG = AnalysisConfig(rotations=6, sparse={"enabled": False}, clustering={"enabled": False})
N, CLASSES = 3_000, 5
LABELS = np.random.default_rng(9).integers(0, CLASSES, N)


def labelled(nets: dict[str, np.ndarray], labels: np.ndarray = LABELS) -> ComparisonSums:
    """Sums with those of the classes; all layers are linear."""
    sums = sums_of(nets)
    samples = np.concatenate(list(nets.values())).astype(np.float32).astype(float) - sums.shift[:, None]
    groups, n_classes = np.arange(samples.shape[1]) % GROUPS, int(labels.max()) + 1
    chosen = [[(groups == g) & (labels == c) for c in range(n_classes)] for g in range(GROUPS)]
    return replace(
        sums,
        class_count=np.array([[of.sum() for of in row] for row in chosen]),
        class_sums=np.array([[samples[:, of].sum(axis=1) for of in row] for row in chosen]),
        null_kind=("sums",) * len(nets),
    )


def analysed(sums: ComparisonSums) -> dict:
    return analyze_pair(sums, active_units(sums), "a", "b", CONFIG)


def class_units(rng: np.random.Generator, noise: float = 0.15) -> np.ndarray:
    """A unit a class that is 1 for it, with noise of its own."""
    return (np.arange(CLASSES)[:, None] == LABELS) + noise * rng.standard_normal((CLASSES, N))


def test_units_that_are_the_class_share_nothing_within_it():
    rng = np.random.default_rng(0)
    tree = analysed(labelled({"a": class_units(rng), "b": class_units(rng)[::-1]}))
    assert tree["measures"]["matching"]["xy"]["value"] > 0.6
    assert tree["measures"]["linear_cka"]["xy"]["value"] > 0.6
    assert tree["measures"]["r_squared"]["xy"]["value"] > 0.4
    within, held_out = tree["within_class"], tree["within_class_held_out"]
    for name in ("linear_cka", "r_squared"):
        estimate = within[name]["xy"]
        assert estimate["value"] < 0.02
        assert estimate["low"] < 0.002
    assert within["matching"]["xy"]["value"] < 0.05
    for name in ("matching", "semi_matching", "r_squared"):
        estimate = held_out[name]["xy"]
        assert abs(estimate["value"]) < 0.04
        assert estimate["low"] < 0 < estimate["high"]


def test_features_that_do_not_depend_on_the_class_keep_their_similarity():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((6, N))
    x, y = (features[order] + 0.2 * rng.standard_normal((6, N)) for order in (np.arange(6), rng.permutation(6)))
    tree = analysed(labelled({"a": x, "b": y}))
    for name in ("matching", "semi_matching", "linear_cka", "r_squared"):
        here, within = (tree[group][name]["xy"] for group in ("measures", "within_class"))
        assert here["value"] > 0.85
        assert within["value"] == pytest.approx(here["value"], abs=0.01)
    matched = tree["within_class"]["matching"]["xy"]
    assert matched["value"] > matched["null"] + 4 * matched["null_sd"]
    assert len(matched["draws"]) == CONFIG.rotations
    assert np.isnan(tree["within_class"]["linear_cka"]["xy"]["null"])


def test_values_equal_those_of_samples_less_their_class_means():
    rng = np.random.default_rng(2)
    nets = {"a": class_units(rng) + rng.standard_normal((1, N)), "b": class_units(rng, 1.0)}
    sums = labelled(nets)
    pair = PairSums.of(sums, active_units(sums), "a", "b")
    centred = {}
    for net, samples in nets.items():
        centred[net] = samples.astype(np.float32).astype(float)
        for c in range(CLASSES):
            centred[net][:, c == LABELS] -= centred[net][:, c == LABELS].mean(axis=1, keepdims=True)
    plain = PairSums.of(sums_of(centred), active_units(sums), "a", "b").pooled
    within = pair.within_classes()
    np.testing.assert_allclose(within.cov_xy, plain.cov_xy, atol=1e-6)
    found = analysed(sums)["within_class"]["matching"]["xy"]
    assert found["value"] == pytest.approx(mean_matching(plain), abs=1e-6)
    assert len(found["without"]) == GROUPS


def test_rectified_layers_have_no_chance_level_within_classes():
    rng = np.random.default_rng(3)
    sums = labelled({"a": class_units(rng), "b": class_units(rng)})
    tree = analysed(replace(sums, null_kind=("", "")))
    assert np.isnan(tree["within_class"]["matching"]["xy"]["null"])


@pytest.mark.parametrize(
    ("labels", "reason"), [(None, "no labels"), (np.arange(N), "no class has two samples")], ids=["none", "single"]
)
def test_reasons(labels, reason):
    rng = np.random.default_rng(4)
    nets = {net: rng.standard_normal((3, 60)) for net in "ab"}
    sums = sums_of(nets) if labels is None else labelled(nets, labels[:60])
    tree = analysed(sums)
    assert reason in tree["unavailable"]["within_class"]
    assert not tree.get("within_class")
