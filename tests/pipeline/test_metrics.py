"""Training metrics for TensorBoard and W&B: every epoch once, also after an interruption."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from convergence.cli import main
from convergence.config.stages import TrainingConfig
from convergence.errors import UserError

pytest.importorskip("torch")
from convergence.training import metrics, trainer
from convergence.training.trainer import Trainer


class Writer:
    """A stand-in for the writers of TensorBoard and W&B, which keeps what a folder holds."""

    folders: dict[str, list[int]] = {}  # noqa: RUF012

    def __init__(self, folder: str = "", dir: str = "", **options: str) -> None:
        self.place = folder or dir
        self.folders[self.place] = []
        assert not dir or options["mode"] == "offline"

    def add_scalar(self, name: str, value: float, epoch: int) -> None:
        if name == "train_loss":
            self.folders[self.place].append(epoch)

    def log(self, values: dict[str, float], step: int) -> None:
        assert set(values) == set(metrics.COLUMNS[1:])
        self.folders[self.place].append(step)

    def close(self) -> None:
        pass

    finish = close


def test_every_epoch_is_written_once_also_after_an_interruption(tiny_config, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=Writer))
    command = ["train", str(tiny_config), "--runs", str(tmp_path), "--net", "net1"]
    command += ["--set", "training.tensorboard=true", "--set", 'training.wandb="offline"']
    save, saved = Trainer.save, []

    def interrupt(net, wait=False):
        save(net, wait=True)
        saved.append(net.epoch)
        if len(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer.Trainer, "save", interrupt)
    assert main(command) == 130
    net = tmp_path / "tiny" / "nets" / "net1"
    assert Writer.folders == {str(net / "tensorboard"): [1], str(net): [1]}
    assert main(command) == 0
    assert Writer.folders == {str(net / "tensorboard"): [1, 2], str(net): [1, 2]}
    weights = "nets/net1/weights.safetensors"
    assert (tmp_path / "tiny" / weights).read_bytes() == (tiny_run / weights).read_bytes()


def test_missing_package_is_reported_before_training(monkeypatch):
    for package, value in (("tensorboard", True), ("wandb", "offline")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf"training.{package} is set.*convergent-learning\[{package}\]"):
            metrics.check_sinks(TrainingConfig(**{package: value}))
    metrics.check_sinks(TrainingConfig())
    assert TrainingConfig(tensorboard=True).digest_values() == TrainingConfig().digest_values()


def test_event_files_are_readable_by_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    row = dict.fromkeys(metrics.COLUMNS, 0.5)
    for n in (1, 2):  # the second one resumes
        rows = [row | {"epoch": epoch} for epoch in range(1, n + 1)]
        for sink in metrics.metric_sinks(TrainingConfig(tensorboard=True), tmp_path, rows):
            sink.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("test_accuracy")] == [1, 2]
