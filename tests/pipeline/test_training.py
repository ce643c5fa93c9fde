"""Training: learning happens, kills change nothing, damage is noticed, faults are explained."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from convergence.config.stages import TrainingConfig
from convergence.data.image_order import ImageOrder
from convergence.data.images import ArrayImages, Splits
from convergence.errors import ConfigError, FileError, UserError
from convergence.io.files import CHECKPOINTS
from convergence.networks import devices
from convergence.networks.small import Small
from convergence.networks.weights import load_net
from convergence.training import loop
from convergence.training.trainer import Trainer

NETWORK = Small(name="small", channels=(4, 6), hidden=(8,))
CONFIG = TrainingConfig(epochs=4, batch_size=16, threads=1, loader_workers=0, learning_rate=0.05)


@pytest.fixture(scope="module")
def splits() -> Splits:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    images = rng.standard_normal((120, 1, 8, 8)).astype(np.float32)
    for k in range(3):
        images[labels == k, 0, 2 * k : 2 * k + 2] += 2
    whole = [ArrayImages(images[s], labels[s], ["a", "b", "c"]) for s in (slice(0, 90), slice(90, None))]
    return Splits(*whole)


def weights(folder) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def test_nets_learn_and_differ_by_seed_only(splits, tmp_path):
    first = loop.make_net(tmp_path / "a", NETWORK, 1, True, splits, CONFIG)
    loop.make_net(tmp_path / "b", NETWORK, 1, True, splits, CONFIG)
    loop.make_net(tmp_path / "c", NETWORK, 2, True, splits, CONFIG)
    untrained = loop.make_net(tmp_path / "d", NETWORK, 1, False, splits, CONFIG)
    assert first["test_accuracy"] > 0.8 > untrained["test_accuracy"]
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")
    loaded = load_net(tmp_path / "a", NETWORK, (1, 8, 8), 3)
    assert loop.evaluate(loaded, splits.test, torch.device("cpu"))[1] == first["test_accuracy"]


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test may catch it."""


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_training_ends_in_the_same_bits(splits, tmp_path, monkeypatch, after, optimizer):
    config = CONFIG.model_copy(update={"optimizer": optimizer, "learning_rate": 0.01})
    loop.make_net(tmp_path / "whole", NETWORK, 1, True, splits, config)
    calls = iter(range(100))

    def killing(*arguments):
        if next(calls) == after:
            raise Killed
        return evaluate(*arguments)

    evaluate = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", killing)
    with pytest.raises(Killed):
        loop.make_net(tmp_path / "killed", NETWORK, 1, True, splits, config)
    monkeypatch.setattr(loop, "evaluate", evaluate)
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    row = loop.make_net(tmp_path / "killed", NETWORK, 1, True, splits, config)
    assert row["epoch"] == 4
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_killed_training_leaves_the_same_kept_epochs(splits, tmp_path, monkeypatch, after):
    """Killed between an epoch's weights and its checkpoint, and with a torn file left: the same files in the end."""
    config = CONFIG.model_copy(update={"keep_epochs": (0, 2, 3, 4)})
    loop.make_net(tmp_path / "whole", NETWORK, 1, True, splits, config)
    calls, save = iter(range(100)), Trainer.save

    def killing(*arguments):
        if next(calls) == after:
            raise Killed
        save(*arguments)

    monkeypatch.setattr(Trainer, "save", killing)
    with pytest.raises(Killed):
        loop.make_net(tmp_path / "killed", NETWORK, 1, True, splits, config)
    monkeypatch.setattr(Trainer, "save", save)
    (tmp_path / "killed" / "epochs" / ".00002.safetensors.x.partial").write_bytes(b"torn")
    loop.make_net(tmp_path / "killed", NETWORK, 1, True, splits, config)

    def files(name):
        return {
            path.relative_to(tmp_path / name).as_posix(): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file() and path.name not in (*CHECKPOINTS, "metrics.csv")  # they have the seconds
        }

    assert files("killed") == files("whole")
    assert sorted(files("whole")) == [
        "epochs/00000.safetensors", "epochs/00002.safetensors", "epochs/00003.safetensors", "weights.safetensors"
    ]  # fmt: skip
    plain = loop.make_net(tmp_path / "plain", NETWORK, 1, True, splits, CONFIG)
    assert plain["epoch"] == 4
    assert weights(tmp_path / "plain") == weights(tmp_path / "whole")


def test_a_damaged_checkpoint_is_reported_and_not_trusted(splits, tmp_path, caplog):
    loop.make_net(tmp_path / "whole", NETWORK, 1, True, splits, CONFIG)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "checkpoint.pt").write_bytes(b"PK\x03\x04 torn")
    loop.make_net(tmp_path / "torn", NETWORK, 1, True, splits, CONFIG)
    assert "is damaged" in caplog.text
    assert weights(tmp_path / "torn") == weights(tmp_path / "whole")


def test_all_nets_see_the_same_order():
    order = ImageOrder(100, CONFIG.data_seed)
    first = list(order.batches(3, CONFIG.batch_size))
    assert sorted(np.concatenate(first)) == list(range(100))
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(list(order.batches(3, CONFIG.batch_size))))
    assert (np.concatenate(first) != np.concatenate(list(order.batches(4, CONFIG.batch_size)))).any()


def test_learning_rate_schedules_equal_definition():
    def rate(epoch, **settings):
        return loop.learning_rate(TrainingConfig(epochs=90, learning_rate=0.01, **settings), epoch)

    assert rate(0, schedule="cosine") == pytest.approx(0.01)
    assert rate(45, schedule="cosine") == pytest.approx(0.005)
    assert [rate(e, schedule="step", step_epochs=20) for e in (19, 20, 65)] == pytest.approx([0.01, 0.001, 0.00001])
    assert rate(2.5, warmup_epochs=5) == pytest.approx(0.005)
    assert rate(89, schedule="constant") == 0.01


def test_a_diverging_net_says_what_to_do(splits, tmp_path):
    config = CONFIG.model_copy(update={"learning_rate": 1e12})
    with pytest.raises(UserError, match=r"loss became (nan|inf).*Lower training.learning_rate"):
        loop.make_net(tmp_path / "net", NETWORK, 1, True, splits, config)


def test_weights_that_cannot_be_loaded(splits, tmp_path):
    with pytest.raises(FileError, match="Run `convergence train` first"):
        load_net(tmp_path, NETWORK, (1, 8, 8), 3)
    loop.make_net(tmp_path, NETWORK, 1, False, splits, CONFIG)
    with pytest.raises(FileError, match="those of another network"):
        load_net(tmp_path, Small(name="small", channels=(5,)), (1, 8, 8), 3)
    (tmp_path / "weights.safetensors").write_bytes(weights(tmp_path)[:50])
    with pytest.raises(FileError, match="damaged"):
        load_net(tmp_path, NETWORK, (1, 8, 8), 3)


def test_initial_weights_leave_the_random_state_alone():
    state = torch.random.get_rng_state()
    first = loop.initialise(NETWORK, 3, (1, 8, 8), 3)
    assert torch.equal(state, torch.random.get_rng_state())
    again = loop.initialise(NETWORK, 3, (1, 8, 8), 3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_unavailable_devices_are_refused():
    assert devices.choose_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="is unknown"):
        devices.choose_device("gpu7x")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="0 CUDA devices"):
            devices.choose_device("cuda")


def test_weights_have_he_variance():
    net = loop.initialise(Small(name="small", channels=(64, 64)), 0, (3, 16, 16), 10)
    assert net.conv2.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)


def test_arithmetic_is_float32_and_deterministic():
    devices.reproducible_arithmetic(1)
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
