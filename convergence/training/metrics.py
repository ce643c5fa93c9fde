"""Metrics of a training: ``metrics.csv``, and on request TensorBoard's event files and an offline run of W&B.

Copies for TensorBoard and W&B are written again from the checkpoint when a training resumes, so no epoch is missing or
there twice. They are below the folder of the net, need no network and change no result.
"""

from __future__ import annotations

import csv
import importlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from convergence.config.stages import TrainingConfig
from convergence.errors import UserError
from convergence.io.files import atomic_write

COLUMNS = ("epoch", "learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")
Row = dict[str, Any]


class Sink(Protocol):
    """Receives the metrics of epochs."""

    def write(self, row: Row) -> None:
        """Write the metrics of an epoch."""
        ...

    def close(self) -> None:
        """Write what is buffered."""
        ...


class TensorBoard:
    """Event files in ``tensorboard/`` of a net; the step is the epoch."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def write(self, row: Row) -> None:
        for name in COLUMNS[1:]:
            self._writer.add_scalar(name, row[name], row["epoch"])

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """An offline run in ``wandb/`` of a net, for ``wandb sync``; the step is the epoch."""

    def __init__(self, folder: Path) -> None:
        wandb: Any = importlib.import_module("wandb")
        shutil.rmtree(folder / "wandb", ignore_errors=True)
        project = folder.parent.parent.name
        self._run = wandb.init(mode="offline", dir=str(folder), project=project, name=folder.name, reinit="create_new")

    def write(self, row: Row) -> None:
        self._run.log({name: row[name] for name in COLUMNS[1:]}, step=row["epoch"])

    def close(self) -> None:
        self._run.finish()


def metric_sinks(config: TrainingConfig, folder: Path, rows: Sequence[Row]) -> list[Sink]:
    """Open the sinks that a config asks for, with the metrics of earlier epochs (``rows``) written."""
    kinds: list[Callable[[Path], Sink]] = [TensorBoard] if config.tensorboard else []
    kinds += [WeightsAndBiases] if config.wandb == "offline" else []
    sinks = [kind(folder) for kind in kinds]
    for sink in sinks:
        for row in rows:
            sink.write(row)
    return sinks


def check_sinks(config: TrainingConfig) -> None:
    """Check before a training that the packages of its sinks are installed.

    Raises
    ------
    UserError
        naming the missing package.
    """
    wanted = {"tensorboard": config.tensorboard, "wandb": config.wandb == "offline"}
    for package in (name for name, used in wanted.items() if used):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f"training.{package} is set, and the package {package} cannot be imported ({error}): pip install "
                f"'convergent-learning[{package}]', or leave the setting out."
            ) from error


def write_metrics(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``metrics.csv``, a row for each epoch."""
    with atomic_write(folder / "metrics.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
