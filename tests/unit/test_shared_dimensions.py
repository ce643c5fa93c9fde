"""Dimensions that nets share: planted numbers of them are counted, on images that did not fit the directions."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.alignment.shared_dimensions import (
    SharedSpectrum,
    effective_samples,
    held_out_correlations,
    n_dimensions,
    shared_directions,
    shared_spectrum,
)
from convergence.analysis.active_units import active_units
from convergence.analysis.nets import analyze_nets
from convergence.analysis.pair import analyze_pair
from convergence.analysis.shared_dimensions import CrossFit
from convergence.config.stages import AnalysisConfig
from convergence.linalg import random_rotation
from tests.unit.test_analysis import sums_of

WIDTH, GROUPS = 40, 10


class Samples:
    """Correlations of given samples of nets, (n_samples, n_units) each, by image groups."""

    def __init__(self, nets: list[np.ndarray], n_groups: int = GROUPS) -> None:
        self.samples = np.concatenate(nets, axis=1)
        self.net_of_unit = np.repeat(np.arange(len(nets)), [net.shape[1] for net in nets])
        self.n_groups = n_groups
        self.group = np.arange(len(self.samples)) % n_groups

    def _of(self, groups) -> np.ndarray:
        rows = self.samples[np.isin(self.group, groups)]
        centred = rows - rows.mean(axis=0)
        scale = np.sqrt((centred**2).mean(axis=0))
        centred = centred / np.where(scale > 0, scale, 1)
        return centred.T @ centred / len(rows)

    def pooled(self):
        return self._of(np.arange(self.n_groups))

    def half(self, which):
        return self._of(np.arange(self.n_groups)[which::2])

    def half_without(self, g):
        half = np.arange(self.n_groups)[g % 2 :: 2]
        return self._of(half[half != g])

    def of_groups(self, k):
        own = self.samples[:, self.net_of_unit == k]
        own = (own - own.mean(axis=0)) / np.maximum(own.std(axis=0), 1e-12)
        for g in range(self.n_groups):
            yield own[self.group == g].T @ own[self.group == g] / (self.group == g).sum()


def spectrum(*nets: np.ndarray, n_groups: int = GROUPS) -> SharedSpectrum:
    fit = CrossFit(Samples(list(nets), n_groups))
    found = [fit.without(g) for g in range(n_groups)]
    scored, refitted = (np.stack([one[k] for one in found]) for k in (0, 1))
    return shared_spectrum(fit.both, scored, refitted)


def relu(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 0)


def scenario(name: str, rng: np.random.Generator, n: int = 1500, n_nets: int = 2) -> list[np.ndarray]:
    g = rng.standard_normal
    causes = g((n, WIDTH))
    nets = []
    for _ in range(n_nets):
        own = g((n, WIDTH))
        if name == "10 causes, ReLU":
            nets.append(relu(causes[:, :10] @ g((10, WIDTH)) / np.sqrt(10) + 0.5 * g((n, WIDTH))))
        elif name == "everything, another basis":
            nets.append(causes @ random_rotation(WIDTH, rng) + 0.5 * g((n, WIDTH)))
        elif name == "everything, ReLU":
            nets.append(relu(causes + 0.5 * g((n, WIDTH))))
        elif name == "8 of 40, rotated":
            own[:, :8] = causes[:, :8]
            nets.append(own @ random_rotation(WIDTH, rng) + 0.3 * g((n, WIDTH)))
        elif name == "half of the units, ReLU":
            own[:, :20] = causes[:, :20]
            nets.append(relu(own + 0.5 * g((n, WIDTH))))
        else:
            nets.append(relu(own))
    return nets


@pytest.mark.parametrize("n_nets", [2, 4])
@pytest.mark.parametrize(
    ("name", "truth", "tolerance"),
    [
        ("10 causes, ReLU", 10, 1), ("everything, another basis", 40, 0), ("everything, ReLU", 40, 0),
        ("8 of 40, rotated", 8, 0), ("half of the units, ReLU", 20, 0), ("nothing", 0, 0),
    ],
)  # fmt: skip
def test_planted_dimensions_are_counted(name, truth, tolerance, n_nets):
    found = spectrum(*scenario(name, np.random.default_rng(0), n_nets=n_nets))
    assert abs(found.shared - truth) <= tolerance
    assert found.beyond_chance >= found.shared
    assert (np.diff(found.correlation) <= 1e-12).all()
    assert found.correlation.shape == found.standard_error.shape == found.null.shape == (WIDTH,)
    if name == "nothing":
        assert abs(found.effective) < 0.2
    if name == "everything, another basis":
        assert found.effective == pytest.approx(WIDTH * 0.8**2, rel=0.06)
    if name == "half of the units, ReLU":
        assert found.beyond_chance <= 22
    assert found.without[:, 2].std() * np.sqrt(GROUPS) < 1


@pytest.mark.parametrize("n_nets", [2, 3])
def test_nothing_shared_is_no_dimension_in_most_draws(n_nets):
    counts = [
        spectrum(*(np.random.default_rng([seed, k]).standard_normal((300, 12)) for k in range(n_nets))).beyond_chance
        for seed in range(40)
    ]
    assert np.mean(np.array(counts) == 0) >= 0.88, "0.95 expected, 0.92 required of many draws"


def test_two_nets_of_generalised_analysis_are_the_canonical_ones():
    first, second = scenario("8 of 40, rotated", np.random.default_rng(1), n_nets=2)
    images = Samples([first, second])
    pooled, nets = images.pooled(), images.net_of_unit
    weights = shared_directions(pooled, nets, np.full(2, 1e12), WIDTH)
    plain = np.linalg.svd(
        np.linalg.qr(first - first.mean(axis=0))[0].T @ np.linalg.qr(second - second.mean(axis=0))[0], compute_uv=False
    )
    np.testing.assert_allclose(held_out_correlations(weights, pooled, nets), plain, atol=1e-6)
    for net, own in enumerate(weights):
        at = np.ix_(nets == net, nets == net)
        np.testing.assert_allclose(own.T @ pooled[at] @ own, np.eye(WIDTH), atol=1e-6)


def test_duplicates_unequal_widths_and_few_images_give_sensible_counts():
    rng = np.random.default_rng(2)
    causes = rng.standard_normal((600, 5))
    wide = causes @ rng.standard_normal((5, 30)) + 0.5 * rng.standard_normal((600, 30))
    narrow = causes @ rng.standard_normal((5, 12)) + 0.2 * rng.standard_normal((600, 12))
    found = spectrum(wide, np.concatenate([narrow, narrow], axis=1))
    assert len(found.correlation) == 12, "a copy of a unit is no dimension"
    assert abs(found.shared - 5) <= 1
    few = spectrum(wide[:24], narrow[:24], n_groups=4)
    assert np.isfinite(few.correlation).all()
    assert few.shared <= 12
    one = spectrum(wide[:, :1], narrow[:, :1], n_groups=2)
    assert one.correlation.shape == (1,)
    pair = spectrum(wide, wide.copy(), wide + 0, n_groups=3)
    assert pair.shared == 30


def test_effective_samples_are_those_of_independent_images():
    rng = np.random.default_rng(3)
    images = rng.standard_normal((400, 15))
    for copies in (1, 9):  # nine positions of an image that are the same
        samples = Samples([np.repeat(images, copies, axis=0)], n_groups=20)
        samples.group = np.repeat(np.arange(400) % 20, copies)
        own = effective_samples(samples.pooled(), samples.of_groups(0))
        assert own == pytest.approx(400, rel=0.25)


def test_next_images_give_no_dimension_and_a_limit():
    rng = np.random.default_rng(4)
    first, second = scenario("everything, ReLU", rng, n=600)
    images = Samples([first, second])
    fit = CrossFit(images)
    shifted = Samples([first, np.roll(second, GROUPS, axis=0)])
    between = tuple(shifted.half(k)[:WIDTH, WIDTH:] for k in (0, 1))
    level = fit.next_image(between)
    assert abs(level.mean()) < 0.05
    found = [fit.without(g) for g in range(GROUPS)]
    scored, refitted = (np.stack([one[k] for one in found]) for k in (0, 1))
    with_level = shared_spectrum(fit.both, scored, refitted, level)
    assert (with_level.null >= shared_spectrum(fit.both, scored, refitted).null).all()
    assert with_level.shared == WIDTH


def test_number_of_dimensions_is_the_least_rank():
    rng = np.random.default_rng(5)
    samples = Samples([rng.standard_normal((200, 6)), rng.standard_normal((200, 3)) @ rng.standard_normal((3, 9))])
    assert n_dimensions(samples.pooled(), samples.net_of_unit) == 3


def test_pair_and_nets_of_an_analysis_count_the_units_that_they_share():
    rng = np.random.default_rng(6)
    causes = rng.standard_normal((6, 900))
    nets = {}
    for name in "abc":
        private = rng.standard_normal((4, 900))
        nets[name] = np.concatenate([relu(causes + 0.4 * rng.standard_normal((6, 900))), relu(private)])[
            rng.permutation(10)
        ]
    sums = sums_of(nets)
    config = AnalysisConfig(rotations=2, sparse={"enabled": False}, clustering={"enabled": False})
    found = analyze_pair(sums, active_units(sums), "a", "b", config)["shared_dimensions"]
    assert found["numbers"]["shared_dimensions"]["value"] == 6
    assert found["numbers"]["shared_dimensions"]["ceiling"] == 10
    assert found["correlation"][6] < 0.3 < 0.7 < found["correlation"][5]
    (kind,) = analyze_nets(sums, active_units(sums), config, {})["kinds"].values()
    assert kind["dimensions"]["shared_dimensions"] == 6
