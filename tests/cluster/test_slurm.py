"""A real Slurm of four virtual nodes: what goes wrong on clusters, and a report with the same numbers."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from convergence.cli import main
from tests.helpers.runs import datasets, forget_statistics
from tests.helpers.slurm_site import Site, alive_comments, slurm


@pytest.fixture(scope="package")
def limited(cluster, tiny_config, tmp_path_factory) -> dict[str, Site]:
    """Held training with a minute's time limit, begun before the other tests, one site for each signal."""
    sites = {}
    for signal in ("USR2", "TERM"):
        sites[signal] = Site(
            tmp_path_factory.mktemp(signal) / "site", tiny_config, walltime=1, signal=signal, signal_s=20, most=1
        )
        sites[signal].held("net1")
        assert sites[signal].submit("--set", "nets.0.seeds=[1]", "--set", "training.epochs=1000") == 0
    return sites


def test_a_killed_and_a_requeued_job_change_no_number(cluster, limited, site, tiny_run, capsys):
    """From submit to report: net1 is requeued, net2 killed and submitted again, the statistics stopped by a signal."""
    here = site()
    here.held("net1", "net2", "statistics")
    assert here.submit() == 0
    here.wait_for_checkpoint("net1", "net2")
    assert here.submit() == 2
    assert "submitted already" in capsys.readouterr().err
    slurm("scontrol", "requeue", here.job("train net1"))
    slurm("scancel", "--signal=KILL", f"{here.job('train net2')}.0")
    here.wait_for(net2="failed")
    here.release("net2")
    here.wait(lambda: here.states("train net1")[1:] == ["running"], "net1 starts again")
    assert main(["status", str(here.run)]) == 0
    middle = capsys.readouterr().out
    here.release("net1")
    here.wait_for(net1="done", untrained1="done", untrained2="done", statistics="not run")
    assert "train net2        failed" in middle
    assert "SIGKILL" in middle
    assert "attempt 2" in middle
    assert main(["logs", str(here.run), "--piece", "net1"]) == 0
    assert "goes on after epoch 1" in capsys.readouterr().out

    assert here.submit() == 0
    assert [job.pieces for job in here.records.latest().jobs] == [
        ("train net2",),
        ("statistics",),
        ("analyze",),
        ("pictures",),
        ("report",),
    ]
    here.wait_for(net2="done", statistics="running")
    time.sleep(2)
    slurm("scancel", "--signal=USR2", "--batch", here.job("statistics"))
    here.wait(lambda: here.states("statistics")[:1] == ["stopped"], "the statistics stop")
    here.release("statistics")
    here.wait_for(report="done", seconds=240)
    assert here.states("statistics") == ["stopped", "done"]
    for name in ("statistics.h5", "analysis.h5", "pictures.h5"):
        assert datasets(here.run / name) == datasets(tiny_run / name)
    capsys.readouterr()
    here.wait_for_the_queue()
    assert here.submit() == 0
    assert "nothing to submit" in capsys.readouterr().out


def test_optional_stages_that_fail_do_not_keep_the_report_waiting(cluster, site, tiny_copy, capsys):
    """The report is made without pictures, and again when there are any, and experiments beside them."""
    here = site()
    shutil.move(tiny_copy, here.run)
    for name in ("pictures.json", "pictures.h5", "report.json"):
        (here.run / name).unlink()
    (here.hold / "break-pictures").touch()
    filters = ("--set", 'pictures.methods=["filters"]')
    assert here.submit(*filters) == 0
    here.wait_for(pictures="failed", report="done")
    assert main(["status", str(here.run)]) == 0
    says = capsys.readouterr().out
    assert "RuntimeError: planted fault" in says
    assert str(here.run / "report" / "index.html") in says
    assert "runs what is missing" in says
    here.release("break-pictures")
    here.wait_for_the_queue()
    with here.profile.open("a", encoding="utf-8") as file:  # each over two nodes
        file.write("[ensemble]\nnodes = 2\n[average]\nnodes = 2\n")
    few = ("average.epochs=1", "average.local_steps=[8]", "average.repeats=1")
    more = ("ensemble.enabled=true", "average.enabled=true", *few)
    experiments = [word for setting in more for word in ("--set", f"functional.{setting}")]
    assert here.submit(*filters, *experiments) == 0
    assert [job.name for job in here.records.latest().jobs] == ["pictures", "ensemble", "average", "report"]
    here.wait_for(pictures="done", ensemble="done", average="done", report="done", seconds=240)
    for experiment in ("ensemble", "average"):
        (attempt,) = here.records.attempts(experiment)
        assert "-" in attempt.node, "both nodes"
    inputs = json.loads((here.run / "report.json").read_text(encoding="utf-8"))["inputs"]
    assert {"pictures", "ensemble", "average"} <= set(inputs)
    assert "Can workers that train apart be averaged?" in (here.run / "report" / "matters.html").read_text("utf-8")


def test_what_befalls_members_of_an_array(cluster, site, tiny_config, tmp_path):
    """One member is cancelled, one's node goes down, one's is drained, one is sent TERM, one breaks; all at once."""
    config = tmp_path / "five.toml"
    config.write_text(tiny_config.read_text(encoding="utf-8").replace("seeds = [1, 2]", "seeds = [1, 2, 3, 4, 5]"))
    here = site(config=config, cpus=1)
    nets = ("net1", "net2", "net3", "net4", "net5")
    here.held(*nets)
    assert here.submit() == 0
    here.wait_for_checkpoint(*nets)
    node = {net: here.records.attempts(f"train {net}")[0].node for net in nets}
    down = node["net1"]
    beside = [net for net in nets if node[net] == down]
    slurm("scancel", here.job("train net5"))
    slurm("scancel", "--signal=TERM", here.job("train net4"))
    (here.hold / "break-net3").touch()
    here.release("net3")
    slurm("scontrol", "update", f"nodename={down}", "state=down", "reason=test")
    drained = next(name for net, name in node.items() if name != down)
    slurm("scontrol", "update", f"nodename={drained}", "state=drain", "reason=test")
    try:
        here.wait(lambda: here.states("train net1")[1:] == ["running"], "net1 on another node")
        assert here.records.attempts("train net1")[1].node != down
        here.wait(lambda: here.states("train net4")[1:] == ["running"], "net4 again")
        here.release("net1", "net2", "net4")
        here.wait_for(net1="done", net2="done", net3="failed", net4="done", net5="cancelled", statistics="not run")
    finally:
        for name in (down, drained):
            slurm("scontrol", "update", f"nodename={name}", "state=resume")
    assert "RuntimeError: planted fault" in here.pieces()["train net3"][1]
    for net in {"net1", "net4", *beside} - {"net3", "net5"}:
        assert here.states(f"train {net}")[-1] == "done"
        text = Path(here.records.attempts(f"train {net}")[-1].log).read_text(encoding="utf-8")
        assert "goes on after epoch 1" in text
    assert len(here.states("train net5")) == 1, "a cancelled member stays cancelled"


def test_a_chain_of_jobs_where_requeue_is_forbidden_and_cancel(cluster, site, capsys):
    here = site(by="chain", most=1)
    here.held("net1")
    assert here.submit() == 0
    jobs = here.records.latest().jobs
    assert [job.name for job in jobs][:3] == ["train-link1", "train-link2", "statistics-link1"]
    here.wait_for_checkpoint("net1")
    slurm("scancel", "--signal=USR2", "--batch", jobs[0].member("train net1"))
    here.wait(lambda: here.states("train net1")[:1] == ["stopped"], "net1 stops")
    here.release("net1")
    here.held("statistics")
    here.wait_for(net1="done", net2="done", statistics="running")
    here.wait(lambda: here.states("statistics") == ["running"], "the statistics at work")
    assert here.states("train net1") == ["stopped", "done"]
    first = here.records.attempts("train net1")[0]
    assert "next link" in first.reason
    assert main(["cancel", str(here.run)]) == 0
    here.wait_for(statistics="cancelled", analyze="cancelled", report="cancelled")
    capsys.readouterr()
    assert main(["cancel", str(here.run)]) == 0
    assert "no job of this run" in capsys.readouterr().out
    assert len(here.states("statistics")) == 1


def test_processes_of_one_net_on_two_nodes(cluster, site):
    """Training finds its peers by Slurm's own variables; the net that is not trained needs no peers."""
    here = site()
    text = here.profile.read_text(encoding="utf-8") + "[train]\nnodes = 2\n"
    here.profile.write_text(text, encoding="utf-8")
    here.held("statistics")
    assert here.submit("--set", "nets.0.seeds=[1]", "--set", "nets.1.seeds=[11]") == 0
    here.wait_for(net1="done", untrained1="done")
    (attempt,) = here.records.attempts("train net1")
    assert "-" in attempt.node, "both nodes"
    assert Path(attempt.log).read_text(encoding="utf-8").count("held-out accuracy") == 1


def test_ranks_that_find_no_world_are_refused_with_the_remedy(cluster, site, tiny_copy):
    here = site(mpi="none")
    shutil.move(tiny_copy, here.run)
    forget_statistics(here.run)
    assert here.submit() == 0
    here.wait_for(statistics="failed")
    says = here.pieces()["statistics"][1]
    assert "MPI sees a world of 1" in says
    assert "--mpi=pmi2" in says
    assert not (here.run / "statistics.h5").exists()


@pytest.mark.parametrize("signal", ["USR2", "TERM"])
def test_the_time_limit_stops_a_job_that_goes_on_so_many_times(cluster, limited, signal):
    """The warning comes before the limit; the job is put back, goes on from its checkpoint, and has had its turns."""
    here = limited[signal]
    here.wait_for(net1="failed", untrained1="done", statistics="not run", seconds=200)
    first, last = here.records.attempts("train net1")
    assert (first.state, last.restart) == ("stopped", 1)
    assert f"SIG{signal} and put back" in first.reason
    assert f"SIG{signal} for the last time" in last.reason
    assert "goes on after epoch 1" in Path(last.log).read_text(encoding="utf-8")
    assert (here.run / "nets" / "net1" / "checkpoint.pt").exists()


def test_a_job_that_sbatch_refuses_takes_back_the_others(cluster, site, capsys):
    here = site()
    text = here.profile.read_text(encoding="utf-8").replace("[statistics]", '[statistics]\npartition = "nowhere"')
    here.profile.write_text(text, encoding="utf-8")
    assert here.submit() == 2
    assert "sbatch refused" in capsys.readouterr().err
    here.wait(lambda: str(here.run) not in alive_comments(), "the training is cancelled")
