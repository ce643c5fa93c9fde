"""Faults on a real Slurm: memory, full disks, a site that forbids requeueing, two submits at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from convergence.cli import main
from tests.helpers.slurm_site import Site, slurm
from tests.pipeline.test_full_disk import disk  # noqa: F401

ROOT = Path(__file__).parents[2]
ONE_NET = ("--set", "nets.0.seeds=[1]", "--set", "nets.1.seeds=[11]", "--set", "pictures.enabled=false")


def test_a_job_that_takes_more_memory_than_it_asked_for(cluster, site):
    """Slurm itself ends it, by what it polls of the processes; the untrained net beside it is made."""
    here = site(more="memory_gb = 1.2")
    (here.hold / "eat-net1").touch()
    assert here.submit(*ONE_NET) == 0
    here.wait_for(net1="failed", untrained1="done", statistics="not run")
    assert here.pieces()["train net1"][1].endswith(
        "OOM: it used more memory than it asked for; raise memory_gb of the stage"
    )
    assert here.states("train net1") == ["failed"], "what ran out of memory once is not repeated"


def test_a_site_that_forbids_requeueing(cluster, site, tmp_path, monkeypatch):
    """A stopped member of the array has another job go on, and the statistics wait for that one."""
    refusing = tmp_path / "bin" / "scontrol"
    refusing.parent.mkdir()
    refusing.write_text(
        f'#!/bin/sh\n[ "$1" != requeue ] || {{ echo "Access/permission denied" >&2; exit 1; }}\n'
        f'exec {shutil.which("scontrol")} "$@"\n'
    )
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{refusing.parent}{os.pathsep}{os.environ['PATH']}")
    here = site()
    here.held("net1", "statistics")
    assert here.submit(*ONE_NET) == 0
    here.wait_for_checkpoint("net1")
    first = here.job("train net1")
    slurm("scancel", "--signal=USR2", "--batch", first)
    here.wait(lambda: here.states("train net1")[:1] == ["stopped"], "net1 stops")
    second = here.job("train net1")
    assert second != first
    assert f"job {second.split('_')[0]} goes on in its place" in here.records.attempts("train net1")[0].reason
    here.wait(lambda: here.states("train net1")[1:] == ["running"], "the successor")
    here.wait_for(statistics="waiting")
    here.release("net1")
    here.wait_for(net1="done", statistics="running")
    assert here.states("train net1") == ["stopped", "done"]
    log = Path(here.records.attempts("train net1")[1].log).read_text(encoding="utf-8")
    assert "goes on after epoch 1" in log


def test_a_run_folder_on_a_full_disk(cluster, site, disk, tiny_config):  # noqa: F811
    """The marker says so although nothing else can be written, and the same run goes on when there is room."""
    here = Site(disk.path / "site", tiny_config)
    try:
        here.held("net1")
        assert here.submit(*ONE_NET, "--set", "training.checkpoint_minutes=1e-6") == 0
        here.wait_for_checkpoint("net1")
        here.wait_for(untrained1="done")
        disk.fill(left=0)
        here.release("net1")
        here.wait_for(net1="failed", statistics="not run")
        assert "is full" in here.pieces()["train net1"][1]
        disk.make_room()
        here.held("statistics")
        assert here.submit(*ONE_NET, "--set", "training.checkpoint_minutes=1e-6") == 0
        here.wait_for(net1="done")
        log = Path(here.records.attempts("train net1")[-1].log).read_text(encoding="utf-8")
        assert "goes on after epoch" in log
    finally:
        main(["cancel", str(here.run)])
        here.wait_for_the_queue()


def test_two_submits_at_a_time(cluster, site):
    """One makes the jobs, the other is told; nothing is in the queue twice."""
    here = site()
    here.held("net1")
    command = [sys.executable, "-m", "convergence", "submit", str(here.config), "--runs", str(here.runs)]
    command += ["--cluster", str(here.profile), *ONE_NET]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    both = [
        subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    says = [process.communicate(timeout=120) for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], says
    told = says[0 if both[0].returncode else 1][1]
    assert "just now" in told or "submitted already" in told
    assert len(here.records.submissions()) == 1
    queued = slurm("squeue", "-h", "-o", "%F %k").split("\n")
    assert len({line for line in queued if line.endswith(str(here.run))}) == 4
    here.wait_for_checkpoint("net1")
    assert here.states("train net1") == ["running"]
