"""Layers of one net computed by another: whole here, unit by unit in :mod:`convergence.functional.transplants`.

Every map is fitted on the sums of one half of the image groups and the stitched net scored on the images of the other,
both ways (:meth:`~convergence.functional.bench.Bench.cross_fitted`). Errors are those of the scored images, the maps
taken as they were fitted.

Stitching: Lenc & Vedaldi 2015 (arXiv 1411.5908); Bansal, Nakkiran & Barak 2021 (arXiv 2106.07682).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable

import numpy as np

from convergence.config.functional import StitchConfig
from convergence.config.stages import Comparison
from convergence.errors import ConfigError, did_you_mean
from convergence.functional.bench import Bench
from convergence.functional.file import Tree
from convergence.functional.mappings import Fit, Float64
from convergence.functional.run import Piece
from convergence.functional.scoring import Scores, mean_scores
from convergence.functional.stitcher import Stitcher, cross_fitted
from convergence.functional.transplants import cumulative, transplants
from convergence.uncertainty import generator_of

logger = logging.getLogger(__name__)
NULLS = ("permuted", "permuted_slope", "rotated")
OWN = "own"


def pieces(bench: Bench) -> list[Piece]:
    """A piece for each pair of nets, comparison and kind of replacement.

    Raises
    ------
    ConfigError
        for a net or a comparison that is not there, or nothing to stitch.
    """
    config = bench.config.stitch
    found: list[Piece] = []
    for comparison in chosen_comparisons(bench, config.comparisons):
        for a, b in chosen_pairs(bench):
            if bench.layer_of(comparison, a) is None or bench.layer_of(comparison, b) is None:
                continue
            key = f"{comparison.name}/{a}|{b}"
            found.append(Piece(f"{key}/stitched", functools.partial(stitched, bench, comparison, a, b)))
            if config.transplant_units:
                found.append(Piece(f"{key}/transplants", functools.partial(transplants, bench, comparison, a, b)))
            if config.cumulative_steps:
                found.append(Piece(f"{key}/cumulative", functools.partial(cumulative, bench, comparison, a, b)))
    if not found:
        raise ConfigError(
            "functional.stitch: none of the pairs of nets takes part in any of the comparisons. Name pairs of nets "
            "that are compared position by position, with one layer each."
        )
    return found


def chosen_comparisons(bench: Bench, names: Iterable[str]) -> list[Comparison]:
    """Comparisons by name, all that are fit if none is named; ConfigError for one that is not there or not fit."""
    fit = {comparison.name: comparison for comparison in bench.comparisons()}
    everything = [comparison.name for comparison in bench.experiment.statistics.comparisons]
    for name in names:
        if name not in everything:
            raise ConfigError(f'there is no comparison "{name}"; {did_you_mean(name, everything)}.')
        if name not in fit:
            raise ConfigError(
                f'the comparison "{name}" has several layers or epochs a net, or means over positions, and no such '
                f"layer can be replaced. Known that can: {', '.join(fit) or 'none'}."
            )
    return [fit[name] for name in names] or list(fit.values())


def chosen_pairs(bench: Bench) -> list[tuple[str, str]]:
    """The pairs (a, b) of the config, or the first two trained nets both ways and an untrained net as b."""
    given = bench.config.stitch.pairs
    known = [net.name for net in bench.experiment.all_nets()]
    for name in (name for pair in given for name in pair):
        if name not in known:
            raise ConfigError(f'functional.stitch.pairs: there is no net "{name}"; {did_you_mean(name, known)}.')
    if given:
        return list(dict.fromkeys(given))
    trained = [net.name for net in bench.trained[:2]]
    pairs = [(trained[0], trained[1]), (trained[1], trained[0])] if len(trained) == 2 else []
    if trained and bench.untrained:
        pairs.append((trained[0], bench.untrained[0].name))
    if not pairs:
        raise ConfigError("functional.stitch: there are no two nets, one of them trained; name pairs.")
    return pairs


def stitched(bench: Bench, comparison: Comparison, a: str, b: str) -> Tree:
    """Accuracy and loss of A with the layer computed from B, for every map and chance level."""
    config = bench.config.stitch
    try:
        stitcher = Stitcher(bench, comparison, a, b)
    except ConfigError as error:
        logger.warning("stitch: %s|%s is left out: %s", a, b, error)
        return {"left_out": str(error)}
    fits = [Fit.of(bench, comparison.name, a, b, half) for half in (0, 1)]
    weights = [maps(fit, config, bench.config.seed) for fit in fits]

    names = list(weights[0])
    scores = cross_fitted(
        bench,
        names,
        lambda half: stitcher.through_many([fits[half].mapping(weights[half][name]) for name in names]),
        stitcher.own,
    )
    own = scores[None]
    # What a map explains of the images that it was not fitted on; the null's draws are told together.
    explained = {
        name: (fits[1].explained(weights[0][name]) + fits[0].explained(weights[1][name])) / 2 for name in weights[0]
    }
    everything = [one.name for one in bench.experiment.statistics.comparisons]
    tree: Tree = {
        "order": everything.index(comparison.name),
        "layer": comparison.layers_of(_label(bench, a))[0],
        "source": stitcher.cut_a.source,
        "bypassing": ", ".join(stitcher.cut_a.bypassing),
        "n_a": len(fits[0].mean_a),
        "n_b": len(fits[0].mean_b),
        "dead_a": len(fits[0].mean_a) - len(fits[0].live_a),
        "a_trained": _is_trained(bench, a),
        "b_trained": _is_trained(bench, b),
        "maps": {},
    }
    tree["maps"][OWN] = scored(own, own) | {"explained": 1.0}
    for name in weights[0]:
        if "/" not in name:
            tree["maps"][name] = scored(scores[name], own) | {"explained": explained[name]}
    for null in NULLS:
        draws = [name for name in weights[0] if name.startswith(f"{null}/")]
        accuracies = [scores[name].accuracy().value for name in draws]
        tree["maps"][null] = scored(mean_scores([scores[name] for name in draws]), own) | {
            "explained": float(np.mean([explained[name] for name in draws])),
            "draws": np.array(accuracies),
        }
    return tree


def scored(scores: Scores, own: Scores) -> Tree:
    """Accuracy and loss, and how they differ from those of A itself."""
    return {
        "accuracy": scores.accuracy().as_dict(),
        "loss": scores.mean_loss().as_dict(),
        "accuracy_minus_own": scores.accuracy_minus(own).as_dict(),
        "loss_minus_own": scores.loss_minus(own).as_dict(),
        "scores": scores.as_dict(),
    }


def maps(fit: Fit, config: StitchConfig, seed: int) -> dict[str, Float64]:
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


def _label(bench: Bench, name: str) -> str:
    (net,) = (net for net in bench.experiment.all_nets() if net.name == name)
    return net.label


def _is_trained(bench: Bench, name: str) -> bool:
    return any(net.name == name for net in bench.trained)
