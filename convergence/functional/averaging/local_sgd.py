"""Local SGD: workers that take steps apart, each on its part of every batch, and average now and then.

A batch of the run's [training] section is split over the workers as data-parallel training splits it over processes,
so that K workers together see the images of one net in the same steps. The caller averages the workers. Workers are
distributed over the processes; results have the same bits for any number of processes and after a restart. A
checkpoint has all workers, their optimisers and their random streams.
"""

from __future__ import annotations

import itertools
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from convergence.config.stages import TrainingConfig
from convergence.data.images import ImageSet, Splits, batches_on_device
from convergence.errors import FileError, SharedError, UserError
from convergence.functional.surgery.permutations import State
from convergence.io.files import create_for_owner
from convergence.networks import NetworkSpec
from convergence.networks.weights import initialise
from convergence.runs.signals import Stopped, check, is_stopping
from convergence.training.checkpoints import Checkpoints, to_host
from convergence.training.loop import learning_rate
from convergence.training.objectives import known_labels
from convergence.training.process_group import ProcessGroup
from convergence.training.state_checks import check_random, is_int, need
from convergence.training.trainer import Candidate, Trainer, own_part

logger = logging.getLogger(__name__)
SAVE_SECONDS = 10.0
"""Least time between two checkpoints, which are written at averages and ends of epochs."""

Part = tuple[torch.Tensor, torch.Tensor] | int
"""Images and labels of a worker of this process; their number for a worker of another process."""
Moments = dict[str, State]
"""Arrays of an optimiser in the shape of weights, by kind and by the weight's name."""
Gathered = dict[int, tuple[State, Moments]]
"""State and moments of each worker, on the CPU."""


class Start(NamedTuple):
    """Initial weights of the workers.

    Attributes
    ----------
    network : of all workers
    seeds : one per worker, of its random stream (dropout), and of its weights if ``common`` is None
    common : seed of the weights of all workers, or None
    subset_seed : of the training images that the workers share, where ``training.data_share`` is below 1
    """

    network: NetworkSpec
    seeds: tuple[int, ...]
    common: int | None
    subset_seed: int | None = None


class LocalSGD:
    """The workers of one training.

    Parameters
    ----------
    start : initial weights
    images : training images
    config : of the training, with the epochs of the workers
    ranks, device : of this process
    place : folder for the checkpoints of this training alone
    digest : of everything that the training depends on
    with_moments : whether averages need the optimisers' moments
    loader_workers : threads that read images ahead

    Attributes
    ----------
    own : this process's workers by number
    order : the training images that the workers see, and their order
    total, done : steps of the training, and steps taken
    seen : images that each worker saw since the last average
    notes : of the caller, plain numbers and tensors that are saved with a checkpoint
    """

    def __init__(
        self,
        start: Start,
        images: ImageSet,
        config: TrainingConfig,
        ranks: ProcessGroup,
        device: torch.device,
        place: Path,
        digest: str,
        with_moments: bool = False,
        loader_workers: int = 0,
    ) -> None:
        self.images, self.config, self.ranks, self.device = images, config, ranks, device
        self.loader_workers, self._with_moments = loader_workers, with_moments
        self.size = len(start.seeds)
        splits = Splits(images, images)  # for the shape of images and the number of classes
        self.own: dict[int, Trainer] = {}
        for k in range(ranks.rank, self.size, ranks.size):
            candidate = Candidate(place / f"worker{k + 1}", start.network, start.seeds[k], None, start.subset_seed)
            self.own[k] = Trainer(candidate, splits, config, device)
            if start.common is not None:
                common = initialise(start.network, start.common, images.image_shape, images.n_classes)
                self.own[k].module.load_state_dict(common.state_dict())
        self._known = known_labels(images, start.network.trained_for())
        self.order = Candidate(place, start.network, 0, None, start.subset_seed).order(self._known, config)
        self.steps_per_epoch = math.ceil(len(self.order) / config.batch_size)
        self.total = self.steps_per_epoch * config.epochs
        self.done = 0
        self.seen = [0] * self.size
        self.notes: dict[str, Any] = {}
        self._failed: UserError | None = None
        self._saved = time.monotonic()
        self._place = place
        self._checkpoints = Checkpoints(place, digest, ranks.rank == 0)

    def run(self, every: int | None, average: Callable[[Gathered, bool], None]) -> None:
        """Take the remaining steps, and call ``average`` after ``every`` of them and after the last one (None: never).

        ``average`` gets the result of :meth:`gathered` and whether it is the last average, in every process.

        Raises
        ------
        SharedError
            in every process, when a worker's loss is not finite.
        Stopped
            after a signal to any process, with a checkpoint.
        """
        try:
            self._restore()
            while self.done < self.total:
                self._run_epoch(every, average)
        finally:
            self._checkpoints.close()

    def gathered(self) -> Gathered:
        """State and moments (empty without ``with_moments``) of each worker, in the order of the workers."""
        mine = {
            k: to_host((trainer.module.state_dict(), moments(trainer) if self._with_moments else {}))
            for k, trainer in self.own.items()
        }
        return self._merged(mine)

    def load_state(self, state: State) -> None:
        """Set the weights of all workers."""
        for trainer in self.own.values():
            trainer.module.load_state_dict(state)
        self.seen = [0] * self.size

    # ---- steps ----

    def _run_epoch(self, every: int | None, average: Callable[[Gathered, bool], None]) -> None:
        epoch, first = divmod(self.done, self.steps_per_epoch)
        for trainer in self.own.values():
            trainer.start_epoch()
        for step, parts in self._batches(epoch, first):
            rate = learning_rate(self.config, epoch + step / self.steps_per_epoch)
            self._step(parts, rate)
            self.done += 1
            ends = step + 1 == self.steps_per_epoch
            if ends:
                for trainer in self.own.values():
                    trainer.epoch, trainer.next_step = epoch + 1, 0
            averages = every is not None and (self.done % every == 0 or self.done == self.total)
            if averages or ends:
                stopping, due = self._agree()
                if averages:
                    average(self.gathered(), self.done == self.total)
                if stopping or due:
                    self._save(wait=stopping)
                if stopping:
                    check()
                    raise Stopped("stopped by a signal to another process")

    def _step(self, parts: Sequence[Part], rate: float) -> None:
        """One step of each worker of this process that has images."""
        for k, part in enumerate(parts):
            if isinstance(part, int):
                self.seen[k] += part
                continue
            images, labels = part
            self.seen[k] += len(labels)
            if len(labels) and self._failed is None:
                try:
                    self.own[k].step(images, labels, rate)
                except UserError as error:
                    self._failed = error

    def _batches(self, epoch: int, first: int) -> Iterator[tuple[int, list[Part]]]:
        """Steps of an epoch from ``first`` on, with each worker's part of the batch."""
        whole = list(itertools.islice(self.order.batches(epoch, self.config.batch_size), first, None))
        cut = [[own_part(batch, ProcessGroup(k, self.size)) for k in range(self.size)] for batch in whole]
        wanted = [np.concatenate([parts[k] for k in self.own] or [parts[0][:0]]) for parts in cut]
        augment_seed = self.order.augment_seed(epoch)
        read = iter(
            batches_on_device(
                self.images, [indices for indices in wanted if len(indices)], self.device, self.loader_workers,
                augment_seed,
            )
        )  # fmt: skip
        for step, (parts, indices) in enumerate(zip(cut, wanted, strict=True), start=first):
            dealt: list[Part] = [len(part) for part in parts]
            if len(indices):
                _, batch = next(read)
                labels = torch.from_numpy(self._known[indices]).to(self.device)
                at = 0
                for k in self.own:
                    here = slice(at, at + len(parts[k]))
                    dealt[k], at = (batch[here], labels[here]), here.stop
            yield step, dealt

    # ---- exchange between processes ----

    def _agree(self) -> tuple[bool, bool]:
        """Whether to stop, and whether a checkpoint is due; an error of any worker is raised by all."""
        due = time.monotonic() - self._saved >= SAVE_SECONDS
        message = str(self._failed) if self._failed is not None else ""
        found = self.ranks.gather((message, is_stopping(), due))
        errors = [text for text, _, _ in found if text]
        if errors:
            raise SharedError(errors[0])
        return any(stopping for _, stopping, _ in found), found[0][2]

    def _merged(self, mine: dict[int, Any]) -> dict[int, Any]:
        everyone = {k: item for part in self.ranks.gather(mine) for k, item in part.items()}
        return {k: everyone[k] for k in sorted(everyone)}

    def _save(self, wait: bool) -> None:
        workers = self._merged({k: to_host(trainer.state()) for k, trainer in self.own.items()})
        if self.ranks.rank == 0:
            create_for_owner(self._place)
        state = {"workers": workers, "done": self.done, "seen": self.seen, "notes": self.notes}
        self._checkpoints.save(state, wait)
        self._saved = time.monotonic()

    def _check(self, state: Any) -> None:
        """Raise FileError for a checkpoint that does not fit the training."""
        need(is_int(state.get("done"), 0, self.total), f"done, which is 0 to {self.total}")
        seen, notes, workers = state.get("seen"), state.get("notes"), state.get("workers")
        need(isinstance(seen, list) and len(seen) == self.size and all(is_int(n, 0) for n in seen), "seen")
        need(isinstance(notes, dict), "notes")
        need(isinstance(workers, dict) and set(workers) == set(range(self.size)), "workers")
        for k, trainer in self.own.items():
            trainer.check_state(workers[k], columns=())
            check_random(workers[k]["random"], self.device)

    def _restore(self) -> None:
        state = self._checkpoints.load(self._check)
        found = self.ranks.gather(None if state is None else state["done"])
        if len(set(found)) > 1:
            raise FileError(
                f"{self._place}: the processes read different checkpoints, after steps {found}. Put the run folder on "
                "a disk that all of them share."
            )
        if state is None:
            return
        for k, trainer in self.own.items():
            trainer.load_state(state["workers"][k])
        self.done, self.seen, self.notes = state["done"], list(state["seen"]), state["notes"]
        logger.info("  training resumes after step %d of %d", self.done, self.total)


def remove_other_checkpoints(place: Path) -> None:
    """Remove the checkpoints of the trainings beside this one, which are done."""
    for other in place.parent.iterdir() if place.parent.exists() else ():
        if other != place:
            shutil.rmtree(other)


def moments(trainer: Trainer) -> Moments:
    """The optimiser's arrays in the shape of a weight, by kind and by the weight's name."""
    found: Moments = {}
    for name, parameter in trainer.module.named_parameters():
        for kind, value in trainer.optimiser.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.ndim:
                found.setdefault(kind, {})[name] = value
    return found


@torch.no_grad()
def put_moments(trainer: Trainer, given: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Set the optimiser's :func:`moments`."""
    for kind, arrays in moments(trainer).items():
        for name, value in arrays.items():
            if name in given.get(kind, {}):
                value.copy_(given[kind][name])
