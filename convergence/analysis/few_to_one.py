"""Every unit of one net predicted from units of the other: by the best one, by few, along the LASSO path, by all.

Mappings are fitted and scored on all images, and fitted on one half of the image groups and scored on the other. Units
are standardised where they are scored. Targets are taken in slices, so that weights do not fill the memory. Paths take
the time, so their errors are over blocks of groups.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from convergence.alignment.sparse import (
    dense_fit,
    forward_selection,
    forward_weights,
    lasso_path,
    paper_lambda,
    prediction_loss,
    refit,
    sparse_loss,
)
from convergence.analysis.measures import directed
from convergence.analysis.section import Float64, Numbers, Replicated, Tree, to_units
from convergence.analysis.units import PairSums
from convergence.experiment import AnalysisConfig
from convergence.similarity.pair import PairMoments
from convergence.uncertainty import jackknife, jackknife_error, null_level, random_rotation

WEIGHTS_BYTES = 128_000_000
"""Memory of the weights of a slice of targets."""
MOST = 0.9
"""Share of the R² of all units that few units have to reach for a code to be theirs."""
UNEXPLAINED = 0.05
"""Below this R² from all units a unit has no code in the other net."""
RECIPE = 10
"""Strongest weights of a target that are written."""


class FewToOne:
    """One direction: ``xy`` predicts y's units from x's. Losses are ½(1 − R²)."""

    def __init__(self, pair: PairSums, config: AnalysisConfig, direction: str) -> None:
        self.name = f"sparse_{direction}"
        self._pair, self._config, self._direction = pair, config, direction
        sparse = config.sparse
        self.alphas = np.geomspace(sparse.alpha_max, sparse.alpha_min, sparse.alphas)
        self._n_blocks = min(sparse.blocks, pair.n_groups)
        self._pooled = directed(pair.pooled, direction)
        self._held: Tree = self._held_out()
        self.chosen = self._sparsest_good()
        self.weights: Float64
        """(n_targets, n_predictors) of the chosen penalty, fitted on all images."""

    def numbers(self, moments: PairMoments) -> Numbers:
        pair = directed(moments, self._direction)
        r_xx, r_xy = pair.corr_xx, pair.corr_xy
        dense = dense_fit(r_xx, r_xy)[1]
        _, forward = forward_selection(r_xx, r_xy, self._config.sparse.max_units)
        return {
            "dense": dense.mean(),
            "one_unit": _one_unit(pair),
            "forward": forward.mean(axis=0),
            **_shares(units_for_most(forward, dense)),
        }

    def tree(self, found: Replicated) -> Tree:
        r_xx, r_xy = self._pooled.corr_xx, self._pooled.corr_xy
        units = self._pair.units_y if self._direction == "yx" else self._pair.units_x
        n_alphas, n_targets = len(self.alphas), r_xy.shape[1]
        loss, refitted, gaps = (np.empty((n_alphas, n_targets)) for _ in range(3))
        n_nonzero, n_above = (np.empty((n_alphas, n_targets), dtype=np.int64) for _ in range(2))
        self.weights = np.empty((n_targets, len(r_xx)))
        for some in self._slices(r_xy.shape):
            path = lasso_path(r_xx, r_xy[:, some], self.alphas)
            loss[:, some], gaps[:, some] = path.loss, path.kkt_gap
            n_nonzero[:, some], n_above[:, some] = path.n_nonzero, path.n_above
            _, refitted[:, some] = refit(r_xx, r_xy[:, some], path.weights)
            self.weights[some] = path.weights[self.chosen]
        _, dense, rank = dense_fit(r_xx, r_xy)
        order, forward = forward_selection(r_xx, r_xy, self._config.sparse.max_units)
        needed = units_for_most(forward, dense)
        strongest = np.argsort(-np.abs(self.weights), axis=1, kind="stable")[:, :RECIPE]
        recipe = np.take_along_axis(self.weights, strongest, axis=1)
        return {
            "alphas": self.alphas,
            "paper_lambda": paper_lambda(self.alphas, n_targets),
            "loss": loss.mean(axis=1),
            "loss_error": jackknife_error(
                [self._path_loss(directed(m, self._direction)) for m in self._pair.without_blocks(self._n_blocks)]
            ),
            "refit_loss": refitted.mean(axis=1),
            "n_nonzero": n_nonzero.mean(axis=1),
            "n_above_0.01": n_above.mean(axis=1),
            "kkt_gap": gaps.max(axis=1),
            "unit_loss": loss,
            "one_unit": found.estimate("one_unit").against(self._null()).as_dict(),
            "dense": found.estimate("dense").as_dict(),
            "dense_unit_loss": dense,
            "rank": rank,
            "forward_units": to_units(order, units),
            "forward_unit_loss": forward,
            "forward_loss": forward.mean(axis=0),
            "forward_error": found.error("forward"),
            "units_for_90": needed,
            "code": {name: found.estimate(name, smooth=False).as_dict() for name in _shares(needed)},
            "chosen": self.chosen,
            "recipe_units": np.where(recipe != 0, units[strongest], -1),
            "recipe_weights": recipe,
            **self._held,
        }

    def _path_loss(self, pair: PairMoments) -> Float64:
        """(n_alphas,) mean losses along the path."""
        parts = [
            lasso_path(pair.corr_xx, pair.corr_xy[:, some], self.alphas).loss
            for some in self._slices(pair.corr_xy.shape)
        ]
        return np.asarray(np.concatenate(parts, axis=1).mean(axis=1))

    def _held_out(self) -> Tree:
        """Losses on the half of the image groups that the mapping was not fitted on, mean of both ways.

        Errors are over blocks of the scored groups, the mapping as it was fitted.
        """
        max_units = self._config.sparse.max_units
        halves = [directed(half, self._direction) for half in self._pair.halves]
        shape = halves[0].corr_xy.shape
        kinds = {"path": len(self.alphas), "refit": len(self.alphas), "forward": max_units, "dense": 1}
        scores = {kind: np.zeros((n, shape[1])) for kind, n in kinds.items()}
        means = {kind: np.zeros((2, n)) for kind, n in kinds.items()}
        without: list[dict[str, Float64]] = []  # of each block left out of its half, the mean losses on the rest of it
        half_of: list[int] = []
        for scored in (0, 1):
            fit, score = halves[1 - scored], halves[scored]
            replicates = [
                directed(m, self._direction) for m in self._pair.half_without_blocks(scored, self._n_blocks // 2)
            ]
            here = [{kind: np.zeros(n) for kind, n in kinds.items()} for _ in replicates]
            for some in self._slices(shape):
                for kind, weights in self._fitted(fit, some).items():
                    losses = prediction_loss if kind == "dense" else sparse_loss
                    found = losses(score.corr_xx, score.corr_xy[:, some], weights)
                    scores[kind][:, some] += found / 2
                    means[kind][scored] += found.sum(axis=1) / shape[1]
                    for moments, sums in zip(replicates, here, strict=True):
                        again = losses(moments.corr_xx, moments.corr_xy[:, some], weights)
                        sums[kind] += again.sum(axis=1) / shape[1]
            without += here
            half_of += [scored] * len(here)
        tree: Tree = {}
        for kind, name in (("path", "held_out"), ("refit", "held_out_refit"), ("forward", "held_out_forward")):
            tree[f"{name}_loss"] = means[kind].mean(axis=0)
            both = [(one[kind] + means[kind][1 - half]) / 2 for one, half in zip(without, half_of, strict=True)]
            tree[f"{name}_error"] = jackknife_error(both)
        both = [(one["dense"] + means["dense"][1 - half]) / 2 for one, half in zip(without, half_of, strict=True)]
        tree["held_out_dense"] = jackknife(float(means["dense"].mean()), np.concatenate(both)).as_dict()
        best = np.minimum(scores["dense"][0], np.minimum(scores["path"], scores["refit"]).min(axis=0))
        tree["held_out_best_unit_loss"] = best = np.minimum(best, scores["forward"].min(axis=0))
        tree["held_out_units_for_90"] = units_for_most(scores["forward"].T, best)
        tree["held_out_code"] = _shares(tree["held_out_units_for_90"])
        return tree

    def _fitted(self, fit: PairMoments, some: slice) -> dict[str, Float64]:
        """Weights (…, n_targets, n_predictors) of every kind of mapping, fitted on a pair, for some targets."""
        r_xx, r_xy = fit.corr_xx, fit.corr_xy[:, some]
        path = lasso_path(r_xx, r_xy, self.alphas).weights
        order, _ = forward_selection(r_xx, r_xy, self._config.sparse.max_units)
        return {
            "path": path,
            "refit": refit(r_xx, r_xy, path)[0],
            "forward": forward_weights(r_xx, r_xy, order),
            "dense": dense_fit(r_xx, r_xy)[0][None],
        }

    def _sparsest_good(self) -> int:
        """The largest penalty whose held-out loss is within an error of the smallest (Breiman et al. 1984)."""
        loss, error = self._held["held_out_loss"], self._held["held_out_error"]
        best = int(np.argmin(loss))
        return int(np.argmax(loss <= loss[best] + error[best]))

    def _null(self) -> tuple[float, float]:
        """Loss of the best of the predictors' directions when these are drawn at random."""
        n = len(self._pooled.cov_xx)

        def rotated(generator: np.random.Generator) -> float:
            return _one_unit(self._pooled.swapped().rotated(random_rotation(n, generator)).swapped())

        return null_level(rotated, self._config.rotations, self._config.seed)

    def _slices(self, shape: tuple[int, ...]) -> Iterator[slice]:
        n_x, n_targets = shape
        step = max(1, WEIGHTS_BYTES // (8 * n_x * max(len(self.alphas), self._config.sparse.max_units)))
        for start in range(0, n_targets, step):
            yield slice(start, min(start + step, n_targets))


def units_for_most(forward: Float64, reference: Float64) -> Float64:
    """(n_targets,) units that reach 90 % of the reference's R²: 0 where that has none, −1 if none of the steps does.

    ``forward`` (n_targets, n_steps) and ``reference`` (n_targets,) are losses ½(1 − R²).
    """
    wanted = MOST * (1 - 2 * reference)
    reached = (1 - 2 * forward) >= wanted[:, None] - 1e-12
    needed = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, -1)
    return np.where(1 - 2 * reference < UNEXPLAINED, 0, needed)


def _shares(needed: Float64) -> dict[str, float]:
    """Of the units, those whose code is one unit, a few, more than were tried, and those that nothing explains."""
    return {
        "local": float(np.mean(needed == 1)),
        "few": float(np.mean(needed > 1)),
        "distributed": float(np.mean(needed < 0)),
        "unexplained": float(np.mean(needed == 0)),
    }


def _one_unit(pair: PairMoments) -> float:
    return float(0.5 * (1.0 - (pair.corr_xy**2).max(axis=0).mean()))
