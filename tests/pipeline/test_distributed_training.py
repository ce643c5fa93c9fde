"""Training over processes: the curve of one process, the same bits after a stop, nobody waits for a dead one."""

from __future__ import annotations

import csv
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from convergence.cli import main
from convergence.errors import ConfigError, UserError
from convergence.io.files import CHECKPOINTS
from convergence.training.process_group import ProcessGroup, ProcessRank, first_host, launched
from convergence.training.trainer import own_part
from tests.helpers.torch_processes import finish, start
from tests.pipeline.test_resume import metrics, results

pytestmark = pytest.mark.slow

TOML = """
name = "over"
[data]
name = "digits"
[[nets]]
seeds = [1]
network = { name = "small", channels = [6], hidden = [16] }
[[nets]]
label = "untrained"
seeds = [2]
network = { name = "small", channels = [6], hidden = [16] }
trained = false
[training]
epochs = 2
batch_size = 157            # the last of nine batches is of one image, and a process has none
threads = 1
learning_rate = 0.02
[statistics]
comparisons = ["conv1"]
"""
SLOW = """
import time
from convergence.training.trainer import Trainer
learn = Trainer.step
def slow(self, *arguments):
    time.sleep(0.05)
    learn(self, *arguments)
Trainer.step = slow
"""
FAILING = """
from convergence.training.trainer import Trainer
learn = Trainer.step
def failing(self, *arguments):
    if self.ranks.rank == 1 and self.next_step == 3:
        raise ValueError("planted in one process")
    learn(self, *arguments)
Trainer.step = failing
"""


def curve(folder: Path) -> np.ndarray:
    with (folder / "metrics.csv").open() as file:
        names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
        return np.array([[float(row[name]) for name in names] for row in csv.DictReader(file)])


def test_two_processes_follow_the_curve_of_one(tmp_path):
    """To rounding: the sums over a batch are taken in two parts, and are not associative."""
    config = tmp_path / "over.toml"
    config.write_text(TOML, encoding="utf-8")
    assert main(["train", str(config), "--runs", str(tmp_path / "one")]) == 0
    codes, errors = finish(start(2, ["train", str(config), "--runs", str(tmp_path / "two")]))
    assert codes == [0, 0], errors
    assert "train net1: done" in errors[0]
    assert "done" not in errors[1]
    one, two = (tmp_path / name / "over" / "nets" for name in ("one", "two"))
    np.testing.assert_allclose(curve(two / "net1"), curve(one / "net1"), rtol=1e-5)
    assert (two / "untrained1/weights.safetensors").read_bytes() == (
        one / "untrained1/weights.safetensors"
    ).read_bytes()
    first, second = (load_file(nets / "net1" / "weights.safetensors") for nets in (one, two))
    for name, values in first.items():
        np.testing.assert_allclose(second[name], values, atol=1e-5)


def test_signal_to_one_process_stops_all_and_changes_no_bit(tmp_path):
    """With dropout and batch statistics, each process's random stream of its own."""
    config = tmp_path / "over.toml"
    network = '{ name = "tests.pipeline.test_resume:noisy" }'
    config.write_text(TOML.replace('{ name = "small", channels = [6], hidden = [16] }', network), encoding="utf-8")
    config.write_text(
        config.read_text().replace("[statistics]", "keep_epochs = [0, 1]\n[statistics]").replace('["conv1"]', '["0"]')
    )
    codes, errors = finish(start(2, ["train", str(config), "--runs", str(tmp_path / "whole")]))
    assert codes == [0, 0], errors
    arguments = ["train", str(config), "--runs", str(tmp_path / "stopped")]
    processes = start(2, arguments, SLOW)
    newest = tmp_path / "stopped/over/nets/net1" / CHECKPOINTS[0]
    while not newest.exists() and all(process.poll() is None for process in processes):
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    codes, errors = finish(processes)
    assert codes == [75, 75], errors
    codes, errors = finish(start(2, arguments))
    assert codes == [0, 0], errors
    assert "net1: resuming after epoch 1, step" in errors[0]
    whole, stopped = (tmp_path / name for name in ("whole", "stopped"))
    assert results(stopped) == results(whole)
    assert len(results(whole)) == 4
    assert metrics(stopped / "over/nets/net1") == metrics(whole / "over/nets/net1")


def test_failing_process_ends_all(tmp_path):
    config = tmp_path / "over.toml"
    config.write_text(TOML, encoding="utf-8")
    started = time.monotonic()
    codes, errors = finish(start(2, ["train", str(config), "--runs", str(tmp_path)], FAILING), timeout=60)
    assert 0 not in codes
    assert "planted in one process" in errors[1]
    assert time.monotonic() - started < 60
    assert not (tmp_path / "over/nets/net1/weights.safetensors").exists()


def test_other_stages_refuse_processes(tiny_config, tiny_copy, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(["run", str(tiny_config), "--runs", str(tiny_copy.parent)]) == 2
    assert "does not use torch processes" in capsys.readouterr().err


def test_parts_of_a_batch_cover_it_once():
    batch = np.arange(10, 17)
    parts = [list(own_part(batch, ProcessGroup(rank, 3))) for rank in range(3)]
    assert parts == [[10, 11, 12], [13, 14], [15, 16]]
    assert len(own_part(batch[:1], ProcessGroup(1, 2))) == 0


def test_launcher_variables_give_the_process_rank():
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "5"}
    assert launched(torchrun) == ProcessRank(3, 4, 1, "a", 5)
    assert launched({}) is None
    assert launched({"WORLD_SIZE": "1", "RANK": "0"}) is None
    assert launched({"WORLD_SIZE": "2", "MASTER_ADDR": "a"}) is None, "exported by a job script"
    with pytest.raises(UserError, match="LOCAL_RANK, MASTER_ADDR, MASTER_PORT are not set"):
        launched({"WORLD_SIZE": "2", "RANK": "0"})
    slurm = {"SLURM_STEP_ID": "2", "SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
             "SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "gpu[07-09,12],cpu1"}  # fmt: skip
    place = launched(slurm)
    assert place[:4] == (5, 8, 1, "gpu07")
    assert 20000 <= place.port < 40000
    assert launched(slurm | {"SLURM_STEP_ID": "4294967291"}) is None
    assert [first_host(nodes) for nodes in ("n1", "n1,n2", "n[3,5]", "n-2-[10-11]")] == ["n1", "n1", "n3", "n-2-10"]
    with pytest.raises(UserError, match="set MASTER_ADDR"):
        first_host("")
    with pytest.raises(ConfigError, match='would be the GPU of all 2 processes: use "auto"'):
        ProcessGroup(0, 2).device("cuda:1")
