"""The scenarios: a population, what is read from its results, and what is true of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.truth import populations, readings
from benchmarks.truth.net_population import MEASURES, NetPopulation
from benchmarks.truth.pipeline import results_of
from benchmarks.truth.populations import Generator, Population
from benchmarks.truth.readings import Reading
from benchmarks.truth.subsets import numbers_of, summary_of
from convergence.results import ALL_IMAGES, HELD_OUT

LAYER = "layer"
NUMBERS = (
    ("matching", ALL_IMAGES, "matched r"),
    ("matching", HELD_OUT, "matched r, held out"),
    ("linear_cka", ALL_IMAGES, "linear CKA"),
    ("r_squared", ALL_IMAGES, "R²"),
)
"""Measure, evaluation, and the words of the table."""


@dataclass(frozen=True)
class Scenario:
    """A population whose truth is known.

    Attributes
    ----------
    name, about : for the table
    read : readings of one draw
    share : draws, as a share of those asked for
    quick : whether it is part of the quick run
    """

    name: str
    about: str
    read: Callable[[Generator], Iterator[Reading]]
    share: float = 1.0
    quick: bool = False


def _nothing_shared(population: Population) -> Iterator[Reading]:
    """No unit is shared: false discoveries only."""
    with results_of({LAYER: population}) as results:
        comparison = results.comparison(LAYER)
        yield from readings.level(comparison)
        yield from readings.in_all_nets(comparison, 0.0)


def _shared(population: Population, share: float) -> Iterator[Reading]:
    """A share of the units is shared one to one."""
    with results_of({LAYER: population}) as results:
        comparison = results.comparison(LAYER)
        yield from readings.discoveries(comparison, population)
        yield from readings.in_all_nets(comparison, share)


def _clusters(n_clusters: int) -> Callable[[Generator], Iterator[Reading]]:
    def read(rng: Generator) -> Iterator[Reading]:
        population = populations.planted_clusters(rng, n_clusters)
        with results_of({LAYER: population}, analysis={"clustering": {"enabled": True}, "rotations": 2}) as results:
            pair = results.comparison(LAYER).first_pair
            assert pair is not None
            yield from readings.clusters(pair, population)

    return read


def _nets(rng: Generator) -> Iterator[Reading]:
    """Eight nets of one population, half of them called untrained: intervals, and false differences."""
    nets = NetPopulation()
    population, loadings = nets.draw(rng, 4, 4)
    names, truth = list(population.pre), nets.truth()
    chosen = {4: slice(0, 4), 6: slice(0, 6), 8: slice(0, 8)}
    with results_of({LAYER: population}, {"groups": 8}, {"rotations": 2}, light=True) as results:
        comparison = results.comparison(LAYER)
        for n, own in chosen.items():
            numbers = numbers_of(comparison, names[own])
            of_these = nets.of_these(loadings[own])
            for measure, evaluation, shown in NUMBERS:
                found = summary_of(numbers, measure, evaluation)
                yield from readings.measured(found, f"{shown}, {n} nets", truth[measure], of_these[measure])
        yield from readings.false_differences(comparison, MEASURES)


def _private(rng: Generator) -> Iterator[Reading]:
    yield from _nothing_shared(populations.share_of_units(rng, 0))


def _rotated(nonlinearity: str) -> Callable[[Generator], Iterator[Reading]]:
    return lambda rng: _nothing_shared(populations.rotated(rng, nonlinearity))


def _mixed(rng: Generator) -> Iterator[Reading]:
    yield from _nothing_shared(populations.mixed_at_random(rng))


def _features(rng: Generator) -> Iterator[Reading]:
    yield from _nothing_shared(populations.mixed_at_random(rng, n_causes=20, noise=0.0))


def _all_shared(rng: Generator) -> Iterator[Reading]:
    yield from _shared(populations.share_of_units(rng, 24), 1.0)


def _half(rng: Generator) -> Iterator[Reading]:
    yield from _shared(populations.share_of_units(rng, 12), 0.5)


def _half_with_signs(rng: Generator) -> Iterator[Reading]:
    yield from _shared(populations.share_of_units(rng, 12, signs=True, nonlinearity="none"), 0.5)


SCENARIOS = (
    Scenario("private", "nothing shared", _private, 0.5),
    Scenario("all-shared", "every unit shared one to one, with noise", _all_shared, 0.25),
    Scenario("half-shared", "half of the units shared one to one", _half, 0.25),
    Scenario("half-with-signs", "half shared with random signs, linear layer", _half_with_signs, 0.25),
    Scenario("rotated-linear", "one subspace in other bases, linear layer", _rotated("none"), 0.5),
    Scenario("rotated-relu", "one subspace in other bases, ReLU", _rotated("relu"), 0.5),
    Scenario("rotated-gelu", "one subspace in other bases, GELU", _rotated("gelu"), 0.5),
    Scenario("mixed-causes", "10 causes mixed at random into ReLU units", _mixed, 0.5),
    Scenario("random-features", "random ReLU features of 20 inputs", _features, 0.5),
    *(Scenario(f"clusters-{k}", f"{k} planted clusters", _clusters(k), 0.05) for k in (5, 15, 20, 21, 30, 64)),
    Scenario("nets", "8 nets, each of its own noise and share of shared units", _nets, 1.5),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
