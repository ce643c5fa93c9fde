"""Every unit of one net predicted from units of the other: by the best one, by few, along the LASSO path, by all.

Mappings are fitted and scored on all images, and fitted on one half of the image groups and scored on the other. Units
are standardised where they are scored. Targets are taken in slices, so that weights do not fill the memory. Paths take
the time, so their errors are over blocks of groups. Chance is a net of predictors with the same span in another basis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from convergence.analysis.nulls import PairNull
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
from convergence.inference import jackknife, jackknife_error
from convergence.similarity.pair import PairMoments

WEIGHTS_BYTES = 128_000_000
"""Memory of the weights of a slice of targets."""
MOST = 0.9
"""Share of the R² of all units that few units have to reach for a code to be theirs."""
UNEXPLAINED = 0.05
"""Below this R² from all units a unit has no code in the other net."""
RECIPE = 10
"""Strongest weights of a target that are written."""
CODE_DRAWS = 5
"""Draws of the null in which code sizes are computed."""
REFERENCE = ("path", "forward", "dense")
"""Mappings whose best held-out loss is the reference of code sizes."""


class FewToOne:
    """One direction: ``xy`` predicts y's units from x's. Losses are ½(1 − R²).

    Steps: replicates of all targets (``numbers``), fits by all units on either half (``dense``), paths on either half,
    scored on the other (``held_out``, ranges of targets), paths without blocks of groups (``blocks``), the best single
    unit and the held-out code sizes in draws of the null (``null``, ``code_null``), and, once the penalty is chosen,
    the paths of all images (``fit``).
    """

    def __init__(self, pair: PairSums, config: AnalysisConfig, direction: str, nulls: Mapping[str, PairNull]) -> None:
        self.name = f"sparse_{direction}"
        self._pair, self._config, self._direction = pair, config, direction
        self._null = nulls["yx" if direction == "xy" else "xy"]  # the predictors are in another basis
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
        found.append(Step(name, "dense", seconds=12 * one))
        n_draws = shape.null_draws[1 if direction == "xy" else 0]
        of_codes = 2 * (path * n_targets + one)
        for step, n, seconds in (("null", n_draws, cost.ROTATION * n_x**3), ("code_null", CODE_DRAWS, of_codes)):
            found += [
                Step(name, step, first, last, seconds=seconds * (last - first))
                for first, last in (ranges(min(n, n_draws), seconds, cost.GOAL) if n_draws else ())
            ]
        after = (f"{name}/held_out", f"{name}/dense")
        for step, seconds, before in (("held_out", 22 * path, ()), ("fit", 4.5 * path, after)):
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
            return self._scored(slice(None), ("dense",))
        if step.name == "held_out":
            return self._scored(some, ("path", "refit", "forward"))
        if step.name == "blocks":
            pair = directed(self._pair.without_block(step.which, self._n_blocks), self._direction)
            return {"loss": lasso_path(pair.corr_xx, pair.corr_xy[:, some], self.alphas).loss}
        if step.name == "null":
            draws = range(step.first, min(step.last, self._null.n_draws))
            return {"one_unit": np.array([_one_unit(self._null.draw(k).swapped()) for k in draws])}
        if step.name == "code_null":
            draws = range(step.first, min(step.last, self._null.n_draws))
            return {str(k): _shares(self._code_of_draw(k)) for k in draws}
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
        one_unit = np.concatenate([np.zeros(0), *(part["one_unit"] for part in parts.of(self.name, "null"))])
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
            "one_unit": found.estimate("one_unit").with_draws(one_unit).as_dict(),
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

    def _scored(self, some: slice, kinds: Sequence[str]) -> Tree:
        """Losses of some targets on the half of the image groups that the mapping was not fitted on, mean of both ways.

        By kind ``unit`` (n, n_targets), and ``without`` (n_blocks, n, n_targets) the same without each block of groups
        of either half. A block is left out of the fit as well as of the score, but a refit keeps its support and
        weights, since it takes most of the time.
        """
        halves = [directed(half, self._direction) for half in self._pair.halves]
        n_blocks = self._n_blocks // 2
        scores: list[dict[str, Float64]] = []
        left_out: list[list[dict[str, Float64]]] = []
        for own in (0, 1):  # one set of weights in memory at a time
            weights = self._fitted(halves[1 - own], some, kinds)
            scores.append(_losses(halves[own], some, weights))
            blocks = self._pair.half_without_blocks(own, n_blocks)
            left_out.append([_losses(directed(left, self._direction), some, weights) for left in blocks])
        tree: Tree = {kind: {"unit": (scores[0][kind] + scores[1][kind]) / 2, "without": []} for kind in kinds}
        again = [kind for kind in kinds if kind != "refit"]
        for own in (0, 1):
            for k, moments in enumerate(self._pair.half_without_blocks(own, n_blocks)):
                weights = self._fitted(directed(moments, self._direction), some, again)
                refitted = scores[1 - own] | _losses(halves[1 - own], some, weights)
                for kind in kinds:
                    tree[kind]["without"].append((left_out[own][k][kind] + refitted[kind]) / 2)
        for place in tree.values():
            place["without"] = np.stack(place["without"])
        return tree

    def _fitted(self, fit: PairMoments, some: slice, kinds: Sequence[str]) -> dict[str, Float64]:
        """Weights (…, n_targets, n_predictors) of kinds of mappings, fitted on a pair, for some targets."""
        r_xx, r_xy = fit.corr_xx, fit.corr_xy[:, some]
        found: dict[str, Float64] = {}
        if "path" in kinds:
            found["path"] = lasso_path(r_xx, r_xy, self.alphas).weights
        if "refit" in kinds:
            found["refit"] = refit(r_xx, r_xy, found["path"])[0]
        if "forward" in kinds:
            order, _ = forward_selection(r_xx, r_xy, self._config.sparse.max_units)
            found["forward"] = forward_weights(r_xx, r_xy, order)
        if "dense" in kinds:
            found["dense"] = dense_fit(r_xx, r_xy)[0][None]
        return found

    def _code_of_draw(self, k: int) -> Float64:
        """(n_targets,) held-out code sizes, as :func:`code_sizes`, with the predictors in the basis of a draw."""
        halves = [self._null.draw(k, half).swapped() for half in (0, 1)]
        n_x, n_targets = halves[0].corr_xy.shape
        sizes = []
        for first, last in self._ranges(n_x, n_targets, 0.0, self._config):
            some = slice(first, last)
            fitted = [self._fitted(half, some, REFERENCE) for half in halves]
            scores = [_losses(half, some, fitted[1 - j]) for j, half in enumerate(halves)]
            sizes.append(code_sizes({kind: (scores[0][kind] + scores[1][kind]) / 2 for kind in REFERENCE})[0])
        return np.concatenate(sizes)

    def _whole(self, parts: Parts) -> dict[str, Tree]:
        """What :meth:`_scored` left, of all targets, by kind."""
        found: dict[str, Tree] = {}
        for name in ("held_out", "dense"):
            pieces = parts.of(self.name, name)
            for kind in pieces[0]:
                of_kind = [piece[kind] for piece in pieces]
                found[kind] = {key: joined_columns(of_kind, key) for key in ("unit", "without")}
        return found

    def _held_out(self, parts: Parts) -> Tree:
        """Errors are over blocks of groups, which are left out of fit and score."""
        whole = self._whole(parts)
        tree: Tree = {}
        for kind, name in (("path", "held_out"), ("refit", "held_out_refit"), ("forward", "held_out_forward")):
            tree[f"{name}_loss"] = whole[kind]["unit"].mean(axis=1)
            tree[f"{name}_error"] = jackknife_error(whole[kind]["without"].mean(axis=2))
        dense = whole["dense"]
        tree["held_out_dense"] = jackknife(dense["unit"].mean(), dense["without"].mean(axis=(1, 2))).as_dict()
        sizes, best = code_sizes({kind: whole[kind]["unit"] for kind in REFERENCE})
        tree["held_out_best_unit_loss"], tree["held_out_units_for_90"] = best, sizes
        without = [
            _shares(code_sizes({kind: whole[kind]["without"][b] for kind in REFERENCE})[0])
            for b in range(len(dense["without"]))
        ]
        drawn = [shares for part in parts.of(self.name, "code_null") for _, shares in sorted(part.items())]
        tree["held_out_code"] = {
            name: jackknife(share, [shares[name] for shares in without], smooth=False)
            .with_draws([shares[name] for shares in drawn])
            .as_dict()
            for name, share in _shares(sizes).items()
        }
        return tree

    def chosen(self, parts: Parts) -> int:
        """The largest penalty whose held-out loss is within an error of the smallest (Breiman et al. 1984)."""
        path = self._whole(parts)["path"]
        loss, error = path["unit"].mean(axis=1), jackknife_error(path["without"].mean(axis=2))
        best = int(np.argmin(loss))
        return int(np.argmax(loss <= loss[best] + error[best]))


def _losses(score: PairMoments, some: slice, weights: Mapping[str, Float64]) -> dict[str, Float64]:
    """Losses (n, n_targets) on a pair of the fitted weights of every kind, for some targets."""
    r_xx, r_xy = score.corr_xx, score.corr_xy[:, some]
    return {
        kind: (prediction_loss if kind == "dense" else sparse_loss)(r_xx, r_xy, of_kind)
        for kind, of_kind in weights.items()
    }


def code_sizes(losses: Mapping[str, Float64]) -> tuple[Float64, Float64]:
    """Units of forward selection for 90 % of the best R² of all mappings, and the best losses, (n_targets,) each.

    ``losses`` (n, n_targets) of ``forward``, by number of units, and of the other mappings; sizes as in
    :func:`units_for_most`.
    """
    best = np.min([of_kind.min(axis=0) for of_kind in losses.values()], axis=0)
    return units_for_most(losses["forward"].T, best), best


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
