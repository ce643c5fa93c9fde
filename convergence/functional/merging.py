"""Merging: are two nets, once their units are in the same order, close enough for their mean to be a net?

The barrier is how far the loss on the line between two nets rises above the line between their losses (Frankle et al.
2020; Entezari et al. 2022). Orders, re-estimated statistics and the choice of the best method come from training
images, scores from images that no fit has seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from convergence.config.schema import Net
from convergence.errors import ConfigError, UserError, did_you_mean
from convergence.functional import zipping
from convergence.functional.aligning import (
    Orders,
    activation_orders,
    align_many,
    distance,
    fit_batches,
    joint_correlations,
    mean_state,
    random_orders,
    weight_orders,
)  # fmt: skip
from convergence.functional.barriers import columns, curve, estimates
from convergence.functional.bench import Bench, Forward
from convergence.functional.file import Tree
from convergence.functional.repair import (
    estimate_again,
    has_batch_norm,
    mean_statistics,
    repair,
    repairable,
    unit_statistics,
)  # fmt: skip
from convergence.functional.scoring import Scores, mean_scores
from convergence.functional.spaces import Space, State, permuted_state, put_state, unit_spaces
from convergence.networks.weights import load_net

if TYPE_CHECKING:
    from convergence.functional.run import Piece

METHODS = ("none", "activation", "weights")
KINDS = ("plain", "repaired")
KEPT_BYTES = 4_000_000_000
"""Weights of the nets that are scored together."""


def pieces(bench: Bench) -> list[Piece]:
    """For each pair a piece for each way of aligning, zipping, and the best merged net; then all nets at once."""
    from convergence.functional.run import Piece

    nets = chosen_nets(bench)
    if bench.experiment.statistics.split != "test":
        raise UserError(
            'merging fits on training images and scores on others: set statistics.split = "test", or choose pairs by '
            "hand in a run that has it."
        )
    found: list[Piece] = []
    for x, y in list(itertools.combinations([net.name for net in nets], 2))[: bench.config.merge.pairs]:
        pair = Pair(bench, x, y)
        for method in METHODS:
            found.append(Piece(f"pairs/{x} and {y}/{method}", _bound(pair.aligned, method)))
        found.append(Piece(f"pairs/{x} and {y}/random", pair.shuffled))
        found.append(Piece(f"pairs/{x} and {y}/zip", pair.zipped))
        found.append(Piece(f"pairs/{x} and {y}/merged", pair.merged))
    if len(nets) > 2:
        found.append(Piece("together", lambda: together(bench, [net.name for net in nets])))
    return found


def _bound(function: Callable[[str], Tree], method: str) -> Callable[[], Tree]:
    return lambda: function(method)


def chosen_nets(bench: Bench) -> list[Net]:
    """The nets of the config, or the trained nets of the first group that has two.

    Raises
    ------
    UserError
        for unknown or untrained nets, nets of different architectures, and fewer than two.
    """
    trained = {net.name: net for net in bench.trained}
    if names := bench.config.merge.nets:
        for name in names:
            if name not in trained:
                raise ConfigError(
                    f'functional.merge.nets: no trained net is called "{name}"; {did_you_mean(name, trained)}'
                )
        nets = [trained[name] for name in dict.fromkeys(names)]
        for net in nets[1:]:
            if net.spec != nets[0].spec:
                raise UserError(
                    f"{nets[0].name} and {net.name} are of different architectures ({nets[0].spec.name} and "
                    f"{net.spec.name}, with other settings): their weights have no mean. Name nets of one group in "
                    "functional.merge.nets, or compare these by `convergence stitch`."
                )
    else:
        groups = [
            [net for net in trained.values() if net.label == label] for label in {n.label: 0 for n in bench.trained}
        ]
        nets = next((group for group in groups if len(group) > 1), [])
    if len(nets) < 2:
        raise UserError(
            "merging takes two trained nets or more of one architecture, and there are not that many: give a group "
            "of [[nets]] further seeds."
        )
    return nets


class Fits:
    """What fits are made on, and nets made from states."""

    def __init__(self, bench: Bench, names: Sequence[str]) -> None:
        self.bench, self.names = bench, names

    @cached_property
    def states(self) -> list[State]:
        """Weights of the nets."""
        return [self.bench.net(name).state_dict() for name in self.names]

    @cached_property
    def spaces(self) -> list[Space]:
        """All unit spaces of the architecture."""
        return unit_spaces(self.bench.net(self.names[0]), self.bench.images.image_shape)

    @cached_property
    def free(self) -> list[Space]:
        """Those whose units can be put in another order."""
        return [space for space in self.spaces if not space.fixed]

    def batches(self) -> Iterator[torch.Tensor]:
        """Training images of the fits."""
        return (batch for _, batch in fit_batches(self.bench, self.bench.config.merge.fit_images))

    @cached_property
    def correlations(self) -> dict[str, Any]:
        """Of the units of all nets jointly, in each space."""
        return joint_correlations([self.bench.net(name) for name in self.names], self.free, self.batches())

    def net(self, state: State) -> nn.Module:
        """A net with some weights."""
        module = self.bench.net(self.names[0])
        put_state(module, state)
        return module

    def orders(self, method: str, y: int) -> Orders:
        """How net ``y`` is aligned to the first; empty where it stays as it is."""
        config = self.bench.config
        if method == "activation":
            return activation_orders(self.correlations, 0, y, len(self.names))
        if method == "weights":
            return weight_orders(self.states[0], self.states[y], self.free, config.merge.restarts, config.seed)
        return {}

    def averages(self, states: Sequence[State], mixes: Sequence[Sequence[float]], repaired: bool) -> list[nn.Module]:
        """Weighted means of nets, with their units' statistics put right or as they come."""
        found = [self.net(mean_state(states, mix)) for mix in mixes]
        if not repaired:
            return found
        if has_batch_norm(found[0]):
            for module in found:
                estimate_again(module, self.batches())
            return found
        layers = repairable(self.spaces)
        own = [unit_statistics(self.net(state), layers, self.batches()) for state in states]
        for module, mix in zip(found, mixes, strict=True):
            if max(mix) < 1:  # an end has its statistics
                repair(module, mean_statistics(own, mix), self.batches())
        return found

    def scores(self, modules: Sequence[nn.Module]) -> list[Scores]:
        """Of nets on the evaluation images, as many at a time as memory allows."""
        size = sum(value.numel() * value.element_size() for value in modules[0].state_dict().values())
        many = max(1, KEPT_BYTES // max(size, 1))
        found: list[Scores] = []
        for start in range(0, len(modules), many):
            some = modules[start : start + many]
            found += self.bench.score(dict(enumerate(some))).values()
        return found

    @torch.no_grad()
    def fit_loss(self, module: nn.Module) -> float:
        """Mean cross-entropy on the images of the fits, by which the best method is chosen."""
        total = n = 0.0
        for indices, batch in fit_batches(self.bench, self.bench.config.merge.fit_images):
            labels = torch.from_numpy(self.bench.train.labels[indices]).to(batch.device)
            total += nn.functional.cross_entropy(module(batch).double(), labels, reduction="sum").item()
            n += len(indices)
        return total / n


class Pair(Fits):
    """Two nets of one architecture: the second is brought to the first."""

    def __init__(self, bench: Bench, x: str, y: str) -> None:
        super().__init__(bench, (x, y))
        self.folder = bench.out / f"{x}_{y}"
        self.steps = np.linspace(0, 1, bench.config.merge.steps)

    def path(self, moved: State, kind: str) -> tuple[Tree, nn.Module]:
        """What the line from the first net to the second comes to, and the net in its middle."""
        mixes = [(1 - t, t) for t in self.steps] + [(0.5, 0.5)]
        modules = self.averages((self.states[0], moved), mixes, kind == "repaired")
        scores = self.scores(modules)
        return {**curve(self.steps, scores[:-1]), "merged": estimates(scores[-1])}, modules[-1]

    def aligned(self, method: str) -> Tree:
        """The line after an alignment; the net in its middle is saved."""
        orders = self.orders(method, 1)
        moved = permuted_state(self.states[1], self.free, orders)
        tree: Tree = {"distance": distance(self.states[0], moved), "orders": orders}
        for kind in KINDS:
            tree[kind], middle = self.path(moved, kind)
            tree[kind]["merged_fit_loss"] = self.fit_loss(middle)
            self.bench.save(middle, self.folder / f"{method}-{kind}")
        return tree

    def shuffled(self) -> Tree:
        """The line after random orders: chance. Barriers (n_draws,), and the accuracy in the middle of each."""
        config = self.bench.config
        tree: Tree = {}
        for kind in KINDS:
            found = []
            for k in range(config.merge.permutations):
                moved = permuted_state(self.states[1], self.free, random_orders(self.free, config.seed, k))
                found.append(self.path(moved, kind)[0])
            tree[kind] = {
                "barrier": np.array([one["barrier"]["value"] for one in found]),
                "accuracy_barrier": np.array([one["accuracy_barrier"]["value"] for one in found]),
                "loss": np.array([one["loss"]["value"] for one in found]),
                "accuracy": np.array([one["accuracy"]["value"] for one in found]),
                "merged_accuracy": np.array([one["merged"]["accuracy"]["value"] for one in found]),
            }
        return tree

    def zipped(self) -> Tree:
        """Both nets with their first spaces merged, answering by the mean of their logits; at the end one net."""
        try:
            order = zipping.zippable(self.spaces)
        except UserError as error:
            return {"refused": str(error)}
        zips = {space.name: zipping.zip_units(self.correlations[space.name]) for space in order}
        possible = zipping.depths(self.spaces)
        picked = np.unique(
            np.linspace(0, len(possible) - 1, min(self.bench.config.merge.depths + 1, len(possible))).round()
        )
        depths = [possible[int(k)] for k in picked]
        answers: dict[int, Forward] = {}
        for depth in depths:
            some = {space.name: zips[space.name] for space in order[:depth]}
            states = zipping.zipped((self.states[0], self.states[1]), self.spaces, some)
            modules = [self.net(state) for state in states]
            for module in modules if has_batch_norm(modules[0]) and depth else ():
                estimate_again(module, self.batches())
            if depth == len(order):
                one = self.net(mean_state([module.state_dict() for module in modules], (0.5, 0.5)))
                self.bench.save(one, self.folder / "zip")
                answers[depth] = one
            else:
                answers[depth] = _mean_of(modules)
        scores = self.bench.score(answers)
        return {
            "depths": np.array(depths),
            "spaces": "\n".join(space.name for space in order),
            "within": np.array([zips[space.name].within / space.n_units for space in order]),
            "accuracy": columns([scores[depth].accuracy() for depth in depths]),
            "loss": columns([scores[depth].mean_loss() for depth in depths]),
            "merged": estimates(scores[depths[-1]]),
            "merged_fit_loss": self.fit_loss(answers[depths[-1]]),  # type: ignore[arg-type]
        }

    def merged(self) -> Tree:
        """The merged net of the least loss on the images of the fits: saved beside the others, and scored."""
        folders = [self.folder / f"{method}-{kind}" for method in METHODS for kind in KINDS]
        folders += [self.folder / "zip"] if (self.folder / "zip").exists() else []
        losses = {folder.name: self.fit_loss(self._saved(folder)) for folder in folders}
        best = min(losses, key=lambda name: losses[name])
        module = self._saved(self.folder / best)
        self.bench.save(module, self.folder)
        x, y = (self.bench.net(name) for name in self.names)
        scores = self.bench.score({"merged": module, "x": x, "y": y, "ensemble": _mean_of((x, y))})
        ends = [scores["x"], scores["y"]]
        return {
            "method": best,
            "folder": self.folder.relative_to(self.bench.folder.path).as_posix(),
            "fit_loss": losses[best],
            **{name: estimates(score) for name, score in scores.items()},
            "minus_ends": scores["merged"].accuracy_minus(mean_scores(ends)).as_dict(),
            "minus_ensemble": scores["merged"].accuracy_minus(scores["ensemble"]).as_dict(),
        }

    def _saved(self, folder: Path) -> nn.Module:
        shape, n_classes = self.bench.images.image_shape, self.bench.images.n_classes
        (net,) = (net for net in self.bench.trained if net.name == self.names[0])
        return load_net(folder, net.spec, shape, n_classes).to(self.bench.device)


def together(bench: Bench, names: Sequence[str]) -> Tree:
    """All nets averaged: as they are, each aligned to the first, and each to the mean of the others; saved."""
    fits = Fits(bench, names)
    mix = [1 / len(names)] * len(names)
    ways: dict[str, list[Orders]] = {
        method: [{}, *(fits.orders(method, y) for y in range(1, len(names)))] for method in METHODS
    }
    ways["many"] = align_many(fits.states, fits.free, bench.config.seed)
    tree: Tree = {"names": "\n".join(names), "ways": {}}
    for way, orders in ways.items():
        states = [permuted_state(s, fits.free, order) for s, order in zip(fits.states, orders, strict=True)]
        tree["ways"][way] = {}
        for kind in KINDS:
            (module,) = fits.averages(states, [mix], kind == "repaired")
            bench.save(module, bench.out / "together" / f"{way}-{kind}")
            (score,) = fits.scores([module])
            tree["ways"][way][kind] = estimates(score)
    modules = [bench.net(name) for name in names]
    scores = bench.score({**dict(enumerate(modules)), "ensemble": _mean_of(modules)})
    tree["single"] = estimates(mean_scores([scores[k] for k in range(len(names))]))
    tree["ensemble"] = estimates(scores["ensemble"])
    return tree


def _mean_of(modules: Sequence[nn.Module]) -> Forward:
    """An ensemble: the mean of the logits."""
    return lambda images: torch.stack([module(images) for module in modules]).mean(0)
