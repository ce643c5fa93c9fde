"""Jobs as text: profiles, the graph, scripts and what is submitted, without a Slurm: its commands are small scripts."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from convergence.cli import main
from convergence.config.load import read_config
from convergence.errors import ConfigError, UserError
from convergence.provenance import COMMIT_FILE
from convergence.runs.run_folder import RunFolder
from convergence.runs.tasks import StageTask
from slurm import graph, lock, source
from slurm.profile import AVOIDABLE, read_profile
from slurm.records import Records
from slurm.script import Setting, script
from tests.helpers.fake_slurm import ROOT, arguments, profile

SETTING = Setting("e", 3, Path("/runs/e"), "/env/bin/python", ("/runs/e/jobs/code-1", "/mine"), "/work")


def text(values: dict, job: graph.Job, dependency: str = "", setting: Setting = SETTING) -> str:
    return script(profile(**values), job, setting, dependency)


TRAIN = graph.Job("train", "train", ("train net1", "train net2"), array=True)


STATISTICS = graph.Job("statistics", "statistics", ("statistics",), after=("train",))


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs" / "clusters").glob("*.toml")))
def test_profiles_are_read_and_open_with_what_they_are_for(name):
    path = ROOT / "configs" / "clusters" / name
    assert path.read_text(encoding="utf-8").startswith("# ")
    found = read_profile(path)
    assert found.train.partition == ("main" if name == "local_test.toml" else "gpu")
    assert found.report.memory_gb == found.defaults.memory_gb


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[defaults]\npartion = 'x'", 'unknown key "defaults.partion"; did you mean "partition"'),
        ("[trian]\nnodes = 1", 'did you mean "train"'),
        ("[train]\nwalltime_min = 0", '"train.walltime_min"'),
        ("[defaults]\nleave_out = ['coment']", 'did you mean "comment"'),
        ("[train]\nleave_out = ['array']", "set train.array = false"),
        ("[train]\narray = false\nparallel = 2", "parallel is a setting of arrays"),
        ("[train]\nnodes = 2\nlauncher = 'mpiexec'", 'several of them need "srun"'),
        ("[analyze]\nnodes = 2", "the stage is one process"),
        ("[statistics]\nlauncher = 'none'\nnodes = 2", "starts one process"),
        ("[defaults]\nwalltime_min = 2", "before the time limit of train, 120 s"),
        ("[defaults]\nsbatch = ['licenses=x']", '"defaults.sbatch'),
        ("[defaults]\nsetup = 3", '"defaults.setup"'),
        ("[defaults", "not valid TOML"),
    ],
)
def test_profiles_that_are_wrong_are_explained_once(tmp_path, toml, says):
    path = tmp_path / "site.toml"
    path.write_text(toml, encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(says)) as error:
        read_profile(path)
    assert str(error.value).count("\n") == 0


def test_a_profile_that_is_not_there_names_those_that_are(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=r"configs/clusters/local_test\.toml"):
        read_profile("configs/clusters/locl.toml")


def test_the_text_of_an_array_is_the_whole_job():
    values = {
        "defaults": {"account": "a", "modules": ["mpi/5"], "setup": ["source x.sh"], "environment": {"A": "b c"}},
        "train": {"gpus_per_node": 2, "memory_gb": 1.5, "walltime_min": 1500, "cpus_per_task": 4, "parallel": 1,
                  "sbatch": ["--licenses=scratch"]},
        "requeue": {"signal": "TERM", "signal_s": 60, "most": 5},
    }  # fmt: skip
    setting = replace(SETTING, overrides=("training.epochs=2",), overwrite=True)
    assert text(values, TRAIN, setting=setting) == (
        """#!/bin/bash
# e: train net1, train net2
#SBATCH --job-name=e-train
#SBATCH --output=/runs/e/jobs/0003/logs/train-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --chdir=/work
#SBATCH --array=0-1%1
#SBATCH --account=a
#SBATCH --time=1-01:00:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-node=2
#SBATCH --mem=1536M
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
#SBATCH --comment=/runs/e
#SBATCH --licenses=scratch

source x.sh
module load mpi/5 || { echo "module mpi/5 could not be loaded" >&2; exit 1; }
export PYTHONPATH=/runs/e/jobs/code-1:/mine
export A='b c'
nets=(net1 net2)
net=${nets[$SLURM_ARRAY_TASK_ID]}

exec /env/bin/python -P -m slurm.wrapper --jobs /runs/e/jobs --submission 3 --requeue scontrol --most 5 """
        """--piece "train $net" -- \\
  srun --ntasks 1 --cpus-per-task 4 \\
  /env/bin/python -P -m convergence train /runs/e/jobs/0003/config.toml --runs /runs --set training.epochs=2 """
        """--overwrite --net "$net"
"""
    )


def test_ranks_and_dependencies_of_the_statistics():
    values = {"statistics": {"nodes": 2, "tasks_per_node": 4, "launcher_arguments": ["--mpi=pmi2"]}}
    found = text(values, STATISTICS, "afterok:12")
    assert "#SBATCH --dependency=afterok:12\n#SBATCH --kill-on-invalid-dep=yes" in found
    assert "  srun --ntasks 8 --mpi=pmi2 \\\n" in found
    values["statistics"]["launcher"] = "mpiexec"
    assert "  mpiexec -n 8 --mpi=pmi2 \\\n" in text(values, STATISTICS, "afterok:12")
    alone = text({"report": {"launcher": "none"}}, graph.Job("report", "report", ("report",)))
    assert "srun" not in alone
    assert "-- \\\n  /env/bin/python -P -m convergence report" in alone


def test_several_processes_of_one_net():
    found = text({"train": {"nodes": 2, "tasks_per_node": 4, "gpus_per_node": 4}}, TRAIN)
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=4\n#SBATCH --gpus-per-node=4\n" in found
    assert "  srun --ntasks 8 \\\n" in found


@pytest.mark.parametrize("option", AVOIDABLE)
def test_no_option_is_unavoidable(option):
    by = "chain" if option == "no-requeue" else "scontrol"
    gpu = {"gpus_per_node": 1, "gpu_option": "gres" if option == "gres" else "gpus-per-node", "gpu_type": "a100"}
    full = {"partition": "p", "account": "a", "qos": "q", "constraint": "c", "reservation": "r", "memory_gb": 1,
            "cpus_per_task": 1, **gpu}  # fmt: skip
    there = text({"statistics": full, "requeue": {"by": by}}, STATISTICS, "afterok:1")
    left_out = text(
        {"statistics": full | {"leave_out": [f"--{option}"]}, "requeue": {"by": by}}, STATISTICS, "afterok:1"
    )
    gone = set(there.splitlines()) - set(left_out.splitlines())
    assert len(gone) == 1
    assert gone.pop().startswith(f"#SBATCH --{option}")


def test_scripts_are_shell(tmp_path):
    awkward = replace(SETTING, run=Path("/my runs/it's $HOME"), overrides=("report.title=a 'b' \"c\"",))
    for values, job in (({}, TRAIN), ({"train": {"nodes": 2}}, TRAIN), ({}, STATISTICS)):
        found = text(values, job, setting=awkward)
        subprocess.run(["bash", "-n"], input=found, text=True, check=True)
    echoed = found.replace("exec /env/bin/python", "printf '%s\\n'")
    words = subprocess.run(["bash"], input=echoed, text=True, capture_output=True, check=True).stdout.splitlines()
    assert "/my runs/it's $HOME/jobs" in words
    assert "report.title=a 'b' \"c\"" in words


def test_only_what_is_missing_becomes_jobs(tiny_config, tiny_copy):
    folder = RunFolder(tiny_copy, read_config(tiny_config))
    assert graph.missing(folder) == []
    shutil.rmtree(tiny_copy / "nets" / "net2")
    (tiny_copy / "report.json").unlink()
    jobs = graph.jobs(graph.missing(folder), profile())
    assert [(job.name, job.pieces, job.after) for job in jobs] == [
        ("train", ("train net2",), ()),
        ("report", ("report",), ("train",)),
    ]
    changed = RunFolder(tiny_copy, read_config(tiny_config, ["analysis.rotations=5"]))
    assert [job.stage for job in graph.jobs(graph.missing(changed), profile())] == ["train", "analyze", "report"]


def test_chains_and_sites_without_arrays(tiny_config, tmp_path):
    works = graph.missing(RunFolder(tmp_path / "tiny", read_config(tiny_config)))
    jobs = graph.jobs(works, profile(train={"array": False}, requeue={"by": "chain", "most": 1}))
    by_name = {job.name: job for job in jobs}
    assert len(jobs) == 2 * (4 + 4)
    assert by_name["train-net1-link2"].after_any == ("train-net1-link1",)
    nets = ("net1", "net2", "untrained1", "untrained2")
    for link in (1, 2):
        assert by_name[f"statistics-link{link}"].after == tuple(f"train-{net}-link2" for net in nets)
    assert by_name["report-link2"].after == ("analyze-link2",)
    assert by_name["report-link1"].after_any == ("pictures-link2",)
    assert by_name["report-link2"].after_any == ("report-link1",)


def test_the_report_waits_for_optional_stages_and_does_without(tiny_config, tiny_copy, monkeypatch):
    """Each waits for the analysis alone; the report for all of them, however they end, and is made again after them."""
    works = [StageTask(f"{name}", (), Path(f"{name}.json"), {}) for name in ("analyze", "one", "two", "report")]
    monkeypatch.setattr(graph, "STAGES", tuple(work.name for work in works))
    monkeypatch.setattr(graph, "OPTIONAL", {"one", "two"})
    found = {job.name: (job.after, job.after_any) for job in graph.jobs(works, profile())}
    assert found["one"] == found["two"] == (("analyze",), ())
    assert found["report"] == (("analyze",), ("one", "two"))
    monkeypatch.undo()
    (tiny_copy / "pictures.json").unlink()
    jobs = graph.jobs(graph.missing(RunFolder(tiny_copy, read_config(tiny_config))), profile())
    assert [(job.name, job.after, job.after_any) for job in jobs] == [
        ("pictures", (), ()),
        ("report", (), ("pictures",)),
    ]


def test_dry_run_is_what_is_submitted(fake, tiny_config, tmp_path, capsys):
    options = arguments(tiny_config, tmp_path)
    assert main(["submit", *options, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert not (tmp_path / "runs").exists(), "a dry run writes nothing"
    assert main(["submit", *options]) == 0
    told = capsys.readouterr().out
    shown = shown.replace("'afterok:<analyze>,afterany:<pictures>'", "afterok:103,afterany:104")
    for number, name in ((101, "train"), (102, "statistics"), (103, "analyze")):
        shown = shown.replace(f"'afterok:<{name}>'", f"afterok:{number}")
    assert shown == "\n".join((fake / f"{n}.sh").read_text(encoding="utf-8") for n in range(101, 106)) + "\n"
    assert "102      statistics         statistics, after train" in told
    assert "105      report             report, after analyze, pictures" in told
    records = Records(tmp_path / "runs" / "tiny" / "jobs")
    found = records.latest()
    assert [job.job for job in found.jobs] == ["101", "102", "103", "104", "105"]
    assert found.complete
    assert found.jobs[0].member("train untrained1") == "101_2"
    folder = records.submission_folder(1)
    assert (folder / "config.toml").read_bytes() == tiny_config.read_bytes()
    assert (folder / found.jobs[1].script).read_text(encoding="utf-8") == (fake / "102.sh").read_text(encoding="utf-8")
    assert found.environment["python"] == sys.executable
    assert not list(folder.glob("*.pkl"))


def test_jobs_run_a_copy_of_the_code(fake, tiny_config, tmp_path):
    assert main(["submit", *arguments(tiny_config, tmp_path)]) == 0
    (code,) = (tmp_path / "runs" / "tiny" / "jobs").glob("code-*")
    environ = os.environ | {"PYTHONPATH": str(code)}
    program = (
        "import convergence, hpc, slurm.wrapper; from convergence.provenance import provenance\n"
        "print(convergence.__file__); print(provenance().get('git commit'))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environ, cwd=ROOT, capture_output=True, text=True, check=True
    )
    where, commit = done.stdout.splitlines()
    assert Path(where).is_relative_to(code)
    kept = code / COMMIT_FILE
    assert commit == (kept.read_text(encoding="utf-8").strip() if kept.exists() else "None")
    assert source.keep(code.parent) == code, "the same code is kept once"


def test_the_second_of_two_submits_at_a_time_is_told(fake, tiny_config, tmp_path, monkeypatch):
    command = [sys.executable, "-m", "convergence", "submit", *arguments(tiny_config, tmp_path)]
    environ = os.environ | {"SBATCH_SLEEP": "1"}
    both = [
        subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    says = [process.communicate(timeout=60) for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    loser = says[0 if both[0].returncode else 1][1]
    assert "somebody is submitting this run just now" in loser
    assert len(list(fake.glob("1*.sh"))) == 5


def test_a_lock_of_the_dead_is_taken(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / "lock").write_text(json.dumps({"host": socket.gethostname(), "pid": gone.pid, "since": 0}))
    with lock.lock(tmp_path):
        assert (tmp_path / "lock").exists()
        with pytest.raises(UserError, match="just now"), lock.lock(tmp_path):
            pass
    assert not (tmp_path / "lock").exists()
    (tmp_path / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": 0}))
    with pytest.raises(UserError, match="elsewhere"), lock.lock(tmp_path):
        pass
    old = time.time() - 2 * lock.OLD_LOCK_S
    os.utime(tmp_path / "lock", (old, old))
    with lock.lock(tmp_path):
        pass


def test_submit_refuses_while_jobs_live_and_goes_on_after(fake, tiny_config, tmp_path, capsys):
    options = arguments(tiny_config, tmp_path)
    assert main(["submit", *options]) == 0
    (fake / "queue").write_text("101_0|RUNNING|None|n1|0:10|x\n102|PENDING|Dependency||0:00|x\n", encoding="utf-8")
    assert main(["submit", *options]) == 2
    assert "101_0 (running), 102 (pending)" in capsys.readouterr().err
    (fake / "queue").write_text("102|PENDING|DependencyNeverSatisfied||0:00|x\n", encoding="utf-8")
    assert main(["submit", *options]) == 0
    assert (fake / "cancelled").read_text().split() == ["102"]
    unrecorded = f"900|PENDING|Priority||0:00|{tmp_path / 'runs' / 'tiny'}\n"
    (fake / "queue").write_text(unrecorded, encoding="utf-8")
    assert main(["submit", *options]) == 2
    assert "900 (pending)" in capsys.readouterr().err
    (fake / "silent").touch()
    assert main(["submit", *options]) == 2
    assert "squeue does not answer" in capsys.readouterr().err


def test_a_refused_job_takes_back_those_before_it(fake, tiny_config, tmp_path, capsys):
    options = arguments(tiny_config, tmp_path, "[analyze]\npartition = 'refused-partition'\n")
    assert main(["submit", *options]) == 2
    assert "sbatch refused a job" in capsys.readouterr().err
    assert (fake / "cancelled").read_text().split() == ["101", "102"]
    assert not Records(tmp_path / "runs" / "tiny" / "jobs").latest().complete
    assert main(["submit", *arguments(tiny_config, tmp_path)]) == 0
