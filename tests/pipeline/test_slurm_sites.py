"""Sites: wrappers of Slurm's commands, shells inside jobs, odd paths, module systems."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convergence.cli import main
from convergence.errors import UserError
from hpc.dask_executor import Workers
from hpc.dask_jobs import on_slurm
from slurm import slurm_commands
from slurm.dask_workers import batch_job, worker_resources
from slurm.environment import script_lines, submission_environment, surrounding
from slurm.job_ids import JobId, listed_ids, submitted_ids
from slurm.jobs import Job, ScriptSettings, script_text
from slurm.profile import AnalyzeResources
from slurm.records import Records, SubmittedJob
from slurm.shell import directive, directives, expanded, module_lines
from slurm.slurm_commands import parse_accounting, parse_job, parse_queue, submit_again, submit_script
from slurm.status import tail
from tests.helpers.fake_slurm import ROOT, arguments, profile

BANNER = (
    "\x1b[1mWelcome\x1b[0m to login4, kernel 6.1\r\n/home: 81% of 50 GB, 12 files\nestimated start 2026-01-01T10:00\n"
)
ANSWERS = {
    "101\n": "101",
    "101;fast\n": "101",
    "Submitted batch job 101\n": "101",
    "Submitted batch job 101 on cluster fast\n": "101",
    "sbatch: warning: 4 cores\r\nSubmitted batch job 101\r\n": "101",
    f"{BANNER}101\n--> 3 messages\n": "101",
    f"{BANNER}Submitted batch job 101\n{BANNER}": "101",
    "\x1b[32m101\x1b[0m\n": "101",
    "\x1b]0;title 7\x07101\r\n": "101",
    "2026\n101;fast\n": "101",
    "Job <101> is submitted to queue <normal>.\n": "101",
    "JobID: 101\n": "101",
    "job_id=101\n": "101",
    "Submitted: 101\n": "101",
    "Job submitted: 101\n": "101",
    "Submitted batch job '101'\n": "101",
    "\ufeff101\n": "101",
    "\x1b(B101\n": "101",
    "Your job 101 has been submitted, start 2026-01-01\n": "101",
}
UNREAD = ["", "\n", BANNER, "ok\n", "0\n", "each submitted job may use 64 cores\n", "10\n11\n", "-7\n", "1.5\n"]


def test_job_id_is_read_from_the_output_of_any_wrapper():
    for text, number in ANSWERS.items():
        assert [job.number for job in submitted_ids(text)] == [number], text
    assert (
        submitted_ids("101;fast") == [JobId("101", "fast")] == submitted_ids("submitted batch job 101 on cluster fast")
    )
    for text in UNREAD:
        assert len(submitted_ids(text)) != 1, text


def test_ids_of_lists_are_expanded_and_banners_skipped():
    assert listed_ids("12_[4-7%2]") == ["12_4", "12_5", "12_6", "12_7"]
    assert listed_ids("12_[1,3-9:3]") == ["12_1", "12_3", "12_6", "12_9"]
    assert listed_ids("12_[1-2,...]") == ["12_1", "12_2"]
    assert [listed_ids(text) for text in ("12", "12_3", "12;fast", "12+1")] == [["12"], ["12_3"], ["12"], ["12+1"]]
    assert not any(listed_ids(text) for text in ("", "81%", "Welcome", "12_x", "12_[a-b]", "-1"))
    found = parse_queue(
        f"{BANNER}CLUSTER: fast\r\n12_[4-5%1]|PENDING|Priority||/r|e\r\n 81% | of | 50 | GB | x\n7;f|RUNNING||n||\n"
    )
    assert {job: (q.state, q.name) for job, q in found.items()} == {
        "12_4": ("PENDING", "e"), "12_5": ("PENDING", "e"), "7": ("RUNNING", ""),
    }  # fmt: skip
    assert parse_accounting(f"{BANNER}a|b\r\n12_[0-1]|CANCELLED by 0\r\n") == {"12_0": "CANCELLED", "12_1": "CANCELLED"}
    assert parse_job(f"quota=81% JobId=3\n{BANNER}JobId=7 JobState=RUNNING Restarts=2\r\n").restarts == 2


def answer(fake: Path, text: str, code: int = 0, stream: int = 1) -> None:
    """Make sbatch print a text with its job's number in place of 101."""
    (fake / "answer").write_text(f'printf %s {shlex.quote(text)} | sed "s/101/$n/" >&{stream}; exit {code}\n')


SCRIPT = "#!/bin/bash\n#SBATCH --job-name=e-train\n#SBATCH --comment=/runs/e\n"


def submitters(folder: Path) -> dict:
    """The three ways in which jobs are submitted."""
    resources = worker_resources(AnalyzeResources(), Workers())
    script = folder / "x.sh"
    script.write_text(SCRIPT)
    worker = batch_job(resources, Workers(), folder)
    return {
        "stage": lambda: submit_script(folder, SCRIPT)[0].number,
        "replacement": lambda: submit_again(str(script), "55", None),
        "worker": lambda: worker.submit(worker.script(["true"])),
    }


def test_every_submission_understands_wrappers(fake, tmp_path):
    for submit in submitters(tmp_path).values():
        for stream, texts in ((1, ANSWERS), (2, list(ANSWERS)[2:4])):
            for text in texts:
                answer(fake, text, stream=stream)
                assert submit() == (fake / "next").read_text().strip(), text
    assert not (fake / "cancelled").exists()


def test_job_whose_id_was_not_understood_is_found_and_cancelled(fake, tmp_path):
    row = "{}|PENDING|Priority||{}|{}\n"
    others = row.format(7, "/runs/other", "e-train") + row.format(8, "/runs/e", "e-other")
    for way, submit in submitters(tmp_path).items():
        labels = ("convergence-worker", str(tmp_path)) if way == "worker" else ("e-train", "/runs/e")
        for text, code in [*((text, 0) for text in UNREAD), (BANNER, 1)]:
            answer(fake, text, code)
            rows = shlex.quote(others + row.format(901, labels[1], labels[0]))
            (fake / "bin" / "squeue").write_text(
                f'#!/bin/sh\nprintf "Welcome 3\\n"; [ ! -e "$FAKE/submitted" ] || printf %s {rows}\n'
            )
            (fake / "answer").write_text('touch "$FAKE/submitted"; ' + (fake / "answer").read_text())
            with pytest.raises(UserError) as error:
                submit()
            assert "refused" not in str(error.value)
            assert f"Job 901 ({labels[0]}) was submitted all the same and has been cancelled" in str(error.value)
            assert (fake / "cancelled").read_text().split() == ["901"]
            (fake / "cancelled").unlink()
            (fake / "submitted").unlink()


def test_ambiguous_output_is_resolved_by_the_queue(fake, tmp_path):
    answer(fake, "2026\n101\n")
    (fake / "queue").write_text("101|PENDING|Priority||/runs/e|e-train\n")
    assert submit_script(tmp_path, SCRIPT)[0].number == "101"
    assert (tmp_path / "101_submission.sh").read_text() == SCRIPT


def test_job_that_is_not_found_is_not_called_refused(fake, tmp_path):
    answer(fake, "ok\n")
    with pytest.raises(UserError, match=r"No such job is in the queue: look with `squeue --me --name=e-train`"):
        submit_script(tmp_path, SCRIPT)
    (fake / "silent").touch()
    with pytest.raises(UserError, match="squeue does not answer, so the job was not looked up"):
        submit_script(tmp_path, SCRIPT)
    answer(fake, "Submitted batch job 101\nepilogue failed\n", code=1)
    with pytest.raises(UserError, match=r"exit code 1.*Job 103 \(e-train\) was submitted all the same"):
        submit_script(tmp_path, SCRIPT)
    answer(fake, "invalid account", code=1, stream=2)
    with pytest.raises(UserError, match="sbatch refused a job: invalid account"):
        submit_script(tmp_path, SCRIPT)


def test_jobs_of_another_cluster_are_asked_for_and_cancelled_there(fake, tiny_config, tmp_path):
    answer(fake, "101;fast\n")
    assert main(["submit", *arguments(tiny_config, tmp_path)]) == 0
    records = Records(tmp_path / "runs" / "tiny" / "jobs")
    assert {job.cluster for job in records.latest().jobs} == {"fast"}
    assert (fake / "102.sh").read_text().count("--dependency=afterok:101\n") == 1
    (fake / "bin" / "squeue").write_text('#!/bin/sh\n[ "$1 $2" != "-M fast" ] || echo "102|PENDING|x||x|x"\n')
    assert main(["cancel", str(tiny_config), "--runs", str(tmp_path / "runs")]) == 0
    assert (fake / "cancelled").read_text().split() == ["-M", "fast", "102"]


INHERITED = {
    "SLURM_JOB_ID": "77", "SLURM_MEM_PER_CPU": "800", "SLURM_CPU_BIND": "quiet", "SLURM_CLUSTERS": "other",
    "SLURMD_NODENAME": "n1", "SBATCH_EXPORT": "NONE", "SBATCH_WAIT": "1", "SALLOC_PARTITION": "x", "PMI_RANK": "1",
    "PMIX_RANK": "1", "PMI2_X": "1", "OMPI_COMM_WORLD_RANK": "0", "OMPI_MCA_ess_base_jobid": "1", "MV2_X": "1",
    "PALS_RANKID": "0", "MVP_COMM_WORLD_SIZE": "2", "JSM_NAMESPACE_SIZE": "2", "FLUX_TASK_RANK": "0",
    "I_MPI_MPIRUN": "mpirun", "HYDRA_X": "1", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0",
    "MASTER_ADDR": "n1", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x", "MPLBACKEND": "module://inline",
    "LD_PRELOAD": "", "JPY_PARENT_PID": "1", "JUPYTERHUB_API_TOKEN": "secret", "SQUEUE_PARTITION": "x",
    "CUDA_VISIBLE_DEVICES": "3", "TMPDIR": "/tmp",
}  # fmt: skip
PASSED = {"SLURM_CONF": "/dev/null", "DASK_X": "1", "VIRTUAL_ENV": "/venv", "I_MPI_ROOT": "/mpi", "SBATCH_ACCOUNT": "a",
          "OMPI_ALLOW_RUN_AS_ROOT": "1", "MY_SETTING": "1", "SLURM_JWT": "s",
          "FLUX_URI": "u", "OMP_NUM_THREADS": "1"}  # fmt: skip
OF_JOB = ("SLURM", "SBATCH", "SALLOC", "SQUEUE", "CUDA", "TMPDIR")
"""What job scripts do not unset: Slurm sets it for the new job."""


def read_environment(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


def test_submissions_get_no_variable_of_the_surrounding_job(fake, tmp_path, monkeypatch):
    for name, value in (INHERITED | PASSED).items():
        monkeypatch.setenv(name, value)
    assert surrounding(os.environ) == sorted({*INHERITED, "SBATCH_ACCOUNT"})
    for way, submit in submitters(tmp_path).items():
        seen = read_environment(fake / f"{submit()}.environment")
        assert not set(INHERITED) & set(seen), way
        assert {name: seen.get(name) for name in PASSED} == PASSED, way
    number = submit_script(tmp_path, SCRIPT, keep=["SLURM_CLUSTERS", "RANK"])[0].number
    seen = read_environment(fake / f"{number}.environment")
    assert (seen["SLURM_CLUSTERS"], seen["RANK"]) == ("other", "0")


def test_default_account_of_the_user_does_not_replace_that_of_the_script():
    mine = {"SBATCH_ACCOUNT": "a", "SBATCH_PARTITION": "p", "SBATCH_TIMELIMIT": "1"}
    assert submission_environment(mine) == {"SBATCH_ACCOUNT": "a", "SBATCH_PARTITION": "p"}
    script = directives("#!/bin/bash\n#SBATCH --partition=gpu\n#SBATCH -A other\n")
    assert submission_environment(mine, (), script) == {}


def test_job_scripts_remove_variables_of_a_launch(tmp_path):
    inside = INHERITED | PASSED | {"SLURM_EXPORT_ENV": "NONE", "SLURM_CPU_BIND_TYPE": "x", "TMPDIR": "/nowhere"}
    lines = "\n".join([*script_lines(["MV2_X"]), "env"])
    done = subprocess.run(
        ["bash", "-c", lines], env={"PATH": os.environ["PATH"]} | inside, capture_output=True, text=True
    )
    seen = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert {name for name in INHERITED if name in seen and not name.startswith(OF_JOB)} == {"MV2_X"}
    assert {name: seen.get(name) for name in PASSED} == PASSED
    assert not {"SLURM_EXPORT_ENV", "SLURM_CPU_BIND_TYPE", "TMPDIR"} & set(seen)
    assert (seen["SLURM_JOB_ID"], seen["PYTHONSAFEPATH"]) == ("77", "1")


AWKWARD = '50% of "it\'s" $HOME ünï %j #1;&'


def sbatch_words(text: str) -> list[str]:
    """The words of the #SBATCH lines of a script as sbatch reads them: a backslash is an escape inside quotes, too."""
    words = []
    for line in text.splitlines():
        if not line.startswith("#SBATCH "):
            continue
        quote, word, escaped = "", "", False
        for sign in line.removeprefix("#SBATCH "):
            if escaped:
                word, escaped = word + sign, False
            elif sign == "\\":
                escaped = True
            elif sign == quote or (sign in "'\"" and not quote):
                quote = "" if quote else sign
            elif sign in " #" and not quote:
                break
            else:
                word += sign
        words.append(word)
    return words


def test_scripts_pass_awkward_paths_and_settings_unchanged(tmp_path):
    here = tmp_path / AWKWARD
    here.mkdir()
    overrides = ("data.root=$SLURM_TMPDIR/~x", "a='\"\n")
    code = (str(here / "code"),)
    settings = ScriptSettings("e", 1, here, str(here / "python"), code, str(here), overrides=overrides)
    settings.check()
    values = {"environment": {"CACHE": "$SCRATCH/my cache", "PYTHONPATH": "~/more"}, "launcher": "none"}
    for job in (Job("statistics", "statistics", ("statistics",)), Job("train", "train", ("train net1",), array=True)):
        script = script_text(profile(defaults=values), job, settings)
        assert f"--chdir={here}" in sbatch_words(script)
        assert f"--comment={here}" in sbatch_words(script)
        (output,) = (word.removeprefix("--output=") for word in sbatch_words(script) if word.startswith("--output="))
        log = SubmittedJob(job.name, job.stage, job.tasks, job.array, (), "12", output, "").log_path(job.tasks[0])
        assert log == here / "jobs" / "0001" / "logs" / ("train-12_0.log" if job.array else "statistics-12.log")
        assert directives(script)["comment"] == str(here)
        (here / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$CACHE" "$PYTHONPATH" "$@"\n')
        (here / "python").chmod(0o755)
        environ = {"PATH": os.environ["PATH"], "HOME": "/home/u", "SCRATCH": "/sc r", "SLURM_ARRAY_TASK_ID": "0"}
        done = subprocess.run(["bash"], input=script, env=environ, capture_output=True, text=True, check=True)
        words = done.stdout.splitlines()
        assert words[:2] == ["/sc r/my cache", f"{here / 'code'}:/home/u/more"]
        assert {str(here / "jobs"), str(here / "jobs" / "0001" / "config.toml"), str(here.parent)} <= set(words)
        assert "data.root=$SLURM_TMPDIR/~x" in words, "the stage expands it where it runs"


def test_paths_that_jobs_cannot_use_are_refused(tmp_path):
    settings = ScriptSettings("e", 1, Path("/r"), "/python", ("/code",), "/work")
    for change in ({"run": Path("/a\\b")}, {"cwd": "/a\nb"}, {"search_path": ("/a:b",)}):
        with pytest.raises(UserError, match="Rename the folder"):
            dataclasses.replace(settings, **change).check()
    (value,) = sbatch_words(directive("comment", "a\\b 'c'\" d"))
    assert value == "--comment=a\\b 'c'\" d"


def shell(text: str, **environ: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash"], input=text, env={"PATH": os.environ["PATH"]} | environ, capture_output=True, text=True
    )


def test_job_expands_home_and_variables_only():
    found = {
        "~/x y": "/home/u/x y", "$SCRATCH/a b": "/sc r/a b", "${SCRATCH}/it's": "/sc r/it's", "/x:$LD": "/x:", "": "",
        "a$(x)`y`;&": "a$(x)`y`;&", "a~b*": "a~b*", "5$$": "5$",
    }  # fmt: skip
    words = " ".join(expanded(text) for text in found)
    printed = shell(f"printf '%s\\n' {words}", HOME="/home/u", SCRATCH="/sc r").stdout
    assert printed.split("\n")[:-1] == list(found.values())
    missing = shell(f"true {expanded('$NOWHERE/x', 'container of the cluster profile')}; echo started")
    assert missing.stdout == ""
    assert "$NOWHERE is not set where the job runs; container of the cluster profile needs it" in missing.stderr


LMOD = "Lmod has detected the following error: The following module(s) are unknown: mpi/5"
TCL = "ModuleCmd_Load.c(213):ERROR:105: Unable to locate a modulefile for mpi/5"
MODULES = {
    "module() { export LOADEDMODULES=gcc/12:mpi/5; }": True,
    "module() { [ $1 = load ] || echo 'mpi/5(default)' >&2; }": True,
    "module() { [ $1 != load ] || LOADEDMODULES=openmpi/5.0.1; }": True,
    "module() { :; }": True,
    f"LOADEDMODULES=gcc/12; module() {{ [ $1 != load ] || echo '{LMOD}' >&2; }}": False,
    f"module() {{ [ $1 = load ] && echo '{TCL}' >&2 || echo 'No Modulefiles Currently Loaded.'; }}": False,
    "LOADEDMODULES=gcc/12; module() { :; }": False,
    "module() { return 1; }": False,
    "module() { export LOADEDMODULES=mpi/5; return 1; }": False,
}


def test_module_that_is_not_loaded_ends_the_job_before_the_stage():
    for system, works in MODULES.items():
        done = shell("\n".join([system, *module_lines(["mpi/5"]), "echo started"]))
        assert (done.stdout == "started\n") == works, system
        assert (done.returncode == 0) == works
        last = (done.stderr.strip().splitlines() or [""])[-1]
        assert last.startswith("convergence: module mpi/5 could not be loaded on") != works, done.stderr
    missing = shell("\n".join([*module_lines(["mpi/5"]), "echo started"]))
    assert (missing.stdout, missing.returncode) == ("", 1)
    assert 'add setup = ["source /etc/profile.d/modules.sh"]' in missing.stderr


@pytest.mark.slow
def test_analysis_ends_with_the_reason_if_worker_jobs_are_refused(fake, tmp_path):
    answer(fake, "invalid account", code=1, stream=2)
    job = batch_job(worker_resources(AnalyzeResources(), Workers()), Workers(), tmp_path)

    def wait() -> None:
        end = time.monotonic() + 60
        with on_slurm(Workers(), 1, job, tmp_path) as executor:
            while executor.slots and time.monotonic() < end:
                time.sleep(0.05)

    with pytest.raises(UserError, match="invalid account"):
        wait()


def test_jobs_do_not_import_modules_of_the_working_folder(fake, tmp_path):
    """A slurm.py, hpc.py or convergence.py beside the user's nets is not what the job runs."""
    for name in ("slurm", "hpc", "convergence"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hijacked')\n")
    run, path = tmp_path / "runs" / "e", (str(ROOT), str(tmp_path))
    settings = ScriptSettings("e", 1, run, sys.executable, path, str(tmp_path))
    job = Job("statistics", "statistics", ("statistics",))
    script = script_text(profile(defaults={"launcher": "none"}), job, settings)
    done = subprocess.run(
        ["bash"], input=script, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"SLURM_JOB_ID": "7"}
    )
    assert "hijacked" not in done.stderr + done.stdout
    (attempt,) = Records(tmp_path / "runs" / "e" / "jobs").attempts("statistics")
    assert (attempt.state, attempt.code) == ("failed", 2)
    assert "0001/config.toml" in done.stderr


def test_logs_in_any_encoding_are_read(tmp_path):
    (tmp_path / "log").write_bytes("naïve\n".encode("latin-1") + b"\xff\xfe\r\nlast\n")
    assert tail(tmp_path / "log", 2)[-1] == "last"
    assert slurm_commands.run_command("printf", "na\\357ve")[1] == "na�ve"
