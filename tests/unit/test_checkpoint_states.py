"""Checkpoints of other hands: a state that does not fit is not restored, and the previous one is."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from convergence.config.stages import TrainingConfig
from convergence.data.images import ArrayImages, Splits
from convergence.io.files import CHECKPOINTS

torch = pytest.importorskip("torch")
from convergence.networks.small import Small  # noqa: E402
from convergence.training import checkpoints  # noqa: E402
from convergence.training.checkpoints import Checkpoints  # noqa: E402
from convergence.training.trainer import Candidate, Trainer  # noqa: E402


@pytest.fixture
def trainer(tmp_path) -> Trainer:
    """A net after one epoch of two steps, with a checkpoint of it and one of the first step."""
    images = np.random.default_rng(0).standard_normal((6, 1, 8, 8)).astype(np.float32)
    ends = (np.full(1, -9.0), np.full(1, 9.0))
    some = ArrayImages(images, [0, 1, 0, 1, 0, 1], ["a", "b"], ends)
    config = TrainingConfig(epochs=2, batch_size=4, threads=1, loader_workers=0, optimizer="adamw")
    network = Small(name="small", channels=(2, 3), hidden=(4,))
    found = Trainer(Candidate(tmp_path / "net", network, 1), Splits(some, some), config, torch.device("cpu"))
    found.start_epoch()
    for batch in (slice(0, 4), slice(4, 6)):
        found.step(torch.from_numpy(images[batch]), torch.from_numpy(some.labels[batch]), 0.01)
        if batch.start == 0:
            found.save(wait=True)
    found.end_epoch(0.01, 0.5, 0.5)
    found.checkpoints.close()
    return found


def put(*keys):
    """A change that sets the entry below ``keys[:-1]`` to the last of them."""

    def change(state):
        *path, last, value = keys
        for key in path:
            state = state[key]
        state[last] = value

    return change


def of_first(kind, value):
    return put("optimiser", "state", 0, kind, value)


FAULTS = {
    "step beyond the epoch": put("step", 10**9),
    "step below zero": put("step", -1),
    "step of another type": put("step", 1.0),
    "step as a tensor": put("step", torch.tensor(1)),
    "epoch beyond the last": put("epoch", 3),
    "epoch as a boolean": put("epoch", True),
    "sums of two": put("sums", (0.0, 1)),
    "sums not finite": put("sums", (float("nan"), 1, 2, 1.0)),
    "more correct answers than targets": put("sums", (0.0, 3, 2, 1.0)),
    "more targets than images": put("sums", (0.0, 1, 7, 1.0)),
    "random states of another type": put("random", {"cpu": torch.zeros(3)}),
    "random state too short": put("random", [{"cpu": torch.zeros(3, dtype=torch.uint8)}]),
    "no random states": put("random", []),
    "rows missing": put("rows", []),
    "rows of another epoch": put("rows", 0, "epoch", 2),
    "weights of another shape": put("module", "conv1.weight", torch.zeros(2)),
    "weights of another type": put("module", "conv1.weight", torch.zeros(2, 1, 3, 3, dtype=torch.float64)),
    "weights missing": lambda state: state["module"].popitem(),
    "moments of another shape": of_first("exp_avg", torch.zeros(7)),
    "moments of another type": of_first("exp_avg_sq", "x"),
    "moments of half precision": of_first("exp_avg", torch.zeros(2, 1, 3, 3, dtype=torch.float16)),
    "moments that are None": of_first("exp_avg", None),
    "a moment missing": lambda state: state["optimiser"]["state"][0].pop("exp_avg"),
    "no moments of a changed parameter": lambda state: [
        state["optimiser"]["state"].pop(0),
        state["module"]["conv1.weight"].add_(1.0),
    ],
    "no moments": put("optimiser", "state", {}),
    "no step taken": of_first("step", torch.tensor(0.0)),
    "fewer steps of all parameters": lambda state: [
        moments.update(step=torch.tensor(1.0)) for moments in state["optimiser"]["state"].values()
    ],
    "steps of the optimiser": of_first("step", torch.tensor(1e9)),
    "no optimiser": put("optimiser", None),
    "other settings of the optimiser": put("optimiser", "param_groups", 0, "weight_decay", 0.5),
    "learning rate not finite": put("optimiser", "param_groups", 0, "lr", float("inf")),
    "a part missing": lambda state: state.pop("sums"),
    "scaler": put("scaler", {"scale": 1.0}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_state_that_does_not_fit_gives_way_to_the_previous_one(trainer, fault, caplog):
    newest = trainer.folder / CHECKPOINTS[0]
    state = copy.deepcopy(checkpoints.read(newest))
    assert (state["epoch"], state["step"]) == (1, 0)
    FAULTS[fault](state)
    checkpoints.write(newest, state)
    assert trainer.restore()
    assert (trainer.epoch, trainer.next_step) == (0, 1)
    assert "holds a wrong type, shape or value of" in caplog.text
    assert not newest.exists()


def test_every_changed_byte_of_a_checkpoint_is_found(trainer):
    newest = trainer.folder / CHECKPOINTS[0]
    whole, rng = newest.read_bytes(), np.random.default_rng(0)
    for at in (*range(checkpoints.HEAD + 5), *rng.integers(0, len(whole), 40)):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        newest.write_bytes(changed)
        assert Checkpoints(trainer.folder, trainer.checkpoints.key, keeper=False).load()["step"] == 1
    newest.write_bytes(whole)
    assert Checkpoints(trainer.folder, trainer.checkpoints.key).load()["step"] == 0
