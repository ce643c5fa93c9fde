"""Exact resume: training stopped or killed at any step ends with the bits of an undisturbed one."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from convergence.cli import main
from convergence.config.stages import TrainingConfig
from convergence.data.images import Splits
from convergence.data.photos import MirroredImages
from convergence.errors import FileError
from convergence.io.files import CHECKPOINTS
from convergence.networks.external import FactoryNetwork
from convergence.runs.signals import Stopped, stopping_on_signals
from convergence.training import checkpoints
from convergence.training.checkpoints import Checkpoints
from convergence.training.loop import make_net
from convergence.training.trainer import Trainer
from tests.helpers.attempts import kill_repeatedly
from tests.helpers.fingerprints import differences, fingerprint
from tests.helpers.recording import drawn, states_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="this system has no SIGUSR2"),
]
CONFIG = TrainingConfig(
    epochs=3, batch_size=16, threads=1, loader_workers=0, learning_rate=0.01, optimizer="adamw", keep_epochs=(1,)
)
SLOW = 1e9


def noisy(image_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """A net that draws random numbers in each step, and keeps running statistics."""
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.3), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(4 * height * width, n_classes),
    )  # fmt: skip


NOISY = FactoryNetwork(name="tests.pipeline.test_resume:noisy")
TOML = """
name = "noisy"
[data]
name = "digits"
[[nets]]
seeds = [1, 2]
network = { name = "tests.pipeline.test_resume:noisy" }
[training]
epochs = 3
batch_size = 32
threads = 1
checkpoint_minutes = 1e-6
keep_epochs = [0, 2]
[statistics]
comparisons = ["0"]
"""


@pytest.fixture(scope="module")
def splits() -> Splits:
    """Images in memory that are mirrored at random: 5 steps an epoch, the last one of 6 images."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 100)
    images = rng.standard_normal((100, 1, 8, 8)).astype(np.float32) + labels[:, None, None, None]
    return Splits(*(MirroredImages(images[s], labels[s], ["a", "b", "c"]) for s in (slice(70), slice(70, None))))


@pytest.fixture(scope="module")
def whole(splits, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    make_net(folder, NOISY, 1, True, splits, CONFIG)
    return results(folder)


def results(folder: Path) -> dict[str, bytes]:
    """Every file that training leaves, except the metrics, which hold times."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*.safetensors")
    }  # fmt: skip


def metrics(folder: Path) -> list[str]:
    return [line.rpartition(",")[0] for line in (folder / "metrics.csv").read_text().splitlines()]


def stop_after(monkeypatch, n: int, number: int = signal.SIGUSR2) -> list[int]:
    """Have this process sent a signal in the n-th step from now; the list that is returned counts steps."""
    learn, steps = Trainer.step, []

    def learning(*arguments):
        learn(*arguments)
        steps.append(1)
        if len(steps) == n:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Trainer, "step", learning)
    return steps


def stop(monkeypatch, splits, folder: Path, n: int, number: int = signal.SIGUSR2, seed: int = 1) -> None:
    """Train, and have it stopped in the n-th step from where it goes on."""
    with monkeypatch.context() as patch, stopping_on_signals():
        stop_after(patch, n, number)
        with pytest.raises(Stopped):
            make_net(folder, NOISY, seed, True, splits, CONFIG)


@pytest.mark.parametrize("n", range(1, 16))
def test_stop_at_any_step_changes_no_bit_and_repeats_no_step(splits, whole, tmp_path, monkeypatch, n):
    stop(monkeypatch, splits, tmp_path, n, signal.SIGTERM if n % 2 else signal.SIGUSR2)
    steps = stop_after(monkeypatch, SLOW)
    assert make_net(tmp_path, NOISY, 1, True, splits, CONFIG)["epoch"] == 3
    assert len(steps) == 15 - n
    assert results(tmp_path) == whole
    assert sorted(whole) == ["epochs/00001.safetensors", "weights.safetensors"]


def test_repeated_stops_change_no_bit(splits, whole, tmp_path, monkeypatch):
    for _ in range(7):
        stop(monkeypatch, splits, tmp_path, 2)
    make_net(tmp_path, NOISY, 1, True, splits, CONFIG)
    assert results(tmp_path) == whole
    assert len(metrics(tmp_path)) == 1 + 3


def test_stop_during_evaluation_changes_no_bit(splits, whole, tmp_path, monkeypatch):
    from convergence.training import loop

    evaluate = loop.evaluate

    def evaluating(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments)

    with monkeypatch.context() as patch, stopping_on_signals():
        patch.setattr(loop, "evaluate", evaluating)
        with pytest.raises(Stopped):
            make_net(tmp_path, NOISY, 1, True, splits, CONFIG)
    steps = stop_after(monkeypatch, SLOW)
    make_net(tmp_path, NOISY, 1, True, splits, CONFIG)
    assert len(steps) == 10
    assert results(tmp_path) == whole


def torn(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def foreign(content: bytes) -> bytes:
    return b"PK\x03\x04" + content


@pytest.mark.parametrize("damage", [torn, flipped, foreign, lambda content: b""])
@pytest.mark.parametrize("both", [False, True])
def test_damaged_checkpoint_is_reported_and_previous_one_used(
    splits, whole, tmp_path, monkeypatch, caplog, damage, both
):
    """Two stops leave two generations, the newest one of step 7."""
    for n in (4, 3):
        stop(monkeypatch, splits, tmp_path, n)
    newest, previous = (tmp_path / name for name in CHECKPOINTS)
    for path in (newest, previous)[: 1 + both]:
        path.write_bytes(damage(path.read_bytes()))
    steps = stop_after(monkeypatch, SLOW)
    make_net(tmp_path, NOISY, 1, True, splits, CONFIG)
    assert f"{newest} is damaged" in caplog.text
    assert (f"{previous} is damaged" in caplog.text) == both
    assert len(steps) == 15 if both else 15 - 7 < len(steps) < 15
    assert results(tmp_path) == whole


def test_a_checkpoint_of_other_settings_is_not_used(splits, whole, tmp_path, monkeypatch, caplog):
    stop(monkeypatch, splits, tmp_path, 4, seed=2)
    make_net(tmp_path, NOISY, 1, True, splits, CONFIG)
    assert "checkpoint of other settings; not used" in caplog.text
    assert results(tmp_path) == whole


def test_checkpoint_timer_writes_within_epochs(splits, whole, tmp_path, monkeypatch):
    """With no time between them there is one after every step that the writer could follow."""
    written = []
    write = checkpoints.write
    monkeypatch.setattr(checkpoints, "write", lambda path, state: (written.append(state["step"]), write(path, state)))
    make_net(tmp_path, NOISY, 1, True, splits, CONFIG.model_copy(update={"checkpoint_minutes": 1e-9}))
    assert set(written) - {0}
    assert results(tmp_path) == whole
    written.clear()
    make_net(tmp_path / "seldom", NOISY, 1, True, splits, CONFIG)
    assert set(written) == {0}


def test_checkpoint_is_written_in_the_background(tmp_path, monkeypatch):
    """A state that changes after it was handed over is written as it was; a second one is passed over meanwhile."""
    go, write = threading.Event(), checkpoints.write
    monkeypatch.setattr(checkpoints, "write", lambda path, state: (go.wait(10), write(path, state)))
    kept = Checkpoints(tmp_path, "a")
    weights = torch.zeros(5)
    assert kept.save({"module": {"w": weights}, "n": 1})
    weights += 1
    assert not kept.save({"module": {"w": weights}, "n": 2})
    go.set()
    assert kept.save({"module": {"w": weights}, "n": 3}, wait=True)
    state = Checkpoints(tmp_path, "a").load()
    assert (state["n"], state["module"]["w"].sum()) == (3, 5)
    (tmp_path / CHECKPOINTS[0]).unlink()
    state = Checkpoints(tmp_path, "a").load()
    assert (state["n"], state["module"]["w"].sum()) == (1, 0)
    kept.close()


def test_full_disk_is_explained(tmp_path, monkeypatch):
    def full(path, state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write", full)
    kept = Checkpoints(tmp_path, "a")
    kept.save({})
    with pytest.raises(FileError, match=r"its disk is full.*Make room there"):
        kept.close()
    assert not list(tmp_path.iterdir())


class Intruder:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_checkpoint_cannot_run_code(tmp_path, capsys, caplog):
    checkpoints.write(tmp_path / CHECKPOINTS[0], {"key": "a", "module": Intruder()})
    assert Checkpoints(tmp_path, "a").load() is None
    assert "more than plain arrays" in caplog.text
    assert "ran" not in capsys.readouterr().out


def command(config: Path, runs: Path) -> list[str]:
    return ["train", str(config), "--runs", str(runs)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """A config, and beside it the run that nobody disturbed."""
    config = tmp_path_factory.mktemp("noisy") / "noisy.toml"
    config.write_text(TOML, encoding="utf-8")
    assert main(command(config, config.parent)) == 0
    return config


IMPORTS = """
import torch, sklearn.datasets, safetensors.torch, tests.pipeline.test_resume
import convergence.cli.stages, convergence.runs.stages, convergence.training.loop, convergence.data.digits
"""


def test_kills_at_any_instant_change_no_bit(undisturbed, tmp_path, request):
    """kill -9 again and again while files are flushed and renamed, until a run comes to its end."""
    kills = request.config.getoption("kills")
    killed, log = kill_repeatedly(command(undisturbed, tmp_path), kills, tmp_path / "scratch", 40, IMPORTS)
    assert killed >= min(kills, 3)  # a run that has little left may end before its kill comes
    assert "resuming after epoch" in log
    assert results(tmp_path) == results(undisturbed.parent)
    assert len(results(tmp_path)) == 2 * 3
    assert differences(fingerprint(tmp_path / "noisy"), fingerprint(undisturbed.parent / "noisy")) == []


def test_training_resumes_from_crash_states(splits, whole, tmp_path):
    """The machine stops during a training that writes checkpoints all the time; some states of each kind, by a seed."""
    folder, trial = tmp_path / "net", tmp_path / "trial"
    folder.mkdir()
    often = CONFIG.model_copy(update={"checkpoint_minutes": 1e-9})
    states, disk = states_of(folder, lambda: make_net(folder, NOISY, 1, True, splits, often))
    assert disk.at_risk() == []
    assert results(folder) == whole
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    for state in drawn(states, 5):
        state.write(trial)
        make_net(trial, NOISY, 1, True, splits, CONFIG)
        assert results(trial) == whole, state
        assert {path.relative_to(trial).as_posix() for path in trial.rglob("*")} <= {*left, *CHECKPOINTS}, state


SLOWED = """
import sys, time
from convergence.cli import main
from convergence.training.trainer import Trainer
learn = Trainer.step
Trainer.step = lambda *arguments: (time.sleep(0.02), learn(*arguments))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, getattr(signal, "SIGUSR2", 0)])
def test_signals_end_with_code_75_and_same_command_resumes(undisturbed, tmp_path, number, caplog):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWED, *command(undisturbed, tmp_path)],
        stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    newest = tmp_path / "noisy" / "nets" / "net1" / CHECKPOINTS[0]
    while process.poll() is None and not newest.exists():
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "run the same command again to resume" in errors
    with caplog.at_level(logging.INFO):
        assert main(command(undisturbed, tmp_path)) == 0
    assert "net1: resuming after epoch 0, step" in caplog.text
    assert results(tmp_path) == results(undisturbed.parent)
