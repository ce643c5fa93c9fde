"""Stitching: layers of one net computed by another; :mod:`.transplants` replaces single units.

Each map is fitted on the sums of one half of the image groups and the stitched net is scored on the images of the
other, both ways. Errors are over the scored images; the maps count as given.

Sources: Lenc & Vedaldi 2015 (arXiv 1411.5908); Bansal, Nakkiran & Barak 2021 (arXiv 2106.07682).
"""

from __future__ import annotations

import functools
import logging

import numpy as np

from convergence.config.functional import StitchConfig
from convergence.config.stages import Comparison
from convergence.errors import ConfigError
from convergence.functional.context import ExperimentContext
from convergence.functional.scores import Scores, mean_scores
from convergence.functional.stage import ExperimentTask
from convergence.functional.stitching.maps import AffineMap, Float64, LayerFit
from convergence.functional.stitching.penultimate import PenultimateFit
from convergence.functional.stitching.results import (
    NullDraw,
    SkippedPair,
    StitchedMap,
    StitchedPair,
    StitchingResults,
)
from convergence.functional.stitching.stitched_network import StitchedNetwork, cross_fitted
from convergence.functional.stitching.transplants import cumulative, transplants
from convergence.inference import generator_of

logger = logging.getLogger(__name__)
NULLS = ("permuted", "permuted_slope", "rotated")
OWN = "own"


def tasks(context: ExperimentContext) -> list[ExperimentTask]:
    """A task per pair of nets, comparison and kind of replacement.

    Raises
    ------
    ConfigError
        for an unknown net or comparison, or when there is nothing to stitch.
    """
    config = context.config.stitch
    found: list[ExperimentTask] = []
    for comparison in context.chosen_comparisons(config.comparisons):
        for a, b in chosen_pairs(context):
            if context.layer_of(comparison, a) is None or context.layer_of(comparison, b) is None:
                continue
            key, given = f"{comparison.name}/{a}|{b}", (context, comparison, a, b)
            found.append(ExperimentTask(f"{key}/stitched", functools.partial(stitched, *given)))
            if config.transplant_units:
                found.append(ExperimentTask(f"{key}/transplants", functools.partial(transplants, *given)))
            if config.cumulative_steps:
                found.append(ExperimentTask(f"{key}/cumulative", functools.partial(cumulative, *given)))
    if not found:
        raise ConfigError(
            "functional.stitch: no comparison has both nets of a pair. Stitching needs comparisons by position with "
            "one layer per net; name other nets in functional.stitch.pairs or other functional.stitch.comparisons."
        )
    return found


def chosen_pairs(context: ExperimentContext) -> list[tuple[str, str]]:
    """The pairs (a, b) of the config, or the first two nets trained apart, both ways, and an untrained net as b."""
    given = context.config.stitch.pairs
    context.check_nets("functional.stitch.pairs", [name for pair in given for name in pair])
    if given:
        return list(dict.fromkeys(given))
    trained = [net.name for net in context.trained_apart[:2]]
    pairs = [(trained[0], trained[1]), (trained[1], trained[0])] if len(trained) == 2 else []
    if trained and context.untrained:
        pairs.append((trained[0], context.untrained[0].name))
    if not pairs:
        raise ConfigError(
            "functional.stitch needs a trained net and a second net. Add seeds in [[nets]], or set "
            "functional.stitch.pairs."
        )
    return pairs


def stitched(context: ExperimentContext, comparison: Comparison, a: str, b: str) -> StitchingResults:
    """Accuracy and loss of A with the layer computed from B, for every map and null."""
    config, key = context.config.stitch, (comparison.name, a, b)
    try:
        network = StitchedNetwork(context, comparison, a, b)
    except ConfigError as error:
        logger.warning("stitch: %s|%s skipped: %s", a, b, error)
        return StitchingResults(skipped=(SkippedPair(*key, "stitched", str(error)),))
    fits = [LayerFit.of(context, comparison.name, a, b, half) for half in (0, 1)]
    weights = [maps(fit, config, context.config.seed) for fit in fits]
    late = [_penultimate(context, network, fit, half) for half, fit in enumerate(fits)]
    affine = [
        {name: fit.affine_map(w) for name, w in weights[half].items()} | late[half] for half, fit in enumerate(fits)
    ]
    names = list(affine[0])
    scores = cross_fitted(
        context, names, lambda half: network.through_many([affine[half][name] for name in names]), network.own
    )
    own = scores[None]
    explained = {
        name: (fits[1].explained(weights[0][name]) + fits[0].explained(weights[1][name])) / 2 for name in weights[0]
    } | {name: (fits[1].explained_by(late[0][name]) + fits[0].explained_by(late[1][name])) / 2 for name in late[0]}

    def row(name: str, found: Scores, r_squared: float) -> StitchedMap:
        differences = found.accuracy_minus(own), found.loss_minus(own)
        return StitchedMap(*key, name, found.accuracy(), found.mean_loss(), *differences, r_squared, found)

    rows = [row(OWN, own, 1.0), *(row(name, scores[name], explained[name]) for name in names if "/" not in name)]
    draws: list[NullDraw] = []
    for null in NULLS:
        drawn = [name for name in names if name.startswith(f"{null}/")]
        rows.append(row(null, mean_scores([scores[n] for n in drawn]), float(np.mean([explained[n] for n in drawn]))))
        draws += [NullDraw(*key, null, k, scores[name].accuracy().value) for k, name in enumerate(drawn)]
    pair = StitchedPair(
        *key,
        order=[one.name for one in context.experiment.statistics.comparisons].index(comparison.name),
        layer=comparison.layers_of(context.described(a).label)[0],
        source=network.split_a.source,
        bypassing=", ".join(network.split_a.bypassing),
        n_a=len(fits[0].mean_a),
        n_b=len(fits[0].mean_b),
        dead_a=len(fits[0].mean_a) - len(fits[0].live_a),
        a_trained=context.described(a).trained,
        b_trained=context.described(b).trained,
    )
    return StitchingResults(pairs=(pair,), maps=tuple(rows), draws=tuple(draws))


def _penultimate(
    context: ExperimentContext, network: StitchedNetwork, fit: LayerFit, half: int
) -> dict[str, AffineMap]:
    """Maps that are fitted at the penultimate layer; none unless asked for, and in nets without such a layer."""
    config = context.config.stitch
    if "penultimate" not in config.mappings or not network.split_a.has_penultimate:
        return {}
    return PenultimateFit(context, network, fit, half, config.penultimate_steps).maps()


def maps(fit: LayerFit, config: StitchConfig, seed: int) -> dict[str, Float64]:
    """Standardised weights (n_live_a, n_live_b) by the name of the map; draws of chance levels as "name/draw"."""
    matched = fit.matched()
    found: dict[str, Float64] = {"mean": np.zeros(fit.correlation.shape)}
    if "one_to_one" in config.mappings:
        found["one_to_one"] = fit.one_to_one(matched)
        found["one_to_one_slope"] = fit.one_to_one(matched, slope=True)
    if "soft" in config.mappings:
        found["soft"] = fit.soft()
    if "sparse" in config.mappings:
        found |= {f"sparse_{k}": w for k, w in fit.sparse(sorted(set(config.units_per_target))).items()}
    if "least_squares" in config.mappings:
        found["least_squares"] = fit.least_squares()
    if "orthogonal" in config.mappings:
        found["orthogonal"] = fit.orthogonal()
    if "mapping_layer" in config.mappings:
        found |= {f"lasso_{penalty:g}": w for penalty, w in fit.lasso(config.penalties).items()}
        for steps in config.sgd_steps:
            trained = fit.sgd(config.penalties, steps, seed)
            found |= {f"sgd{steps}_{penalty:g}": w for penalty, w in trained.items()}
    for draw in range(config.draws):
        partners = fit.drawn(generator_of(seed, draw))
        found[f"permuted/{draw}"] = fit.one_to_one(partners)
        found[f"permuted_slope/{draw}"] = fit.one_to_one(partners, slope=True)
        found[f"rotated/{draw}"] = fit.rotated(generator_of(seed, draw))
    return found
