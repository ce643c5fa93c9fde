"""Functional experiments over processes: results have the same bits for any number and after a kill."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest

from convergence.cli import main
from convergence.functional import EXPERIMENTS
from tests.helpers.content_hash import content_hash
from tests.helpers.recording import drawn, states_of
from tests.helpers.torch_processes import finish, start

pytestmark = pytest.mark.slow

FEW = {
    "stitch": ["comparisons=['conv1','fc1']", "draws=2", "transplant_units=4", "cumulative_steps=2", "sgd_steps=[20]"],
    "merge": ["steps=3", "permutations=2", "fit_images=100", "depths=2"],
    "compress": ["shares=[0.5]", "draws=2", "images=200"],
    "ensemble": [],
}
SLOW = """
import time
from convergence.functional.context import ExperimentContext
def slowed(read):
    def slow(self, groups=None):
        for found in read(self, groups):
            time.sleep(0.05)
            yield found
    return slow
ExperimentContext.read = slowed(ExperimentContext.read)
ExperimentContext.read_together = slowed(ExperimentContext.read_together)
"""
UNFINITE = """
import torch
from convergence.functional.context import ExperimentContext
read = ExperimentContext.read_together
def planted(self, groups=None):
    for segments, images, labels in read(self, groups):
        yield segments, images * (float("nan") if self.ranks.rank == 1 else 1.0), labels
ExperimentContext.read_together = planted
"""


def arguments(experiment: str, config: Path, runs: Path) -> list[str]:
    settings = [f"functional.{experiment}.{setting}" for setting in FEW[experiment]]
    return [experiment, str(config), "--runs", str(runs), *(word for one in settings for word in ("--set", one))]


def copied(tiny_run: Path, runs: Path) -> Path:
    runs.mkdir()
    shutil.copytree(tiny_run, runs / "tiny")
    return runs


def found(runs: Path, experiment: str) -> dict[str, str | bytes]:
    """What the results say, and the nets that are left."""
    place = runs / "tiny" / "functional"
    nets = {str(path.relative_to(place)): path.read_bytes() for path in (place / experiment).rglob("*.safetensors")}
    return {"results": content_hash(place / f"{experiment}.h5"), **nets}


@pytest.fixture(scope="module")
def alone(tiny_config, tiny_run, tmp_path_factory) -> Path:
    """The runs folder of one process that has done all experiments."""
    runs = copied(tiny_run, tmp_path_factory.mktemp("alone") / "runs")
    for experiment in FEW:
        assert main(arguments(experiment, tiny_config, runs)) == 0
    return runs


def test_all_experiments_are_covered():
    assert {*FEW, "average"} == set(EXPERIMENTS)  # that one in test_average


@pytest.mark.parametrize(("experiment", "size"), [("ensemble", 3), ("stitch", 2), ("merge", 2)])
def test_processes_give_the_bits_of_one(alone, tiny_config, tiny_run, tmp_path, experiment, size):
    """Five groups on two or three processes; compress runs on two below."""
    runs = copied(tiny_run, tmp_path / "runs")
    codes, errors = finish(start(size, arguments(experiment, tiny_config, runs)))
    assert set(codes) == {0}, errors
    assert f"{experiment}: done" in errors[0]
    assert found(runs, experiment) == found(alone, experiment)


def test_killed_experiment_resumes_with_same_bits(alone, tiny_config, tiny_run, tmp_path):
    """One of two processes is killed; one process resumes."""
    runs = copied(tiny_run, tmp_path / "runs")
    processes = start(2, arguments("compress", tiny_config, runs), SLOW)
    partial = runs / "tiny" / "functional" / "compress.partial"
    deadline = time.monotonic() + 120
    while not list(partial.glob("*.h5")) and time.monotonic() < deadline:
        time.sleep(0.02)
    processes[-1].send_signal(signal.SIGKILL)
    codes, errors = finish(processes)
    assert codes[-1] == -9, errors
    assert 0 not in codes
    assert list(partial.glob("*.h5"))
    codes, errors = finish(start(1, arguments("compress", tiny_config, runs)))
    assert codes == [0], errors
    assert "resuming" in errors[0]
    assert found(runs, "compress") == found(alone, "compress")


def test_experiment_resumes_from_crash_states(alone, tiny_config, tiny_run, tmp_path):
    """The machine stops while tasks and nets are saved; two states of each kind, by a seed."""
    runs, trial = copied(tiny_run, tmp_path / "runs"), tmp_path / "trial"
    states, disk = states_of(runs, lambda: main(arguments("merge", tiny_config, runs)))
    assert disk.at_risk() == []
    for state in drawn(states, 2):
        state.write(trial)
        assert main(arguments("merge", tiny_config, trial)) == 0, state
        assert found(trial, "merge") == found(alone, "merge"), state
        assert not list(trial.rglob("*.partial")), state


def test_non_finite_loss_in_one_process_ends_all(tiny_config, tiny_run, tmp_path):
    runs = copied(tiny_run, tmp_path / "runs")
    one_group_a_batch = ["--set", "functional.batch_size=40"]
    codes, errors = finish(start(2, arguments("compress", tiny_config, runs) + one_group_a_batch, UNFINITE), timeout=90)
    assert codes[1] == 2
    assert codes[0] != 0
    assert "the loss on the images of group 1 is nan" in errors[1]
    assert not (runs / "tiny" / "functional" / "compress.h5").exists()
