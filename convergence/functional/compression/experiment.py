"""Compression: how many units of a net can be pruned, because other units predict them or because they are dead.

Units that others predict on training images (:mod:`.redundancy`) are removed first, and their outgoing weights are
folded into the kept units (:mod:`.folding`). Accuracy is that of held-out images; units, parameters and
multiply–adds are counted from the smaller net. References: nets of the same widths whose units were chosen by the size
of their weights (Li et al. 2017) or at random, with and without folding, and principal components at the same cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from convergence.config.functional import CompressConfig
from convergence.data.images import batches_on_device
from convergence.errors import ConfigError, UserError
from convergence.functional.compression.principal_components import projected
from convergence.functional.compression.prunable_net import METHODS, PrunableNet
from convergence.functional.compression.results import (
    CompressionResults,
    EliminatedUnit,
    PrunableGroup,
    PrunedDifference,
    PrunedDraw,
    PrunedNet,
    SkippedGroup,
    WholeNet,
)
from convergence.functional.compression.smaller_nets import save_smaller
from convergence.functional.context import ExperimentContext
from convergence.functional.costs import Costs
from convergence.functional.scores import Scores, accuracy_with_null, mean_scores, scored
from convergence.functional.stage import ExperimentTask
from convergence.functional.surgery.repair import reestimate_batch_norm

WHOLE = "whole"
AGAINST = (WHOLE, "random", "random_folded", "magnitude", "magnitude_folded")
"""Methods that the others are compared with, image by image."""
SAVED = "redundancy"
"""The method whose nets are saved."""
SEARCH = 100
"""Shares of principal components that are tried."""
COMPONENTS = "subspace"


class Variant(NamedTuple):
    """A pruned net and what it costs; ``draw`` is 0 for methods without random choices."""

    method: str
    draw: int
    module: nn.Module
    costs: Costs

    @property
    def name(self) -> str:
        """Method and draw."""
        return f"{self.method}/{self.draw}"


def tasks(context: ExperimentContext) -> list[ExperimentTask]:
    """For each net: its permutation groups, each share of all layers, and each share of one layer at a time."""
    config = context.config.compress
    found = []
    compression = _Compression(context)
    for name in chosen_nets(context):
        found.append(ExperimentTask(f"{name}/about", partial(compression.about, name)))
        for k, share in enumerate(config.shares):
            found.append(ExperimentTask(f"{name}/all/{k:02d}", partial(compression.all_layers, name, share)))
        for group in compression.net(name).groups if config.layer_shares else ():
            for k, share in enumerate(config.layer_shares):
                key = f"{name}/layers/{group.name}/{k:02d}"
                found.append(ExperimentTask(key, partial(compression.one_layer, name, group.name, share)))
    return found


def chosen_nets(context: ExperimentContext) -> list[str]:
    """Names of the nets to prune."""
    wanted = context.config.compress.nets
    context.check_nets("functional.compress.nets", wanted)
    if len(set(wanted)) < len(wanted):
        raise ConfigError(f"functional.compress.nets names a net twice: {', '.join(wanted)}. Name each once.")
    names = list(wanted) or [net.name for net in context.trained[:2]]
    if not names:
        raise UserError("compress needs a trained net. Add one in [[nets]], or name nets in functional.compress.nets.")
    return names


class _Compression:
    """Prunes and scores nets; keeps the moments of one net at a time."""

    def __init__(self, context: ExperimentContext) -> None:
        self.context, self.config = context, context.config.compress
        self._learning = learning_images(context, self.config)
        self._net: PrunableNet | None = None

    def net(self, name: str) -> PrunableNet:
        """A net with the redundancy of its units."""
        if self._net is None or self._net.name != name:
            seed, terms = self.context.config.seed, self.config.terms
            shape = self.context.images.image_shape
            self._net = PrunableNet(name, self.context.net(name), shape, self.batches, terms, seed)
        return self._net

    def batches(self) -> Iterator[torch.Tensor]:
        """The training images that moments come from."""
        size = self.context.config.batch_size
        cuts = (self._learning[start : start + size] for start in range(0, len(self._learning), size))
        workers = self.context.config.loader_workers
        for _, batch in batches_on_device(self.context.train, cuts, self.context.device, workers):
            yield batch

    def about(self, name: str) -> CompressionResults:
        """Permutation groups of a net, its cost and scores, and the greedy orders of its units."""
        net = self.net(name)
        scores = self.context.score({WHOLE: net.module})[WHOLE]
        groups, eliminations = [], []
        for group in net.groups:
            consumers = ", ".join(consumer.module for consumer in net.consumers[group.name])
            groups.append(PrunableGroup(name, group.name, group.n_units, net.dead(group.name), consumers))
            found = net.elimination(group.name, "redundancy")
            for step, (unit, loss) in enumerate(zip(found.order.tolist(), found.loss.tolist(), strict=True)):
                eliminations.append(EliminatedUnit(name, group.name, step, unit, loss))
        whole = WholeNet(name, *scored(scores), *net.costs(net.module, {}), len(self._learning))
        skipped = tuple(SkippedGroup(name, group, reason) for group, reason in net.skipped.items())
        return CompressionResults((whole,), tuple(groups), skipped, tuple(eliminations))

    def all_layers(self, name: str, share: float) -> CompressionResults:
        """A share of the units of every layer removed at once, by each method."""
        net = self.net(name)
        groups = [group.name for group in net.groups]
        variants = self._pruned(net, share, groups)
        if COMPONENTS in self.config.methods:
            variants += self._components(net, self._budget(net, share, groups))
        saved = share == self.config.saved_share
        if saved and SAVED in self.config.methods:
            self._save(net, next(v for v in variants if v.method == SAVED), share, groups)
        return self._results(net, "", share, variants, compared=saved)

    def one_layer(self, name: str, group: str, share: float) -> CompressionResults:
        """A share of the units of one layer removed."""
        net = self.net(name)
        return self._results(net, group, share, self._pruned(net, share, [group]), compared=False)

    def _pruned(self, net: PrunableNet, share: float, groups: list[str]) -> list[Variant]:
        found = []
        for name, method in METHODS.items():
            if name not in self.config.methods:
                continue
            for draw in range(self.config.draws if method.order == "random" else 1):
                kept = net.kept(share, method.order, groups, draw)
                module = net.pruned(kept, method)
                found.append(Variant(name, draw, module, net.costs(module, kept)))
                if self.config.batch_statistics:
                    reestimate_batch_norm(module, self.batches())
        return found

    def _budget(self, net: PrunableNet, share: float, groups: list[str]) -> int:
        """Multiply–adds of a net with a share of the units removed, whichever they are."""
        kept = net.kept(share, "magnitude", groups)
        return net.costs(net.pruned(kept, METHODS["magnitude"]), kept).multiply_adds

    def _components(self, net: PrunableNet, budget: int) -> list[Variant]:
        """The net with the most principal components within the budget of multiply–adds; none if all cost more."""
        low, high = 0, SEARCH
        while low < high:
            middle = (low + high + 1) // 2
            tried = projected(net.module, net.consumers, net.moments, middle / SEARCH)
            low, high = (middle, high) if net.costs(tried, {}).multiply_adds <= budget else (low, middle - 1)
        if low == 0:
            return []
        module = projected(net.module, net.consumers, net.moments, low / SEARCH)
        if self.config.batch_statistics:
            reestimate_batch_norm(module, self.batches())
        return [Variant(COMPONENTS, 0, module, net.costs(module, {}))]

    def _results(
        self, net: PrunableNet, layer: str, share: float, variants: list[Variant], compared: bool
    ) -> CompressionResults:
        """Scores and costs by method, random draws averaged."""
        every = self.context.score({WHOLE: net.module, **{v.name: v.module for v in variants}})
        draws: dict[str, list[Scores]] = {}
        costs: dict[str, Costs] = {}
        for variant in variants:
            draws.setdefault(variant.method, []).append(every[variant.name])
            costs[variant.method] = variant.costs
        scores = {method: mean_scores(several) for method, several in draws.items()} | {WHOLE: every[WHOLE]}
        rows, single, differences = [], [], []
        for method, several in draws.items():
            folded = method in METHODS and METHODS[method].folded
            accuracy = accuracy_with_null(scores[method], draws.get("random_folded" if folded else "random", []))
            numbers = accuracy, *scored(scores[method])[1:]
            rows.append(PrunedNet(net.name, layer, share, method, *numbers, *costs[method]))
            for k, one in enumerate(several if len(several) > 1 else ()):
                single.append(PrunedDraw(net.name, layer, share, method, k, one.accuracy().value))
            for other in AGAINST if compared else ():
                if other in scores and other != method:
                    minus = scores[method].accuracy_minus(scores[other])
                    differences.append(PrunedDifference(net.name, share, method, other, minus))
        return CompressionResults(pruned=tuple(rows), draws=tuple(single), differences=tuple(differences))

    def _save(self, net: PrunableNet, variant: Variant, share: float, groups: list[str]) -> None:
        context = self.context
        if context.ranks.rank > 0:
            return
        kept = net.kept(share, METHODS[SAVED].order, groups)
        about = {"net": net.name, "method": SAVED, "share": share, **variant.costs._asdict()}
        folder = context.out / f"{net.name}-{100 * share:g}"
        shape, n_classes = context.images.image_shape, context.images.n_classes
        save_smaller(variant.module, folder, context.described(net.name).spec, shape, n_classes, kept, about)


def learning_images(context: ExperimentContext, config: CompressConfig) -> np.ndarray:
    """Indices of training images for moments, none of which is scored.

    Raises
    ------
    UserError
        when all training images are scored.
    """
    n = len(context.train)
    order = np.random.default_rng([context.config.seed, n]).permutation(n)
    if context.experiment.statistics.split == "train":
        order = order[context.groups.group_of_image[order] < 0]
    if len(order) < 2:
        raise UserError(
            f'with statistics.split = "train" all {n} training images are scored, and compression needs others for its '
            'moments. Set statistics.split = "test", or lower statistics.max_images.'
        )
    return np.sort(order[: config.images])
