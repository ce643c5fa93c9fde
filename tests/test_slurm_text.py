"""Jobs as text, the records, the judgements and the wrapper, without a Slurm: its commands are small scripts here."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from convergence.cli import CLUSTER_VERBS, main
from convergence.config import read_config
from convergence.errors import ConfigError, UserError
from convergence.provenance import COMMIT_FILE
from convergence.runs import RunFolder, Work
from slurm import doctor, graph, lock, scheduler, source, wrapper
from slurm.logs import follow
from slurm.plan import plan, readable_time, stage_plans
from slurm.profile import AVOIDABLE, ClusterProfile, read_profile
from slurm.reasons import reason_of
from slurm.records import Attempt, Records, Submission, SubmittedJob
from slurm.scheduler import Queued, read_queue
from slurm.script import Setting, script
from slurm.status import Evidence, judge
from slurm.successor import succeed
from slurm.verbs import VERBS

ROOT = Path(__file__).parents[1]
FAKES = {
    "srun": "#!/bin/sh\n",
    "sbatch": """#!/bin/sh
sleep ${SBATCH_SLEEP:-0}
for file; do :; done
grep -q refused-partition "$file" && { echo "invalid partition specified" >&2; exit 1; }
n=$(($(cat "$FAKE/next" 2>/dev/null || echo 100) + 1)); echo $n >"$FAKE/next"
cp "$file" "$FAKE/$n.sh"; echo "$@" >"$FAKE/$n.arguments"
case $1 in --parsable) echo "$n";; *) echo "Submitted batch job $n";; esac
""",
    "squeue": """#!/bin/sh
[ ! -e "$FAKE/silent" ] || { echo "Unable to contact slurm controller" >&2; exit 1; }
cat "$FAKE/queue" 2>/dev/null || true
""",
    "scancel": '#!/bin/sh\necho "$@" >>"$FAKE/cancelled"\n',
    "scontrol": """#!/bin/sh
case $1 in
  requeue)
    [ ! -e "$FAKE/forbidden" ] || { echo "Access/permission denied" >&2; exit 1; }
    echo "$2" >>"$FAKE/requeued" ;;
  show)
    state=$(cat "$FAKE/state" 2>/dev/null || echo RUNNING)
    echo "JobId=$4 JobState=$state Restarts=$(cat "$FAKE/restarts" 2>/dev/null || echo 0)" \\
      "Dependency=$(cat "$FAKE/dependency" 2>/dev/null || echo "(null)")" ;;
  update)
    [ ! -e "$FAKE/unchangeable" ] || { echo "Access/permission denied" >&2; exit 1; }
    echo "$2 $3" >>"$FAKE/updated" ;;
esac
""",
    "sacct": '#!/bin/sh\necho "Slurm accounting storage is disabled" >&2; exit 1\n',
}


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Path:
    """Slurm's commands as scripts that keep what they were told in this folder."""
    folder = tmp_path / "fake"
    (folder / "bin").mkdir(parents=True)
    for name, text in FAKES.items():
        (folder / "bin" / name).write_text(text, encoding="utf-8")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return folder


def profile(**values) -> ClusterProfile:
    return ClusterProfile.model_validate(values)


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
    works = [Work(f"{name}", (), Path(f"{name}.json"), {}) for name in ("analyze", "one", "two", "report")]
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


def arguments(config: Path, tmp_path: Path, cluster: str = "") -> list[str]:
    site = tmp_path / "site.toml"
    site.write_text(cluster or "[defaults]\npartition = 'p'\n", encoding="utf-8")
    return [str(config), "--runs", str(tmp_path / "runs"), "--cluster", str(site)]


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


BY_TERM = {"state": "stopped", "reason": "by SIGTERM"}
ATTEMPT = Attempt("statistics", 1, "7", 0, "n1", socket.gethostname(), 1, "/log", "2026-01-01T00:00:00.000+00:00")
EVIDENCE = Evidence(False, None, (), ("7",), {}, {})


def queued(state: str, reason: str = "None") -> dict[str, Queued]:
    return {"7": Queued("7", state, reason, "n1", "1:00", "")}


@pytest.mark.parametrize(
    ("changes", "word", "about"),
    [
        ({"is_done": True, "seconds": 4.0}, "done", "4.0 s"),
        ({"jobs": ()}, "missing", "not submitted"),
        ({"queued": queued("PENDING", "Priority")}, "waiting", "job 7: Priority"),
        ({"queued": queued("RUNNING")}, "running", "just started"),
        ({"attempts": [ATTEMPT], "queued": queued("RUNNING")}, "running", "job 7 on n1 since 2026-01-01T00:00:00"),
        ({"attempts": [ATTEMPT], "queued": None, "silence_s": 600.0}, "running", "no sign of life for 10 min"),
        ({"attempts": [ATTEMPT], "queued": queued("PENDING", "BeginTime")}, "waiting", "BeginTime"),
        ({"attempts": [ATTEMPT], "queued": queued("TIMEOUT")}, "failed", "TIMEOUT"),
        ({"attempts": [ATTEMPT], "ended": {"7": "NODE_FAIL"}}, "failed", "NODE_FAIL"),
        ({"attempts": [ATTEMPT], "ended": {"7": "OUT_OF_MEMORY"}}, "failed", "OOM"),
        ({"attempts": [ATTEMPT], "log": ("slurmstepd: error: Detected 1 oom-kill event(s)",)}, "failed", "OOM"),
        ({"attempts": [ATTEMPT]}, "failed", "without a word"),
        ({"attempts": [replace(ATTEMPT, state="failed", reason="KeyError: 'x'")]}, "failed", "KeyError"),
        ({"attempts": [replace(ATTEMPT, **BY_TERM)]}, "stopped", "submit again"),
        (
            {"attempts": [replace(ATTEMPT, **BY_TERM)], "queued": queued("PENDING", "BeginTime")},
            "waiting", "by SIGTERM",
        ),
        ({"attempts": [replace(ATTEMPT, state="stopped")], "queued": queued("CANCELLED")}, "cancelled", "is kept"),
        ({"queued": queued("CANCELLED")}, "not run", "cancelled"),
        ({"queued": queued("CANCELLED", "DependencyNeverSatisfied")}, "not run", "did not end well"),
        ({"queued": queued("PENDING", "DependencyNeverSatisfied")}, "not run", "what it waits for did not end well"),
        ({"log": ("bash: /env/bin/python: No such file",), "queued": queued("FAILED")}, "failed", "exit code 1"),
        ({"queued": None}, "waiting", "the scheduler does not answer"),
    ],
)  # fmt: skip
def test_where_a_piece_stands(changes, word, about):
    found = judge("statistics", replace(EVIDENCE, **changes))
    assert found.word == word
    assert about in found.about


@pytest.mark.parametrize(
    ("code", "tail", "says"),
    [
        (1, ["Traceback (most recent call last):", "  x", "ZeroDivisionError: division by zero", "srun: error: n1"],
         "ZeroDivisionError: division by zero"),
        (2, ["convergence: nets/net1: the loss became nan", "srun: error: n1"], "nets/net1: the loss became nan"),
        (137, ["slurmstepd: error: Detected 1 oom_kill event in StepId=1.0"], "OOM"),
        (1, ["torch.OutOfMemoryError: CUDA out of memory. Tried"], "OOM: the GPU's memory ran out"),
        (1, ["numpy._core._exceptions._ArrayMemoryError: Unable to allocate 3 TiB"], "OOM"),
        (143, ["slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-01-01 DUE TO TIME LIMIT ***"], "TIMEOUT"),
        (1, ["slurmstepd: *** JOB 5 ON n1 CANCELLED AT 2026-01-01 DUE TO NODE FAILURE ***"], "NODE_FAIL"),
        (137, [], "killed by SIGKILL: memory ran out, most likely"),
        (139, [], "killed by SIGSEGV"),
        (3, ["hello"], "exit code 3"),
    ],
)  # fmt: skip
def test_why_a_stage_ended(code, tail, says):
    assert says in reason_of(code, tail)


def test_the_queue_as_squeue_writes_it():
    found = read_queue(
        "12_3|RUNNING|None|n1|1:02|/runs/a|b\n13|PENDING|DependencyNeverSatisfied||0:00|(null)\nrubbish\n"
    )
    assert found["12_3"].comment == "/runs/a|b"
    assert found["12_3"].alive
    assert not found["13"].alive
    assert set(found) == {"12_3", "13"}


def test_commands_that_are_missing_or_hang_are_no_answer(fake, monkeypatch):
    assert scheduler.ended(["7"]) == {}, "no accounting"
    assert scheduler.ask("sleep", "5", timeout=0.1)[0] is False
    monkeypatch.setenv("PATH", "/nowhere")
    assert scheduler.queue() is None
    assert scheduler.now("7") is None
    assert "no command scancel" in scheduler.cancel(["7"])


def start(tmp_path: Path, program: str, requeue: str = "scontrol", most: int = 3, **environ) -> subprocess.Popen:
    """A wrapper round a Python program, as in job 7."""
    jobs = tmp_path / "jobs"
    command = [sys.executable, "-m", "slurm.wrapper", "--jobs", jobs, "--submission", "1", "--piece", "statistics"]
    command += ["--requeue", requeue, "--most", str(most), "--", sys.executable, "-c", program]
    variables = os.environ | {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"} | environ
    with (tmp_path / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log)


def attempts(tmp_path: Path) -> list[Attempt]:
    return Records(tmp_path / "jobs").attempts("statistics")


STOPPABLE = """
import signal, sys, time
def stop(*_): print("told to stop", flush=True); sys.exit(75)
signal.signal(signal.SIGUSR2, stop)
print("at work", flush=True)
time.sleep(30)
"""


def finish(tmp_path: Path) -> None:
    (tmp_path / "statistics.json").write_text('{"finished": "2026-01-01"}', encoding="utf-8")


def stop_at_work(tmp_path: Path, process: subprocess.Popen, number: int = signal.SIGUSR2) -> int:
    end = time.monotonic() + 30
    while b"at work" not in (tmp_path / "log").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(number)
    return process.wait(timeout=30)


def test_a_stage_that_ends_well_leaves_its_marker(fake, tmp_path):
    finish(tmp_path)
    assert start(tmp_path, "print('fine')").wait(timeout=30) == 0
    (found,) = attempts(tmp_path)
    assert (found.state, found.code, found.job, found.node) == ("done", 0, "7", "n1")
    assert found.log == str(tmp_path / "log")


def test_an_end_without_a_record_is_no_good_end(fake, tmp_path):
    assert start(tmp_path, "print('the launcher gave up')").wait(timeout=30) == 75
    assert attempts(tmp_path)[0].state == "stopped"
    assert (fake / "requeued").read_text().split() == ["7"]


def test_records_are_where_the_run_folder_has_them(tiny_config, tiny_copy):
    records = Records(tiny_copy / "jobs")
    for work in RunFolder(tiny_copy, read_config(tiny_config)).works():
        assert records.is_finished(work.name)
        work.record.unlink()
        assert not records.is_finished(work.name)


def test_a_stage_that_fails_leaves_its_last_lines(fake, tmp_path):
    (tmp_path / "log").write_text("of an attempt before: MemoryError\n", encoding="utf-8")
    assert start(tmp_path, "print('before', flush=True); {}['x']").wait(timeout=30) == 1
    (found,) = attempts(tmp_path)
    assert (found.state, found.reason) == ("failed", "KeyError: 'x'")
    assert found.tail[0] == "before"
    assert not (fake / "requeued").exists()


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_is_passed_on_and_the_job_put_back(fake, tmp_path, number):
    assert (
        stop_at_work(tmp_path, start(tmp_path, STOPPABLE, SLURM_ARRAY_JOB_ID="6", SLURM_ARRAY_TASK_ID="2"), number)
        == 75
    )
    (found,) = attempts(tmp_path)
    assert found.state == "stopped"
    assert found.tail[-1] == "told to stop"
    assert (fake / "requeued").read_text().split() == ["6_2"]


def test_a_signal_before_the_stage_can_listen_loses_nothing(fake, tmp_path):
    process = start(tmp_path, "print('at work', flush=True); import time; time.sleep(30)")
    assert stop_at_work(tmp_path, process) == 140
    assert attempts(tmp_path)[0].state == "stopped"
    assert (fake / "requeued").exists()


def test_a_cancelled_job_is_not_put_back(fake, tmp_path):
    (fake / "state").write_text("COMPLETING")
    process = start(tmp_path, STOPPABLE.replace("30", "2") + "sys.exit(75)")  # Slurm tells the steps itself
    assert stop_at_work(tmp_path, process, signal.SIGTERM) == 75
    (found,) = attempts(tmp_path)
    assert "as the job was ended" in found.reason
    assert "told to stop" not in found.tail
    assert not (fake / "requeued").exists()


def test_a_job_that_the_scheduler_puts_back_is_not_put_back_twice(fake, tmp_path):
    (fake / "state").write_text("COMPLETING")
    (fake / "restarts").write_text("1")
    assert start(tmp_path, "import sys; sys.exit(75)").wait(timeout=30) == 75
    assert "by the scheduler" in attempts(tmp_path)[0].reason
    assert not (fake / "requeued").exists()


def test_restarts_are_counted(fake, tmp_path):
    (fake / "restarts").write_text("3")
    assert start(tmp_path, "import sys; sys.exit(75)", SLURM_RESTART_COUNT="3").wait(timeout=30) == 75
    assert "for the last time" in attempts(tmp_path)[0].reason
    assert start(tmp_path, "print('never')", SLURM_RESTART_COUNT="4").wait(timeout=30) == 1
    assert "restarted 4 times" in attempts(tmp_path)[1].reason
    assert b"never" not in (tmp_path / "log").read_bytes()
    assert not (fake / "requeued").exists()


def test_a_requeue_that_is_forbidden_says_what_to_do(fake, tmp_path):
    (fake / "forbidden").touch()
    assert start(tmp_path, "import sys; sys.exit(75)").wait(timeout=30) == 75
    (found,) = attempts(tmp_path)
    assert found.state == "failed"
    assert 'requeue.by = "chain"' in found.reason


def keep_submission(tmp_path: Path) -> Records:
    """Submission 1: job 7 is the statistics, what waits for it 8 and 9."""
    records = Records(tmp_path / "jobs")
    records.submission_folder(1).mkdir(parents=True)
    (records.submission_folder(1) / "7.sh").write_text("#!/bin/sh\n", encoding="utf-8")
    waiting = {"statistics": ("7", (), ()), "analyze": ("8", ("statistics",), ()),
               "report": ("9", ("analyze",), ("statistics",))}  # fmt: skip
    jobs = [
        SubmittedJob(name, name, (name,), False, after, job, f"/logs/{name}-%j", "7.sh", after_any)
        for name, (job, after, after_any) in waiting.items()
    ]
    records.write_submission(Submission(1, "now", "site.toml", "x.toml", (), {}, tuple(jobs), True))
    return records


def test_a_job_whose_requeue_is_forbidden_has_another_go_on_in_its_place(fake, tmp_path):
    """It ends as one that did its part, what waits for it waits for the other, and turns are counted over both."""
    records = keep_submission(tmp_path)
    (fake / "forbidden").touch()
    (fake / "dependency").write_text("afterok:7(unfulfilled),afterany:3_*(unfulfilled)", encoding="utf-8")
    assert start(tmp_path, "import sys; sys.exit(75)", most=1, SLURM_RESTART_COUNT="0").wait(timeout=30) == 0
    (found,) = attempts(tmp_path)
    assert found.state == "stopped"
    assert "job 101 goes on in its place" in found.reason
    assert (fake / "101.arguments").read_text().split()[:2] == ["--parsable", "--dependency=afterany:7"]
    assert (fake / "updated").read_text().splitlines() == [
        "jobid=8 dependency=afterok:7,afterany:3,afterok:101",
        "jobid=9 dependency=afterok:7,afterany:3,afterany:101",
    ]
    assert [job.job for job in records.latest().jobs_of("statistics")] == ["7", "101"]
    assert start(tmp_path, "import sys; sys.exit(75)", most=1, SLURM_JOB_ID="101").wait(timeout=30) == 75
    assert "for the last time: requeue.most of the profile is 1" in attempts(tmp_path)[-1].reason
    assert not (fake / "102.sh").exists()


def test_a_member_of_an_array_is_followed_by_the_same_member(fake, tmp_path):
    nets = ("train net1", "train net2", "train net3")
    array = SubmittedJob("train", "train", nets, True, (), "6", "/logs/train-%A_%a", "7.sh")
    records = keep_submission(tmp_path)
    records.write_submission(replace(records.latest(), jobs=(array,)))
    mine = replace(ATTEMPT, piece="train net3", job="6_2")
    assert succeed(records, mine) == "101"
    assert (fake / "101.arguments").read_text().split()[1:3] == ["--dependency=afterany:6_2", "--array=2"]
    follower = records.latest().jobs_of("train net3")[-1]
    assert (follower.member("train net3"), follower.log_of("train net3")) == ("101_2", Path("/logs/train-101_2"))
    assert len(records.latest().jobs_of("train net1")) == 1
    assert succeed(records, replace(mine, job="101_2")) == "102"
    assert (fake / "102.arguments").read_text().split()[1:3] == ["--dependency=afterany:101_2", "--array=2"]


def test_a_successor_that_nobody_can_wait_for_is_taken_back(fake, tmp_path):
    records = keep_submission(tmp_path)
    (fake / "forbidden").touch()
    (fake / "unchangeable").touch()
    assert start(tmp_path, "import sys; sys.exit(75)").wait(timeout=30) == 75
    (found,) = attempts(tmp_path)
    assert found.state == "failed"
    assert "job 8 could not be told to wait" in found.reason
    assert (fake / "cancelled").read_text().split() == ["101"]
    assert len(records.latest().jobs) == 3


def test_a_link_of_a_chain_does_not_repeat_a_failure(fake, tmp_path):
    assert start(tmp_path, "raise ValueError(1)", "chain").wait(timeout=30) == 1
    assert start(tmp_path, "print('again')", "chain", SLURM_JOB_ID="8").wait(timeout=30) == 1
    assert [found.job for found in attempts(tmp_path)] == ["7"]
    assert b"again" not in (tmp_path / "log").read_bytes()


def test_an_attempt_whose_process_died_is_lost_and_the_next_goes_on(fake, tmp_path):
    process = start(tmp_path, STOPPABLE)
    while not attempts(tmp_path):
        time.sleep(0.05)
    process.kill()
    process.wait()
    finish(tmp_path)
    assert start(tmp_path, "print('goes on')", SLURM_RESTART_COUNT="1").wait(timeout=30) == 0
    assert [found.state for found in attempts(tmp_path)] == ["lost", "done"]


def test_nothing_runs_beside_an_attempt_that_lives_elsewhere(tmp_path, monkeypatch):
    """A node that lost its connection goes on: its marker keeps being touched, and the second attempt refuses."""
    finish(tmp_path)
    monkeypatch.setattr(wrapper, "BEAT_S", 1.0)
    records = Records(tmp_path / "jobs")
    elsewhere = replace(ATTEMPT, host="elsewhere", pid=os.getpid())
    records.write_attempt(elsewhere)
    alive = True

    def beat():
        stamp = time.time()
        while alive:
            stamp += 1
            os.utime(records.attempt_path(elsewhere), (stamp, stamp))
            time.sleep(0.2)

    thread = threading.Thread(target=beat)
    thread.start()
    mine = replace(wrapper.this_attempt("statistics", 1, {"SLURM_JOB_ID": "8"}), log=str(tmp_path / "log"))
    try:
        assert wrapper.Wrapper(records, mine, "scontrol", 3).run(["touch", str(tmp_path / "ran")]) == 1
    finally:
        alive = False
        thread.join()
    assert not (tmp_path / "ran").exists()
    assert "nothing runs twice" in records.attempts("statistics")[-1].reason
    again = replace(mine, job="9", started="2099-01-01")
    assert wrapper.Wrapper(records, again, "scontrol", 3).run(["touch", str(tmp_path / "ran")]) == 0
    assert (tmp_path / "ran").exists()
    assert [found.state for found in records.attempts("statistics")] == ["lost", "failed", "done"]


def test_a_running_job_shows_that_it_lives(tmp_path, monkeypatch):
    finish(tmp_path)
    monkeypatch.setattr(wrapper, "BEAT_S", 0.1)
    records = Records(tmp_path / "jobs")
    mine = replace(wrapper.this_attempt("statistics", 1, {"SLURM_JOB_ID": "8"}), log=str(tmp_path / "log"))
    beats = []
    monkeypatch.setattr(records, "beat", lambda attempt: beats.append(attempt.job))
    assert wrapper.Wrapper(records, mine, "none", 3).run(["sleep", "1.2"]) == 0
    assert beats


def test_damaged_records_are_named(tmp_path):
    records = Records(tmp_path)
    records.write_attempt(ATTEMPT)
    assert records.attempts("statistics") == [ATTEMPT]
    records.attempt_path(ATTEMPT).write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        records.attempts("statistics")


def test_status_logs_and_cancel_of_a_run(fake, tiny_config, tmp_path, capsys):
    options = arguments(tiny_config, tmp_path)
    runs = ["--runs", str(tmp_path / "runs")]
    assert main(["status", str(tiny_config), *runs]) == 0
    assert "never submitted" in capsys.readouterr().out
    assert main(["logs", str(tiny_config), *runs]) == 2
    assert main(["submit", *options]) == 0
    (fake / "queue").write_text("101_0|RUNNING|None|n1|0:10|x\n102|PENDING|Dependency||0:00|x\n", encoding="utf-8")
    records = Records(tmp_path / "runs" / "tiny" / "jobs")
    log = records.latest().jobs[0].log_of("train net2")
    log.write_text("line 1\nKeyError: 'x'\n", encoding="utf-8")
    failed = replace(
        ATTEMPT,
        piece="train net2",
        job="101_1",
        state="failed",
        reason="KeyError: 'x'",
        tail=("KeyError: 'x'",),
        log=str(log),
    )
    records.write_attempt(failed)
    capsys.readouterr()
    assert main(["status", str(tmp_path / "runs" / "tiny")]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "train net1 running job 101_0 on n1, just started" in lines
    assert "train net2 failed job 101_1 on n1: KeyError: 'x'" in lines
    assert "| KeyError: 'x'" in lines
    assert "statistics waiting job 102: Dependency" in lines
    assert main(["logs", str(tiny_config), "--piece", "net2", "--lines", "1", *runs]) == 0
    assert capsys.readouterr().out == f"== train net2: {log}\nKeyError: 'x'\n"
    assert main(["logs", str(tiny_config), "--piece", "net7", *runs]) == 2
    assert 'did you mean "net' in capsys.readouterr().err
    assert main(["cancel", str(tiny_config), *runs]) == 0
    assert (fake / "cancelled").read_text().split() == ["101_0", "102"]
    (fake / "queue").unlink()
    capsys.readouterr()
    assert main(["status", str(tiny_config), *runs]) == 0
    found = capsys.readouterr().out
    assert ", cancelled " in found
    assert "`convergence submit` with the same config runs what is missing" in found
    (fake / "silent").touch()
    assert main(["status", str(tiny_config), *runs]) == 0


def test_logs_are_followed_over_attempts_until_all_is_over(fake, tiny_config, tmp_path):
    assert main(["submit", *arguments(tiny_config, tmp_path)]) == 0
    (fake / "queue").write_text("101_0|RUNNING|None|n1|0:10|x\n", encoding="utf-8")
    records = Records(tmp_path / "runs" / "tiny" / "jobs")
    first = records.latest().jobs[0].log_of("train net1")
    first.write_text("old\nlast\nhalf a", encoding="utf-8")
    lines = follow(str(tmp_path / "runs" / "tiny"), "", ["net1"], 2, every_s=0.01)
    assert [next(lines), next(lines)] == [f"== train net1: {first}", "last"]
    with first.open("a", encoding="utf-8") as file:
        file.write(" line\n")
    assert next(lines) == "half a line"
    other = first.with_name("other.log")
    other.write_text("again\nfrom the start\nto the end\n", encoding="utf-8")
    records.write_attempt(replace(ATTEMPT, piece="train net1", job="120_0", log=str(other)))
    assert next(lines) == f"== train net1: {other}"
    (fake / "queue").unlink()
    assert list(lines) == ["again", "from the start", "to the end"]


def test_a_plan_counts_what_is_missing(tiny_config, tiny_copy, tmp_path):
    shutil.rmtree(tiny_copy / "nets" / "net2")
    site = tmp_path / "site.toml"
    site.write_text(
        "[train]\ngpus_per_node = 2\nwalltime_min = 90\nparallel = 1\n[statistics]\nnodes = 3\nwalltime_min = 60\n",
        encoding="utf-8",
    )
    seen = plan(str(tiny_config), ["statistics.seed=1"], str(tiny_copy.parent), str(site))
    assert "5 pieces are missing, 3 are done; 5 sbatch jobs" in seen
    assert "at most 3 GPU-hours and 7.5 core-hours" in seen
    assert "by earlier runs" in seen
    folder = RunFolder(tiny_copy, read_config(tiny_config))
    (train,) = [p for p in stage_plans(folder, graph.missing(folder), read_profile(site)) if p.stage == "train"]
    assert train.estimate_s == pytest.approx(json.loads((tiny_copy / "nets/net1/record.json").read_text())["seconds"])
    size = float(re.search(r"([\d.]+) kB  statistics\.h5,", seen)[1])
    with h5py.File(tiny_copy / "statistics.h5") as file:
        stored = [file[f"comparisons/{name}"] for name in ("conv1", "conv2", "fc1")]
        arrays = [item for place in stored for item in place.values() if isinstance(item, h5py.Dataset)]
        assert size == pytest.approx(sum(item.nbytes for item in arrays) / 1e3, rel=0.05)
    assert [line.split()[0] for line in seen.splitlines()[-6:]] == [
        *("train",) * 2,
        *("statistics",) * 2,
        "analyze",
        "pictures",
    ]


@pytest.mark.parametrize(
    ("seconds", "says"), [(40, "40 s"), (720, "12 min"), (12000, "3 h 20 min"), (187200, "2 d 4 h")]
)
def test_times_are_readable(seconds, says):
    assert readable_time(seconds) == says


def test_doctor_finds_planted_faults(tmp_path, fake, monkeypatch):
    assert doctor.check_python((3, 10, 4)).word == "fault"
    assert doctor.check_python().word == "ok"
    skewed = doctor.check_clock(tmp_path, lambda: time.time() - 40)
    assert skewed.word == "fault"
    assert "+40" in skewed.says
    assert doctor.check_clock(tmp_path).word == "ok"
    assert doctor.check_locking(tmp_path).word == "ok"
    monkeypatch.setattr(doctor, "LOCKER", "import sys; sys.exit(0)")  # a file system that hands out locks twice
    assert "HDF5_USE_FILE_LOCKING" in doctor.check_locking(tmp_path).remedy
    assert doctor.check_ports("localhost").word == "ok"
    assert "getent" in doctor.check_ports("no-such-host.invalid").remedy
    singleton = doctor.check_mpi({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"})
    assert singleton.word == "fault"
    assert "--mpi=pmi2" in singleton.says
    assert doctor.check_mpi({}).word == "note"
    full = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: full)
    assert doctor.check_space(tmp_path).word == "fault"
    monkeypatch.setenv("PATH", "/nowhere")
    assert doctor.check_scheduler().word == "fault"
    monkeypatch.setattr(doctor, "check_python", lambda: 1 / 0)
    assert doctor.examine(tmp_path)[0].says.startswith("the check broke: ZeroDivisionError")


def test_doctor_prints_a_remedy_below_each_fault(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda place: [doctor.Finding("clock", "fault", "40 s off", "set it")])
    assert main(["doctor", "--runs", str(tmp_path / "not" / "there")]) == 2
    assert "fault clock         40 s off\n                    remedy: set it\n" in capsys.readouterr().out


def test_every_verb_of_the_command_has_its_function():
    assert set(VERBS) == set(CLUSTER_VERBS)
