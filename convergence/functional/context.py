"""What every functional experiment starts from: nets, images in their groups, and the sums over their units.

Alignments are fitted on one half of the image groups and scored on the other, both ways
(:meth:`ExperimentContext.cross_fitted`), so that no score includes images that were used for the fit.

Each of several processes reads its own image groups (:meth:`ExperimentContext.read`), and sums by group are added up
(:meth:`ExperimentContext.add_up`). One process computes all of a group, so that sums have the same bits for any number
of processes. Each process computes all fits.
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
from convergence.data.images import AbsentImages, ImageSet, Indices, Splits, batches_on_device
from convergence.errors import ConfigError, FileError, UserError, did_you_mean
from convergence.functional.prediction_metrics import Segment, add_scores, segment_sums
from convergence.functional.scores import Float64, Scores
from convergence.functional.surgery.splitting import VALUES_AT_ONCE, SplitNetwork
from convergence.networks import NetworkSpec
from convergence.networks.devices import reproducible_arithmetic
from convergence.networks.weights import load_net, save_weights
from convergence.networks.work import quick_pooling
from convergence.runs.run_folder import RunFolder
from convergence.similarity.pair import PairMoments
from convergence.statistics.file import ComparisonSums, StatisticsFile, open_statistics
from convergence.statistics.sampling import ImageGroups
from convergence.training import objectives
from convergence.training.process_group import ProcessGroup

Forward = Callable[[torch.Tensor], torch.Tensor]
"""Images (n, channels, height, width) to logits (n, n_classes)."""


class ExperimentContext:
    """Nets, images and sums of a run; a context manager that keeps the statistics file open.

    Attributes
    ----------
    folder, experiment, config : of the run; ``config`` is its ``[functional]`` section
    out : folder for the nets that an experiment makes
    device : of the forward passes
    images : the evaluation images, those of the statistics
    groups : image groups of ``images``, as in the statistics
    ranks : the processes of this run
    task : what all nets answer: classes, or next tokens
    """

    def __init__(self, folder: RunFolder, out: Path, ranks: ProcessGroup | None = None) -> None:
        self.folder, self.experiment, self.out = folder, folder.experiment, out
        self.config = self.experiment.functional
        self.ranks = ranks or ProcessGroup()
        reproducible_arithmetic(self.config.threads)
        self.device = self.ranks.device(self.config.device)
        splits = self._splits()
        statistics = self.experiment.statistics
        self._train = splits.train
        self.images: ImageSet = splits.test if statistics.split == "test" else splits.train
        tasks = {net.spec.trained_for() for net in self.experiment.all_nets()}
        if len(tasks) > 1:
            raise ConfigError(
                "functional experiments need nets of one task, and the config has nets for classes and for next tokens "
                "(network.task). Compare them in separate configs."
            )
        (self.task,) = tasks
        self._known = objectives.known_labels(self.images, self.task)  # every experiment measures accuracy
        self.groups = ImageGroups.of(statistics, len(self.images), self.images.families)
        self._stack = ExitStack()

    def __enter__(self) -> ExperimentContext:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    # ---- nets ----

    def described(self, name: str) -> Net:
        """A net of the experiment by name."""
        (net,) = (net for net in self.experiment.all_nets() if net.name == name)
        return net

    @property
    def trained(self) -> list[Net]:
        """Trained nets, in the order of the config."""
        return [net for net in self.experiment.all_nets() if net.trained]

    @property
    def trained_apart(self) -> list[Net]:
        """The first trained net of each initialisation; all trained nets where there is only one initialisation."""
        first: dict[str, Net] = {}
        for net in self.trained:
            first.setdefault(net.initialisation, net)
        return list(first.values()) if len(first) > 1 else self.trained

    @property
    def untrained(self) -> list[Net]:
        """Untrained nets."""
        return [net for net in self.experiment.all_nets() if not net.trained]

    def net(self, name: str) -> nn.Module:
        """A fresh copy of a net with its final weights, in evaluation mode on :attr:`device`."""
        net = self.described(name)
        return self.load(self.folder.net_folder(net), net.spec)

    @cached_property
    def sample(self) -> torch.Tensor:
        """A few evaluation images, on which layers are found."""
        return torch.from_numpy(self.images.read(np.arange(min(2, len(self.images))))).to(self.device)

    def split(self, name: str, layer: str) -> SplitNetwork:
        """A net split at a layer, which is read as in the statistics."""
        return SplitNetwork(self.net(name), layer, self.sample, self.experiment.layer_configs([layer])[layer])

    def load(self, folder: Path, network: NetworkSpec) -> nn.Module:
        """A net with the weights in a folder, in evaluation mode on :attr:`device`."""
        return quick_pooling(load_net(folder, network, self.images.image_shape, self.images.n_classes).to(self.device))

    def save(self, module: nn.Module, folder: Path) -> None:
        """Save a net's weights in a folder, from the first process."""
        if self.ranks.rank == 0:
            save_weights(module, folder)

    # ---- images ----

    @property
    def train(self) -> ImageSet:
        """The training images; FileError if there are none."""
        if isinstance(self._train, AbsentImages):
            raise FileError(self._train.reason)
        return self._train

    def read(
        self, groups: Iterable[int] | None = None, all_processes: bool = False
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Yield group, images and targets, on the device, of this process's share of some groups (None: all).

        With ``all_processes`` every process reads all of the groups.

        Targets are classes (n,), or next tokens (n, tokens) (:mod:`convergence.training.objectives`).

        Batches do not depend on the number of processes. ComparisonSums over them need :meth:`add_up`.
        """
        mine = slice(None) if all_processes else slice(self.ranks.rank, None, self.ranks.size)
        for group in list(range(len(self.groups)) if groups is None else groups)[mine]:
            batches = self.groups.batches(int(group), self.config.batch_size)
            for indices, images in batches_on_device(self.images, batches, self.device, self.config.loader_workers):
                labels = torch.from_numpy(self._known[indices]).to(self.device)
                yield int(group), images, objectives.targets_of(self.task, images, labels)

    def read_together(
        self, groups: Iterable[int] | None = None
    ) -> Iterator[tuple[list[Segment], torch.Tensor, torch.Tensor]]:
        """:meth:`read` with consecutive groups in one batch, as many as have ``functional.batch_size`` images.

        Yields the segments of the batch, images and targets. Each group is read by one process, in batches that do not
        depend on the number of processes.
        """
        size = self.config.batch_size
        packs: list[list[tuple[int, Indices]]] = [[]]
        for group in range(len(self.groups)) if groups is None else groups:
            own = self.groups.images(int(group))
            if packs[-1] and sum(len(images) for _, images in packs[-1]) + len(own) > size:
                packs.append([])
            packs[-1].append((int(group), own))
        parts: list[list[tuple[int, Indices]]] = []
        for pack in packs[self.ranks.rank :: self.ranks.size]:
            if len(pack) == 1:  # a group may have more images than a batch
                parts += [[(group, batch)] for group, _ in pack for batch in self.groups.batches(group, size)]
            else:
                parts.append([(group, images) for group, images in pack if len(images)])
        batches = [np.concatenate([images for _, images in part]) for part in parts if part]
        read = batches_on_device(self.images, batches, self.device, self.config.loader_workers)
        for part, (indices, images) in zip(filter(None, parts), read, strict=True):
            ends = np.cumsum([len(some) for _, some in part]).tolist()
            segments = [(group, slice(end - len(some), end)) for (group, some), end in zip(part, ends, strict=True)]
            labels = torch.from_numpy(self._known[indices]).to(self.device)
            yield segments, images, objectives.targets_of(self.task, images, labels)

    def add_up(self, *sums: Float64) -> None:
        """Add up sums by image group over all processes, in place, in one exchange."""
        if self.ranks.size == 1:
            return
        total = np.array(self.ranks.sum(np.concatenate([values.ravel() for values in sums]).tolist()))
        ends = np.cumsum([values.size for values in sums])
        for values, part in zip(sums, np.split(total, ends[:-1]), strict=True):
            values[...] = part.reshape(values.shape)

    @torch.no_grad()
    def score(self, nets: Mapping[Any, Forward], groups: Iterable[int] | None = None) -> dict[Any, Scores]:
        """Scores of nets on the images of some groups (None: all), which are read once for all nets.

        Raises
        ------
        UserError
            for a net whose loss is not finite.
        """
        scores = {name: Scores.zeros(len(self.groups)) for name in nets}
        for segments, images, labels in self.read_together(groups):
            answers: dict[Any, torch.Tensor] = {}
            for name, net in nets.items():
                logits = net(images)
                n_classes = logits.shape[-1] if self.task == "next_token" else self.images.n_classes
                if logits.shape != (*labels.shape, n_classes):
                    raise UserError(
                        f"{name}: the net returns {tuple(logits.shape)} for {len(labels)} images; functional "
                        f"experiments need an output for each of the {self.images.n_classes} classes of the data."
                    )
                if any(other.shape != logits.shape for other in answers.values()):
                    _add_answers(scores, segments, answers, labels)
                answers[name] = logits
                if len(answers) * logits.numel() > VALUES_AT_ONCE:
                    _add_answers(scores, segments, answers, labels)
            _add_answers(scores, segments, answers, labels)
        self.add_up(*(sums for found in scores.values() for sums in found.sums))
        return scores

    def half(self, which: int) -> np.ndarray:
        """Indices of the image groups of the even half (0) or the odd half (1)."""
        return np.arange(len(self.groups))[which::2]

    def cross_fitted(self, fit: Callable[[int], Mapping[Any, Forward]]) -> dict[Any, Scores]:
        """Scores of nets that depend on a fit; ``fit(half)`` returns the nets fitted on a half of the image groups.

        Nets fitted on one half are scored on the other; the sums are over all groups.
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
        """The live units of a comparison, of all nets joined."""
        if comparison not in self._live:
            self._live[comparison] = active_units(self.sums(comparison)).without_rare()
        return self._live[comparison]

    def pair(self, comparison: str, x: str, y: str) -> PairSums:
        """The sums of two nets of a comparison; its moments are those of live units."""
        return PairSums.of(self.sums(comparison), self.live(comparison), x, y)

    def half_moments(self, pair: PairSums, which: int) -> PairMoments:
        """Moments of a pair from the even half of the image groups (0) or the odd one (1)."""
        return pair.halves[which]

    def comparisons(self) -> list[Comparison]:
        """Comparisons whose layers can be replaced: at most one layer per net, by position, after training."""
        return [
            comparison
            for comparison in self.experiment.statistics.comparisons
            if not comparison.pool
            and comparison.epochs is None
            and all(len(comparison.layers_of(net.label)) <= 1 for net in self.experiment.all_nets())
        ]

    def layer_of(self, comparison: Comparison, net: str) -> str | None:
        """The layer of a net in a comparison; None if it has none."""
        layers = comparison.layers_of(self.described(net).label)
        return layers[0] if layers else None

    def chosen_comparisons(self, names: Iterable[str]) -> list[Comparison]:
        """Some of :meth:`comparisons` by name, all of them if no name is given.

        Raises
        ------
        ConfigError
            for a comparison that is unknown, or whose layers cannot be replaced.
        """
        usable = {comparison.name: comparison for comparison in self.comparisons()}
        known = [comparison.name for comparison in self.experiment.statistics.comparisons]
        for name in names:
            if name not in known:
                raise ConfigError(f'there is no comparison "{name}"; {did_you_mean(name, known)}.')
            if name not in usable:
                raise ConfigError(
                    f'the layers of the comparison "{name}" cannot be replaced: it has several layers or epochs per '
                    f"net, or means over positions. Choose from: {', '.join(usable) or 'none'}."
                )
        return [usable[name] for name in names] or list(usable.values())

    def check_nets(self, setting: str, names: Iterable[str]) -> None:
        """Raise ConfigError for a name in a setting that is no net of the experiment."""
        known = [net.name for net in self.experiment.all_nets()]
        for name in names:
            if name not in known:
                raise ConfigError(f'{setting}: there is no net "{name}"; {did_you_mean(name, known)}.')

    @cached_property
    def _live(self) -> dict[str, ActiveUnits]:
        return {}

    def _splits(self) -> Splits:
        try:
            return self.experiment.images.load()
        except UserError as error:
            raise FileError(
                f"functional experiments need the evaluation images, which were not found: {error}"
            ) from error


def _add_answers(
    scores: Mapping[Any, Scores], segments: list[Segment], answers: dict[Any, torch.Tensor], labels: torch.Tensor
) -> None:
    """Add the logits of nets to their scores, and forget them."""
    if answers:
        found = segment_sums(torch.stack(list(answers.values())), labels, segments)
        add_scores([(name, scores[name]) for name in answers], segments, found)
        answers.clear()
