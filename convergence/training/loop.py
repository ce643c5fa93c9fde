"""The training loop: one net, or several nets jointly on one device, with bit-exact resume from any step.

A step depends only on (seeds of the net, epoch, step): image order and augmentation depend on the order seed and the
epoch, dropout on the seed of the net and the epoch. Jointly trained nets share the batches that are read, so they have
the same image order and the same training subset. Each net has its own weights, optimiser, random state and
checkpoints. It ends with the same bits as a net that is trained alone.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from convergence.config.stages import TrainingConfig
from convergence.data.images import ImageSet, Splits, batches_on_device
from convergence.errors import UserError
from convergence.io.files import remove_leftovers
from convergence.networks import NetworkSpec, Task
from convergence.networks.devices import choose_device, reproducible_arithmetic
from convergence.networks.weights import initialise, save_weights, weights_path
from convergence.networks.work import quick_pooling, threads_for, use_threads
from convergence.runs.signals import Stopped, check, is_stopping
from convergence.training.metrics import COLUMNS, Row, check_sinks, metric_sinks, write_metrics
from convergence.training.objectives import known_labels, score, targets_of
from convergence.training.process_group import ProcessGroup
from convergence.training.trainer import Candidate, Trainer, own_part

EVALUATION_BATCH = 256


def make_net(
    folder: Path,
    network: NetworkSpec,
    seed: int,
    trained: bool,
    splits: Splits,
    config: TrainingConfig,
    ranks: ProcessGroup | None = None,
    *,
    order_seed: int | None = None,
    subset_seed: int | None = None,
) -> Row:
    """Train or initialise a net: write ``weights.safetensors`` and ``metrics.csv`` to ``folder``.

    Weights of ``config.keep_epochs`` go to ``epochs/`` (:func:`~convergence.networks.weights.weights_path`). The
    checkpoints stay in the folder; :meth:`~convergence.runs.tasks.TaskFolder.finish` removes them. The seeds are those
    of :class:`~convergence.training.trainer.Candidate`.

    Returns
    -------
    The last row of metrics; without loss and accuracy for an untrained net and images without labels.
    """
    if trained:
        candidate = Candidate(folder, network, seed, order_seed, subset_seed)
        (result,) = train_jointly([candidate], splits, config, ranks)
        if isinstance(result, UserError):
            raise result
        return result
    if ranks is not None and ranks.rank > 0:
        return {}
    reproducible_arithmetic(config.threads)
    remove_leftovers(folder)
    module = initialise(network, seed, splits.train.image_shape, splits.train.n_classes)
    save_weights(module, folder)
    row = baseline_row(module, splits, config, network.trained_for())
    write_metrics(folder, [row])
    return row


def baseline_row(module: nn.Module, splits: Splits, config: TrainingConfig, task: Task = "classes") -> Row:
    """Metrics of a net that is not trained here, on the held-out images.

    Loss and accuracy of classes are empty for images without labels, and for a net without an output for each class.
    """
    row: Row = dict.fromkeys(COLUMNS, "") | {"epoch": 0}
    device, images, workers = choose_device(config.device), splits.test, config.loader_workers
    quick_pooling(module.to(device)).eval()
    if task == "next_token" or (images.labels is not None and _classifies(module, images, device)):
        use_threads(threads_for(config.threads, module, images.image_shape, images.dtype, EVALUATION_BATCH))
        loss, accuracy = evaluate(module, images, device, workers, task=task)
        row |= {"test_loss": loss, "test_accuracy": accuracy}
    return row


@torch.no_grad()
def _classifies(module: nn.Module, images: ImageSet, device: torch.device) -> bool:
    """Whether a net has an output for each class."""
    answer = module(torch.from_numpy(images.read(np.arange(1), None)).to(device))
    return isinstance(answer, torch.Tensor) and answer.shape == (1, images.n_classes) and answer.is_floating_point()


def train_jointly(
    nets: Sequence[Candidate | tuple[Any, ...]],
    splits: Splits,
    config: TrainingConfig,
    ranks: ProcessGroup | None = None,
) -> list[Row | UserError]:
    """Train nets of one image order and one training subset jointly; each resumes from its checkpoint if it has one.

    Each batch is read once, and every net takes one step on it. Nets that are ahead wait. Several processes (``ranks``)
    share the images of each batch; the first process evaluates and writes.

    Returns
    -------
    For each net its last row of metrics, or the error that ended its training; the other nets continue.

    Raises
    ------
    Stopped
        after a signal; each net has a checkpoint of its last step.
    ValueError
        for nets of different orders or subsets.
    """
    candidates = [Candidate(*net) for net in nets]
    if len({json.dumps(config.values_of(net.order_seed, net.subset_seed)) for net in candidates}) > 1:
        raise ValueError("nets of different image orders or training subsets share no batches; train them apart")
    reproducible_arithmetic(config.threads)
    check_sinks(config)
    ranks = ranks or ProcessGroup()
    first = ranks.rank == 0
    for net in candidates if first else ():
        for place in (net.folder, weights_path(net.folder, 0).parent):
            remove_leftovers(place)  # they would be recorded as results
    device = ranks.device(config.device)
    failed: dict[int, UserError] = {}
    with ExitStack() as stack:
        trainers = [Trainer(net, splits, config, device, ranks) for net in candidates]
        for trainer in trainers:
            stack.callback(trainer.checkpoints.close)
            if not trainer.restore() and 0 in config.keep_epochs and first:
                save_weights(trainer.module, trainer.folder, epoch=0)
            trainer.sinks = metric_sinks(config, trainer.folder, trainer.rows) if first else []
            for sink in trainer.sinks:
                stack.callback(sink.close)
        group = _Group(trainers, splits, config, device, failed, ranks)
        for epoch in range(min(trainer.epoch for trainer in trainers), config.epochs):
            group.run_epoch(epoch)
    for k, trainer in enumerate(trainers):
        if k not in failed and first:
            save_weights(trainer.module, trainer.folder)
            write_metrics(trainer.folder, trainer.rows)
    return [failed[k] if k in failed else trainer.rows[-1] for k, trainer in enumerate(trainers)]


class _Group:
    """Nets that train on the same batches."""

    def __init__(
        self,
        trainers: list[Trainer],
        splits: Splits,
        config: TrainingConfig,
        device: torch.device,
        failed: dict[int, UserError],
        ranks: ProcessGroup,
    ) -> None:
        self.ranks = ranks
        self.trainers, self.splits, self.config, self.device, self.failed = trainers, splits, config, device, failed
        self.order = trainers[0].order
        self.steps = math.ceil(len(self.order) / config.batch_size)
        self._saved = time.monotonic()

    def run_epoch(self, epoch: int) -> None:
        """Run the remaining steps of an epoch for the nets that have not finished it."""
        present = [(k, net) for k, net in self._active() if net.epoch == epoch]
        if not present:
            return
        for _, trainer in present:
            trainer.start_epoch()
        first = min(trainer.next_step for _, trainer in present)
        for step, images, labels, n in self._batches(epoch, first):
            rate = learning_rate(self.config, epoch + step / self.steps)
            for k, trainer in present:
                if trainer.next_step == step and k not in self.failed:
                    try:
                        trainer.step(images, labels, rate, n)
                    except UserError as error:
                        self.failed[k] = error
            if len(self.failed) == len(self.trainers):
                return
            self._between()
        rate = learning_rate(self.config, epoch + (self.steps - 1) / self.steps)
        for k, trainer in present:
            if k not in self.failed:
                trainer.end_epoch(rate, *self._evaluate(trainer))
        self._between()

    def _evaluate(self, trainer: Trainer) -> list[float]:
        """Held-out loss and accuracy, computed by the first process."""
        if self.ranks.rank > 0:
            return self.ranks.first([0.0, 0.0])
        between = self._between if self.ranks.size == 1 else None  # the other processes are not here to agree
        images, workers = self.splits.test, self.config.loader_workers
        use_threads(trainer.threads)
        result = evaluate(trainer.module, images, self.device, workers, between, trainer.task)
        return self.ranks.first(result)

    def _active(self) -> list[tuple[int, Trainer]]:
        return [(k, trainer) for k, trainer in enumerate(self.trainers) if k not in self.failed]

    def _batches(self, epoch: int, first: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, int]]:
        """Yield the steps of an epoch from ``first`` on: step, images, labels, number of images over all processes.

        Images and labels are those of this process, on the device. A process without images gets the first image of the
        batch, with weight 0.
        """
        images, config = self.splits.train, self.config
        known = known_labels(images, self.trainers[0].task)
        whole = list(itertools.islice(self.order.batches(epoch, config.batch_size), first, None))
        parts = [own_part(batch, self.ranks) for batch in whole]
        batches = [part if len(part) else batch[:1] for part, batch in zip(parts, whole, strict=True)]
        augment_seed = self.order.augment_seed(epoch)
        for step, (indices, batch) in enumerate(
            batches_on_device(images, batches, self.device, config.loader_workers, augment_seed), start=first
        ):
            yield step, batch, torch.from_numpy(known[indices]).to(self.device), len(whole[step - first])

    def _between(self) -> None:
        """Save checkpoints when they are due; after a signal, save them and stop."""
        due = time.monotonic() - self._saved >= 60 * self.config.checkpoint_minutes
        stopping, due = self.ranks.any(is_stopping(), due and self.ranks.rank == 0)
        if stopping:
            for _, trainer in self._active():
                trainer.save(wait=True)
            check()
            raise Stopped("stopped by a signal to another process")
        if due:
            for _, trainer in self._active():
                trainer.save()
            self._saved = time.monotonic()


def learning_rate(config: TrainingConfig, epoch: float) -> float:
    """Learning rate at a (fractional) epoch."""
    if epoch < config.warmup_epochs:
        return config.learning_rate * max(epoch / config.warmup_epochs, 1e-3)
    if config.schedule == "cosine":
        done = (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    if config.schedule == "step":
        return config.learning_rate * config.gamma ** int(epoch // config.step_epochs)
    return config.learning_rate


@torch.no_grad()
def evaluate(
    module: nn.Module,
    images: ImageSet,
    device: torch.device,
    workers: int = 0,
    between: Callable[[], None] | None = None,
    task: Task = "classes",
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over a set of images, in evaluation mode; ``between`` is called after a batch."""
    module.eval()
    loss, correct, n_targets = 0.0, 0, 0
    everyone, known = np.arange(len(images)), known_labels(images, task)
    batches = (everyone[k : k + EVALUATION_BATCH] for k in range(0, len(images), EVALUATION_BATCH))
    for indices, batch in batches_on_device(images, batches, device, workers):
        labels = torch.from_numpy(known[indices]).to(device)
        found = score(module(batch), targets_of(task, batch, labels), reduction="sum")
        loss, correct, n_targets = loss + found.loss.item(), correct + found.correct, n_targets + found.n
        if between is not None:
            between()
    return loss / max(n_targets, 1), correct / max(n_targets, 1)
