"""What replacing single units does to the loss, and whether the strength of their match tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from convergence.functional.file import Tree
from convergence.uncertainty import jackknife, jackknife_error

Float64 = npt.NDArray[np.float64]
ORDERS = 2000
"""Random orders of the units that make the chance level of a rank correlation."""
FELT = 2.0
"""Standard errors by which taking a unit away has to raise the loss for a share of that harm to mean anything."""


@dataclass(frozen=True, eq=False)
class Effects:
    """Losses with each unit replaced.

    Attributes
    ----------
    units : (n_units,) indices in the layer
    strength : (n_units,) correlation of each with its partner, on images that the partner was not chosen on
    count : (n_groups,) images
    own : (n_groups,) summed loss of the net as it is
    loss : by kind of replacement (n_units, n_groups) summed losses
    """

    units: npt.NDArray[np.int64]
    strength: Float64
    count: Float64
    own: Float64
    loss: Mapping[str, Float64]

    def gain(self, kind: str, left_out: int | None = None) -> Float64:
        """(n_units,) mean loss with each unit replaced less that of the net as it is, in nats."""
        kept = np.arange(len(self.count)) != (-1 if left_out is None else left_out)
        return np.asarray((self.loss[kind] - self.own)[:, kept].sum(axis=1) / self.count[kept].sum())

    def felt(self) -> npt.NDArray[np.bool_]:
        """(n_units,) whether taking the unit away raises the loss by more than twice its standard error."""
        without = np.array([self.gain("ablated", group) for group in range(len(self.count))])
        return np.asarray(self.gain("ablated") > FELT * jackknife_error(without))

    def tree(self, seed: int) -> Tree:
        """All numbers: of each unit, of their means, and rank correlations with the strength of the match."""
        felt = self.felt()
        tree: Tree = {
            "units": self.units,
            "strength": self.strength,
            "felt": felt,
            "count": self.count,
            "own_loss": self.own,
            "kinds": {},
            "ranks": {},
        }
        for kind in self.loss:
            tree["kinds"][kind] = self._of_kind(kind)
            tree["ranks"][kind] = self._rank(partial(self.gain, kind), np.ones(len(felt), dtype=bool), seed)
        tree["ranks"]["share"] = self._rank(self._share, felt, seed)
        return tree

    def _of_kind(self, kind: str) -> Tree:
        """Of each unit the gain in loss and its error; their mean; their sum as a share of that of taking away.

        There is no share where taking units away does not clearly raise the loss.
        """
        whole = self.gain(kind)
        without = np.array([self.gain(kind, group) for group in range(len(self.count))])
        ablated = [self.gain("ablated", group).sum() for group in (None, *range(len(self.count)))]
        matters = jackknife(ablated[0], ablated[1:]).low > 0
        share = jackknife(float(whole.sum() / ablated[0]), without.sum(axis=1) / ablated[1:]) if matters else None
        return {
            "loss": self.loss[kind],
            "gain": whole,
            "error": jackknife_error(without),
            "mean": jackknife(float(whole.mean()), without.mean(axis=1)).as_dict(),
            "of_ablation": share.as_dict() if share else {},
        }

    def _share(self, left_out: int | None) -> Float64:
        """(n_units,) share of the harm of taking the unit away that its transplant avoids."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(1.0 - self.gain("transplanted", left_out) / self.gain("ablated", left_out))

    def _rank(self, of: Callable[[int | None], Float64], some: npt.NDArray[np.bool_], seed: int) -> Tree:
        """Spearman's correlation of a number with the strength of the match, and how chance orders do."""
        n = int(some.sum())
        if n < 4:
            return {"n_units": n}
        strength = self.strength[some]
        without = [spearman(strength, of(group)[some]) for group in range(len(self.count))]
        found = jackknife(spearman(strength, of(None)[some]), without, smooth=False).within((-1.0, 1.0))
        generator = np.random.default_rng([seed, n])
        ranks, orders = _centred_ranks(of(None)[some]), np.tile(_centred_ranks(strength), (ORDERS, 1))
        generator.permuted(orders, axis=1, out=orders)
        chance = orders @ ranks / max(np.sqrt((ranks @ ranks) * (orders[0] @ orders[0])), np.finfo(float).tiny)
        p = (1 + np.count_nonzero(np.abs(chance) >= abs(found.value) - 1e-12)) / (1 + ORDERS)
        return {"n_units": n, "p": float(p), **found.against((float(chance.mean()), float(chance.std()))).as_dict()}


def spearman(x: Float64, y: Float64) -> float:
    """Pearson's correlation of ranks, ties sharing theirs; 0 where all are tied."""
    a, b = _centred_ranks(x), _centred_ranks(y)
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else 0.0


def _centred_ranks(values: Float64) -> Float64:
    ranks = rankdata(values)
    return np.asarray(ranks - ranks.mean())
