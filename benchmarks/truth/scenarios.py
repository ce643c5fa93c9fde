"""The scenarios: a population, what is read from its results, and what is true of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.truth import populations, readings
from benchmarks.truth.net_population import MEASURES, NetPopulation
from benchmarks.truth.pipeline import results_of
from benchmarks.truth.populations import Generator, Population
from benchmarks.truth.readings import Reading
from benchmarks.truth.subsets import numbers_of, summary_of
from convergence.analysis.layout import WITHIN_CLASS, WITHIN_CLASS_HELD_OUT
from convergence.results import ALL_IMAGES, HELD_OUT

LAYER = "layer"
ALL_MEASURES = ("matching", "linear_cka", "debiased_cka", "r_squared")
NUMBERS = (
    ("matching", ALL_IMAGES, "matched r"),
    ("matching", HELD_OUT, "matched r, held out"),
    ("linear_cka", ALL_IMAGES, "linear CKA"),
    ("r_squared", ALL_IMAGES, "R²"),
)
"""Measure, evaluation, and the words of the table."""
LAYERS, UNITS = "Are layers of nets trained apart similar?", "Do nets trained apart learn the same units?"
ABOVE_CHANCE = "Matched units of trained nets are more similar than chance"
NOT_ABOVE_CHANCE = "No difference between matched units of trained nets and chance was found"
MORE = "Layers of trained nets are more similar than layers of untrained nets"
NOT_MORE = "No difference between layers of trained and of untrained nets was found"
WITHHELD = "Layers of trained nets cannot be compared with those of untrained nets"


@dataclass(frozen=True)
class Scenario:
    """A population whose truth is known.

    Attributes
    ----------
    name, about : for the table
    read : readings of one draw
    share : draws, as a share of those asked for
    """

    name: str
    about: str
    read: Callable[[Generator], Iterator[Reading]]
    share: float = 1.0


def _nothing_shared(population: Population, dimensions: int | None = None) -> Iterator[Reading]:
    """No unit is shared: false discoveries only."""
    with results_of({LAYER: population}, light=True) as results:
        comparison = results.comparison(LAYER)
        yield from readings.level(comparison)
        yield from readings.excess(comparison)
        yield from readings.in_all_nets(comparison, 0.0)
        if dimensions is not None:
            yield from readings.dimensions(comparison, dimensions)
        yield from readings.sentences(results, {UNITS: NOT_ABOVE_CHANCE})


def _shared(population: Population, share: float, dimensions: int | None = None) -> Iterator[Reading]:
    """A share of the units is shared one to one."""
    with results_of({LAYER: population}, light=True) as results:
        comparison = results.comparison(LAYER)
        yield from readings.discoveries(comparison, population)
        yield from readings.in_all_nets(comparison, share)
        yield from readings.dimensions(comparison, round(share * 24) if dimensions is None else dimensions)
        yield from readings.sentences(results, {UNITS: ABOVE_CHANCE})


def _beside_untrained(claims: Mapping[str, str], n_nets: int = 4, **settings: Any) -> Callable[..., Iterator[Reading]]:
    """Trained nets beside untrained ones: the sentences."""

    def read(rng: Generator) -> Iterator[Reading]:
        population = populations.share_of_units(rng, n_nets=n_nets, n_untrained=min(n_nets, 3), width=16, **settings)
        with results_of({LAYER: population}, light=True) as results:
            yield from readings.sentences(results, claims)

    return read


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
    with results_of({LAYER: population}, analysis={"rotations": 2}, light=True) as results:
        comparison = results.comparison(LAYER)
        for n, own in chosen.items():
            numbers = numbers_of(comparison, names[own])
            of_these = nets.of_these(loadings[own])
            for measure, evaluation, shown in NUMBERS:
                found = summary_of(numbers, measure, evaluation)
                yield from readings.measured(found, f"{shown}, {n} nets", truth[measure], of_these[measure])
        yield from readings.false_differences(comparison, MEASURES)


def _private(rng: Generator) -> Iterator[Reading]:
    yield from _nothing_shared(populations.share_of_units(rng, 0), 0)


def _rotated(nonlinearity: str, falling: bool = False) -> Callable[[Generator], Iterator[Reading]]:
    dimensions = 24 if nonlinearity == "none" and not falling else None
    return lambda rng: _nothing_shared(populations.rotated(rng, nonlinearity, falling=falling), dimensions)


def _mixed(rng: Generator) -> Iterator[Reading]:
    yield from _nothing_shared(populations.mixed_at_random(rng))


def _features(rng: Generator) -> Iterator[Reading]:
    yield from _nothing_shared(populations.mixed_at_random(rng, n_causes=20, noise=0.0))


def _all_shared(rng: Generator) -> Iterator[Reading]:
    yield from _shared(populations.share_of_units(rng, 24), 1.0)


def _half(rng: Generator) -> Iterator[Reading]:
    yield from _shared(populations.share_of_units(rng, 12), 0.5)


def _half_and_mixed(rng: Generator) -> Iterator[Reading]:
    """What chance levels of a whole layer say of units that share a small subspace beside units that share a cause."""
    yield from _shared(populations.half_and_mixed(rng), 0.5, 20)


def _half_with_signs(rng: Generator) -> Iterator[Reading]:
    yield from _shared(populations.share_of_units(rng, 12, signs=True, nonlinearity="none"), 0.5)


def _dimensions(rng: Generator) -> Iterator[Reading]:
    """A subspace of 10 dimensions in nets of 24 linear units."""
    with results_of({LAYER: populations.mixed_at_random(rng, "none")}, light=True) as results:
        yield from readings.dimensions(results.comparison(LAYER), 10)


def _families(rng: Generator) -> Iterator[Reading]:
    """Independent nets on near copies of images: the truth is 0."""
    with results_of({LAYER: populations.families(rng)}, analysis={"measures": ALL_MEASURES}) as results:
        comparison = results.comparison(LAYER)
        yield from readings.level(comparison)
        for measure, evaluation, name in (
            ("debiased_cka", ALL_IMAGES, "debiased CKA"),
            ("matching", HELD_OUT, "matched r, held out"),
        ):
            yield from readings.measured(comparison.summary(measure, "trained", evaluation), name, 0.0)
            yield from readings.of_pairs(comparison, measure, evaluation, f"{name}, of a pair", 0.0)


def _constant_maps(rng: Generator) -> Iterator[Reading]:
    """Independent nets whose positions are copies of each other: the truth is 0."""
    layers = {LAYER: populations.constant_maps(rng), "one-unit": populations.constant_maps(rng, width=1)}
    information = {"mutual_information": {"enabled": True, "bins": 4}}
    with results_of(layers, information, {"measures": ALL_MEASURES}) as results:
        comparison, single = results.comparison(LAYER), results.comparison("one-unit")
        yield from readings.level(comparison)
        yield from readings.of_pairs(comparison, "debiased_cka", ALL_IMAGES, "debiased CKA, of a pair", 0.0)
        nats = ("mean_information_semi_matching", ALL_IMAGES, "mutual information of two units, nats")
        yield from readings.of_pairs(single, *nats, 0.0)


def _rare(rng: Generator) -> Iterator[Reading]:
    population = populations.rare_units(rng)
    with results_of({LAYER: population}, {"groups": 16}) as results:
        comparison = results.comparison(LAYER)
        yield from readings.rare(comparison, population)
        yield from readings.discoveries(comparison, population)


def _class_only(rng: Generator) -> Iterator[Reading]:
    """Units that share the label and nothing else: within classes the truth is 0."""
    with results_of({LAYER: populations.class_only(rng)}) as results:
        comparison = results.comparison(LAYER)
        for evaluation, name, truth in (
            (ALL_IMAGES, "matched r", readings.NONE),
            (WITHIN_CLASS, "matched r, within classes", readings.NONE),
            (WITHIN_CLASS_HELD_OUT, "matched r, within classes, held out", 0.0),
        ):
            yield from readings.measured(comparison.summary("matching", "trained", evaluation), name, truth)


def _codes(rng: Generator) -> Iterator[Reading]:
    sparse = {"enabled": True, "alphas": 4}
    with results_of({LAYER: populations.codes(rng, n_nets=2)}, analysis={"sparse": sparse}) as results:
        pair = results.comparison(LAYER).first_pair
        assert pair is not None
        yield from readings.codes(pair, {"local": 1 / 3, "few": 1 / 3, "distributed": 1 / 3, "unexplained": 0.0})


SCENARIOS = (
    Scenario("private", "nothing shared", _private, 0.25),
    Scenario("all-shared", "every unit shared one to one, with noise", _all_shared, 0.25),
    Scenario("half-shared", "half of the units shared one to one", _half, 0.25),
    Scenario("half-with-signs", "half shared with random signs, linear layer", _half_with_signs, 0.25),
    Scenario("mixed-rest", "half shared one to one, the rest 8 causes mixed at random", _half_and_mixed, 0.25),
    Scenario("rotated-linear", "one subspace in other bases, linear layer", _rotated("none"), 0.5),
    Scenario("rotated-relu", "one subspace in other bases, ReLU", _rotated("relu"), 0.5),
    Scenario("rotated-gelu", "one subspace in other bases, GELU", _rotated("gelu"), 0.5),
    Scenario(
        "falling-linear",
        "one subspace in other bases, variances falling as 1/k, linear layer",
        _rotated("none", True),
        0.5,
    ),
    Scenario(
        "falling-relu", "one subspace in other bases, variances falling as 1/k, ReLU", _rotated("relu", True), 0.5
    ),
    Scenario("mixed-causes", "10 causes mixed at random into ReLU units", _mixed, 0.5),
    Scenario("random-features", "random ReLU features of 20 inputs", _features, 0.5),
    Scenario("dimensions", "10 causes mixed at random into 24 linear units", _dimensions, 0.25),
    Scenario("codes", "units that are 1, 3 and 20 units of another net", _codes, 0.1),
    Scenario("families", "independent nets, ten near copies of each image", _families, 0.25),
    Scenario("constant-maps", "independent nets, maps without detail", _constant_maps, 0.1),
    Scenario("rare", "a quarter of the units fires on six images", _rare, 0.1),
    Scenario("class-only", "units share the label and nothing else", _class_only, 0.25),
    Scenario(
        "trained-more",
        "half shared by trained nets, nothing by untrained ones",
        _beside_untrained({LAYERS: MORE, UNITS: ABOVE_CHANCE}, n_shared=8),
        0.1,
    ),
    Scenario(
        "everyone",
        "half shared by trained and untrained nets",
        _beside_untrained({LAYERS: NOT_MORE, UNITS: ABOVE_CHANCE}, n_shared=8, everyone=True),
        0.1,
    ),
    Scenario(
        "nobody",
        "nothing shared by trained nor by untrained nets",
        _beside_untrained({LAYERS: NOT_MORE, UNITS: NOT_ABOVE_CHANCE}, n_shared=0),
        0.1,
    ),
    Scenario(
        "two-nets", "half shared, two nets a side", _beside_untrained({LAYERS: WITHHELD}, n_nets=2, n_shared=8), 0.05
    ),
    *(Scenario(f"clusters-{k}", f"{k} planted clusters", _clusters(k), 0.05) for k in (5, 15, 20, 21, 30, 64)),
    Scenario("nets", "8 nets, each of its own noise and share of shared units", _nets, 1.25),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
QUICK = ("private", "half-shared", "rotated-relu", "dimensions", "everyone", "clusters-21", "nets")
"""Scenarios of a quick run."""
