"""Several nets on one reading of the images: each has the bits that it has alone, and none depends on another."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from convergence.cli import main
from convergence.config.stages import TrainingConfig
from convergence.data.images import Splits
from convergence.data.photos import MirroredImages
from convergence.errors import UserError
from convergence.networks.external import FactoryNetwork
from convergence.networks.small import Small
from convergence.runs.signals import Stopped, stopping_on_signals
from convergence.training import loop
from convergence.training.trainer import Candidate, Trainer
from tests.pipeline.test_resume import NOISY, metrics, results

CONFIG = TrainingConfig(epochs=3, batch_size=16, threads=1, loader_workers=2, learning_rate=0.01, keep_epochs=(0, 2))


def exploding(image_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """A net whose loss is infinite in the twelfth step."""

    class Exploding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flatten, self.steps = nn.Flatten(), 0
            self.layer = nn.Linear(int(np.prod(image_shape)), n_classes)

        def forward(self, images):
            self.steps += self.training
            return self.layer(self.flatten(images)) * (float("inf") if self.steps == 12 else 1)

    return Exploding()


EXPLODING = FactoryNetwork(name="tests.pipeline.test_joint_training:exploding")


@pytest.fixture(scope="module")
def splits() -> Splits:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 100)
    images = rng.standard_normal((100, 1, 8, 8)).astype(np.float32) + labels[:, None, None, None]
    return Splits(*(MirroredImages(images[s], labels[s], ["a", "b", "c"]) for s in (slice(70), slice(70, None))))


def nets(folder: Path) -> list[Candidate]:
    """Two nets that draw random numbers, and one of another network that draws none."""
    return [
        Candidate(folder / "a", NOISY, 1),
        Candidate(folder / "b", Small(name="small", channels=(4, 6), hidden=(8,)), 1),
        Candidate(folder / "c", NOISY, 2),
    ]


@pytest.fixture(scope="module")
def alone(splits, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    for net in nets(folder):
        loop.make_net(*net[:3], True, splits, CONFIG)
    return folder


def test_nets_trained_together_have_the_bits_of_nets_trained_alone(splits, alone, tmp_path):
    rows = loop.train_jointly(nets(tmp_path), splits, CONFIG)
    assert results(tmp_path) == results(alone)
    assert len(results(tmp_path)) == 3 * 3
    for net in "abc":
        assert metrics(tmp_path / net) == metrics(alone / net)
    assert [row["epoch"] for row in rows] == [3, 3, 3]


def test_joint_training_reads_each_batch_once(splits, tmp_path, monkeypatch):
    read, seen = MirroredImages.read, []
    monkeypatch.setattr(
        MirroredImages, "read", lambda *arguments: (seen.append(len(arguments[1])), read(*arguments))[1]
    )
    loop.train_jointly(nets(tmp_path), splits, CONFIG)
    assert sum(seen) == 3 * 70 + 3 * 3 * 30  # held-out images are read for each net


@pytest.mark.parametrize("n", [1, 8, 15, 29, 45])
def test_joint_training_resumes_after_stop_at_any_step(splits, alone, tmp_path, monkeypatch, n):
    """Within a step some nets have taken it and others have not; and one of them loses its checkpoints."""
    learn, steps = Trainer.step, []

    def learning(*arguments):
        learn(*arguments)
        steps.append(1)
        if len(steps) == n:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "step", learning)
    with stopping_on_signals(), pytest.raises(Stopped):
        loop.train_jointly(nets(tmp_path), splits, CONFIG)
    shutil.rmtree(tmp_path / "b")
    assert not (tmp_path / "a" / "weights.safetensors").exists()
    loop.train_jointly(nets(tmp_path), splits, CONFIG)
    taken = -(-n // 3)  # the group takes a step to its end
    assert len(steps) == 3 * 15 + taken
    assert results(tmp_path) == results(alone)


def test_failing_net_does_not_stop_others(splits, alone, tmp_path):
    candidates = nets(tmp_path)
    candidates.insert(1, Candidate(tmp_path / "x", EXPLODING, 1))
    first, failed, *others = loop.train_jointly(candidates, splits, CONFIG)
    assert isinstance(failed, UserError)
    assert "the loss became" in str(failed)
    assert "in epoch 3, step 2" in str(failed)
    assert [row["epoch"] for row in (first, *others)] == [3, 3, 3]
    assert {name: value for name, value in results(tmp_path).items() if not name.startswith("x")} == results(alone)
    assert not (tmp_path / "x" / "weights.safetensors").exists()
    both = [Candidate(tmp_path / name, EXPLODING, 1) for name in "yz"]
    assert all(isinstance(result, UserError) for result in loop.train_jointly(both, splits, CONFIG))


TOML = """
name = "group"
[data]
name = "digits"
[[nets]]
seeds = [1, 2, 3]
network = { name = "small", channels = [4], hidden = [8] }
[[nets]]
label = "other"
seeds = [1]
network = { name = "small", channels = [6], hidden = [8] }
[[nets]]
label = "untrained"
seeds = [1]
network = { name = "small", channels = [6], hidden = [8] }
trained = false
[training]
epochs = 1
threads = 1
[statistics]
comparisons = ["conv1"]
"""


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory) -> Path:
    config = tmp_path_factory.mktemp("group") / "group.toml"
    config.write_text(TOML, encoding="utf-8")
    assert main(["train", str(config), "--runs", str(config.parent)]) == 0
    return config


@pytest.mark.parametrize("together", ["true", "2", "3"])
def test_train_command_trains_nets_jointly(one_by_one, tmp_path, caplog, together):
    arguments = ["train", str(one_by_one), "--runs", str(tmp_path), "--set", f"training.train_jointly={together}"]
    with caplog.at_level("INFO"):
        assert main([*arguments, "--net", "net2"]) == 0
        assert main(arguments) == 0
    assert results(tmp_path) == results(one_by_one.parent)
    assert caplog.text.count("already done") == 1
    caplog.clear()
    with caplog.at_level("INFO"):
        assert main(arguments[:-2]) == 0  # one by one or together is no other result
    assert caplog.text.count("already done") == 5


def test_train_command_keeps_other_nets_when_one_fails(one_by_one, tmp_path, capsys, caplog):
    config = tmp_path / "group.toml"
    config.write_text(
        TOML.replace(
            '"small", channels = [6], hidden = [8] }\n[[nets]]',
            '"tests.pipeline.test_joint_training:exploding" }\n[[nets]]',
        ),
        encoding="utf-8",
    )
    arguments = ["train", str(config), "--runs", str(tmp_path), "--set", "training.train_jointly=true", "--no-check"]
    assert main(arguments) == 2
    assert "other1: the loss became" in capsys.readouterr().err
    for name in ("net1", "net2", "net3"):
        mine, wanted = (results(runs / "group" / "nets" / name) for runs in (tmp_path, one_by_one.parent))
        assert mine == wanted
        assert len(mine) == 1
    with caplog.at_level("INFO"):
        assert main(arguments) == 2
    assert caplog.text.count("already done") == 3 + 1  # and the untrained one
    assert "train other1: resuming" in caplog.text
