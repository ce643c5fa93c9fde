"""Every unit of one net predicted from units of the other: by the best one, by few, along the LASSO path, by all.

Mappings are fitted and scored on all images, and fitted on one half of the image groups and scored on the other. Units
are standardised where they are scored. Targets are taken in slices, so that weights do not fill the memory. Paths take
the time, so their errors are over blocks of groups.
"""

from __future__ import annotations

from collections.abc import Callable

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
from convergence.analysis import cost
from convergence.analysis.measures import directed
from convergence.analysis.pair_sums import PairSums
from convergence.analysis.steps import (
    Float64,
    Numbers,
    PairShape,
    Parts,
    Replicated,
    Step,
    Tree,
    joined_columns,
    ranges,
    replicates,
    to_units,
)
from convergence.config.stages import AnalysisConfig
from convergence.inference import jackknife, jackknife_error, null_level
from convergence.linalg import random_rotation
from convergence.similarity.pair import PairMoments

WEIGHTS_BYTES = 128_000_000
"""Memory of the weights of a slice of targets."""
MOST = 0.9
"""Share of the R² of all units that few units have to reach for a code to be theirs."""
UNEXPLAINED = 0.05
"""Below this R² from all units a unit has no code in the other net."""
RECIPE = 10
"""Strongest weights of a target that are written."""


class FewToOne:
    """One direction: ``xy`` predicts y's units from x's. Losses are ½(1 − R²).

    Steps: replicates of all targets (``numbers``), fits by all units on either half (``dense``), paths on either half,
    scored on the other (``held_out``, ranges of targets), paths without blocks of groups (``blocks``), a chance level
    (``null``), and, once the penalty is chosen, the paths of all images (``fit``).
    """

    def __init__(self, pair: PairSums, config: AnalysisConfig, direction: str) -> None:
        self.name = f"sparse_{direction}"
        self._pair, self._config, self._direction = pair, config, direction
        self.alphas = np.geomspace(config.sparse.alpha_max, config.sparse.alpha_min, config.sparse.alphas)
        self._n_blocks = min(config.sparse.blocks, pair.n_groups)

    @classmethod
    def steps(cls, shape: PairShape, config: AnalysisConfig, direction: str) -> list[Step]:
        """Steps of the method for a pair of a shape."""
        name, sparse = f"sparse_{direction}", config.sparse
        n_x, n_targets = (shape.n_x, shape.n_y) if direction == "xy" else (shape.n_y, shape.n_x)
        one = cost.DENSE * n_x**3 + (cost.FORWARD * sparse.max_units * n_x + cost.MOMENTS * n_x) * n_targets
        path = cost.PATH * n_x**2 * sparse.alphas
        found = [
            Step(name, "numbers", first, last, seconds=one * (last - first))
            for first, last in ranges(shape.n_groups + 1, one, cost.GOAL)
        ]
        found.append(Step(name, "dense", seconds=4 * one))
        found.append(Step(name, "null", seconds=config.rotations * cost.ROTATION * n_x**3))
        after = (f"{name}/held_out", f"{name}/dense")
        for step, seconds, before in (("held_out", 12 * path, ()), ("fit", 4.5 * path, after)):
            found += [
                Step(name, step, first, last, after=before, seconds=seconds * (last - first))
                for first, last in cls._ranges(n_x, n_targets, seconds, config)
            ]
        for block in range(min(sparse.blocks, shape.n_groups)):
            found += [
                Step(name, "blocks", first, last, which=block, seconds=path * (last - first))
                for first, last in cls._ranges(n_x, n_targets, path, config)
            ]
        return found

    @staticmethod
    def _ranges(n_x: int, n_targets: int, seconds: float, config: AnalysisConfig) -> list[tuple[int, int]]:
        """Ranges of targets: neither longer than a task should take, nor with more weights than the memory is for."""
        most = max(1, WEIGHTS_BYTES // (8 * n_x * max(config.sparse.alphas, config.sparse.max_units)))
        return ranges(n_targets, max(seconds, cost.GOAL / most), cost.GOAL)

    def compute(self, step: Step, parts: Parts) -> Tree:
        """The part of a step."""
        some = slice(step.first, step.last)
        if step.name == "numbers":
            return replicates(step, self._numbers)
        if step.name == "dense":
            return self._scored(slice(None), lambda fit, _: {"dense": dense_fit(fit.corr_xx, fit.corr_xy)[0][None]})
        if step.name == "held_out":
            return self._scored(some, self._fitted)
        if step.name == "blocks":
            pair = directed(self._pair.without_block(step.which, self._n_blocks), self._direction)
            return {"loss": lasso_path(pair.corr_xx, pair.corr_xy[:, some], self.alphas).loss}
        if step.name == "null":
            return dict(zip(("mean", "sd"), self._null(), strict=True))
        return self._fit(some, self.chosen(parts))

    @property
    def _pooled(self) -> PairMoments:
        return directed(self._pair.pooled, self._direction)

    def _numbers(self, left_out: int | None) -> Numbers:
        pair = directed(self._pair.replicate(left_out), self._direction)
        _, dense, rank = dense_fit(pair.corr_xx, pair.corr_xy)
        order, forward = forward_selection(pair.corr_xx, pair.corr_xy, self._config.sparse.max_units)
        found = {
            "dense": dense.mean(),
            "one_unit": _one_unit(pair),
            "forward": forward.mean(axis=0),
            **_shares(units_for_most(forward, dense)),
        }
        of_units = {"unit_dense": dense, "rank": rank, "order": order, "unit_forward": forward}
        return found | of_units if left_out is None else found

    def _fit(self, some: slice, chosen: int) -> Tree:
        """The path of some targets on all images, and the weights of the chosen penalty."""
        r_xx, r_xy = self._pooled.corr_xx, self._pooled.corr_xy[:, some]
        path = lasso_path(r_xx, r_xy, self.alphas)
        return {
            "loss": path.loss,
            "kkt_gap": path.kkt_gap,
            "n_nonzero": path.n_nonzero,
            "n_above": path.n_above,
            "refit": refit(r_xx, r_xy, path.weights)[1],
            "weights": np.ascontiguousarray(path.weights[chosen].T),  # targets last, as everywhere in the parts
        }

    def weights(self, parts: Parts) -> Float64:
        """(n_targets, n_predictors) of the chosen penalty, fitted on all images."""
        return np.ascontiguousarray(joined_columns(parts.of(self.name, "fit"), "weights").T)

    def tree(self, parts: Parts) -> Tree:
        units = self._pair.units_y if self._direction == "yx" else self._pair.units_x
        fit = parts.of(self.name, "fit")
        loss, refitted, gaps, n_nonzero, n_above = (
            joined_columns(fit, name) for name in ("loss", "refit", "kkt_gap", "n_nonzero", "n_above")
        )
        found = Replicated.of(parts.of(self.name, "numbers"))
        dense, forward, order = (found.values[name] for name in ("unit_dense", "unit_forward", "order"))
        null = parts.one(self.name, "null")
        weights = self.weights(parts)
        strongest = np.argsort(-np.abs(weights), axis=1, kind="stable")[:, :RECIPE]
        recipe = np.take_along_axis(weights, strongest, axis=1)
        needed = units_for_most(forward, dense)
        return {
            "alphas": self.alphas,
            "paper_lambda": paper_lambda(self.alphas, loss.shape[1]),
            "loss": loss.mean(axis=1),
            "loss_error": jackknife_error(self._losses_without_blocks(parts)),
            "refit_loss": refitted.mean(axis=1),
            "n_nonzero": n_nonzero.mean(axis=1),
            "n_above_0.01": n_above.mean(axis=1),
            "kkt_gap": gaps.max(axis=1),
            "unit_loss": loss,
            "one_unit": found.estimate("one_unit").against((null["mean"], null["sd"])).as_dict(),
            "dense": found.estimate("dense").as_dict(),
            "dense_unit_loss": dense,
            "rank": found.values["rank"],
            "forward_units": to_units(order, units),
            "forward_unit_loss": forward,
            "forward_loss": found.values["forward"],
            "forward_error": found.error("forward"),
            "units_for_90": needed,
            "code": {name: found.estimate(name, smooth=False).as_dict() for name in _shares(needed)},
            "chosen": self.chosen(parts),
            "recipe_units": np.where(recipe != 0, units[strongest], -1),
            "recipe_weights": recipe,
            **self._held_out(parts),
        }

    def _losses_without_blocks(self, parts: Parts) -> Float64:
        """(n_blocks, n_alphas) mean losses along the path."""
        of_block: dict[int, list[Tree]] = {}
        for step, part in zip(parts.steps(self.name, "blocks"), parts.of(self.name, "blocks"), strict=True):
            of_block.setdefault(step.which, []).append(part)
        return np.stack([joined_columns(of_block[block], "loss").mean(axis=1) for block in sorted(of_block)])

    def _scored(self, some: slice, fitted: Callable[[PairMoments, slice], dict[str, Float64]]) -> Tree:
        """Losses of some targets on the half of the image groups that the mapping was not fitted on, by kind.

        ``unit`` (n, n_targets) means of both ways; ``total`` (2, n) and ``without`` (n_blocks, n) sums over the
        targets, on the scored half and on it without blocks of its groups (whose halves are in ``half``).
        """
        halves = [directed(half, self._direction) for half in self._pair.halves]
        tree: Tree = {}
        half_of: list[int] = []
        for scored in (0, 1):
            fit, score = halves[1 - scored], halves[scored]
            weights = fitted(fit, some)
            for kind, of_kind in weights.items():
                losses = self._score(kind)(score.corr_xx, score.corr_xy[:, some], of_kind)
                place = tree.setdefault(kind, {"unit": 0.0, "total": [], "without": []})
                place["unit"] = place["unit"] + losses / 2
                place["total"].append(losses.sum(axis=1))
            for moments in self._pair.half_without_blocks(scored, self._n_blocks // 2):
                left = directed(moments, self._direction)
                for kind, of_kind in weights.items():
                    losses = self._score(kind)(left.corr_xx, left.corr_xy[:, some], of_kind)
                    tree[kind]["without"].append(losses.sum(axis=1))
                half_of.append(scored)
        for place in tree.values():
            place["total"], place["without"] = np.stack(place["total"]), np.stack(place["without"])
            place["half"] = np.array(half_of)
        return tree

    @staticmethod
    def _score(kind: str) -> Callable[[Float64, Float64, Float64], Float64]:
        return prediction_loss if kind == "dense" else sparse_loss

    def _fitted(self, fit: PairMoments, some: slice) -> dict[str, Float64]:
        """Weights (…, n_targets, n_predictors) of every kind of sparse mapping, fitted on a pair, for some targets."""
        r_xx, r_xy = fit.corr_xx, fit.corr_xy[:, some]
        path = lasso_path(r_xx, r_xy, self.alphas).weights
        order, _ = forward_selection(r_xx, r_xy, self._config.sparse.max_units)
        return {"path": path, "refit": refit(r_xx, r_xy, path)[0], "forward": forward_weights(r_xx, r_xy, order)}

    def _whole(self, parts: Parts) -> dict[str, Tree]:
        """What :meth:`_scored` left, of all targets: by kind, means over the targets in the place of sums."""
        found: dict[str, Tree] = {}
        for name in ("held_out", "dense"):
            pieces = parts.of(self.name, name)
            for kind in pieces[0]:
                of_kind = [piece[kind] for piece in pieces]
                unit = joined_columns(of_kind, "unit")
                sums = {key: sum(piece[key] for piece in of_kind) / unit.shape[1] for key in ("total", "without")}
                found[kind] = {"unit": unit, "half": of_kind[0]["half"], **sums}
        return found

    def _held_out(self, parts: Parts) -> Tree:
        """Errors are over blocks of the scored groups, the mapping as it was fitted."""
        whole = self._whole(parts)
        tree: Tree = {}
        for kind, name in (("path", "held_out"), ("refit", "held_out_refit"), ("forward", "held_out_forward")):
            tree[f"{name}_loss"] = whole[kind]["total"].mean(axis=0)
            tree[f"{name}_error"] = jackknife_error(_both_ways(whole[kind]))
        dense = whole["dense"]
        tree["held_out_dense"] = jackknife(float(dense["total"].mean()), _both_ways(dense)[:, 0]).as_dict()
        best = np.minimum(whole["path"]["unit"], whole["refit"]["unit"]).min(axis=0)
        best = np.minimum(np.minimum(dense["unit"][0], best), whole["forward"]["unit"].min(axis=0))
        tree["held_out_best_unit_loss"] = best
        tree["held_out_units_for_90"] = units_for_most(whole["forward"]["unit"].T, best)
        tree["held_out_code"] = _shares(tree["held_out_units_for_90"])
        return tree

    def chosen(self, parts: Parts) -> int:
        """The largest penalty whose held-out loss is within an error of the smallest (Breiman et al. 1984)."""
        path = self._whole(parts)["path"]
        loss, error = path["total"].mean(axis=0), jackknife_error(_both_ways(path))
        best = int(np.argmin(loss))
        return int(np.argmax(loss <= loss[best] + error[best]))

    def _null(self) -> tuple[float, float]:
        """Loss of the best of the predictors' directions when these are drawn at random."""
        pooled = self._pooled.swapped()
        n = len(pooled.cov_yy)

        def rotated(generator: np.random.Generator) -> float:
            return _one_unit(pooled.rotated(random_rotation(n, generator)).swapped())

        return null_level(rotated, self._config.rotations, self._config.seed)


def _both_ways(scored: Tree) -> Float64:
    """(n_blocks, n) means of both ways, without each block of the half that it belongs to."""
    return (scored["without"] + scored["total"][1 - scored["half"]]) / 2


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
