"""One net in training: weights, optimiser, random state, running metrics and checkpoints.

The training loop passes batches to the trainer. The trainer keeps its own random state, so other random draws in the
process do not change its result.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from convergence.config.stages import TrainingConfig
from convergence.data.image_order import ImageOrder
from convergence.data.images import Indices, Splits
from convergence.errors import FileError, SharedError
from convergence.networks import NetworkSpec
from convergence.networks.weights import initialise, load_arrays, save_weights
from convergence.networks.work import quick_pooling, threads_for, use_threads
from convergence.training.checkpoints import Checkpoints
from convergence.training.metrics import COLUMNS, Row, Sink
from convergence.training.objectives import known_labels, most_targets, score, targets_of
from convergence.training.optimisers import SGD, AdamW
from convergence.training.process_group import ProcessGroup
from convergence.training.state_checks import check_random, check_state, need

logger = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """A net to train.

    Attributes
    ----------
    folder : of its files
    network : its architecture
    seed : of its initial weights and of dropout
    order_seed : of its image order and augmentation; None takes ``training.data_seed``
    subset_seed : of its training subset, where ``training.data_share`` is below 1; None takes ``training.data_seed``
    """

    folder: Path
    network: NetworkSpec
    seed: int
    order_seed: int | None = None
    subset_seed: int | None = None

    def order(self, labels: Indices, config: TrainingConfig) -> ImageOrder:
        """The training images that the net sees, and their order."""
        seed = config.data_seed if self.order_seed is None else self.order_seed
        subset_seed = config.data_seed if self.subset_seed is None else self.subset_seed
        return ImageOrder.of(labels, seed, config.data_share, subset_seed)


class Trainer:
    """A net between two steps of its training.

    Attributes
    ----------
    module : the net
    rows : metrics of the finished epochs
    sinks : further places for these metrics
    order : the training images that the net sees, and their order
    threads : CPU threads of its steps
    epoch, next_step : index of the next epoch and step; ``next_step`` equals the number of steps of an epoch when only
        its evaluation is missing
    """

    def __init__(
        self,
        net: Candidate,
        splits: Splits,
        config: TrainingConfig,
        device: torch.device,
        ranks: ProcessGroup | None = None,
    ) -> None:
        self.folder, self.seed, self.config, self.device = net.folder, net.seed, config, device
        self.ranks = ranks or ProcessGroup()
        self.module = initialise(net.network, net.seed, splits.train.image_shape, splits.train.n_classes).to(device)
        images = splits.train
        self.threads = threads_for(config.threads, self.module, images.image_shape, images.dtype, config.batch_size)
        if not config.channels_last:
            quick_pooling(self.module)
        self._layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.module.to(memory_format=self._layout)
        self._forward = self.ranks.wrap(self.module)
        if config.compile:
            torch.use_deterministic_algorithms(True, warn_only=True)  # for the compiler, too
            self._forward = torch.compile(self._forward)  # type: ignore[assignment]
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.optimiser = _optimiser(self.module, config)
        self.rows: list[Row] = []
        self.sinks: list[Sink] = []
        self.epoch = self.next_step = self._correct = self._n_targets = 0
        self._total_loss = self._seconds = 0.0
        self._since = time.monotonic()
        self._random: dict[str, torch.Tensor] = {}
        self.task = net.network.trained_for()
        self.order = net.order(known_labels(splits.train, self.task), config)
        self._n_images = len(self.order)
        self._most_targets = most_targets(splits.train, self._n_images, self.task)
        self.checkpoints = Checkpoints(net.folder, _key(net, len(splits.train), config), self.ranks.rank == 0)

    def restore(self) -> bool:
        """Restore the newest checkpoint; False if there is none.

        Raises
        ------
        FileError
            if the processes of the group find different checkpoints.
        """
        state = self.checkpoints.load(self._check)
        found = self.ranks.gather(None if state is None else (state["epoch"], state["step"]))
        if len(set(found)) > 1:
            raise FileError(
                f"{self.checkpoints.newest}: the processes found different checkpoints, of (epoch, step) {found}. Put "
                "the run folder on a disk that all processes share."
            )
        if state is None:
            return False
        if len(state["random"]) == self.ranks.size:
            random = state["random"][self.ranks.rank]
        else:  # written by another number of processes
            self.epoch = state["epoch"]
            random = self._fresh_stream(state["step"])
        self.load_state(state | {"random": random})
        logger.info("  %s: resuming after epoch %d, step %d", self.folder.name, self.epoch, self.next_step)
        return True

    def check_state(self, state: Any, columns: tuple[str, ...] = COLUMNS) -> None:
        """Raise FileError for a :meth:`state` that does not fit the net, the optimiser and the settings."""
        steps = math.ceil(self._n_images / self.config.batch_size)
        limits = (self.config.epochs, steps, self._most_targets)
        names = {parameter: name for name, parameter in self.module.named_parameters()}
        own = [names[parameter] for group in self.optimiser.param_groups for parameter in group["params"]]
        module, optimiser, scaler = (one.state_dict() for one in (self.module, self.optimiser, self._scaler))
        check_state(state, module, optimiser, scaler, own, limits, columns)

    def _check(self, state: Any) -> None:
        """Check a checkpoint: a state with the random states of all processes."""
        self.check_state(state)
        need(isinstance(state["random"], list) and len(state["random"]) > 0, "random")
        for states in state["random"]:
            check_random(states, self.device)

    def save(self, wait: bool = False) -> None:
        """Write a checkpoint unless the last one is still being written; see :meth:`Checkpoints.save`."""
        random = self.ranks.gather(self._random)
        if not self.checkpoints.keeper:
            return
        self.checkpoints.save(self.state() | {"random": random}, wait)

    def state(self) -> dict[str, Any]:
        """Return everything the next steps depend on, and the metrics; ``random`` is the state of this process."""
        return {
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "rows": self.rows,
            "random": self._random,
            "epoch": self.epoch,
            "step": self.next_step,
            "sums": (self._total_loss, self._correct, self._n_targets, self._seconds + time.monotonic() - self._since),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state`."""
        load_arrays(self.module, state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])
        self.rows = list(state["rows"])
        self.epoch, self.next_step, self._random = state["epoch"], state["step"], state["random"]
        self._total_loss, self._correct, self._n_targets, self._seconds = state["sums"]
        self._since = time.monotonic()

    def start_epoch(self) -> None:
        """Begin an epoch, with a random state that depends on the seed and the epoch only, or resume within one."""
        self._since = time.monotonic()
        if self.next_step == 0:
            self._total_loss, self._correct, self._n_targets, self._seconds = 0.0, 0, 0, 0.0
            self._random = self._fresh_stream()

    def _fresh_stream(self, *more: int) -> dict[str, torch.Tensor]:
        """Seed the random state of an epoch; each process has its own."""
        words = [self.seed, self.epoch, *more, *([self.ranks.rank] if self.ranks.rank else [])]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]))
        return _random_state(self.device)

    def step(self, images: torch.Tensor, labels: torch.Tensor, rate: float, n: int | None = None) -> None:
        """Take one optimiser step on the images of this process; a net for next tokens needs no labels.

        ``n`` is the number of images in the step over all processes. A process without images passes one image, which
        has weight 0.

        Raises
        ------
        UserError
            if the loss is not finite.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        use_threads(self.threads)
        if not self.module.training:
            self.module.train()
        _set_random_state(self._random, self.device)
        targets = targets_of(self.task, images, labels)
        half = self.config.precision != "float32"
        with torch.autocast(self.device.type, getattr(torch, self.config.precision)) if half else nullcontext():
            logits = self._forward(images.to(memory_format=self._layout))
            loss, correct, n_targets = score(logits, targets, self.config.label_smoothing)
        self._random = _random_state(self.device)
        value = loss.item()
        if self.ranks.size > 1:
            mine = n_targets if len(own_part(np.arange(n or len(labels)), self.ranks)) else 0
            total, right, everyones = self.ranks.sum([value * mine if mine else 0.0, correct if mine else 0, mine])
            n_targets = int(everyones)
            # their gradients are averaged: the mean over the targets of all processes
            loss = loss * (mine * self.ranks.size / max(n_targets, 1))
            value, correct = total / max(n_targets, 1), int(right)
        if not math.isfinite(value):
            raise SharedError(
                f"{self.folder}: the loss became {value} in epoch {self.epoch + 1}, step {self.next_step + 1}. Lower "
                f"training.learning_rate (now {self.config.learning_rate}) or raise training.warmup_epochs."
            )
        self.optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.step(self.optimiser)
        self._scaler.update()
        self._total_loss += value * n_targets
        self._correct += correct
        self._n_targets += n_targets
        self.next_step += 1

    def end_epoch(self, rate: float, test_loss: float, test_accuracy: float) -> None:
        """Record the metrics of an epoch, keep its weights if the config asks for them, and write a checkpoint."""
        self.epoch, self.next_step = self.epoch + 1, 0
        n_targets = max(self._n_targets, 1)
        loss, accuracy = self._total_loss / n_targets, self._correct / n_targets
        seconds = self._seconds + time.monotonic() - self._since
        values = (self.epoch, rate, loss, accuracy, test_loss, test_accuracy, seconds)
        self.rows.append(dict(zip(COLUMNS, values, strict=True)))
        for sink in self.sinks:
            sink.write(self.rows[-1])
        name = self.folder.name
        logger.debug("%s, epoch %d: loss %.4f, held-out accuracy %.4f", name, self.epoch, loss, test_accuracy)
        if self.ranks.rank == 0 and self.epoch in self.config.keep_epochs and self.epoch < self.config.epochs:
            save_weights(self.module, self.folder, self.epoch)  # before the checkpoint that marks the epoch as finished
        self.save()


def own_part(batch: Indices, ranks: ProcessGroup) -> Indices:
    """Return the consecutive share of a batch that this process computes; shares differ by at most one image."""
    return np.array_split(batch, ranks.size)[ranks.rank] if ranks.size > 1 else batch


def _key(net: Candidate, n_images: int, config: TrainingConfig) -> str:
    """Compute the digest of the settings of a net; the run folder's record covers the images."""
    seeds = net.order_seed, net.subset_seed
    values = [net.network.digest_values(), net.seed, n_images, config.values_of(*seeds)]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _optimiser(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adamw":
        betas = (config.momentum, 0.999)
        return AdamW(module.parameters(), config.learning_rate, betas, weight_decay=config.weight_decay)
    return SGD(module.parameters(), config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay)


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """States of the generators that a forward pass on a device may draw from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
