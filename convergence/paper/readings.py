"""Numbers of a run for the paper's tables, layer by layer: alignment, prediction, information, activations."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from convergence.alignment.mapping_sgd import SHORT_STEPS, train_mapping
from convergence.alignment.sparse import LARGE_WEIGHT, dense_fit, lasso_path
from convergence.clustering.graph import normalised_laplacian, similarity_graph
from convergence.paper.published import TABLE_LAMBDAS
from convergence.results import ComparisonResults, PairResults
from convergence.statistics.file import StatisticsFile

Float64 = NDArray[np.float64]
NONE = float("nan")
LAMBDAS = tuple(sorted({*TABLE_LAMBDAS, *(10 ** (k / 10) for k in range(-38, -21, 2) if k != -30)}))
"""Penalties λ of the readings: those of Table 1, and finer ones where the paper's logs have them."""
WIDEST = 1024
"""Units of either net beyond which no mapping layers are trained: hours, for layers that the paper has no table of."""
N_SHOWN = 8
"""Pairs at either end of a list of mutual information."""


@dataclass(frozen=True)
class Number:
    """A number with its jackknife error and its level after random rotation; NaN for what was not computed."""

    value: float
    error: float = NONE
    null: float = NONE
    null_sd: float = NONE


@dataclass(frozen=True)
class AlignmentReading:
    """Single units of a pair of nets: mean correlations, and shares of the units of x."""

    semi_matching: Number
    matching: Number
    same_assignment: float
    below_half: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """Units of y from those of x by penalty λ, in three readings; all arrays (n_lambdas,).

    ``exact`` is the LASSO's loss with ``exact_error`` (of the dense fit at λ = 0; elsewhere interpolated between the
    penalties of the analysis, NaN beyond them), ``short`` and ``long`` those of SGD after ``short_steps`` and
    ``long_steps``; ``*_weights`` are above 0.01 a target.
    """

    lambdas: Float64
    n_targets: int
    exact: Float64
    exact_error: Float64
    exact_weights: Float64
    short: Float64
    short_weights: Float64
    long: Float64
    long_weights: Float64
    short_steps: int
    long_steps: int
    learning_rate: float


@dataclass(frozen=True, eq=False)
class Information:
    """Mutual information of x's units with their best partners, falling; how many best pairs are those by r, too.

    ``n_samples`` and ``bins`` are those of the joint histograms; ``same_best`` of the best ``n_best``.
    """

    nats: Float64
    errors: Float64
    same_best: int
    n_best: int
    n_samples: int
    bins: int

    @property
    def paper_correction(self) -> float:
        """The bias term that the paper took off: K² / (2N ln 2), in bits and for K² cells."""
        return self.bins**2 / (2 * self.n_samples * np.log(2))

    @property
    def correction(self) -> float:
        """The bias term in nats for cells that are free: (K − 1)² / 2N."""
        return (self.bins - 1) ** 2 / (2 * self.n_samples)


@dataclass(frozen=True)
class Laplacian:
    """Eigenvalues of two Laplacians of the joint correlations: smallest of D − C with signed r, both ends for |r|."""

    signed_smallest: float
    normalised_smallest: float
    normalised_largest: float


@dataclass(frozen=True, eq=False)
class LayerReading:
    """One layer of the run; ``information`` is None where it was not counted, ``prediction`` beyond ``WIDEST`` units.

    ``others``: alignments of all pairs of trained nets; ``top_activations``: per net, mean of its most active unit.
    """

    layer: ComparisonResults
    pair: PairResults
    alignment: AlignmentReading
    others: tuple[AlignmentReading, ...]
    prediction: Prediction | None
    information: Information | None
    laplacian: Laplacian
    top_activations: tuple[Number, ...]

    @property
    def name(self) -> str:
        """The comparison's name."""
        return self.layer.name


def read_layer(
    layer: ComparisonResults, pair: PairResults, statistics: StatisticsFile, long_steps: int
) -> LayerReading:
    """Everything of one layer and pair; trains the mapping layers."""
    return LayerReading(
        layer=layer,
        pair=pair,
        alignment=alignment(pair),
        others=tuple(alignment(other) for other in layer.of_kind("trained")) if layer.whole else (),
        prediction=prediction(layer, pair, long_steps),
        information=information(layer, pair, statistics),
        laplacian=laplacian(*correlations(layer, pair)),
        top_activations=top_activations(layer),
    )


def correlations(layer: ComparisonResults, pair: PairResults) -> tuple[Float64, Float64, Float64]:
    """r_xx, r_xy, r_yy of the active units of a pair."""
    joint, n_x = layer.joint_correlation(pair), len(pair.units_x)
    return joint[:n_x, :n_x].copy(), joint[:n_x, n_x:].copy(), joint[n_x:, n_x:].copy()


def alignment(pair: PairResults) -> AlignmentReading:
    """Means and shares of one pair, from x to y."""
    r, matching = pair.semi_matching("xy").correlation, pair.matching
    matched = matching.correlation[matching.unit_y >= 0]
    return AlignmentReading(
        semi_matching=_number(pair, "semi_matching", float(r.mean())),
        matching=_number(pair, "matching", float(matched.mean())),
        same_assignment=pair.same_partner,
        below_half=float((r < 0.5).mean()),
    )


def _number(pair: PairResults, measure: str, value: float) -> Number:
    """A mean with the error and the null of the measure, if it was among those of the analysis."""
    found = pair.measure(measure)
    return Number(value) if found is None else Number(value, found.standard_error, found.null, found.null_sd)


def prediction(layer: ComparisonResults, pair: PairResults, long_steps: int) -> Prediction | None:
    """Losses by penalty: exact, and by SGD of two lengths; the shorter one is a checkpoint of the longer."""
    r_xx, r_xy, r_yy = correlations(layer, pair)
    if max(r_xy.shape) > WIDEST:
        return None
    penalties = np.array(LAMBDAS)
    n_targets = r_xy.shape[1]
    dense_weights, dense_loss, _ = dense_fit(r_xx, r_xy)
    path = lasso_path(r_xx, r_xy, penalties[1:] * n_targets)
    trained = train_mapping(r_xx, r_xy, r_yy, penalties, long_steps, checkpoints=(SHORT_STEPS,))
    return Prediction(
        lambdas=penalties,
        n_targets=n_targets,
        exact=np.append(dense_loss.mean(), path.loss.mean(axis=1)),
        exact_error=_loss_errors(pair, penalties * n_targets),
        exact_weights=np.append((np.abs(dense_weights) > LARGE_WEIGHT).sum(axis=1).mean(), path.n_above.mean(axis=1)),
        short=trained.loss[0],
        short_weights=trained.n_above[0],
        long=trained.loss[-1],
        long_weights=trained.n_above[-1],
        short_steps=trained.steps[0],
        long_steps=trained.steps[-1],
        learning_rate=trained.learning_rate,
    )


def _loss_errors(pair: PairResults, alphas: Float64) -> Float64:
    errors, sparse = np.full(len(alphas), NONE), pair.sparse("xy")
    if sparse is None:
        return errors
    errors[alphas == 0] = pair.need("all_units_loss").standard_error
    path = sparse.path
    rising = np.argsort(path.alpha)
    known, at = np.log(path.alpha[rising]), alphas > 0
    errors[at] = np.interp(np.log(alphas[at]), known, path.loss_error[rising], left=NONE, right=NONE)
    return errors


def information(layer: ComparisonResults, pair: PairResults, statistics: StatisticsFile) -> Information | None:
    """Best partners by mutual information; None where it was not counted."""
    found, semi = pair.mutual_information, pair.semi_matching("xy")
    if found is None:
        return None
    order = np.argsort(-found.best_nats, kind="stable")
    n_best = min(N_SHOWN, len(order))
    by_r = np.argsort(-semi.correlation, kind="stable")[:n_best]
    settings = json.loads(statistics.config_text)["statistics"]["mutual_information"]
    n_positions = int(np.prod(statistics.sums(layer.name).map_shape, dtype=np.int64))
    if settings["positions"] != "all":
        n_positions = min(n_positions, int(settings["positions"]))
    return Information(
        nats=found.best_nats[order],
        errors=found.best_error[order],
        same_best=len({(i, found.best_unit_y[i]) for i in order[:n_best]} & {(i, semi.partner[i]) for i in by_r}),
        n_best=n_best,
        n_samples=statistics.n_images * n_positions,
        bins=int(settings["bins"]),
    )


def laplacian(r_xx: Float64, r_xy: Float64, r_yy: Float64) -> Laplacian:
    """Both Laplacians of the joined units."""
    joint = np.block([[r_xx, r_xy], [r_xy.T, r_yy]])
    signed = scipy.linalg.eigvalsh(np.diag(joint.sum(axis=1)) - joint)
    graph = similarity_graph(joint)
    linked = graph.sum(axis=1) > 0
    values = scipy.linalg.eigvalsh(normalised_laplacian(graph[np.ix_(linked, linked)]))
    return Laplacian(float(signed[0]), float(values[0]), float(values[-1]))


def top_activations(layer: ComparisonResults) -> tuple[Number, ...]:
    """Per net, the mean activation of its most active unit."""
    found = []
    for net in layer.nets:
        units = layer.units(net)
        top = int(np.argmax(units.mean))
        found.append(Number(float(units.mean[top]), float(units.mean_error[top])))
    return tuple(found)
