"""Profiles, dependent jobs, scripts and submissions, with small scripts in place of Slurm's commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from convergence.cli import main
from convergence.config.load import read_config
from convergence.errors import ConfigError, UserError
from convergence.provenance import COMMIT_FILE
from convergence.runs.run_folder import RunFolder
from convergence.runs.tasks import StageTask
from slurm import jobs
from slurm.environment import script_lines
from slurm.jobs import Job, ScriptSettings, make_jobs, script_text, unfinished
from slurm.profile import SBATCH_OPTIONS, read_profile
from slurm.records import Records
from slurm.shell import module_lines
from slurm.submit import NOTHING, copy_code, dry_run
from tests.helpers.fake_slurm import ROOT, arguments, profile

SETTINGS = ScriptSettings("e", 3, Path("/runs/e"), "/env/bin/python", ("/runs/e/jobs/code-1", "/mine"), "/work")


def text(values: dict, job: Job, dependency: str = "", settings: ScriptSettings = SETTINGS) -> str:
    return script_text(profile(**values), job, settings, dependency)


TRAIN = Job("train", "train", ("train net1", "train net2"), array=True)


STATISTICS = Job("statistics", "statistics", ("statistics",), after=("train",))


def test_profiles_are_valid_and_start_with_a_comment():
    for path in (ROOT / "configs" / "clusters").glob("*.toml"):
        assert path.read_text(encoding="utf-8").startswith("# ")
        found = read_profile(path)
        assert found.train.partition == ("main" if path.name == "local_test.toml" else "gpu")
        assert found.report.memory_gb == found.defaults.memory_gb


FAULTS = [
    ("[defaults]\npartion = 'x'", 'unknown key "defaults.partion"; did you mean "partition"'),
    ("[trian]\nnodes = 1", 'did you mean "train"'),
    ("[train]\nwalltime_min = 0", '"train.walltime_min"'),
    ("[defaults]\nleave_out = ['coment']", 'did you mean "comment"'),
    ("[train]\nleave_out = ['array']", "set train.array = false to submit one job for each net"),
    ("[train]\narray = false\nparallel = 2", "parallel needs an array job"),
    ("[train]\nnodes = 2\nlauncher = 'mpiexec'", 'set launcher = "srun"'),
    ("[analyze]\nnodes = 2", "the stage runs as 1 process"),
    ("[statistics]\nlauncher = 'none'\nnodes = 2", "starts 1 process"),
    ("[defaults]\nwalltime_min = 2", "less than the time limit of train, 120 s"),
    ("[defaults]\nsbatch = ['licenses=x']", '"defaults.sbatch'),
    ("[defaults]\nsetup = 3", '"defaults.setup"'),
    ("[defaults", "not valid TOML"),
    ("[requeue]\nmost = 3", 'unknown key "requeue.most"; Known: max_requeues, method'),
]


def test_each_fault_of_a_profile_is_reported_once(tmp_path):
    path = tmp_path / "site.toml"
    for toml, message in FAULTS:
        path.write_text(toml, encoding="utf-8")
        with pytest.raises(ConfigError, match=re.escape(message)) as error:
            read_profile(path)
        assert str(error.value).count("\n") == 0


def test_missing_profile_lists_known_profiles(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=r"configs/clusters/local_test\.toml"):
        read_profile("configs/clusters/locl.toml")


def test_script_of_an_array_job():
    values = {
        "defaults": {"account": "a", "modules": ["mpi/5"], "setup": ["source x.sh"], "environment": {"A": "b c"}},
        "train": {"gpus_per_node": 2, "memory_gb": 1.5, "walltime_min": 1500, "cpus_per_task": 4, "parallel": 1,
                  "sbatch": ["--licenses=scratch"]},
        "requeue": {"signal": "TERM", "signal_s": 60, "max_requeues": 5},
    }  # fmt: skip
    settings = replace(SETTINGS, overrides=("training.epochs=2",), overwrite=True)
    assert text(values, TRAIN, settings=settings) == (
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

"""
        + "\n".join(script_lines())
        + """
source x.sh
"""
        + "\n".join(module_lines(["mpi/5"]))
        + """
export PYTHONPATH=/runs/e/jobs/code-1:/mine
export A='b c'
nets=(net1 net2)
net=${nets[$SLURM_ARRAY_TASK_ID]}

exec /env/bin/python -P -m slurm.job_runner --records /runs/e/jobs --submission 3 --requeue scontrol """
        """--max-requeues 5 --job "train $net" -- \\
  srun --ntasks 1 --cpus-per-task 4 \\
  /env/bin/python -P -m convergence train /runs/e/jobs/0003/config.toml --runs /runs --set training.epochs=2 """
        """--overwrite --net "$net"
"""
    )


def test_script_of_mpi_ranks_has_launcher_and_dependency():
    values = {"statistics": {"nodes": 2, "tasks_per_node": 4, "launcher_arguments": ["--mpi=pmi2"]}}
    found = text(values, STATISTICS, "afterok:12")
    assert "#SBATCH --dependency=afterok:12\n#SBATCH --kill-on-invalid-dep=yes" in found
    assert "  srun --ntasks 8 --mpi=pmi2 \\\n" in found
    values["statistics"]["launcher"] = "mpiexec"
    assert "  mpiexec -n 8 --mpi=pmi2 \\\n" in text(values, STATISTICS, "afterok:12")
    alone = text({"report": {"launcher": "none"}}, Job("report", "report", ("report",)))
    assert "srun" not in alone
    assert "-- \\\n  /env/bin/python -P -m convergence report" in alone


def test_script_of_one_net_on_several_nodes():
    found = text({"train": {"nodes": 2, "tasks_per_node": 4, "gpus_per_node": 4}}, TRAIN)
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=4\n#SBATCH --gpus-per-node=4\n" in found
    assert "  srun --ntasks 8 \\\n" in found


def test_every_option_can_be_left_out():
    full = {"partition": "p", "account": "a", "qos": "q", "constraint": "c", "reservation": "r", "memory_gb": 1,
            "cpus_per_task": 1, "gpus_per_node": 1, "gpu_type": "a100"}  # fmt: skip
    for option in SBATCH_OPTIONS:
        requeue = {"method": "chain" if option == "no-requeue" else "scontrol"}
        given = full | ({"gpu_option": "gres"} if option == "gres" else {})
        lines = [
            text({"statistics": given | extra, "requeue": requeue}, STATISTICS, "afterok:1").splitlines()
            for extra in ({}, {"leave_out": [f"--{option}"]})
        ]
        (gone,) = set(lines[0]) - set(lines[1])
        assert gone.startswith(f"#SBATCH --{option}")


def test_scripts_quote_paths_and_settings(tmp_path):
    awkward = replace(SETTINGS, run=Path("/my runs/it's $HOME"), overrides=("report.title=a 'b' \"c\"",))
    for values, job in (({}, TRAIN), ({"train": {"nodes": 2}}, TRAIN), ({}, STATISTICS)):
        found = text(values, job, settings=awkward)
        subprocess.run(["bash", "-n"], input=found, text=True, check=True)
    echoed = found.replace("exec /env/bin/python", "printf '%s\\n'")
    words = subprocess.run(["bash"], input=echoed, text=True, capture_output=True, check=True).stdout.splitlines()
    assert "/my runs/it's $HOME/jobs" in words
    assert "report.title=a 'b' \"c\"" in words


def test_only_unfinished_tasks_become_jobs(tiny_config, tiny_copy):
    folder = RunFolder(tiny_copy, read_config(tiny_config))
    assert unfinished(folder) == []
    runs = str(tiny_copy.parent)
    assert dry_run(str(tiny_config), [], runs, str(ROOT / "configs/clusters/local_test.toml")) == NOTHING
    shutil.rmtree(tiny_copy / "nets" / "net2")
    (tiny_copy / "report.json").unlink()
    found = make_jobs(unfinished(folder), profile())
    assert [(job.name, job.tasks, job.after) for job in found] == [
        ("train", ("train net2",), ()),
        ("report", ("report",), ("train",)),
    ]
    changed = RunFolder(tiny_copy, read_config(tiny_config, ["analysis.rotations=5"]))
    assert [job.stage for job in make_jobs(unfinished(changed), profile())] == ["train", "analyze", "report"]


def test_chain_of_jobs_without_arrays(tiny_config, tmp_path):
    works = unfinished(RunFolder(tmp_path / "tiny", read_config(tiny_config)))
    found = make_jobs(works, profile(train={"array": False}, requeue={"method": "chain", "max_requeues": 1}))
    by_name = {job.name: job for job in found}
    assert len(found) == 2 * (4 + 4)
    assert by_name["train-net1-link2"].after_any == ("train-net1-link1",)
    nets = ("net1", "net2", "untrained1", "untrained2")
    for link in (1, 2):
        assert by_name[f"statistics-link{link}"].after == tuple(f"train-{net}-link2" for net in nets)
    assert by_name["report-link2"].after == ("analyze-link2",)
    assert by_name["report-link1"].after_any == ("pictures-link2",)
    assert by_name["report-link2"].after_any == ("report-link1",)


def test_report_waits_for_the_end_of_optional_stages(tiny_config, tiny_copy, monkeypatch):
    """Optional stages depend on the analysis only; the report is repeated after them."""
    works = [StageTask(f"{name}", (), Path(f"{name}.json"), {}) for name in ("analyze", "one", "two", "report")]
    monkeypatch.setattr(jobs, "STAGES", tuple(work.name for work in works))
    monkeypatch.setattr(jobs, "OPTIONAL", {"one", "two"})
    found = {job.name: (job.after, job.after_any) for job in make_jobs(works, profile())}
    assert found["one"] == found["two"] == (("analyze",), ())
    assert found["report"] == (("analyze",), ("one", "two"))
    monkeypatch.undo()
    (tiny_copy / "pictures.json").unlink()
    repeated = make_jobs(unfinished(RunFolder(tiny_copy, read_config(tiny_config))), profile())
    assert [(job.name, job.after, job.after_any) for job in repeated] == [
        ("pictures", (), ()),
        ("report", (), ("pictures",)),
    ]


def test_dry_run_prints_the_submitted_scripts(fake, tiny_config, tmp_path, capsys):
    options = arguments(tiny_config, tmp_path)
    assert main(["submit", *options, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert not (tmp_path / "runs").exists(), "a dry run writes nothing"
    assert main(["submit", *options]) == 0
    printed = capsys.readouterr().out
    shown = shown.replace("'afterok:<analyze>,afterany:<pictures>'", "afterok:103,afterany:104")
    for number, name in ((101, "train"), (102, "statistics"), (103, "analyze")):
        shown = shown.replace(f"'afterok:<{name}>'", f"afterok:{number}")
    assert shown == "\n".join((fake / f"{n}.sh").read_text(encoding="utf-8") for n in range(101, 106)) + "\n"
    assert "102      statistics         statistics, after train" in printed
    assert "105      report             report, after analyze, pictures" in printed
    records = Records(tmp_path / "runs" / "tiny" / "jobs")
    found = records.latest()
    assert [job.job for job in found.jobs] == ["101", "102", "103", "104", "105"]
    assert found.complete
    assert found.jobs[0].job_id("train untrained1") == "101_2"
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
        "import convergence, hpc, slurm.job_runner; from convergence.provenance import provenance\n"
        "print(convergence.__file__); print(provenance().get('git commit'))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environ, cwd=ROOT, capture_output=True, text=True, check=True
    )
    where, commit = done.stdout.splitlines()
    assert Path(where).is_relative_to(code)
    kept = code / COMMIT_FILE
    assert commit == (kept.read_text(encoding="utf-8").strip() if kept.exists() else "None")
    assert copy_code(code.parent) == code, "the same code is copied once"


@pytest.mark.slow
def test_second_of_two_concurrent_submits_is_refused(fake, tiny_config, tmp_path):
    command = [sys.executable, "-m", "convergence", "submit", *arguments(tiny_config, tmp_path)]
    environ = os.environ | {"SBATCH_SLEEP": "1"}
    both = [
        subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    output = [process.communicate(timeout=60) for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    loser = output[0 if both[0].returncode else 1][1]
    assert "another process is submitting jobs of this run" in loser
    assert len(list(fake.glob("1*.sh"))) == 5


def test_lock_is_exclusive_and_released_by_a_killed_process(tmp_path):
    program = "import sys, time; from slurm.records import Records\n"
    program += "with Records(sys.argv[1]).lock(): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", program, tmp_path], cwd=ROOT, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="another process"), Records(tmp_path).lock():
        pass
    holder.kill()
    holder.communicate()
    with Records(tmp_path).lock():
        pass


def test_submit_is_refused_while_jobs_are_active(fake, tiny_config, tmp_path, capsys):
    options = arguments(tiny_config, tmp_path)
    assert main(["submit", *options]) == 0
    (fake / "queue").write_text("101_0|RUNNING|None|n1|x\n102|PENDING|Dependency||x\n", encoding="utf-8")
    assert main(["submit", *options]) == 2
    assert "101_0 (running), 102 (pending)" in capsys.readouterr().err
    (fake / "queue").write_text("102|PENDING|DependencyNeverSatisfied||x\n", encoding="utf-8")
    assert main(["submit", *options]) == 0
    assert (fake / "cancelled").read_text().split() == ["102"]
    unrecorded = f"900|PENDING|Priority||{tmp_path / 'runs' / 'tiny'}\n"
    (fake / "queue").write_text(unrecorded, encoding="utf-8")
    assert main(["submit", *options]) == 2
    assert "900 (pending)" in capsys.readouterr().err
    (fake / "silent").touch()
    assert main(["submit", *options]) == 2
    assert "squeue does not answer" in capsys.readouterr().err


def test_refused_job_cancels_the_jobs_before_it(fake, tiny_config, tmp_path, capsys):
    options = arguments(tiny_config, tmp_path, "[analyze]\npartition = 'refused-partition'\n")
    assert main(["submit", *options]) == 2
    assert "sbatch refused a job" in capsys.readouterr().err
    assert (fake / "cancelled").read_text().split() == ["101", "102"]
    assert not Records(tmp_path / "runs" / "tiny" / "jobs").latest().complete
    assert main(["submit", *arguments(tiny_config, tmp_path)]) == 0
