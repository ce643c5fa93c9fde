"""Everything about two nets, x and y, in one comparison: a tree of arrays, ready to be written.

Indices are those of units within their layer, dead units included; ``-1`` stands for "none". Directions: ``xy`` looks
for every unit of x among those of y, or predicts every unit of y from those of x; ``yx`` is the other way round.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.alignment.clustering import cluster_similarities, similarity_graph, spectral_clusters
from convergence.alignment.matching import aligned_order, matching, overlap, semi_matching
from convergence.alignment.sparse import dense_fit, forward_selection, lasso_path, paper_lambda, refit
from convergence.analysis.layer import mean_activation_distance
from convergence.analysis.units import LiveUnits, PairSums
from convergence.experiment import AnalysisConfig
from convergence.similarity import MEASURES
from convergence.similarity.pair import PairMoments
from convergence.statistics.file import Sums
from convergence.uncertainty import jackknife, jackknife_error, null_level, random_rotation

Tree = dict[str, Any]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def analyze_pair(sums: Sums, live: LiveUnits, x: str, y: str, config: AnalysisConfig) -> Tree:
    """All results of two nets; a net without live units gives a tree that says so and holds nothing else."""
    pair = PairSums.of(sums, live, x, y)
    tree: Tree = {"units_x": pair.units_x, "units_y": pair.units_y, "n_x": pair.n_x, "n_y": pair.n_y}
    if len(pair.units_x) < 2 or len(pair.units_y) < 2:
        poor = x if len(pair.units_x) < 2 else y
        return tree | {"nothing_because": f"{poor} has fewer than two units that carry anything"}
    tree["measures"] = _measures(pair, config)
    tree["alignment"] = _alignment(pair)
    tree["mean_activations"] = mean_activation_distance(sums, live, x, y).as_dict()
    if sums.mutual_information is not None:
        tree["information"] = _information(sums, pair, x, y)
    if config.sparse.enabled:
        tree["sparse_xy"] = _sparse(pair, config, reverse=False)
        tree["sparse_yx"] = _sparse(pair, config, reverse=True)
    if config.clustering.enabled:
        tree["clusters"] = _clusters(pair, config)
    return tree


def _measures(pair: PairSums, config: AnalysisConfig) -> Tree:
    """Every measure with jackknife interval, replicates and rotation null, in both directions if they differ."""
    tree: Tree = {}
    for name in config.measures:
        measure = MEASURES.load(name)
        for direction in ("xy",) if measure.symmetric else ("xy", "yx"):

            def value(moments: PairMoments, direction: str = direction, measure: Any = measure) -> float:
                return float(measure(moments if direction == "xy" else moments.swapped()))

            estimate = jackknife(value(pair.pooled), [value(moments) for moments in pair.without])
            if not measure.rotation_invariant:

                def draw(generator: np.random.Generator, value: Any = value) -> float:
                    return float(value(pair.pooled.rotated(random_rotation(len(pair.units_y), generator))))

                estimate = estimate.against(null_level(draw, config.rotations, config.seed))
            if pair.shifted is not None:
                estimate = replace(estimate, shifted=value(pair.shifted))
            tree.setdefault(name, {})[direction] = estimate.as_dict()
    return tree


def _alignment(pair: PairSums) -> Tree:
    """Unit by unit: the semi-matched and the matched partner, the correlation with it and its error."""
    r = pair.pooled.corr_xy
    matched = matching(r)
    semi_xy, semi_yx = semi_matching(r), semi_matching(r.T)
    partner = _full(len(r), matched.rows, matched.columns)
    order_x, order_y = aligned_order(r)
    agreement = overlap(r, matched)
    without = np.stack([moments.corr_xy for moments in pair.without])
    return {
        "semi_xy": _to_units(semi_xy, pair.units_y),
        "semi_xy_correlation": r[np.arange(len(r)), semi_xy],
        "semi_xy_error": jackknife_error(without[:, np.arange(len(r)), semi_xy]),
        "semi_yx": _to_units(semi_yx, pair.units_x),
        "semi_yx_correlation": r[semi_yx, np.arange(r.shape[1])],
        "semi_yx_error": jackknife_error(without[:, semi_yx, np.arange(r.shape[1])]),
        "matching": _to_units(partner, pair.units_y),
        "matching_correlation": _full(len(r), matched.rows, matched.values, empty=0.0),
        "matching_error": _full(
            len(r), matched.rows, jackknife_error(without[:, matched.rows, matched.columns]), empty=0.0
        ),
        "same_assignment": agreement.share,
        "mutual_best": len(agreement.mutual),
        "never_chosen": len(agreement.never_chosen),
        "order_x": pair.units_x[order_x],
        "order_y": pair.units_y[order_y],
        **_cross_fitted(pair),
    }


def _cross_fitted(pair: PairSums) -> Tree:
    """Partners chosen on one half of the image groups and scored on the other, then the other way: no best of noise."""
    semi_xy, semi_yx, matched_means = [], [], []
    for fit, score in (pair.halves, pair.halves[::-1]):
        r, held_out = fit.corr_xy, score.corr_xy
        matched = matching(r)
        semi_xy.append(held_out[np.arange(len(r)), semi_matching(r)].mean())
        semi_yx.append(held_out[semi_matching(r.T), np.arange(r.shape[1])].mean())
        matched_means.append(held_out[matched.rows, matched.columns].mean())
    return {
        "cross_fitted_semi_xy": float(np.mean(semi_xy)),
        "cross_fitted_semi_yx": float(np.mean(semi_yx)),
        "cross_fitted_matching": float(np.mean(matched_means)),
    }


def _information(sums: Sums, pair: PairSums, x: str, y: str) -> Tree:
    """Alignments by mutual information, and their agreement with those by correlation.

    Errors are over blocks of image groups; each replicate matches anew, by both measures.
    """
    assert sums.mutual_information is not None
    assert sums.mutual_information_without is not None
    ours = np.ix_(sums.units(x)[pair.units_x], sums.units(y)[pair.units_y])
    nats = sums.mutual_information[ours]
    without = [replicate[ours] for replicate in sums.mutual_information_without]
    errors = jackknife_error(without)
    r, r_without = pair.pooled.corr_xy, [moments.corr_xy for moments in pair.without_blocks(len(without))]
    everyone = np.arange(len(r))
    semi, matched = semi_matching(nats), matching(nats)

    def same_semi(information: Float64, correlation: Float64) -> float:
        return float((semi_matching(information) == semi_matching(correlation)).mean())

    def same_matching(information: Float64, correlation: Float64) -> float:
        one, other = matching(information), matching(correlation)
        return float((_full(len(r), one.rows, one.columns) == _full(len(r), other.rows, other.columns)).mean())

    both = list(zip(without, r_without, strict=True))
    return {
        "semi_xy": _to_units(semi, pair.units_y),
        "semi_xy_nats": nats[everyone, semi],
        "semi_xy_error": errors[everyone, semi],
        "matching": _to_units(_full(len(r), matched.rows, matched.columns), pair.units_y),
        "matching_nats": _full(len(r), matched.rows, matched.values, empty=0.0),
        "matching_error": _full(len(r), matched.rows, errors[matched.rows, matched.columns], empty=0.0),
        "mean_semi": jackknife(nats.max(axis=1).mean(), [w.max(axis=1).mean() for w in without]).as_dict(),
        "mean_matching": jackknife(matched.mean, [matching(w).mean for w in without]).as_dict(),
        "same_semi": jackknife(same_semi(nats, r), [same_semi(w, c) for w, c in both]).as_dict(),
        "same_matching": jackknife(same_matching(nats, r), [same_matching(w, c) for w, c in both]).as_dict(),
    }


def _sparse(pair: PairSums, config: AnalysisConfig, reverse: bool) -> Tree:
    """Every unit of one net predicted from few units of the other: the LASSO path, its refit, forward selection.

    The best single unit has the rotation null: what one direction of the predictors' span explains when it is drawn
    at random. The dense fit is the same in any basis.
    """

    def oriented(moments: PairMoments) -> PairMoments:
        return moments.swapped() if reverse else moments

    def one_unit(moments: PairMoments) -> float:
        return float(0.5 * (1.0 - (moments.corr_xy**2).max(axis=0).mean()))

    def rotated_predictors(generator: np.random.Generator) -> float:
        turned = pooled.swapped().rotated(random_rotation(len(predictors), generator))
        return one_unit(turned.swapped())

    sparse = config.sparse
    alphas = np.geomspace(sparse.alpha_max, sparse.alpha_min, sparse.alphas)
    pooled = oriented(pair.pooled)
    r_xx, r_xy = pooled.corr_xx, pooled.corr_xy
    path = lasso_path(r_xx, r_xy, alphas)
    _, dense, rank = dense_fit(r_xx, r_xy)
    order, forward = forward_selection(r_xx, r_xy, sparse.max_units)
    _, refitted = refit(r_xx, r_xy, path.weights)
    predictors = pair.units_y if reverse else pair.units_x
    without = [oriented(moments) for moments in pair.without]
    replicates = [lasso_path(m.corr_xx, m.corr_xy, alphas).loss.mean(axis=1) for m in without]
    dense_without = [dense_fit(m.corr_xx, m.corr_xy)[1].mean() for m in without]
    null = null_level(rotated_predictors, config.rotations, config.seed)
    return {
        "alphas": alphas,
        "paper_lambda": paper_lambda(alphas, r_xy.shape[1]),
        "loss": path.loss.mean(axis=1),
        "loss_error": jackknife_error(replicates),
        "refit_loss": refitted.mean(axis=1),
        "n_nonzero": path.n_nonzero.mean(axis=1),
        "n_above_0.01": path.n_above.mean(axis=1),
        "kkt_gap": path.kkt_gap.max(axis=1),
        "unit_loss": path.loss,
        "one_unit": jackknife(one_unit(pooled), [one_unit(m) for m in without]).against(null).as_dict(),
        "dense": jackknife(float(dense.mean()), dense_without).as_dict(),
        "dense_unit_loss": dense,
        "rank": rank,
        "forward_units": _to_units(order, predictors),
        "forward_unit_loss": forward,
        "forward_loss": forward.mean(axis=0),
    }


def _clusters(pair: PairSums, config: AnalysisConfig) -> Tree:
    """Spectral clusters of the joined units, and the similarity within and between the nets in each."""
    settings, pooled = config.clustering, pair.pooled
    joined = np.block([[pooled.corr_xx, pooled.corr_xy], [pooled.corr_xy.T, pooled.corr_yy]])
    graph = similarity_graph(joined, settings.similarity, settings.threshold)
    found = spectral_clusters(graph, settings.n_clusters, settings.max_clusters, config.seed)
    sides = np.repeat([0, 1], [len(pair.units_x), len(pair.units_y)])
    inside = cluster_similarities(joined, found.labels, sides)
    return {
        "labels_x": found.labels[sides == 0],
        "labels_y": found.labels[sides == 1],
        "eigenvalues": found.eigenvalues,
        "n_clusters": found.n_clusters,
        "eigengap": found.eigengap,
        "sizes": inside.sizes,
        "mean_similarity": inside.mean,
        "n_pairs": inside.n_pairs,
    }


def _full(length: int, rows: Indices, values: npt.NDArray[Any], empty: float = -1) -> npt.NDArray[Any]:
    """``values`` at ``rows`` of an array of ``length``, ``empty`` elsewhere."""
    out = np.full(length, empty, dtype=values.dtype)
    out[rows] = values
    return out


def _to_units(positions: Indices, units: Indices) -> Indices:
    """Positions among live units to indices of units; −1 stays."""
    return np.where(positions >= 0, units[positions], -1)
