"""Output of status, logs, plan and doctor for planted evidence, without a Slurm."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import h5py
import pytest

from convergence.cli import main
from convergence.config.load import read_config
from convergence.runs.run_folder import RunFolder
from hpc.comm import SerialCommunicator
from slurm import doctor, slurm_commands
from slurm.estimate import estimate_run, estimate_stages, render
from slurm.jobs import unfinished
from slurm.profile import read_profile
from slurm.records import Records, failure_reason
from slurm.slurm_commands import QueuedJob, parse_accounting, parse_job, parse_queue
from slurm.status import Evidence, follow, judge, run_status
from tests.helpers.fake_slurm import ATTEMPT, ROOT, arguments

BY_TERM = {"state": "stopped", "reason": "by SIGTERM"}


EVIDENCE = Evidence(False, None, (), ("7",), {}, {})


def queued(state: str, reason: str = "None") -> dict[str, QueuedJob]:
    return {"7": QueuedJob("7", state, reason, "n1", "")}


STATES = [
        ({"is_done": True, "seconds": 4.0}, "done", "4.0 s"),
        ({"jobs": ()}, "missing", "not submitted"),
        ({"queued": queued("PENDING", "Priority")}, "waiting", "job 7: Priority"),
        ({"queued": queued("RUNNING")}, "running", "just started"),
        ({"attempts": [ATTEMPT], "queued": queued("RUNNING")}, "running", "job 7 on n1 since 2026-01-01T00:00:00"),
        ({"attempts": [ATTEMPT], "queued": None, "silence_s": 600.0}, "running", "no heartbeat for 10 min"),
        ({"attempts": [ATTEMPT], "queued": queued("PENDING", "BeginTime")}, "waiting", "BeginTime"),
        ({"attempts": [ATTEMPT], "queued": queued("TIMEOUT")}, "failed", "TIMEOUT"),
        ({"attempts": [ATTEMPT], "ended": {"7": "NODE_FAIL"}}, "failed", "NODE_FAIL"),
        ({"attempts": [ATTEMPT], "ended": {"7": "OUT_OF_MEMORY"}}, "failed", "OOM"),
        ({"attempts": [ATTEMPT], "log": ("slurmstepd: error: Detected 1 oom-kill event(s)",)}, "failed", "OOM"),
        ({"attempts": [ATTEMPT]}, "failed", "without a record"),
        ({"attempts": [replace(ATTEMPT, state="failed", reason="KeyError: 'x'")]}, "failed", "KeyError"),
        ({"attempts": [replace(ATTEMPT, **BY_TERM)]}, "stopped", "submit again"),
        (
            {"attempts": [replace(ATTEMPT, **BY_TERM)], "queued": queued("PENDING", "BeginTime")},
            "waiting", "by SIGTERM",
        ),
        ({"attempts": [replace(ATTEMPT, state="stopped")], "queued": queued("CANCELLED")}, "cancelled", "are kept"),
        ({"queued": queued("CANCELLED")}, "not run", "cancelled"),
        ({"queued": queued("CANCELLED", "DependencyNeverSatisfied")}, "not run", "a job that it depends on failed"),
        ({"queued": queued("PENDING", "DependencyNeverSatisfied")}, "not run", "a job that it depends on failed"),
        ({"log": ("bash: /env/bin/python: No such file",), "queued": queued("FAILED")}, "failed", "exit code 1"),
        ({"queued": None}, "waiting", "the scheduler does not answer"),
]  # fmt: skip


def test_state_of_a_task_follows_from_the_evidence():
    for changes, state, about in STATES:
        found = judge("statistics", replace(EVIDENCE, **changes))
        assert found.state == state, changes
        assert about in found.about


FAILURES = [
        (1, ["Traceback (most recent call last):", "  x", "ZeroDivisionError: division by zero", "srun: error: n1"],
         "ZeroDivisionError: division by zero"),
        (2, ["convergence: nets/net1: the loss became nan", "srun: error: n1"], "nets/net1: the loss became nan"),
        (137, ["slurmstepd: error: Detected 1 oom_kill event in StepId=1.0"], "OOM"),
        (1, ["torch.OutOfMemoryError: CUDA out of memory. Tried"], "OOM: the GPU ran out of memory"),
        (1, ["numpy._core._exceptions._ArrayMemoryError: Unable to allocate 3 TiB"], "OOM"),
        (143, ["slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-01-01 DUE TO TIME LIMIT ***"], "TIMEOUT"),
        (1, ["slurmstepd: *** JOB 5 ON n1 CANCELLED AT 2026-01-01 DUE TO NODE FAILURE ***"], "NODE_FAIL"),
        (137, [], "killed by SIGKILL, probably for lack of memory"),
        (139, [], "killed by SIGSEGV"),
        (3, ["hello"], "exit code 3"),
]  # fmt: skip


def test_failure_reason_follows_from_exit_code_and_last_lines():
    for code, tail, reason in FAILURES:
        assert reason in failure_reason(code, tail)


def test_outputs_of_slurm_commands_are_parsed():
    found = parse_queue(
        "12_3|RUNNING|None|n1|/runs/a|b|e-train\n13|PENDING|DependencyNeverSatisfied||(null)|x\nrubbish\n"
    )
    assert (found["12_3"].comment, found["12_3"].name) == ("/runs/a|b", "e-train")
    assert found["12_3"].is_active
    assert not found["13"].is_active
    assert set(found) == {"12_3", "13"}
    assert parse_accounting("7|CANCELLED by 0\n8|COMPLETED\n9|\n") == {"7": "CANCELLED", "8": "COMPLETED"}
    assert parse_job("JobId=7 JobState=RUNNING Restarts=2 Dependency=(null)") == slurm_commands.JobInfo(
        "RUNNING", 2, ""
    )
    waiting = parse_job("JobState=PENDING Dependency=afterok:7(unfulfilled),afterany:3_*(unfulfilled)")
    assert waiting.dependency == "afterok:7,afterany:3"
    assert parse_job("slurm_load_jobs error") is None


def test_missing_or_hanging_commands_give_no_answer(fake, monkeypatch):
    assert slurm_commands.ended_states(["7"]) == {}, "no accounting"
    assert slurm_commands.run_command("sleep", "5", timeout=0.1)[0] is False
    monkeypatch.setenv("PATH", "/nowhere")
    assert slurm_commands.queue() is None
    assert slurm_commands.job_info("7") is None
    assert "the command scancel is not installed" in slurm_commands.cancel(["7"])


def test_status_logs_and_cancel_show_planted_states(fake, tiny_config, tmp_path, capsys):
    options = arguments(tiny_config, tmp_path)
    runs = ["--runs", str(tmp_path / "runs")]
    assert main(["status", str(tiny_config), *runs]) == 0
    assert "never submitted" in capsys.readouterr().out
    assert main(["logs", str(tiny_config), *runs]) == 2
    assert main(["submit", *options]) == 0
    (fake / "queue").write_text("101_0|RUNNING|None|n1|x\n102|PENDING|Dependency||x\n", encoding="utf-8")
    records = Records(tmp_path / "runs" / "tiny" / "jobs")
    log = records.latest().jobs[0].log_path("train net2")
    log.write_text("line 1\nKeyError: 'x'\n", encoding="utf-8")
    failed = replace(
        ATTEMPT,
        task="train net2",
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
    assert main(["logs", str(tiny_config), "--job", "net2", "--lines", "1", *runs]) == 0
    assert capsys.readouterr().out == f"== train net2: {log}\nKeyError: 'x'\n"
    assert main(["logs", str(tiny_config), "--job", "net7", *runs]) == 2
    assert 'did you mean "net' in capsys.readouterr().err
    assert main(["cancel", str(tiny_config), *runs]) == 0
    assert (fake / "cancelled").read_text().split() == ["101_0", "102"]
    (fake / "queue").unlink()
    capsys.readouterr()
    assert main(["status", str(tiny_config), *runs]) == 0
    found = capsys.readouterr().out
    assert ", cancelled " in found
    assert "`convergence submit` with the same config runs the unfinished stages" in found
    (fake / "silent").touch()
    values = asdict(run_status(str(tiny_config), runs[1]))
    assert json.loads(json.dumps(values)) | {"jobs": None} == values | {"jobs": None}
    assert values["jobs"][1]["name"] == "train net2"
    assert values["jobs"][1]["state"] == "failed"


def test_logs_are_followed_over_attempts_until_the_last_ends(fake, tiny_config, tmp_path):
    assert main(["submit", *arguments(tiny_config, tmp_path)]) == 0
    (fake / "queue").write_text("101_0|RUNNING|None|n1|x\n", encoding="utf-8")
    records = Records(tmp_path / "runs" / "tiny" / "jobs")
    first = records.latest().jobs[0].log_path("train net1")
    first.write_text("old\nlast\nhalf a", encoding="utf-8")
    lines = follow(str(tmp_path / "runs" / "tiny"), "", ["net1"], 2, every_s=0.01)
    assert [next(lines), next(lines)] == [f"== train net1: {first}", "last"]
    with first.open("a", encoding="utf-8") as file:
        file.write(" line\n")
    assert next(lines) == "half a line"
    other = first.with_name("other.log")
    other.write_text("again\nfrom the start\nto the end\n", encoding="utf-8")
    records.write_attempt(replace(ATTEMPT, task="train net1", job="120_0", log=str(other)))
    assert next(lines) == f"== train net1: {other}"
    (fake / "queue").unlink()
    assert list(lines) == ["again", "from the start", "to the end"]


def test_plan_counts_unfinished_tasks(tiny_config, tiny_copy, tmp_path):
    shutil.rmtree(tiny_copy / "nets" / "net2")
    site = tmp_path / "site.toml"
    site.write_text(
        "[train]\ngpus_per_node = 2\nwalltime_min = 90\nparallel = 1\n[statistics]\nnodes = 3\nwalltime_min = 60\n",
        encoding="utf-8",
    )
    found = estimate_run(str(tiny_config), ["statistics.seed=1"], str(tiny_copy.parent), str(site))
    json.dumps(asdict(found))
    seen = render(found)
    assert "5 tasks to run, 3 done; 5 sbatch jobs" in seen
    assert "at most 3 GPU-hours and 7.5 core-hours" in seen
    assert "by earlier runs" in seen
    folder = RunFolder(tiny_copy, read_config(tiny_config))
    (train,) = [p for p in estimate_stages(folder, unfinished(folder), read_profile(site)) if p.stage == "train"]
    assert train.measured_s == pytest.approx(json.loads((tiny_copy / "nets/net1/record.json").read_text())["seconds"])
    number, prefix = re.search(r"([\d.]+) ([kM])B  statistics\.h5,", seen).groups()
    size = float(number) * (1000 if prefix == "M" else 1)  # in kB
    with h5py.File(tiny_copy / "statistics.h5") as file:
        stored = [file[f"comparisons/{name}"] for name in ("conv1", "conv2", "fc1")]
        pseudo_nets = ("null_products", "null_own")  # in a line of their own
        arrays = [
            item
            for place in stored
            for name, item in place.items()
            if isinstance(item, h5py.Dataset) and name not in pseudo_nets
        ]
        assert size == pytest.approx(sum(item.nbytes for item in arrays) / 1e3, rel=0.05)
    assert [line.split()[0] for line in seen.splitlines()[-8:]] == [
        *("train",) * 2,
        *("statistics",) * 4,
        "analyze",
        "pictures",
    ]


def test_doctor_reports_an_unreachable_port_of_another_rank():
    class Two(SerialCommunicator):
        def gather_bytes(self, value):
            return [value, other]

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        other = f"127.0.0.1:{port}".encode()
        assert doctor.check_ports(Two(), "localhost").level == "ok"
    found = doctor.check_ports(Two(), "localhost")
    assert found.level == "fault"
    assert f"no connection from localhost to 127.0.0.1:{port} (" in found.found


@pytest.mark.slow
def test_doctor_connects_to_the_ports_of_all_ranks(tmp_path):
    command = ["mpiexec", "-n", "2", sys.executable, "-m", "convergence", "doctor", "--runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    (line,) = [line for line in done.stdout.splitlines() if line.split()[1:2] == ["ports"]]
    assert line.startswith("ok")
    assert line.count(socket.gethostname() + ":") == 2


def test_doctor_reports_planted_faults(tmp_path, fake, monkeypatch):
    assert doctor.check_python((3, 10, 4)).level == "fault"
    assert doctor.check_python().level == "ok"
    skewed = doctor.check_clock(tmp_path, lambda: time.time() - 40)
    assert skewed.level == "fault"
    assert "+40" in skewed.found
    assert doctor.check_clock(tmp_path).level == "ok"
    assert doctor.check_locking(tmp_path).level == "ok"
    monkeypatch.setattr(doctor, "LOCKER", "import sys; sys.exit(0)")  # a file system that hands out locks twice
    assert "HDF5_USE_FILE_LOCKING" in doctor.check_locking(tmp_path).remedy
    assert doctor.check_ports(host="localhost").level == "ok"
    assert "getent" in doctor.check_ports(host="no-such-host.invalid").needed
    singleton = doctor.check_mpi({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"})
    assert singleton.level == "fault"
    assert "--mpi=pmi2" in singleton.found
    assert doctor.check_mpi({}).level == "note"
    full = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: full)
    assert doctor.check_space(tmp_path).level == "fault"
    monkeypatch.setenv("PATH", "/nowhere")
    assert doctor.check_scheduler().level == "fault"
    monkeypatch.setattr(doctor, "check_python", lambda: 1 / 0)
    assert doctor.run_checks(tmp_path)[0].found.startswith("the check failed: ZeroDivisionError")


def test_doctor_reports_an_exceeded_quota(fake, tmp_path):
    """The commands quota and lfs both mark exceeded limits with a star."""
    for name in ("quota", "lfs"):
        tool = fake / "bin" / name
        tool.write_text('#!/bin/sh\necho "/scratch  52428800* 52428800  52428800"\n', encoding="utf-8")
        tool.chmod(0o755)
        found = doctor.check_space(tmp_path)
        assert (found.level, "over quota: /scratch 52428800*" in found.found) == ("fault", True)
        tool.unlink()


def test_later_ranks_report_only_faults_of_their_node(tmp_path, monkeypatch):
    found = [doctor.Finding("MPI", "fault", "of all"), doctor.Finding("clock", "fault", "40 s off", "2 s", "set it")]
    monkeypatch.setattr(doctor, "run_checks", lambda place: [doctor.Finding("Python", "ok", "3.11"), *found])
    monkeypatch.setattr(doctor, "world", lambda: SimpleNamespace(rank=3))
    diagnosis = doctor.diagnose(str(tmp_path))
    assert not diagnosis.sound
    assert [finding.check for finding in diagnosis.findings] == ["clock"]
    found.clear()
    diagnosis = doctor.diagnose(str(tmp_path))
    assert (doctor.render(diagnosis), diagnosis.sound) == ("", True)


def test_doctor_prints_need_and_remedy_of_each_fault(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        doctor, "run_checks", lambda place: [doctor.Finding("clock", "fault", "40 s off", "2 s", "set it")]
    )
    assert main(["doctor", "--runs", str(tmp_path / "not" / "there")]) == 2
    assert (
        "fault   clock         40 s off\n                      needed: 2 s\n                      remedy: set it\n"
        in capsys.readouterr().out
    )
