"""Compression: how many units of a net can go, because others stand in for them or because they do nothing.

From training images it is learnt which units others predict (:mod:`convergence.functional.redundancy`); those go
first, and what they led to is folded into the units that stay (:mod:`convergence.functional.folding`). The smaller net
is a net like any: its accuracy is that of the held-out images, and its units, parameters and multiply–adds are counted
from it. Beside it stand nets of the same widths whose units were chosen by the size of their weights (Li et al. 2017)
or at random, with the same folding and without, and nets with as few multiply–adds by principal components.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from convergence.config.functional import CompressConfig
from convergence.data.images import batches_on_device
from convergence.errors import ConfigError, UserError, did_you_mean
from convergence.functional.bench import Bench
from convergence.functional.compressible import RULES, Compressible
from convergence.functional.costs import Costs
from convergence.functional.file import Tree
from convergence.functional.repair import estimate_again
from convergence.functional.run import Piece
from convergence.functional.scoring import Scores, mean_scores
from convergence.functional.smaller import save_smaller
from convergence.functional.subspaces import projected

WHOLE = "whole"
AGAINST = (WHOLE, "random", "random_folded", "magnitude", "magnitude_folded")
"""What the other methods are compared with, image by image."""
SAVED = "redundancy"
"""Whose nets are kept."""
SEARCH = 100
"""Shares of principal components that are tried, at most all of them."""


def pieces(bench: Bench) -> list[Piece]:
    """For each net: what its units are, each share of all layers at once, and each share of one layer at a time."""
    config = bench.config.compress
    found = []
    work = _Work(bench)
    for name in chosen_nets(bench):
        found.append(Piece(f"{name}/about", partial(work.about, name)))
        for k, share in enumerate(config.shares):
            found.append(Piece(f"{name}/all/{k:02d}", partial(work.all_layers, name, share)))
        for space in work.net(name).spaces if config.layer_shares else ():
            for k, share in enumerate(config.layer_shares):
                key = f"{name}/layers/{space.name}/{k:02d}"
                found.append(Piece(key, partial(work.one_layer, name, space.name, share)))
    return found


def chosen_nets(bench: Bench) -> list[str]:
    """The nets that are made smaller."""
    known = [net.name for net in bench.experiment.all_nets()]
    wanted = bench.config.compress.nets
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f'functional.compress.nets has "{name}", and there is no such net; {did_you_mean(name, known)}'
            )
    if len(set(wanted)) < len(wanted):
        raise ConfigError(f"functional.compress.nets names a net twice: {', '.join(wanted)}. Name each once.")
    names = list(wanted) or [net.name for net in bench.trained[:2]]
    if not names:
        raise UserError(
            "no net of this run is trained, so there is nothing to lose by making one smaller. Name untrained nets in "
            "functional.compress.nets if you want them."
        )
    return names


class _Work:
    """Makes and scores smaller nets; holds what it knows of one net at a time."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.config = bench, bench.config.compress
        self._learning = learning_images(bench, self.config)
        self._net: Compressible | None = None

    def net(self, name: str) -> Compressible:
        """A net, with what is known of its units."""
        if self._net is None or self._net.name != name:
            seed, terms = self.bench.config.seed, self.config.terms
            shape = self.bench.images.image_shape
            self._net = Compressible(name, self.bench.net(name), shape, self.batches, terms, seed)
        return self._net

    def batches(self) -> Iterator[torch.Tensor]:
        """The images from which moments are learnt."""
        size = self.bench.config.batch_size
        cuts = (self._learning[start : start + size] for start in range(0, len(self._learning), size))
        workers = self.bench.config.loader_workers
        for _, batch in batches_on_device(self.bench.train, cuts, self.bench.device, workers):
            yield batch

    def about(self, name: str) -> Tree:
        """Spaces of a net, what it costs, and what the greedy orders expected to lose."""
        net = self.net(name)
        scores = self.bench.score({WHOLE: net.module})[WHOLE]
        spaces: Tree = {}
        for space in net.spaces:
            found = net.elimination(space.name, "redundancy")
            spaces[space.name] = {
                "units": space.n_units,
                "dead": net.dead(space.name),
                "order": found.order,
                "loss": found.loss,
                "readers": ", ".join(reading.module for reading in net.readings[space.name]),
            }
        return {
            WHOLE: _scored(scores) | _counted(net.costs(net.module, {})),
            "spaces": spaces,
            "order_of_spaces": "\n".join(space.name for space in net.spaces),
            "left_out": "\n".join(f"{space}: {reason}" for space, reason in net.left_out.items()),
            "n_learning": len(self._learning),
        }

    def all_layers(self, name: str, share: float) -> Tree:
        """A share of the units of every layer removed at once, by each method."""
        net = self.net(name)
        spaces = [space.name for space in net.spaces]
        made, cost = self._made(net, share, spaces)
        if "subspace" in self.config.methods:
            cheaper = self._of_components(net, self._budget(net, share, spaces))
            if cheaper is not None:
                made["subspace"], cost["subspace"] = cheaper
        if share == self.config.saved_share and SAVED in self.config.methods:
            self._save(net, made[SAVED], cost[SAVED], share, spaces)
        return self._tree(made, cost, share, compared=share == self.config.saved_share)

    def one_layer(self, name: str, space: str, share: float) -> Tree:
        """A share of the units of one layer removed, the others as they are."""
        made, cost = self._made(self.net(name), share, [space])
        return self._tree(made, cost, share, compared=False)

    def _made(
        self, net: Compressible, share: float, spaces: list[str]
    ) -> tuple[dict[Any, nn.Module], dict[Any, Costs]]:
        """Smaller nets by method, or by (method, draw) for those with draws, and what they cost."""
        made: dict[Any, nn.Module] = {}
        cost: dict[Any, Costs] = {}
        for method, rule in RULES.items():
            if method not in self.config.methods:
                continue
            for draw in range(self.config.draws) if rule.order == "random" else [None]:
                key = method if draw is None else (method, draw)
                kept = net.kept(share, rule.order, spaces, draw or 0)
                made[key] = net.smaller(kept, rule)
                cost[key] = net.costs(made[key], kept)
                if self.config.batch_statistics:
                    estimate_again(made[key], self.batches())
        return made, cost

    def _budget(self, net: Compressible, share: float, spaces: list[str]) -> int:
        """Multiply–adds of a net without so many units, whichever they are."""
        kept = net.kept(share, "magnitude", spaces)
        return net.costs(net.smaller(kept, RULES["magnitude"]), kept).multiply_adds

    def _of_components(self, net: Compressible, budget: int) -> tuple[nn.Module, Costs] | None:
        """The net by principal components with the most of them that costs no more; None if none is that cheap."""
        low, high = 0, SEARCH
        while low < high:
            middle = (low + high + 1) // 2
            tried = projected(net.module, net.readings, net.readers, middle / SEARCH)
            low, high = (middle, high) if net.costs(tried, {}).multiply_adds <= budget else (low, middle - 1)
        if low == 0:
            return None
        module = projected(net.module, net.readings, net.readers, low / SEARCH)
        if self.config.batch_statistics:
            estimate_again(module, self.batches())
        return module, net.costs(module, {})

    def _tree(self, made: Mapping[Any, nn.Module], cost: Mapping[Any, Costs], share: float, compared: bool) -> Tree:
        """Scores and costs by method, random draws averaged."""
        every = self.bench.score({WHOLE: self._module(), **made})
        draws: dict[str, list[Scores]] = {}
        costs: dict[str, Costs] = {}
        for key in made:
            method = key[0] if isinstance(key, tuple) else key
            draws.setdefault(method, []).append(every[key])
            costs[method] = cost[key]
        scores = {method: mean_scores(several) for method, several in draws.items()} | {WHOLE: every[WHOLE]}
        tree: Tree = {}
        for method, several in draws.items():
            each = np.array([one.accuracy().value for one in several])
            rule = RULES.get(method)
            null = draws.get("random_folded" if rule is not None and rule.folded else "random")
            chance = None if null is None else [one.accuracy().value for one in null]
            tree[method] = _scored(scores[method], chance) | _counted(costs[method])
            if len(several) > 1:
                tree[method]["draws"] = each
            if compared:
                tree[method]["minus"] = {
                    other: scores[method].accuracy_minus(scores[other]).as_dict()
                    for other in AGAINST
                    if other in scores and other != method
                }
        return {"share": share, "methods": tree}

    def _module(self) -> nn.Module:
        assert self._net is not None
        return self._net.module

    def _save(self, net: Compressible, module: nn.Module, cost: Costs, share: float, spaces: list[str]) -> None:
        bench = self.bench
        if bench.ranks.rank > 0:
            return
        (spec,) = (one.spec for one in bench.experiment.all_nets() if one.name == net.name)
        kept = net.kept(share, RULES[SAVED].order, spaces)
        about = {"net": net.name, "method": SAVED, "share": share, **cost._asdict()}
        folder = bench.out / f"{net.name}-{100 * share:g}"
        save_smaller(module, folder, spec, bench.images.image_shape, bench.images.n_classes, kept, about)


def learning_images(bench: Bench, config: CompressConfig) -> np.ndarray:
    """Indices of training images from which moments are learnt, none of which is scored.

    Raises
    ------
    UserError
        where all training images are scored.
    """
    n = len(bench.train)
    order = np.random.default_rng([bench.config.seed, n]).permutation(n)
    if bench.experiment.statistics.split == "train":
        order = order[bench.groups.group_of_image[order] < 0]
    if len(order) < 2:
        raise UserError(
            "compression learns from training images who stands in for whom, and with statistics.split = "
            f'"train" all {n} of them are scored. Set statistics.split = "test", or statistics.max_images to fewer.'
        )
    return np.sort(order[: config.images])


def _scored(scores: Scores, chance: list[float] | None = None) -> Tree:
    accuracy = scores.accuracy()
    if chance is not None:
        accuracy = accuracy.against((float(np.mean(chance)), float(np.std(chance, ddof=1))))
    return {"accuracy": accuracy.as_dict(), "loss": scores.mean_loss().as_dict(), "scores": scores.as_dict()}


def _counted(cost: Costs) -> Tree:
    return {name: int(value) for name, value in cost._asdict().items()}
