"""What every functional experiment starts from: nets, images in their groups, and the sums over their units.

Alignments are fitted on one half of the image groups and what they do is scored on the other, then the other way round
(:meth:`Bench.cross_fitted`), so that no score is of images that were used for a fit.

Of several processes each reads image groups of its own (:meth:`Bench.read`), and sums by group are added up
(:meth:`Bench.add_up`): what one process computes for a group is the whole of it, so a sum has the same bits for any
number of processes. What is fitted, from sums or from a few training images, each process fits for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from convergence.analysis.active_units import ActiveUnits, active_units
from convergence.analysis.pair_sums import PairSums
from convergence.config.schema import Net
from convergence.config.stages import Comparison
from convergence.data.images import ImageSet, Splits, batches_on_device
from convergence.errors import FileError, UserError
from convergence.functional.scoring import Float64, Scores
from convergence.networks.devices import reproducible_arithmetic
from convergence.networks.weights import load_net, save_weights
from convergence.runs.run_folder import RunFolder
from convergence.similarity.pair import PairMoments
from convergence.statistics.file import ComparisonSums, StatisticsFile, open_statistics
from convergence.statistics.sampling import ImageGroups
from convergence.training.process_group import ProcessGroup

Forward = Callable[[torch.Tensor], torch.Tensor]
"""Images (n, channels, height, width) to logits (n, n_classes): a net, or anything that answers like one."""


class Bench:
    """A run's nets and images, ready for experiments; a context manager, which holds the statistics file open.

    Attributes
    ----------
    folder, experiment, config : of the run; ``config`` is its ``[functional]`` section
    out : folder where an experiment may leave nets
    device : of the forward passes
    images : the split that the statistics are of; everything is scored on it
    train : images to train on, for experiments that train
    groups : how ``images`` are dealt to image groups, as in the statistics
    ranks : the processes that were launched together
    """

    def __init__(self, folder: RunFolder, out: Path, ranks: ProcessGroup | None = None) -> None:
        self.folder, self.experiment, self.out = folder, folder.experiment, out
        self.config = self.experiment.functional
        self.ranks = ranks or ProcessGroup()
        reproducible_arithmetic(self.config.threads)
        self.device = self.ranks.device(self.config.device)
        splits = self._splits()
        statistics = self.experiment.statistics
        self.train = splits.train
        self.images: ImageSet = splits.test if statistics.split == "test" else splits.train
        self.groups = ImageGroups(len(self.images), statistics.groups, statistics.seed, statistics.max_images)
        self._stack = ExitStack()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    # ---- nets ----

    @property
    def trained(self) -> list[Net]:
        """The nets that are trained, in the order of the config."""
        return [net for net in self.experiment.all_nets() if net.trained]

    @property
    def untrained(self) -> list[Net]:
        """The others: the baseline."""
        return [net for net in self.experiment.all_nets() if not net.trained]

    def net(self, name: str) -> nn.Module:
        """A fresh copy of a net with its final weights, in evaluation mode on :attr:`device`."""
        (net,) = (net for net in self.experiment.all_nets() if net.name == name)
        shape, n_classes = self.images.image_shape, self.images.n_classes
        return load_net(self.folder.net_folder(net), net.spec, shape, n_classes).to(self.device)

    def save(self, module: nn.Module, folder: Path) -> None:
        """Leave a net's weights in a folder; the first process does."""
        if self.ranks.rank == 0:
            save_weights(module, folder)

    # ---- images ----

    def read(self, groups: Iterable[int] | None = None) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Group, images and classes, on the device, of this process's share of some groups (of all if None).

        Batches are always cut alike. Who sums over them has to :meth:`add_up` afterwards.
        """
        for group in list(range(len(self.groups)) if groups is None else groups)[self.ranks.rank :: self.ranks.size]:
            batches = self.groups.batches(int(group), self.config.batch_size)
            for indices, images in batches_on_device(self.images, batches, self.device, self.config.loader_workers):
                yield int(group), images, torch.from_numpy(self.images.labels[indices]).to(self.device)

    def add_up(self, *sums: Float64) -> None:
        """Bring sums over images, an entry for each group, together from all processes, in place, in one exchange."""
        if self.ranks.size == 1:
            return
        total = np.array(self.ranks.sum(np.concatenate([values.ravel() for values in sums]).tolist()))
        ends = np.cumsum([values.size for values in sums])
        for values, part in zip(sums, np.split(total, ends[:-1]), strict=True):
            values[...] = part.reshape(values.shape)

    @torch.no_grad()
    def score(self, nets: Mapping[Any, Forward], groups: Iterable[int] | None = None) -> dict[Any, Scores]:
        """How each net answers on the images of some groups (all if None), which are read once for all nets.

        Raises
        ------
        UserError
            for a net whose loss is not finite.
        """
        scores = {name: Scores.zeros(len(self.groups)) for name in nets}
        for group, images, labels in self.read(groups):
            for name, net in nets.items():
                logits = net(images)
                loss = nn.functional.cross_entropy(logits.double(), labels, reduction="sum").item()
                if not np.isfinite(loss):
                    raise UserError(f"{name}: the loss on the images of group {group} is {loss}.")
                scores[name].count[group] += len(labels)
                scores[name].correct[group] += int((logits.argmax(1) == labels).sum())
                scores[name].loss[group] += loss
        self.add_up(*(sums for found in scores.values() for sums in found.as_dict().values()))
        return scores

    def half(self, which: int) -> np.ndarray:
        """Image groups of the even half (0) or the odd one (1)."""
        return np.arange(len(self.groups))[which::2]

    def cross_fitted(self, fit: Callable[[int], Mapping[Any, Forward]]) -> dict[Any, Scores]:
        """Scores of nets that depend on a fit: ``fit(half)`` gives them, fitted on that half of the image groups.

        What was fitted on one half is scored on the other; the sums are over all groups.
        """
        first = self.score(fit(0), self.half(1))
        second = self.score(fit(1), self.half(0))
        return {name: first[name] + second[name] for name in first}

    # ---- sums ----

    @cached_property
    def statistics(self) -> StatisticsFile:
        """The run's statistics, open."""
        return self._stack.enter_context(open_statistics(self.folder.statistics_file))

    def sums(self, comparison: str) -> ComparisonSums:
        """The sums of a comparison."""
        return self.statistics.sums(comparison)

    def live(self, comparison: str) -> ActiveUnits:
        """Which units of a comparison carry anything, of all nets joined."""
        if comparison not in self._live:
            self._live[comparison] = active_units(self.sums(comparison))
        return self._live[comparison]

    def pair(self, comparison: str, x: str, y: str) -> PairSums:
        """The sums of two nets of a comparison; units that carry nothing are left out of its moments."""
        return PairSums.of(self.sums(comparison), self.live(comparison), x, y)

    def half_moments(self, pair: PairSums, which: int) -> PairMoments:
        """Moments of a pair from the even half of the image groups (0) or the odd one (1)."""
        return pair.halves[which]

    def comparisons(self) -> list[Comparison]:
        """Comparisons in which each net takes part with one layer, position by position, at the end of training.

        Others (several layers or epochs, means over positions) say nothing of a layer that could be replaced.
        """
        return [
            comparison
            for comparison in self.experiment.statistics.comparisons
            if not comparison.pool
            and comparison.epochs is None
            and all(len(comparison.layers_of(net.label)) <= 1 for net in self.experiment.all_nets())
        ]

    def layer_of(self, comparison: Comparison, net: str) -> str | None:
        """The layer with which a net takes part in a comparison; None if it does not."""
        (found,) = (one for one in self.experiment.all_nets() if one.name == net)
        layers = comparison.layers_of(found.label)
        return layers[0] if layers else None

    @cached_property
    def _live(self) -> dict[str, ActiveUnits]:
        return {}

    def _splits(self) -> Splits:
        try:
            return self.experiment.images.load()
        except UserError as error:
            raise FileError(
                f"functional experiments run nets on the evaluation images, and these are not there: {error}"
            ) from error
