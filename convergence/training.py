"""Training one net on one device, so that a kill loses at most an epoch and changes no bit of the result.

What a step does depends on (seed of the net, seed of the data, epoch, step) alone: the images' order and augmentation
on the data's seed and the epoch, dropout on the net's seed and the epoch. Weights of epochs that are kept are written
before the checkpoint that says the epoch is done, so that a kill in between has them written again, with the same bits.
"""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from convergence.data.images import ImageSet, Splits, read_batches
from convergence.devices import choose_device, reproducible_arithmetic
from convergence.errors import FileError, UserError
from convergence.experiment import TrainingConfig
from convergence.files import atomic_write, remove_leftovers
from convergence.interruption import check
from convergence.networks.spec import NetworkSpec

logger = logging.getLogger(__name__)
COLUMNS = ("epoch", "learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")
EVALUATION_BATCH = 256
Row = dict[str, Any]


def make_net(
    folder: Path, network: NetworkSpec, seed: int, trained: bool, splits: Splits, config: TrainingConfig
) -> Row:
    """Leave a net's ``weights.safetensors`` and ``metrics.csv`` in ``folder``; returns the last row of metrics.

    Weights of ``config.keep_epochs`` go to ``epochs/``, see :func:`weights_path`; nets that are not trained have none.
    """
    reproducible_arithmetic(config.threads)
    for place in (folder, weights_path(folder, 0).parent):
        remove_leftovers(place)  # or they would be recorded as results
    if trained:
        return train(folder, network, seed, splits, config)
    device = choose_device(config.device)
    module = initialise(network, seed, splits.train.image_shape, splits.train.n_classes)
    save_weights(module, folder)
    loss, accuracy = evaluate(module.to(device), splits.test, device, config.loader_workers)
    row: Row = dict.fromkeys(COLUMNS, "") | {"epoch": 0, "test_loss": loss, "test_accuracy": accuracy}
    _write_metrics(folder, [row])
    return row


def train(folder: Path, network: NetworkSpec, seed: int, splits: Splits, config: TrainingConfig) -> Row:
    """Train one net, from its checkpoint if there is one; returns the last row of metrics.

    Raises
    ------
    UserError
        when the loss is no longer finite.
    """
    device = choose_device(config.device)
    module = initialise(network, seed, splits.train.image_shape, splits.train.n_classes).to(device)
    optimiser = _optimiser(module, config)
    rows = _resume(folder / "checkpoint.pt", module, optimiser)
    if not rows and 0 in config.keep_epochs:
        save_weights(module, folder, epoch=0)
    n_images = len(splits.train)
    steps = math.ceil(n_images / config.batch_size)
    for epoch in range(len(rows), config.epochs):
        start = time.monotonic()
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]))
        total_loss, correct = 0.0, 0
        module.train()
        batches = epoch_batches(n_images, config, epoch)
        augment_seed = int(np.random.SeedSequence([config.data_seed, epoch]).generate_state(1)[0])
        for step, (indices, images) in enumerate(
            read_batches(splits.train, batches, config.loader_workers, augment_seed)
        ):
            rate = learning_rate(config, epoch + step / steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            labels = torch.from_numpy(splits.train.labels[indices]).to(device)
            logits = module(torch.from_numpy(images).to(device))
            loss = nn.functional.cross_entropy(logits, labels)
            if not torch.isfinite(loss):
                raise UserError(
                    f"{folder}: the loss became {loss.item()} in epoch {epoch + 1}, step {step + 1}. Lower "
                    f"training.learning_rate (now {config.learning_rate}) or raise training.warmup_epochs."
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total_loss += loss.item() * len(indices)
            correct += int((logits.argmax(1) == labels).sum())
        test_loss, test_accuracy = evaluate(module, splits.test, device, config.loader_workers)
        values = (epoch + 1, rate, total_loss / n_images, correct / n_images, test_loss, test_accuracy)
        rows.append(dict(zip(COLUMNS, (*values, time.monotonic() - start), strict=True)))
        logger.debug("epoch %d: loss %.4f, held-out accuracy %.4f", epoch + 1, total_loss / n_images, test_accuracy)
        if epoch + 1 in config.keep_epochs and epoch + 1 < config.epochs:
            save_weights(module, folder, epoch + 1)
        _save_checkpoint(folder / "checkpoint.pt", module, optimiser, rows)
        check()
    save_weights(module, folder)
    _write_metrics(folder, rows)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return rows[-1]


def initialise(network: NetworkSpec, seed: int, image_shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """A net as its seed makes it, in float32 on the CPU; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network.build(image_shape, n_classes)


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
def evaluate(module: nn.Module, images: ImageSet, device: torch.device, workers: int = 0) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over a set of images, in evaluation mode."""
    module.eval()
    loss, correct = 0.0, 0
    everyone = np.arange(len(images))
    batches = (everyone[k : k + EVALUATION_BATCH] for k in range(0, len(images), EVALUATION_BATCH))
    for indices, batch in read_batches(images, batches, workers):
        labels = torch.from_numpy(images.labels[indices]).to(device)
        logits = module(torch.from_numpy(batch).to(device))
        loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum())
    return loss / len(images), correct / len(images)


def weights_path(folder: Path, epoch: int | None = None) -> Path:
    """Where the weights after an epoch are (0: as initialised); the final ones for None."""
    return folder / "weights.safetensors" if epoch is None else folder / "epochs" / f"{epoch:05d}.safetensors"


def save_weights(module: nn.Module, folder: Path, epoch: int | None = None) -> None:
    """Write :func:`weights_path`: plain arrays, no code."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    with atomic_write(weights_path(folder, epoch)) as temporary:
        save_file(state, temporary)


def load_net(
    folder: Path,
    network: NetworkSpec,
    image_shape: tuple[int, int, int],
    n_classes: int,
    epoch: int | None = None,
) -> nn.Module:
    """A net with its final weights, or those that were kept of an epoch, in evaluation mode on the CPU.

    Raises
    ------
    FileError
        when the weights are missing, damaged, or of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = weights_path(folder, epoch)
    if not path.exists():
        what = "the net has no weights yet" if epoch is None else f"the weights of epoch {epoch} were not kept"
        remedy = "" if epoch is None else f" with {epoch} among training.keep_epochs"
        raise FileError(f"{path}: {what}. Run `convergence train`{remedy} first.")
    module = initialise(network, 0, image_shape, n_classes)
    try:
        module.load_state_dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise FileError(
            f"{path}: the weights are damaged ({error}). Remove {folder} and train the net again."
        ) from error
    except RuntimeError as error:
        raise FileError(f"{path}: the weights are those of another network: {error}") from error
    return module.eval()


def _optimiser(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adamw":
        betas = (config.momentum, 0.999)
        return torch.optim.AdamW(module.parameters(), config.learning_rate, betas, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        module.parameters(), config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )


def _save_checkpoint(path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, rows: list[Row]) -> None:
    with atomic_write(path) as temporary:
        torch.save({"module": module.state_dict(), "optimiser": optimiser.state_dict(), "rows": rows}, temporary)


def _resume(path: Path, module: nn.Module, optimiser: torch.optim.Optimizer) -> list[Row]:
    """Load a checkpoint into the net and optimiser; returns the rows of the finished epochs, none without one."""
    if not path.exists():
        return []
    fresh = {name: value.clone() for name, value in module.state_dict().items()}
    try:
        state = torch.load(path, map_location=next(module.parameters()).device, weights_only=True)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        rows: list[Row] = list(state["rows"])
    except Exception as error:  # whatever a torn file makes the reader raise
        logger.warning("%s is damaged (%s): the net is trained from the start", path, str(error).splitlines()[0])
        module.load_state_dict(fresh)
        return []
    logger.info("  %s: goes on after epoch %d", path.parent.name, len(rows))
    return rows


def _write_metrics(folder: Path, rows: list[Row]) -> None:
    with atomic_write(folder / "metrics.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
