"""Options of the training: each has the stated effect."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from convergence.config.stages import TrainingConfig
from convergence.data.images import ArrayImages, Splits
from convergence.networks.external import FactoryNetwork
from convergence.networks.small import Small
from convergence.networks.weights import load_net
from convergence.training import loop
from convergence.training.trainer import Candidate, Trainer

pytestmark = pytest.mark.slow

NETWORK = Small(name="small", channels=(4, 6), hidden=(8,))
CONFIG = TrainingConfig(epochs=3, batch_size=16, threads=1, loader_workers=0, device="cpu")
SEEN: list[torch.Tensor] = []


def watched(image_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """A net that notes what its convolution is given and gives."""
    net = nn.Sequential(
        nn.Conv2d(image_shape[0], 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, n_classes)
    )
    net[0].register_forward_hook(lambda module, given, got: SEEN.extend((given[0].detach(), got.detach())))
    return net


WATCHED = FactoryNetwork(name="tests.pipeline.test_training_options:watched")


@pytest.fixture(scope="module")
def splits() -> Splits:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    images = rng.standard_normal((120, 3, 8, 8)).astype(np.float32)
    for k in range(3):
        images[labels == k, 0, 2 * k : 2 * k + 2] += 2
    return Splits(*(ArrayImages(images[s], labels[s], ["a", "b", "c"]) for s in (slice(0, 90), slice(90, None))))


def trained(folder, splits, network=NETWORK, **settings):
    SEEN.clear()
    return loop.make_net(folder, network, 1, True, splits, CONFIG.model_copy(update=settings))


def test_settings_of_speed_alone_do_not_enter_the_digest():
    speed = TrainingConfig(train_jointly=4, checkpoint_minutes=1, loader_workers=9)
    assert speed.digest_values() == TrainingConfig().digest_values()
    for setting in ({"precision": "bfloat16"}, {"channels_last": True}, {"compile": True}, {"label_smoothing": 0.1}):
        assert TrainingConfig(**setting).digest_values() != TrainingConfig().digest_values()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_training_resumes_exactly(splits, tmp_path, precision):
    """Convolutions in the short type, weights in float32, and still the net learns."""
    row = trained(tmp_path / "half", splits, WATCHED, precision=precision)
    assert {tensor.dtype for tensor in SEEN[1::2] if tensor.dtype != torch.float32} == {getattr(torch, precision)}
    plain = trained(tmp_path / "plain", splits, WATCHED)
    assert {tensor.dtype for tensor in SEEN} == {torch.float32}
    assert row["test_accuracy"] > 0.8
    assert row["train_loss"] == pytest.approx(plain["train_loss"], abs=0.05)
    assert row["train_loss"] != plain["train_loss"]
    net = load_net(tmp_path / "half", WATCHED, (3, 8, 8), 3)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


def test_checkpoint_stores_float16_loss_scale(splits, tmp_path):
    config = CONFIG.model_copy(update={"precision": "float16"})
    trainer = Trainer(Candidate(tmp_path, NETWORK, 1), splits, config, torch.device("cpu"))
    trainer.start_epoch()
    images, labels = torch.from_numpy(splits.train.images[:8]), torch.from_numpy(splits.train.labels[:8])
    before = trainer.module.classifier.weight.detach().clone()
    trainer._scaler._init_scale = 2.0**40  # gradients overflow: the step is left out and the scale is halved
    trainer.step(images, labels, 0.1)
    assert torch.equal(trainer.module.classifier.weight, before)
    trainer.save(wait=True)
    again = Trainer(Candidate(tmp_path, NETWORK, 1), splits, config, torch.device("cpu"))
    assert again.restore()
    assert again._scaler.get_scale() == trainer._scaler.get_scale() == 2.0**39
    trainer.checkpoints.close()


def test_channels_last_gives_close_weights(splits, tmp_path):
    row = trained(tmp_path / "last", splits, WATCHED, channels_last=True)
    assert SEEN[0].is_contiguous(memory_format=torch.channels_last)
    assert not SEEN[0].is_contiguous()
    plain = trained(tmp_path / "plain", splits, WATCHED)
    assert SEEN[0].is_contiguous()
    assert row["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-4)
    assert load_net(tmp_path / "last", WATCHED, (3, 8, 8), 3)[0].weight.is_contiguous()


def test_label_smoothing_changes_the_loss(splits, tmp_path):
    """The loss of a smoothed target is (1 - s) times that of the label plus s times the mean over the classes."""
    config = CONFIG.model_copy(update={"label_smoothing": 0.3})
    trainer = Trainer(Candidate(tmp_path, NETWORK, 1), splits, config, torch.device("cpu"))
    images, labels = torch.from_numpy(splits.train.images), torch.from_numpy(splits.train.labels)
    with torch.no_grad():
        logs = trainer.module(images).log_softmax(1)
    wanted = -(0.7 * logs[torch.arange(90), labels] + 0.3 * logs.mean(1)).mean().item()
    trainer.start_epoch()
    trainer.step(images, labels, 0.1)
    trainer.end_epoch(0.1, 0.0, 0.0)
    trainer.checkpoints.close()
    assert trainer.rows[0]["train_loss"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("default")
def test_compiled_training_gives_close_weights(splits, tmp_path):
    from torch._dynamo.utils import counters

    counters.clear()
    row = trained(tmp_path / "compiled", splits, compile=True, batch_size=45)
    assert counters["stats"]["unique_graphs"] >= 1
    plain = trained(tmp_path / "plain", splits, batch_size=45)
    assert row["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-4)
    load_net(tmp_path / "compiled", NETWORK, (3, 8, 8), 3)
