"""Merging: is the mean of two nets a net, once their units are in the same order?

The barrier is the largest rise of the loss on the line between two nets above the straight line between their losses
(Frankle et al. 2020; Entezari et al. 2022). Alignments, running statistics and the choice of the best method come from
training images, scores from evaluation images.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from convergence.config.schema import Net
from convergence.data.images import batches_on_device
from convergence.errors import ConfigError, UserError, did_you_mean
from convergence.functional.context import ExperimentContext, Forward
from convergence.functional.merging import zipping
from convergence.functional.merging.barriers import Line, line
from convergence.functional.merging.results import (
    Alignment,
    AllNetsScore,
    AveragedPair,
    LinePoint,
    MergedPair,
    MergedScore,
    MergingResults,
    NotZipped,
    PermutedUnit,
    RandomLinePoint,
    RandomPermutation,
    ZipDepth,
    ZippedGroup,
    ZippedPair,
)
from convergence.functional.scores import Scores, estimates, mean_scores
from convergence.functional.stage import ExperimentTask
from convergence.functional.surgery.alignment import (
    Orders,
    activation_orders,
    align_many,
    distance,
    joint_correlations,
    mean_state,
    movable,
    random_orders,
    weight_orders,
)
from convergence.functional.surgery.permutations import (
    PermutationGroup,
    State,
    permutation_groups,
    permuted_state,
    put_state,
)
from convergence.functional.surgery.repair import (
    has_batch_norm,
    mean_statistics,
    reestimate_batch_norm,
    repair,
    repairable,
    unit_statistics,
)
from convergence.inference import generator_of
from convergence.training.objectives import known_labels, score, targets_of

METHODS = ("none", "activation", "weights")
KINDS = ("plain", "repaired")
KEPT_BYTES = 4_000_000_000
"""Weights of the nets that are scored together."""


def tasks(context: ExperimentContext) -> list[ExperimentTask]:
    """For each pair a task per alignment, zipping, and the best merged net; then all nets at once."""
    nets = chosen_nets(context)
    if context.experiment.statistics.split != "test":
        raise UserError(
            'merge fits on training images, and statistics.split = "train" scores them. Set statistics.split = "test".'
        )
    found: list[ExperimentTask] = []
    for x, y in list(itertools.combinations([net.name for net in nets], 2))[: context.config.merge.pairs]:
        pair = PairMerger(context, x, y)
        for method in METHODS:
            found.append(ExperimentTask(f"pairs/{x} and {y}/{method}", partial(pair.aligned, method)))
        found.append(ExperimentTask(f"pairs/{x} and {y}/random", pair.shuffled))
        found.append(ExperimentTask(f"pairs/{x} and {y}/zip", pair.zipped))
        found.append(ExperimentTask(f"pairs/{x} and {y}/merged", pair.merged))
    if len(nets) > 2:
        found.append(ExperimentTask("together", lambda: all_nets(context, [net.name for net in nets])))
    return found


def chosen_nets(context: ExperimentContext) -> list[Net]:
    """The nets of the config, or the nets trained apart of the first group that has two.

    Raises
    ------
    UserError
        for unknown or untrained nets, nets of different architectures, and fewer than two.
    """
    trained = {net.name: net for net in context.trained}
    if names := context.config.merge.nets:
        for name in names:
            if name not in trained:
                raise ConfigError(
                    f'functional.merge.nets: there is no trained net "{name}"; {did_you_mean(name, trained)}'
                )
        nets = [trained[name] for name in dict.fromkeys(names)]
        for net in nets[1:]:
            if net.spec != nets[0].spec:
                raise UserError(
                    f"{nets[0].name} and {net.name} are of different architectures ({nets[0].spec.name} and "
                    f"{net.spec.name}, with other settings), and their weights cannot be averaged. Name nets of one "
                    "group in functional.merge.nets, or use `convergence stitch`."
                )
    else:
        apart = context.trained_apart
        groups = [[net for net in apart if net.label == label] for label in dict.fromkeys(net.label for net in apart)]
        nets = next((group for group in groups if len(group) > 1), [])
    if len(nets) < 2:
        raise UserError("merge needs two trained nets of one architecture. Add seeds to a group of [[nets]].")
    return nets


class Merger:
    """Nets of one architecture, the training images of the fits, and nets made from weights."""

    def __init__(self, context: ExperimentContext, names: Sequence[str]) -> None:
        self.context, self.config, self.names = context, context.config.merge, names
        train = context.train
        order = np.random.default_rng(context.config.seed).permutation(len(train))
        self._images = np.sort(order[: self.config.fit_images])

    @cached_property
    def states(self) -> list[State]:
        """Weights of the nets."""
        return [self.context.net(name).state_dict() for name in self.names]

    @cached_property
    def groups(self) -> list[PermutationGroup]:
        """All permutation groups of the architecture."""
        return permutation_groups(self.context.net(self.names[0]), self.context.images.image_shape)

    @cached_property
    def movable(self) -> list[PermutationGroup]:
        """Groups whose units can be permuted."""
        return movable(self.groups)

    def batches(self) -> Iterator[torch.Tensor]:
        """Training images of the fits."""
        return (batch for _, batch in self._batches())

    @cached_property
    def correlations(self) -> dict[str, npt.NDArray[np.float64]]:
        """Correlations of the units of all nets jointly, by group."""
        return joint_correlations([self.context.net(name) for name in self.names], self.movable, self.batches())

    def net(self, state: State) -> nn.Module:
        """A net with some weights."""
        module = self.context.net(self.names[0])
        put_state(module, state)
        return module

    def orders(self, method: str, y: int) -> Orders:
        """The alignment of net ``y`` to the first; empty for none."""
        if method == "activation":
            return activation_orders(self.movable, self.correlations, 0, y)
        if method == "weights":
            states, seed = self.states, self.context.config.seed
            return weight_orders(states[0], states[y], self.movable, self.config.restarts, seed)
        return {}

    def averages(self, states: Sequence[State], mixes: Sequence[Sequence[float]], repaired: bool) -> list[nn.Module]:
        """Weighted means of nets, with or without repair of their units' statistics."""
        found = [self.net(mean_state(states, mix)) for mix in mixes]
        if not repaired:
            return found
        if has_batch_norm(found[0]):
            for module in found:
                reestimate_batch_norm(module, self.batches())
            return found
        layers = repairable(self.groups)
        own = [unit_statistics(self.net(state), layers, self.batches()) for state in states]
        for module, mix in zip(found, mixes, strict=True):
            if max(mix) < 1:  # the ends need no repair
                repair(module, mean_statistics(own, mix), self.batches())
        return found

    def scores(self, modules: Sequence[nn.Module]) -> list[Scores]:
        """Scores of nets on the evaluation images, as many at a time as memory allows."""
        size = sum(value.numel() * value.element_size() for value in modules[0].state_dict().values())
        many = max(1, KEPT_BYTES // max(size, 1))
        found: list[Scores] = []
        for start in range(0, len(modules), many):
            some = modules[start : start + many]
            found += self.context.score(dict(enumerate(some))).values()
        return found

    @torch.no_grad()
    def fit_loss(self, net: Forward) -> float:
        """Mean cross-entropy on the images of the fits, by which the best method is chosen."""
        total = n = 0.0
        for indices, batch in self._batches():
            task = self.context.task
            labels = torch.from_numpy(known_labels(self.context.train, task)[indices]).to(batch.device)
            found = score(net(batch).double(), targets_of(task, batch, labels), reduction="sum")
            total, n = total + found.loss.item(), n + found.n
        return total / max(n, 1)

    def _batches(self) -> Iterator[tuple[npt.NDArray[np.int64], torch.Tensor]]:
        size, context = self.context.config.batch_size, self.context
        cut = [self._images[start : start + size] for start in range(0, len(self._images), size)]
        return batches_on_device(context.train, cut, context.device, context.config.loader_workers)


class PairMerger(Merger):
    """Two nets of one architecture; the second is aligned to the first."""

    def __init__(self, context: ExperimentContext, x: str, y: str) -> None:
        super().__init__(context, (x, y))
        self.pair = (x, y)
        self.folder = context.out / f"{x}_{y}"
        self.steps = np.linspace(0, 1, context.config.merge.steps)

    def line(self, moved: State, kind: str) -> tuple[Line, Scores, nn.Module]:
        """Scores on the line between the nets, and the net in its middle with its scores."""
        mixes = [(1 - t, t) for t in self.steps] + [(0.5, 0.5)]
        modules = self.averages((self.states[0], moved), mixes, kind == "repaired")
        scores = self.scores(modules)
        return line(self.steps, scores[:-1]), scores[-1], modules[-1]

    def aligned(self, method: str) -> MergingResults:
        """The line after an alignment; the net in its middle is saved."""
        orders = self.orders(method, 1)
        moved = permuted_state(self.states[1], self.movable, orders)
        averages, points = [], []
        for kind in KINDS:
            found, scores, middle = self.line(moved, kind)
            key = (*self.pair, method, kind)
            barriers = found.barrier, found.accuracy_barrier
            averages.append(AveragedPair(*key, *barriers, *estimates(scores), self.fit_loss(middle)))
            points += [LinePoint(*key, *row) for row in zip(found.steps, found.accuracy, found.loss, strict=True)]
            self.context.save(middle, self.folder / f"{method}-{kind}")
        return MergingResults(
            alignments=(Alignment(*self.pair, method, distance(self.states[0], moved)),),
            permutations=tuple(
                PermutedUnit(*self.pair, method, group, position, unit)
                for group, order in orders.items()
                for position, unit in enumerate(order.tolist())
            ),
            averages=tuple(averages),
            lines=tuple(points),
        )

    def shuffled(self) -> MergingResults:
        """The line after random permutations: chance."""
        rows, points = [], []
        for kind in KINDS:
            for k in range(self.config.permutations):
                orders = random_orders(self.movable, generator_of(self.context.config.seed, k))
                found, scores, _ = self.line(permuted_state(self.states[1], self.movable, orders), kind)
                key = (*self.pair, kind, k)
                numbers = found.barrier.value, found.accuracy_barrier.value, scores.accuracy().value
                rows.append(RandomPermutation(*key, *numbers))
                for step, accuracy, loss in zip(found.steps, found.accuracy, found.loss, strict=True):
                    points.append(RandomLinePoint(*key, step, accuracy.value, loss.value))
        return MergingResults(random=tuple(rows), random_lines=tuple(points))

    def zipped(self) -> MergingResults:
        """Both nets with their first groups merged, whose logits are averaged; with all groups merged, one net."""
        try:
            order = zipping.zippable(self.groups)
        except UserError as error:
            return MergingResults(not_zipped=(NotZipped(*self.pair, str(error)),))
        zips = {group.name: zipping.zip_units(self.correlations[group.name]) for group in order}
        possible = zipping.depths(self.groups)
        picked = np.unique(np.linspace(0, len(possible) - 1, min(self.config.depths + 1, len(possible))).round())
        depths = [possible[int(k)] for k in picked]
        nets: dict[int, Forward] = {}
        for depth in depths:
            some = {group.name: zips[group.name] for group in order[:depth]}
            states = zipping.zipped((self.states[0], self.states[1]), self.groups, some)
            modules = [self.net(state) for state in states]
            for module in modules if has_batch_norm(modules[0]) and depth else ():
                reestimate_batch_norm(module, self.batches())
            if depth == len(order):
                whole = self.net(mean_state([module.state_dict() for module in modules], (0.5, 0.5)))
                self.context.save(whole, self.folder / "zip")
                nets[depth] = whole
            else:
                nets[depth] = _mean_logits(modules)
        scores = self.context.score(nets)
        found = ZippedPair(*self.pair, *estimates(scores[depths[-1]]), self.fit_loss(nets[depths[-1]]))
        return MergingResults(
            zipped=(found,),
            zip_depths=tuple(ZipDepth(*self.pair, depth, *estimates(scores[depth])) for depth in depths),
            zipped_groups=tuple(
                ZippedGroup(*self.pair, group.name, zips[group.name].within / group.n_units) for group in order
            ),
        )

    def merged(self) -> MergingResults:
        """The merged net of the lowest loss on the images of the fits, saved and scored."""
        folders = [self.folder / f"{method}-{kind}" for method in METHODS for kind in KINDS]
        folders += [self.folder / "zip"] if (self.folder / "zip").exists() else []
        losses = {folder.name: self.fit_loss(self._saved(folder.name)) for folder in folders}
        best = min(losses, key=lambda name: losses[name])
        module = self._saved(best)
        self.context.save(module, self.folder)
        x, y = (self.context.net(name) for name in self.names)
        scores = self.context.score({"merged": module, "x": x, "y": y, "ensemble": _mean_logits((x, y))})
        place = self.folder.relative_to(self.context.folder.path).as_posix()
        differences = (
            scores["merged"].accuracy_minus(mean_scores([scores["x"], scores["y"]])),
            scores["merged"].accuracy_minus(scores["ensemble"]),
        )
        return MergingResults(
            merged=(MergedPair(*self.pair, best, place, losses[best], *differences),),
            merged_scores=tuple(MergedScore(*self.pair, net, *estimates(found)) for net, found in scores.items()),
        )

    def _saved(self, name: str) -> nn.Module:
        return self.context.load(self.folder / name, self.context.described(self.names[0]).spec)


def all_nets(context: ExperimentContext, names: Sequence[str]) -> MergingResults:
    """All nets averaged: not aligned, each aligned to the first, and each to the mean of the others; saved."""
    merger = Merger(context, names)
    mix = [1 / len(names)] * len(names)
    alignments: dict[str, list[Orders]] = {
        method: [{}, *(merger.orders(method, y) for y in range(1, len(names)))] for method in METHODS
    }
    alignments["many"] = align_many(merger.states, merger.movable, context.config.seed)
    label = ", ".join(names)
    rows = []
    for alignment, orders in alignments.items():
        states = [permuted_state(s, merger.movable, order) for s, order in zip(merger.states, orders, strict=True)]
        for kind in KINDS:
            (module,) = merger.averages(states, [mix], kind == "repaired")
            context.save(module, context.out / "together" / f"{alignment}-{kind}")
            (score,) = merger.scores([module])
            rows.append(AllNetsScore(label, alignment, kind, *estimates(score)))
    modules = [context.net(name) for name in names]
    scores = context.score({**dict(enumerate(modules)), "ensemble": _mean_logits(modules)})
    single = mean_scores([scores[k] for k in range(len(names))])
    rows.append(AllNetsScore(label, "single", "plain", *estimates(single)))
    rows.append(AllNetsScore(label, "ensemble", "plain", *estimates(scores["ensemble"])))
    return MergingResults(all_nets=tuple(rows))


def _mean_logits(modules: Sequence[nn.Module]) -> Forward:
    """The ensemble of mean logits."""
    return lambda images: torch.stack([module(images) for module in modules]).mean(0)
