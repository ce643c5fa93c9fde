"""Runs on a real Slurm of four virtual nodes: kills, requeues, node failures, refusals, full disks, worker jobs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convergence.cli import main
from tests.helpers.content_hash import content_hash
from tests.helpers.runs import datasets
from tests.helpers.slurm_site import AWKWARD, SURROUNDING, Site, alive_comments, queue, slurm
from tests.pipeline.test_full_disk import disk  # noqa: F401

ROOT = Path(__file__).parents[2]
ONE_NET = ("--set", "nets.0.seeds=[1]", "--set", "nets.1.seeds=[11]", "--set", "pictures.enabled=false")


@pytest.fixture(scope="module")
def time_limited(cluster, tiny_config, tmp_path_factory) -> Site:
    """Training with a time limit of a minute, held after its first epoch; it runs beside the other tests."""
    here = Site(tmp_path_factory.mktemp("limited") / "site", tiny_config, walltime=1, signal_s=20, max_requeues=1)
    here.held("net1")
    assert here.submit("--set", "nets.0.seeds=[1]", "--set", "training.epochs=1000") == 0
    return here


@pytest.fixture(scope="module")
def interrupted(cluster, time_limited, tiny_config, tiny_run, tmp_path_factory) -> Site:
    """A run from images to report: net1 is requeued, the statistics are signalled, the pictures fail.

    It is submitted from a shell inside a job, in a folder with an odd name; the other nets are trained already.
    """
    others = [tiny_run / "nets" / net for net in ("net2", "untrained1", "untrained2")]
    here = Site(tmp_path_factory.mktemp("interrupted") / AWKWARD, tiny_config, others)
    here.held("net1", "statistics", "break-pictures")
    assert here.submit() == 0
    unfinished = [("train net1",), ("statistics",), ("analyze",), ("pictures",), ("report",)]
    assert [job.tasks for job in here.records.latest().jobs] == unfinished
    here.wait_for_checkpoint("net1")
    assert here.submit() == 2, "the run is already submitted"
    slurm("scontrol", "requeue", here.job("train net1"))
    here.wait(lambda: here.states("train net1")[1:] == ["running"], "net1 starts again")
    here.release("net1")
    here.wait_for(net1="done")
    here.wait_until_held("statistics")
    slurm("scancel", "--signal=USR2", "--batch", here.job("statistics"))
    here.wait(lambda: here.states("statistics")[:1] == ["stopped"], "the statistics stop")
    here.release("statistics")
    here.wait_for(pictures="failed", report="done", seconds=600)
    here.release("break-pictures")
    here.wait_for_the_queue()
    return here


def test_interrupted_run_has_the_numbers_of_an_uninterrupted_run(interrupted, tiny_run):
    assert "after epoch 1" in interrupted.log("train net1"), "net1 resumed from its checkpoint"
    assert interrupted.states("statistics") == ["stopped", "done"]
    for name in ("statistics.h5", "analysis.h5"):
        assert datasets(interrupted.run / name) == datasets(tiny_run / name)


def test_failed_optional_stage_keeps_the_report_and_is_submitted_again(interrupted, capsys):
    """The second report starts after the pictures and an experiment that ran on two nodes, and includes both."""
    here = interrupted
    assert main(["status", str(here.run)]) == 0
    printed = capsys.readouterr().out
    assert "RuntimeError: planted fault" in printed
    assert str(here.run / "report" / "index.html") in printed
    assert "runs the unfinished stages" in printed
    with here.profile.open("a", encoding="utf-8") as file:
        file.write("[average]\nnodes = 2\n")
    average = ("enabled=true", "epochs=1", "local_steps=[8]", "repeats=1")
    settings = ('pictures.methods=["filters"]', *(f"functional.average.{setting}" for setting in average))
    assert here.submit(*(word for setting in settings for word in ("--set", setting))) == 0
    assert [job.name for job in here.records.latest().jobs] == ["pictures", "average", "report"]
    here.wait_for(pictures="done", average="done", report="running")
    assert "-" in here.records.attempts("average")[0].node, "both nodes"

    def inputs() -> set[str]:
        return set(json.loads((here.run / "report.json").read_text(encoding="utf-8"))["inputs"])

    here.wait(lambda: {"pictures", "average"} <= inputs(), "the second report")
    assert main(["cancel", str(here.run)]) == 0


def test_array_task_failures_keep_the_other_tasks(cluster, site, tiny_config, tmp_path):
    """net1's node goes down, net2 is killed, net3 exceeds its memory, net4 gets SIGTERM, net5 is cancelled.

    The untrained nets are unharmed.
    """
    config = tmp_path / "five.toml"
    config.write_text(tiny_config.read_text(encoding="utf-8").replace("seeds = [1, 2]", "seeds = [1, 2, 3, 4, 5]"))
    here = site(config=config, more="memory_gb = 1.2")
    nets = ("net1", "net2", "net3", "net4", "net5")
    here.held(*nets, "eat-net3")
    assert here.submit() == 0
    here.wait_for_checkpoint(*nets)
    node = {net: here.records.attempts(f"train {net}")[0].node for net in nets}
    down = node["net1"]
    assert node["net3"] != down
    slurm("scancel", here.job("train net5"))
    slurm("scancel", "--signal=TERM", here.job("train net4"))
    slurm("scancel", "--signal=KILL", f"{here.job('train net2')}.0")
    failed = f"{here.job('train net2')} tiny-train FAILED"
    here.wait(lambda: failed in queue(), "net2 has left its node, which may go down")
    here.release("net3")
    slurm("scontrol", "update", f"nodename={down}", "state=down", "reason=test")
    drained = next(name for name in node.values() if name != down)
    slurm("scontrol", "update", f"nodename={drained}", "state=drain", "reason=test")
    try:
        here.wait(lambda: here.states("train net1")[1:] == ["running"], "net1 on another node")
        assert here.records.attempts("train net1")[1].node != down
        here.wait(lambda: here.states("train net4")[1:] == ["running"], "net4 again")
        here.release("net1", "net2", "net4")
        here.wait_for(net1="done", net2="failed", net3="failed", net4="done", net5="cancelled", statistics="not run")
        here.wait_for(untrained1="done", untrained2="done")
    finally:
        for name in (down, drained):
            slurm("scontrol", "update", f"nodename={name}", "state=resume")
    assert "OOM: it used more memory than it requested; raise memory_gb" in here.jobs()["train net3"][1]
    assert "SIGKILL" in here.jobs()["train net2"][1]
    assert here.states("train net3") == ["failed"], "a task that exceeds its memory is not repeated"
    for net in ("net1", "net4"):
        assert "after epoch 1" in here.log(f"train {net}"), "resumed from its checkpoint"
    assert len(here.states("train net5")) == 1, "a cancelled task is not repeated"


def test_chain_resumes_a_stopped_job_and_is_cancelled(cluster, site, capsys):
    here = site(method="chain", max_requeues=1)
    valid = here.profile.read_text(encoding="utf-8")
    here.profile.write_text(valid.replace("[statistics]", '[statistics]\npartition = "nowhere"'), encoding="utf-8")
    assert here.submit() == 2
    assert "sbatch refused" in capsys.readouterr().err
    here.wait(lambda: str(here.run) not in alive_comments(), "the training is cancelled")
    here.profile.write_text(valid, encoding="utf-8")

    here.held("net1", "statistics")
    assert here.submit() == 0
    jobs = here.records.latest().jobs
    assert [job.name for job in jobs][:3] == ["train-link1", "train-link2", "statistics-link1"]
    here.wait_for_checkpoint("net1")
    slurm("scancel", "--signal=USR2", "--batch", jobs[0].job_id("train net1"))
    here.wait(lambda: here.states("train net1")[:1] == ["stopped"], "net1 stops")
    here.release("net1")
    here.wait_for(net1="done", net2="done", statistics="running")
    here.wait(lambda: here.states("statistics") == ["running"], "the statistics start")
    assert here.states("train net1") == ["stopped", "done"]
    assert "next job of the chain" in here.records.attempts("train net1")[0].reason
    assert main(["cancel", str(here.run)]) == 0
    here.wait_for(statistics="cancelled", analyze="cancelled", report="cancelled")
    capsys.readouterr()
    assert main(["cancel", str(here.run)]) == 0
    assert "no job of this run" in capsys.readouterr().out
    assert len(here.states("statistics")) == 1


def test_refused_requeue_submits_a_replacement_that_other_jobs_wait_for(cluster, site, tmp_path, monkeypatch):
    """Each net trains on two nodes. The statistics wait for the replacement, then find no common MPI world."""
    refusing = tmp_path / "bin" / "scontrol"
    refusing.parent.mkdir()
    refusing.write_text(
        f'#!/bin/sh\n[ "$1" != requeue ] || {{ echo "Access/permission denied" >&2; exit 1; }}\n'
        f'exec {shutil.which("scontrol")} "$@"\n'
    )
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{refusing.parent}{os.pathsep}{os.environ['PATH']}")
    here = site(mpi="none")
    with here.profile.open("a", encoding="utf-8") as file:
        file.write("[train]\nnodes = 2\n")
    here.held("net1")
    assert here.submit(*ONE_NET) == 0
    here.wait_for_checkpoint("net1")
    first = here.job("train net1")
    slurm("scancel", "--signal=USR2", "--batch", first)
    here.wait(lambda: "resumes" in here.records.attempts("train net1")[0].reason, "net1 is replaced")
    second = here.job("train net1")
    assert second != first
    assert f"job {second.split('_')[0]} resumes" in here.records.attempts("train net1")[0].reason
    here.wait(lambda: here.states("train net1")[1:] == ["running"], "the replacement")
    here.wait_for(statistics="waiting")
    here.release("net1")
    here.wait_for(net1="done", statistics="failed")
    assert here.states("train net1") == ["stopped", "done"]
    assert "-" in here.records.attempts("train net1")[1].node, "both nodes"
    assert "after epoch 1" in here.log("train net1"), "resumed from its checkpoint"
    about = here.jobs()["statistics"][1]
    assert "world of 1" in about
    assert "--mpi=pmi2" in about
    assert not (here.run / "statistics.h5").exists()


def test_full_disk_is_recorded_and_training_resumes_after_cleaning(cluster, disk, tiny_config):  # noqa: F811
    here = Site(disk.path / "site", tiny_config)
    settings = (*ONE_NET, "--set", "training.checkpoint_minutes=1e-6")
    try:
        here.held("net1")
        assert here.submit(*settings) == 0
        here.wait_for_checkpoint("net1")
        here.wait_for(untrained1="done")
        disk.fill(left=0)
        here.release("net1")
        here.wait_for(net1="failed", statistics="not run")
        assert "is full" in here.jobs()["train net1"][1]
        disk.make_room()
        here.held("statistics")
        assert here.submit(*settings) == 0
        unfinished = [("train net1",), ("statistics",), ("analyze",), ("report",)]
        assert [job.tasks for job in here.records.latest().jobs] == unfinished
        here.wait_for(net1="done")
        assert "after epoch" in here.log("train net1"), "resumed from its checkpoint"
    finally:
        main(["cancel", str(here.run)])
        here.wait_for_the_queue()


def test_time_limit_requeues_a_job_until_max_requeues(time_limited):
    """The signal comes before the limit; the job is requeued and resumes from its checkpoint."""
    here = time_limited
    here.wait_for(net1="failed", untrained1="done", statistics="not run")
    first, last = here.records.attempts("train net1")
    assert (first.state, last.restart) == ("stopped", 1)
    assert "SIGUSR2; requeued" in first.reason
    assert "SIGUSR2 and not requeued" in last.reason
    assert "after epoch" in here.log("train net1")
    assert (here.run / "nets" / "net1" / "checkpoint.pt").exists()


LAYERS = """
name = "layers"
[activations]
root = "ROOT"
nets.a = { layer = "a.npy" }
nets.b = { layer = "b.npy" }
[statistics]
comparisons = ["layer"]
groups = 4
[statistics.mutual_information]
enabled = false
[analysis]
rotations = 2
[analysis.sparse]
alphas = 4
max_units = 2
"""
SMALL_TASKS = (
    "from convergence.analysis import cost; cost.TOGETHER = 0.0; from convergence.cli import main; import sys; "
)
SMALL_TASKS += "sys.exit(main(sys.argv[1:]))"


def test_worker_jobs_give_the_bits_of_one_process(cluster, tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.maximum(rng.standard_normal((300, 8)), 0).astype(np.float32))
    config = tmp_path / "layers.toml"
    config.write_text(LAYERS.replace("ROOT", str(tmp_path)), encoding="utf-8")
    here, jobs = tmp_path / "here", tmp_path / AWKWARD
    assert main(["statistics", str(config), "--runs", str(here)]) == 0
    shutil.copytree(here, jobs)
    assert main(["analyze", str(config), "--runs", str(here)]) == 0
    command = [sys.executable, "-c", SMALL_TASKS, "analyze", str(config), "--runs", str(jobs)]
    command += ["--cluster", str(ROOT / "configs" / "clusters" / "local_test.toml"), "--workers", "2"]
    inside = {
        name: value for name, value in SURROUNDING.items() if name.startswith(("SLURM_MEM", "SLURM_JOB", "SBATCH"))
    }
    environ = os.environ | inside | {"PYTHONPATH": str(ROOT)}  # a job, and no launch: the command is one process
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert content_hash(here / "layers" / "analysis.h5") == content_hash(jobs / "layers" / "analysis.h5")
    left = [path.name for path in (jobs / "workers").iterdir()]
    assert any(name.startswith("convergence-worker") for name in left)
    assert not any(name.startswith("tls") for name in left)
    assert slurm("squeue", "-h", "-n", "convergence-worker", "-t", "PENDING,RUNNING") == ""
