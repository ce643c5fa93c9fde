"""Averaging has the same bits for any processes, after signals and after crashes of the machine."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from convergence.cli import main
from tests.helpers.recording import drawn, states_of
from tests.helpers.runs import datasets
from tests.helpers.torch_processes import finish, start
from tests.pipeline.test_averaging import TOML, one_thread  # noqa: F401

pytestmark = pytest.mark.slow

NOISY = TOML.replace(
    '{ name = "small", channels = [8, 16], hidden = [32] }', '{ name = "tests.pipeline.test_resume:noisy" }'
)
PLANTED = """
import time
import convergence.functional.averaging.local_sgd as local_sgd
local_sgd.SAVE_SECONDS = 0.0
step = local_sgd.LocalSGD._step
def slow(self, *arguments):
    time.sleep(%s)
    step(self, *arguments)
local_sgd.LocalSGD._step = slow
"""


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """Config of nets with dropout and batch norms, moments averaged; and what one process finds."""
    root = tmp_path_factory.mktemp("noisy")
    text = NOISY.replace("epochs = 4", "epochs = 2")
    text = text.replace('["conv1", "conv2", "fc1"]', '["0"]').replace("repeats = 2", "repeats = 1")
    (root / "c.toml").write_text(
        text + 'optimizer_state = "average"\ninits = ["different"]\nalignments = ["weight"]\n', encoding="utf-8"
    )
    assert main(["average", str(root / "c.toml"), "--runs", str(root / "one")]) == 0
    return root / "c.toml", datasets(root / "one/averaged/functional/average.h5")


def test_two_processes_give_the_bits_of_one(noisy, tmp_path):
    """Three workers on two processes."""
    config, wanted = noisy
    codes, errors = finish(start(2, ["average", str(config), "--runs", str(tmp_path)], PLANTED % 0))
    assert codes == [0, 0], errors
    assert "average: done" in errors[0]
    assert datasets(tmp_path / "averaged/functional/average.h5") == wanted


def test_stopped_experiment_resumes_with_same_bits(noisy, tmp_path):
    """A signal to one of two processes stops both; one process resumes."""
    config, wanted = noisy
    arguments = ["average", str(config), "--runs", str(tmp_path)]
    processes = start(2, arguments, PLANTED % 0.05)
    partial = tmp_path / "averaged/functional/average.partial"
    deadline = time.monotonic() + 120
    while not list(partial.glob("training/*/checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    processes[-1].send_signal(signal.SIGTERM)
    codes, errors = finish(processes)
    assert codes == [75, 75], errors
    assert list(partial.glob("training/*/checkpoint.pt"))
    codes, errors = finish(start(1, arguments, PLANTED % 0))
    assert codes == [0], errors
    assert "training resumes after step" in errors[0]
    assert datasets(tmp_path / "averaged/functional/average.h5") == wanted


def test_averaging_resumes_from_crash_states(noisy, tmp_path, monkeypatch, caplog):
    """The machine stops while checkpoints are written at each average; some states of each kind, by a seed."""
    monkeypatch.setattr("convergence.functional.averaging.local_sgd.SAVE_SECONDS", 0.0)
    config, wanted = noisy
    runs, trial = tmp_path / "runs", tmp_path / "trial"
    runs.mkdir()
    states, disk = states_of(runs, lambda: main(["average", str(config), "--runs", str(runs)]))
    assert disk.at_risk() == []
    caplog.set_level("INFO")
    for state in drawn(states, 2):
        state.write(trial)
        assert main(["average", str(config), "--runs", str(trial)]) == 0, state
        assert datasets(trial / "averaged/functional/average.h5") == wanted, state
        assert sorted(path.name for path in (trial / "averaged/functional").glob("*.*")) == [
            "average.h5",
            "average.json",
        ]
    assert "training resumes after step" in caplog.text
