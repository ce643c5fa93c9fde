"""Training nets, one or several together on one device, so that a kill at any step changes no bit of the result.

What a step does depends on (seed of the net, seed of the data, epoch, step) alone: the images' order and augmentation
on the data's seed and the epoch, dropout on the net's seed and the epoch. Nets that are trained together share each
batch that is read, and nothing else: each has its own weights, optimiser, random stream and checkpoints, and ends with
the bits that it has when it is trained alone.
"""

from __future__ import annotations

import csv
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import nn

from convergence.config.schema import TrainingConfig
from convergence.data.images import ImageSet, Splits, batches_on_device
from convergence.errors import UserError
from convergence.io.files import atomic_write, remove_leftovers
from convergence.networks.devices import choose_device, reproducible_arithmetic
from convergence.networks.spec import NetworkSpec
from convergence.networks.weights import initialise, save_weights, weights_path
from convergence.runs.signals import Stopped, check, is_stopping
from convergence.training.process_group import Ranks
from convergence.training.trainer import COLUMNS, Candidate, Row, Trainer, own_part

EVALUATION_BATCH = 256


def make_net(
    folder: Path,
    network: NetworkSpec,
    seed: int,
    trained: bool,
    splits: Splits,
    config: TrainingConfig,
    ranks: Ranks | None = None,
) -> Row:
    """Leave a net's ``weights.safetensors`` and ``metrics.csv`` in ``folder``; returns the last row of metrics.

    Weights of ``config.keep_epochs`` go to ``epochs/``, see :func:`~convergence.networks.weights.weights_path`; nets that are
    not trained have none. Checkpoints stay in the folder (:data:`~convergence.io.files.CHECKPOINTS`): who notes
    that the net is done removes them after that.
    """
    if trained:
        (result,) = train_together([Candidate(folder, network, seed)], splits, config, ranks)
        if isinstance(result, UserError):
            raise result
        return result
    if ranks is not None and ranks.rank > 0:
        return {}
    reproducible_arithmetic(config.threads)
    remove_leftovers(folder)
    device = choose_device(config.device)
    module = initialise(network, seed, splits.train.image_shape, splits.train.n_classes)
    save_weights(module, folder)
    loss, accuracy = evaluate(module.to(device), splits.test, device, config.loader_workers)
    row: Row = dict.fromkeys(COLUMNS, "") | {"epoch": 0, "test_loss": loss, "test_accuracy": accuracy}
    _write_metrics(folder, [row])
    return row


def train_together(
    nets: Sequence[Candidate | tuple[Path, NetworkSpec, int]],
    splits: Splits,
    config: TrainingConfig,
    ranks: Ranks | None = None,
) -> list[Row | UserError]:
    """Train nets together, each from its checkpoint if it has one.

    Every batch is read once and each net takes its step on it. A net that is ahead of the others waits for them.
    Several processes (``ranks``) share the images of each batch; the first one evaluates and writes.

    Returns
    -------
    For each net its last row of metrics, or the error for which it left: the others are trained to the end.

    Raises
    ------
    Stopped
        after a signal; each net has a checkpoint of the step that it had taken.
    """
    reproducible_arithmetic(config.threads)
    candidates = [Candidate(*net) for net in nets]
    ranks = ranks or Ranks()
    first = ranks.rank == 0
    for net in candidates if first else ():
        for place in (net.folder, weights_path(net.folder, 0).parent):
            remove_leftovers(place)  # or they would be recorded as results
    device = ranks.device(config.device)
    failed: dict[int, UserError] = {}
    with ExitStack() as stack:
        learners = [Trainer(net, splits, config, device, ranks) for net in candidates]
        for learner in learners:
            stack.callback(learner.checkpoints.close)
            if not learner.restore() and 0 in config.keep_epochs and first:
                save_weights(learner.module, learner.folder, epoch=0)
        group = _Group(learners, splits, config, device, failed, ranks)
        for epoch in range(min(learner.epoch for learner in learners), config.epochs):
            group.run_epoch(epoch)
    for k, learner in enumerate(learners):
        if k not in failed and first:
            save_weights(learner.module, learner.folder)
            _write_metrics(learner.folder, learner.rows)
    return [failed[k] if k in failed else learner.rows[-1] for k, learner in enumerate(learners)]


class _Group:
    """Nets that take their steps on the same batches."""

    def __init__(
        self,
        learners: list[Trainer],
        splits: Splits,
        config: TrainingConfig,
        device: torch.device,
        failed: dict[int, UserError],
        ranks: Ranks,
    ) -> None:
        self.ranks = ranks
        self.learners, self.splits, self.config, self.device, self.failed = learners, splits, config, device, failed
        self.steps = math.ceil(len(splits.train) / config.batch_size)
        self._saved = time.monotonic()

    def run_epoch(self, epoch: int) -> None:
        """Everything that is left of an epoch, for the nets that have not done it yet."""
        present = [(k, net) for k, net in self._active() if net.epoch == epoch]
        if not present:
            return
        for _, learner in present:
            learner.start_epoch()
        first = min(learner.step for _, learner in present)
        for step, images, labels, n in self._batches(epoch, first):
            rate = learning_rate(self.config, epoch + step / self.steps)
            for k, learner in present:
                if learner.step == step and k not in self.failed:
                    try:
                        learner.learn(images, labels, rate, n)
                    except UserError as error:
                        self.failed[k] = error
            if len(self.failed) == len(self.learners):
                return
            self._between()
        rate = learning_rate(self.config, epoch + (self.steps - 1) / self.steps)
        for k, learner in present:
            if k not in self.failed:
                learner.end_epoch(len(self.splits.train), rate, *self._evaluate(learner))
        self._between()

    def _evaluate(self, learner: Trainer) -> list[float]:
        """Held-out loss and accuracy, which the first process takes for all."""
        if self.ranks.rank > 0:
            return self.ranks.first([0.0, 0.0])
        between = self._between if self.ranks.size == 1 else None  # the others would not be there to agree
        result = evaluate(learner.module, self.splits.test, self.device, self.config.loader_workers, between)
        return self.ranks.first(result)

    def _active(self) -> list[tuple[int, Trainer]]:
        return [(k, learner) for k, learner in enumerate(self.learners) if k not in self.failed]

    def _batches(self, epoch: int, first: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, int]]:
        """Steps of an epoch from ``first`` on; earlier ones are not read.

        With each the images and labels of this process, on the device, and of how many images the step is. A process
        without any has the first one, which gets no weight.
        """
        images, config = self.splits.train, self.config
        whole = list(itertools.islice(epoch_batches(len(images), config, epoch), first, None))
        parts = [own_part(batch, self.ranks) for batch in whole]
        batches = [part if len(part) else batch[:1] for part, batch in zip(parts, whole, strict=True)]
        augment_seed = int(np.random.SeedSequence([config.data_seed, epoch]).generate_state(1)[0])
        for step, (indices, batch) in enumerate(
            batches_on_device(images, batches, self.device, config.loader_workers, augment_seed), start=first
        ):
            yield step, batch, torch.from_numpy(images.labels[indices]).to(self.device), len(whole[step - first])

    def _between(self) -> None:
        """Between two steps: checkpoints when it is time, or when a signal came, and then no further."""
        due = time.monotonic() - self._saved >= 60 * self.config.checkpoint_minutes
        stopping, due = self.ranks.any(is_stopping(), due and self.ranks.rank == 0)
        if stopping:
            for _, learner in self._active():
                learner.save(wait=True)
            check()
            raise Stopped("stopped by a signal to another process")
        if due:
            for _, learner in self._active():
                learner.save()
            self._saved = time.monotonic()


def epoch_batches(n_images: int, config: TrainingConfig, epoch: int) -> Iterator[np.ndarray]:
    """Image indices of every step of an epoch, the same for all nets of an experiment."""
    order = np.random.default_rng([config.data_seed, epoch]).permutation(n_images)
    for start in range(0, n_images, config.batch_size):
        yield order[start : start + config.batch_size]


def learning_rate(config: TrainingConfig, epoch: float) -> float:
    """Learning rate at a (fractional) epoch."""
    if epoch < config.warmup_epochs:
        return config.learning_rate * max(epoch / config.warmup_epochs, 1e-3)
    if config.schedule == "cosine":
        done = (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    if config.schedule == "step":
        return config.learning_rate * config.step_factor ** int(epoch // config.step_epochs)
    return config.learning_rate


@torch.no_grad()
def evaluate(
    module: nn.Module,
    images: ImageSet,
    device: torch.device,
    workers: int = 0,
    between: Callable[[], None] | None = None,
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over a set of images, in evaluation mode; ``between`` is called after a batch."""
    module.eval()
    loss, correct = 0.0, 0
    everyone = np.arange(len(images))
    batches = (everyone[k : k + EVALUATION_BATCH] for k in range(0, len(images), EVALUATION_BATCH))
    for indices, batch in batches_on_device(images, batches, device, workers):
        labels = torch.from_numpy(images.labels[indices]).to(device)
        logits = module(batch)
        loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum())
        if between is not None:
            between()
    return loss / len(images), correct / len(images)


def _write_metrics(folder: Path, rows: list[Row]) -> None:
    with atomic_write(folder / "metrics.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
