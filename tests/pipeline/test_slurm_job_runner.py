"""The job runner: records, signals, requeueing and replacement jobs, without a Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from convergence.config.load import read_config
from convergence.errors import UserError
from convergence.functional import EXPERIMENTS
from convergence.runs.run_folder import RunFolder
from slurm.job_runner import JobRunner, current_attempt, resubmit
from slurm.records import Attempt, Records, Submission, SubmittedJob
from tests.helpers.fake_slurm import ATTEMPT, ROOT

pytestmark = pytest.mark.slow


def start(tmp_path: Path, program: str, method: str = "scontrol", most: int = 3, **environ) -> subprocess.Popen:
    """A job runner with a Python program as its stage, in job 7."""
    jobs = tmp_path / "jobs"
    command = [sys.executable, "-m", "slurm.job_runner", "--records", jobs, "--submission", "1", "--job", "statistics"]
    command += ["--requeue", method, "--max-requeues", str(most), "--", sys.executable, "-c", program]
    variables = os.environ | {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"} | environ
    with (tmp_path / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log)


def attempts(tmp_path: Path) -> list[Attempt]:
    return Records(tmp_path / "jobs").attempts("statistics")


STOPPABLE = """
import signal, sys, time
def stop(*_): print("stopping", flush=True); sys.exit(75)
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


def test_successful_stage_is_recorded_as_done(fake, tmp_path):
    finish(tmp_path)
    assert start(tmp_path, "print('fine')").wait(timeout=30) == 0
    (found,) = attempts(tmp_path)
    assert (found.state, found.code, found.job, found.node) == ("done", 0, "7", "n1")
    assert found.log == str(tmp_path / "log")


def test_exit_code_zero_without_a_finished_task_is_requeued(fake, tmp_path):
    assert start(tmp_path, "print('the launcher gave up')").wait(timeout=30) == 75
    assert attempts(tmp_path)[0].state == "stopped"
    assert (fake / "requeued").read_text().split() == ["7"]


def test_finished_tasks_are_read_from_the_run_folder(tiny_config, tiny_copy):
    records = Records(tiny_copy / "jobs")
    folder = RunFolder(tiny_copy, read_config(tiny_config))
    for experiment in EXPERIMENTS:
        work = folder.functional_task(experiment)
        assert not records.is_finished(experiment)
        work.record.parent.mkdir(exist_ok=True)
        folder.begin(work)
        for output in work.outputs:
            output.mkdir()
        folder.finish(work, 1.0)
        assert records.is_finished(experiment)
    for work in folder.tasks():
        assert records.is_finished(work.name)
        work.record.unlink()
        assert not records.is_finished(work.name)


def test_failed_stage_is_recorded_with_its_last_lines(fake, tmp_path):
    (tmp_path / "log").write_text("of an attempt before: MemoryError\n", encoding="utf-8")
    assert start(tmp_path, "print('before', flush=True); {}['x']").wait(timeout=30) == 1
    (found,) = attempts(tmp_path)
    assert (found.state, found.reason) == ("failed", "KeyError: 'x'")
    assert found.tail[0] == "before"
    assert not (fake / "requeued").exists()


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_signal_is_forwarded_and_the_job_requeued(fake, tmp_path, number):
    assert (
        stop_at_work(tmp_path, start(tmp_path, STOPPABLE, SLURM_ARRAY_JOB_ID="6", SLURM_ARRAY_TASK_ID="2"), number)
        == 75
    )
    (found,) = attempts(tmp_path)
    assert found.state == "stopped"
    assert found.tail[-1] == "stopping"
    assert (fake / "requeued").read_text().split() == ["6_2"]


def test_signal_before_the_stage_handles_it_requeues(fake, tmp_path):
    process = start(tmp_path, "print('at work', flush=True); import time; time.sleep(30)")
    assert stop_at_work(tmp_path, process) == 140
    assert attempts(tmp_path)[0].state == "stopped"
    assert (fake / "requeued").exists()


def test_cancelled_job_is_not_requeued(fake, tmp_path):
    (fake / "state").write_text("COMPLETING")
    process = start(tmp_path, STOPPABLE.replace("30", "2") + "sys.exit(75)")  # Slurm signals the steps itself
    assert stop_at_work(tmp_path, process, signal.SIGTERM) == 75
    (found,) = attempts(tmp_path)
    assert "because the job was ended" in found.reason
    assert "stopping" not in found.tail
    assert not (fake / "requeued").exists()


def test_job_requeued_by_slurm_is_not_requeued_again(fake, tmp_path):
    (fake / "state").write_text("COMPLETING")
    (fake / "restarts").write_text("1")
    assert start(tmp_path, "import sys; sys.exit(75)").wait(timeout=30) == 75
    assert "requeued by Slurm" in attempts(tmp_path)[0].reason
    assert not (fake / "requeued").exists()


def test_job_that_slurm_requeues_at_the_same_time_is_not_replaced(fake, tmp_path):
    keep_submission(tmp_path)
    (fake / "overtaken").touch()
    assert start(tmp_path, "import sys; sys.exit(75)").wait(timeout=30) == 75
    (found,) = attempts(tmp_path)
    assert (found.state, "requeued by Slurm" in found.reason) == ("stopped", True)
    assert not list(fake.glob("*.sh")), "no job is submitted"


def test_restarts_are_limited(fake, tmp_path):
    (fake / "restarts").write_text("3")
    assert start(tmp_path, "import sys; sys.exit(75)", SLURM_RESTART_COUNT="3").wait(timeout=30) == 75
    assert "and not requeued" in attempts(tmp_path)[0].reason
    assert start(tmp_path, "print('never')", SLURM_RESTART_COUNT="4").wait(timeout=30) == 1
    assert "restarted 4 times" in attempts(tmp_path)[1].reason
    assert b"never" not in (tmp_path / "log").read_bytes()
    assert not (fake / "requeued").exists()


def test_refused_requeue_without_a_submission_gives_the_remedy(fake, tmp_path):
    (fake / "forbidden").touch()
    assert start(tmp_path, "import sys; sys.exit(75)").wait(timeout=30) == 75
    (found,) = attempts(tmp_path)
    assert found.state == "failed"
    assert 'requeue.method = "chain"' in found.reason


def keep_submission(tmp_path: Path) -> Records:
    """Submission 1: job 7 is the statistics; jobs 8 and 9 depend on it."""
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


def test_refused_requeue_submits_a_replacement(fake, tmp_path):
    """The job exits with 0, dependent jobs wait for the replacement, and restarts are counted over both."""
    records = keep_submission(tmp_path)
    (fake / "forbidden").touch()
    (fake / "dependency").write_text("afterok:7(unfulfilled),afterany:3_*(unfulfilled)", encoding="utf-8")
    assert start(tmp_path, "import sys; sys.exit(75)", most=1, SLURM_RESTART_COUNT="0").wait(timeout=30) == 0
    (found,) = attempts(tmp_path)
    assert found.state == "stopped"
    assert "job 101 resumes" in found.reason
    assert (fake / "101.arguments").read_text().split()[:2] == ["--parsable", "--dependency=afterany:7"]
    assert (fake / "updated").read_text().splitlines() == [
        "jobid=8 dependency=afterok:7,afterany:3,afterok:101",
        "jobid=9 dependency=afterok:7,afterany:3,afterany:101",
    ]
    assert [job.job for job in records.latest().jobs_of("statistics")] == ["7", "101"]
    assert start(tmp_path, "import sys; sys.exit(75)", most=1, SLURM_JOB_ID="101").wait(timeout=30) == 75
    assert "not requeued: requeue.max_requeues is 1" in attempts(tmp_path)[-1].reason
    assert not (fake / "102.sh").exists()


def test_array_task_is_replaced_by_the_same_array_task(fake, tmp_path):
    nets = ("train net1", "train net2", "train net3")
    array = SubmittedJob("train", "train", nets, True, (), "6", "/logs/train-%A_%a", "7.sh")
    records = keep_submission(tmp_path)
    records.write_submission(replace(records.latest(), jobs=(array,)))
    mine = replace(ATTEMPT, task="train net3", job="6_2")
    assert resubmit(records, mine) == "101"
    assert (fake / "101.arguments").read_text().split()[1:3] == ["--dependency=afterany:6_2", "--array=2"]
    replacement = records.latest().jobs_of("train net3")[-1]
    assert (replacement.job_id("train net3"), replacement.log_path("train net3")) == (
        "101_2",
        Path("/logs/train-101_2"),
    )
    assert len(records.latest().jobs_of("train net1")) == 1
    assert resubmit(records, replace(mine, job="101_2")) == "102"
    assert (fake / "102.arguments").read_text().split()[1:3] == ["--dependency=afterany:101_2", "--array=2"]


def test_replacement_is_cancelled_if_no_job_can_depend_on_it(fake, tmp_path):
    records = keep_submission(tmp_path)
    (fake / "forbidden").touch()
    (fake / "unchangeable").touch()
    assert start(tmp_path, "import sys; sys.exit(75)").wait(timeout=30) == 75
    (found,) = attempts(tmp_path)
    assert found.state == "failed"
    assert "the dependency of job 8 on it was refused" in found.reason
    assert (fake / "cancelled").read_text().split() == ["101"]
    assert len(records.latest().jobs) == 3


def test_chain_does_not_repeat_a_failure(fake, tmp_path):
    assert start(tmp_path, "raise ValueError(1)", "chain").wait(timeout=30) == 1
    assert start(tmp_path, "print('again')", "chain", SLURM_JOB_ID="8").wait(timeout=30) == 1
    assert [found.job for found in attempts(tmp_path)] == ["7"]
    assert b"again" not in (tmp_path / "log").read_bytes()


def test_attempt_without_a_process_is_lost_and_the_next_one_runs(fake, tmp_path):
    process = start(tmp_path, STOPPABLE)
    while not attempts(tmp_path):
        time.sleep(0.05)
    process.kill()
    process.wait()
    finish(tmp_path)
    assert start(tmp_path, "print('resumes')", SLURM_RESTART_COUNT="1").wait(timeout=30) == 0
    assert [found.state for found in attempts(tmp_path)] == ["lost", "done"]


def test_task_with_heartbeats_from_another_node_does_not_run_twice(tmp_path):
    """A node without connection continues: its record has heartbeats, and the second attempt refuses."""
    finish(tmp_path)
    records = Records(tmp_path / "jobs")
    elsewhere = replace(ATTEMPT, host="elsewhere", pid=os.getpid())
    records.write_attempt(elsewhere)
    alive = True

    def beat():
        stamp = time.time()
        while alive:
            stamp += 1
            os.utime(records.attempt_path(elsewhere), (stamp, stamp))
            time.sleep(0.1)

    thread = threading.Thread(target=beat)
    thread.start()
    mine = replace(current_attempt("statistics", 1, {"SLURM_JOB_ID": "8"}), log=str(tmp_path / "log"))
    try:
        assert JobRunner(records, mine, "scontrol", 3, 0.4).run(["touch", str(tmp_path / "ran")]) == 1
    finally:
        alive = False
        thread.join()
    assert not (tmp_path / "ran").exists()
    assert "a task runs only once" in records.attempts("statistics")[-1].reason
    again = replace(mine, job="9", started="2099-01-01")
    assert JobRunner(records, again, "scontrol", 3, 0.1).run(["touch", str(tmp_path / "ran")]) == 0
    assert (tmp_path / "ran").exists()
    assert [found.state for found in records.attempts("statistics")] == ["lost", "failed", "done"]


def test_running_job_writes_heartbeats(tmp_path, monkeypatch):
    finish(tmp_path)
    records = Records(tmp_path / "jobs")
    mine = replace(current_attempt("statistics", 1, {"SLURM_JOB_ID": "8"}), log=str(tmp_path / "log"))
    beats = []
    monkeypatch.setattr(records, "beat", lambda attempt: beats.append(attempt.job))
    assert JobRunner(records, mine, "none", 3, 0.05).run(["sleep", "0.4"]) == 0
    assert beats


def test_damaged_records_are_named(tmp_path):
    records = Records(tmp_path)
    records.write_attempt(ATTEMPT)
    assert records.attempts("statistics") == [ATTEMPT]
    records.attempt_path(ATTEMPT).write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        records.attempts("statistics")


ORPHAN = """
import time
from pathlib import Path
from convergence.runs import signals
from convergence.training.checkpoints import Checkpoints
from convergence.runs.tasks import StageTask, TaskFolder

place = Path({place!r})
work = StageTask("statistics", (place / "statistics.h5",), place / "statistics.json", {{}})
checkpoints = Checkpoints(place, "key")
says = [str(checkpoints.save({{"step": 1}}, wait=True))]
print("at work", flush=True)
while not (place / "go").exists():
    time.sleep(0.05)
says.append(str(checkpoints.save({{"step": 2}}, wait=True)))
for last in (signals.check, lambda: TaskFolder(place).finish(work, 1.0)):
    try:
        last()
    except signals.Stopped as error:
        says.append(str(error))
says.append(str(checkpoints.load()["step"]))
(place / "says").write_text("|".join(says))
"""


def test_orphaned_task_stops_writing(fake, tmp_path):
    """Slurm lost its node and started the task again elsewhere; the old process is still alive."""
    place = tmp_path / "place"
    place.mkdir()
    first = start(tmp_path, ORPHAN.format(place=str(place)), SLURM_JOB_ID="7")
    stop_at_work(tmp_path, first, signal.SIGKILL)  # the job runner; the stage that it started survives
    assert not (place / "says").exists()
    finish(tmp_path)
    assert start(tmp_path, "print('the second')", SLURM_JOB_ID="8").wait(timeout=60) == 0
    assert [attempt.state for attempt in attempts(tmp_path)] == ["lost", "done"]
    (place / "go").touch()
    end = time.monotonic() + 30
    while not (place / "says").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.1)
    first_save, second_save, checked, finished, step = (place / "says").read_text().split("|")
    assert (first_save, second_save, step) == ("True", "False", "1")
    assert "attempt" in checked
    assert "attempt" in finished
    assert not (place / "statistics.json").exists()
