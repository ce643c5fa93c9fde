"""One net in training: its weights, optimiser, random stream and sums, and the checkpoints that hold all of them.

A learner takes one step after the other from whoever reads the images. It keeps a random stream of its own, so that
what else happens in the process changes none of its bits.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from convergence.config.schema import TrainingConfig
from convergence.data.images import Indices, Splits
from convergence.errors import FileError, SharedError
from convergence.networks.spec import NetworkSpec
from convergence.networks.weights import initialise, load_arrays, save_weights
from convergence.training.checkpoints import Checkpoints
from convergence.training.process_group import Ranks

logger = logging.getLogger(__name__)
COLUMNS = ("epoch", "learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")
Row = dict[str, Any]


class Candidate(NamedTuple):
    """A net that is to be trained: where its files go, what it is, and the seed of its weights and dropout."""

    folder: Path
    network: NetworkSpec
    seed: int


class Trainer:
    """A net between two steps of its training.

    Attributes
    ----------
    module : the net
    rows : metrics of the finished epochs
    epoch, step : what comes next; ``step`` is the number of steps of an epoch where only its evaluation is missing
    """

    def __init__(
        self, net: Candidate, splits: Splits, config: TrainingConfig, device: torch.device, ranks: Ranks | None = None
    ) -> None:
        self.folder, self.seed, self.config, self.device = net.folder, net.seed, config, device
        self.ranks = ranks or Ranks()
        self.module = initialise(net.network, net.seed, splits.train.image_shape, splits.train.n_classes).to(device)
        self._layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.module.to(memory_format=self._layout)
        self._forward = self.ranks.wrap(self.module)
        if config.compile:
            self._forward = torch.compile(self._forward)  # type: ignore[assignment]
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.optimiser = _optimiser(self.module, config)
        self.rows: list[Row] = []
        self.epoch = self.step = self._correct = 0
        self._total_loss = self._seconds = 0.0
        self._since = time.monotonic()
        self._random: dict[str, torch.Tensor] = {}
        self.checkpoints = Checkpoints(net.folder, _key(net, len(splits.train), config), self.ranks.rank == 0)

    def restore(self) -> bool:
        """Go to where the newest checkpoint is; whether there was one.

        Raises
        ------
        FileError
            where processes that train together find different ones.
        """
        state = self.checkpoints.load()
        found = self.ranks.gather(None if state is None else (state["epoch"], state["step"]))
        if len(set(found)) > 1:
            raise FileError(
                f"{self.checkpoints.newest}: the processes found different checkpoints, of (epoch, step) {found}. Is "
                "the run folder on a disk that all of them see?"
            )
        if state is None:
            return False
        if len(state["random"]) == self.ranks.size:
            random = state["random"][self.ranks.rank]
        else:  # it was written by another number of processes
            self.epoch = state["epoch"]
            random = self._fresh_stream(state["step"])
        self.take(state | {"random": random})
        logger.info("  %s: goes on after epoch %d, step %d", self.folder.name, self.epoch, self.step)
        return True

    def save(self, wait: bool = False) -> None:
        """Write a checkpoint, or leave it while the last one is being written; see :meth:`Checkpoints.save`."""
        random = self.ranks.gather(self._random)
        if not self.checkpoints.keeper:
            return
        self.checkpoints.save(self.state() | {"random": random}, wait)

    def state(self) -> dict[str, Any]:
        """What the next steps depend on, and the metrics; ``random`` is the stream of this process."""
        return {
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "rows": self.rows,
            "random": self._random,
            "epoch": self.epoch,
            "step": self.step,
            "sums": (self._total_loss, self._correct, self._seconds + time.monotonic() - self._since),
        }

    def take(self, state: dict[str, Any]) -> None:
        """Be where another was when it gave its :meth:`state`."""
        load_arrays(self.module, state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])
        self.rows = list(state["rows"])
        self.epoch, self.step, self._random = state["epoch"], state["step"], state["random"]
        self._total_loss, self._correct, self._seconds = state["sums"]
        self._since = time.monotonic()

    def start_epoch(self) -> None:
        """Begin an epoch, with a random stream that depends on the seed and the epoch alone, or go on within one."""
        self._since = time.monotonic()
        if self.step == 0:
            self._total_loss, self._correct, self._seconds = 0.0, 0, 0.0
            self._random = self._fresh_stream()

    def _fresh_stream(self, *more: int) -> dict[str, torch.Tensor]:
        """The random stream of an epoch: every process but the first has one of its own."""
        words = [self.seed, self.epoch, *more, *([self.ranks.rank] if self.ranks.rank else [])]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]))
        return _random_state(self.device)

    def learn(self, images: torch.Tensor, labels: torch.Tensor, rate: float, n: int | None = None) -> None:
        """One step of the optimiser, on the images of this process out of ``n`` (0 of them: one that has no weight).

        Raises
        ------
        UserError
            when the loss is no longer finite.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.module.train()
        _set_random_state(self._random, self.device)
        half = self.config.precision != "float32"
        with torch.autocast(self.device.type, getattr(torch, self.config.precision) if half else None, enabled=half):
            logits = self._forward(images.to(memory_format=self._layout))
            loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        self._random = _random_state(self.device)
        value, correct, n = loss.item(), int((logits.argmax(1) == labels).sum()), n or len(labels)
        if self.ranks.size > 1:
            mine = len(own_part(np.arange(n), self.ranks))
            total, right = self.ranks.sum([value * mine if mine else 0.0, correct if mine else 0])
            loss = loss * (mine * self.ranks.size / n)  # their gradients are averaged: the mean over all n images
            value, correct = total / n, int(right)
        if not math.isfinite(value):
            raise SharedError(
                f"{self.folder}: the loss became {value} in epoch {self.epoch + 1}, step {self.step + 1}. Lower "
                f"training.learning_rate (now {self.config.learning_rate}) or raise training.warmup_epochs."
            )
        self.optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.step(self.optimiser)
        self._scaler.update()
        self._total_loss += value * n
        self._correct += correct
        self.step += 1

    def end_epoch(self, n_images: int, rate: float, test_loss: float, test_accuracy: float) -> None:
        """Note an epoch's metrics, keep its weights if they are to be kept, write a checkpoint."""
        self.epoch, self.step = self.epoch + 1, 0
        loss, accuracy = self._total_loss / n_images, self._correct / n_images
        seconds = self._seconds + time.monotonic() - self._since
        values = (self.epoch, rate, loss, accuracy, test_loss, test_accuracy, seconds)
        self.rows.append(dict(zip(COLUMNS, values, strict=True)))
        name = self.folder.name
        logger.debug("%s, epoch %d: loss %.4f, held-out accuracy %.4f", name, self.epoch, loss, test_accuracy)
        if self.ranks.rank == 0 and self.epoch in self.config.keep_epochs and self.epoch < self.config.epochs:
            save_weights(self.module, self.folder, self.epoch)  # before the checkpoint that says the epoch is done
        self.save()


def own_part(batch: Indices, ranks: Ranks) -> Indices:
    """The images of a batch that are this process's: consecutive, as many for each, ± 1."""
    return np.array_split(batch, ranks.size)[ranks.rank]


def _key(net: Candidate, n_images: int, config: TrainingConfig) -> str:
    """Digest of what a net's bits depend on; which images they are is the run folder's to compare."""
    values = [net.network.digest_values(), net.seed, n_images, config.digest_values()]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _optimiser(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adamw":
        betas = (config.momentum, 0.999)
        return torch.optim.AdamW(module.parameters(), config.learning_rate, betas, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        module.parameters(), config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of the generators that a forward pass on a device may draw from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
