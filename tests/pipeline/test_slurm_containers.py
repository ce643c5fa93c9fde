"""Stages and workers in containers: command lines, bound folders, the definition of the image, doctor."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from pathlib import Path

import pytest

from convergence import __version__
from convergence.cli import main
from convergence.config.load import read_config
from convergence.errors import UserError
from hpc.dask_executor import Workers
from slurm import doctor
from slurm.container import data_paths, outermost
from slurm.dask_workers import batch_job, worker_resources
from slurm.jobs import Job, ScriptSettings, script_text
from slurm.profile import AnalyzeResources
from tests.helpers.fake_slurm import ROOT, profile
from tests.pipeline.test_slurm_sites import AWKWARD, sbatch_words, shell


@pytest.fixture
def apptainer(fake) -> Path:
    """A program ``apptainer`` that records its arguments and runs the command after the image."""
    program = fake / "bin" / "apptainer"
    program.write_text(
        '#!/bin/bash\nprintf "%s\\n" "$@" >"$FAKE/container"\n'
        'while [[ $1 != *.sif ]]; do shift; done; shift; exec "$@"\n'
    )
    program.chmod(0o755)
    (fake / "bin" / "srun").write_text('#!/bin/bash\necho "srun $1 $2" >"$FAKE/srun"; shift 2; exec "$@"\n')
    return program


def test_stage_runs_inside_the_container_and_the_launcher_outside(apptainer, fake, tmp_path):
    (tmp_path / "python").write_text('#!/bin/bash\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n')
    (tmp_path / "inside").write_text('#!/bin/bash\nprintf "%s\\n" "$PYTHONPATH" "$PYTHONNOUSERSITE" "$@"\n')
    for name in ("python", "inside"):
        (tmp_path / name).chmod(0o755)
    code, runs, data = tmp_path / "runs" / "e" / "jobs" / "code-1", tmp_path / "runs", tmp_path / "my data"
    paths, project = (str(code), "/mine", "/venv/lib/site-packages"), str(tmp_path / "project $HOME")
    settings = ScriptSettings("e", 1, runs / "e", str(tmp_path / "python"), paths, project, (str(data),), ("$TMP/x",))
    values = {"container": "$SCRATCH/image.sif", "container_binds": ["~/models:/models"], "gpus_per_node": 1,
              "container_python": str(tmp_path / "inside"), "container_options": ["--cleanenv"]}  # fmt: skip
    script = script_text(profile(statistics=values), Job("statistics", "statistics", ("statistics",)), settings)
    done = shell(script, PATH=os.environ["PATH"], FAKE=str(fake), SCRATCH="/sc r", HOME="/home/u", TMP="/t p")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:6] == [f"{code}:/mine", "1", "-P", "-m", "convergence", "statistics"]
    assert (fake / "srun").read_text() == "srun --ntasks 1\n"
    words = (fake / "container").read_text().splitlines()
    assert words[: words.index("/sc r/image.sif") + 1] == [
        "exec", "--nv", "--cleanenv", "--pwd", project,
        *("--bind", str(runs)), *("--bind", "/mine"), *("--bind", "/venv/lib/site-packages"), *("--bind", str(data)),
        *("--bind", project), *("--bind", "/tmp"), *("--bind", "/t p/x"),
        *("--bind", "/home/u/models:/models"), "/sc r/image.sif",
    ]  # fmt: skip
    for path in ("/a,b", "/a:b"):
        with pytest.raises(UserError, match="--bind"):
            script_text(
                profile(statistics=values), Job("s", "statistics", ("s",)), dataclasses.replace(settings, cwd=path)
            )


def test_worker_runs_inside_the_container_with_the_options_of_the_profile(apptainer, fake, tmp_path):
    folder = tmp_path / AWKWARD / "workers"
    folder.mkdir(parents=True)
    given = {"container": str(tmp_path / "i.sif"), "container_python": "python3", "qos": "q", "leave_out": ("comment",)}
    resources = worker_resources(AnalyzeResources(**given, memory_gb=3.0, environment={"A": "~"}), Workers(threads=2))
    worker = batch_job(resources, Workers(threads=2), folder)
    text = worker.script(["umask 077", f"{worker.python} -m distributed.cli.dask_worker tls://n1:1"])
    assert (worker.cores, worker.memory_gb, worker.walltime_min) == (2, 3.0, 60)
    words = sbatch_words(text)
    assert {"--qos=q", "--cpus-per-task=2", "--mem=3072M", "--no-requeue", f"--chdir={os.getcwd()}"} <= set(words)
    assert not any(word.startswith("--comment") for word in words)
    output = next(word for word in words if word.startswith("--output="))
    assert output == f"--output={folder}/convergence-worker-%j.log".replace("50%", "50%%").replace("%j #", "%%j #")
    assert "export DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE=0.95" in text
    last = text.rstrip().splitlines()[-1]
    assert shlex.split(last)[:2] == ["apptainer", "exec"]
    assert last.endswith(f"{tmp_path / 'i.sif'} python3 -P -m distributed.cli.dask_worker tls://n1:1")
    assert shlex.quote(str(folder.parent)) in last
    assert shell(text.replace(last, "echo prepared")).stdout == "prepared\n"


def test_folders_of_the_data_are_bound_once(tiny_config):
    config = ROOT / "configs" / "imagenet_alexnet.toml"
    assert data_paths(read_config(config, ["data.root=../imgs"]), "/a/work") == (["/a/imgs"], [])
    assert data_paths(read_config(config, ["data.root=$SLURM_TMPDIR/x"]), "/work") == ([], ["$SLURM_TMPDIR/x"])
    assert data_paths(read_config(config, ["data.root=~/x"]), "/work") == ([], ["~/x"])
    assert data_paths(read_config(tiny_config), "/work") == ([], [])
    assert outermost(["/a", "/a/b", "/ab", "/x $HOME/c", "/a", "/x $HOME"]) == ["/a", "/ab", "/x $HOME"]


def test_definition_of_the_image_installs_this_version():
    text = (ROOT / "configs" / "convergence.def").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^%(\w+)\n(.*?)(?=^%|\Z)", text, re.M | re.S))
    assert text.count("\nBootstrap: docker\nFrom: python:3.") == 1
    assert f"Version {__version__}\n" in sections["labels"]
    copied = [line.split()[0] for line in sections["files"].split("\n") if line.strip()]
    assert all((ROOT / name).exists() for name in copied)
    assert {"convergence", "hpc", "slurm", "setup.cfg", "pyproject.toml"} <= set(copied)
    extras = re.search(r"pip install --no-cache-dir '/opt/convergence\[([\w,]+)\]'", sections["post"])[1].split(",")
    known = re.search(r"^\[options.extras_require\]\n(.*?)^\[", (ROOT / "setup.cfg").read_text(), re.M | re.S)[1]
    assert set(extras) <= set(re.findall(r"^(\w+) =", known, re.M))


def test_doctor_reports_containers_and_the_surrounding_job(apptainer, fake, tmp_path, monkeypatch, capsys):
    image = tmp_path / "i.sif"
    site = tmp_path / "site.toml"
    site.write_text(
        f"[train]\ncontainer = '{image}'\n[pictures]\ncontainer = '{image}'\n[report]\ncontainer = '$NO/x'\n"
    )
    (missing, later) = doctor.check_containers(str(site))
    assert (missing.level, later.level) == ("fault", "note")
    assert "for train, pictures does not exist" in missing.found
    assert missing.remedy.endswith(f"apptainer build {image} configs/convergence.def")
    image.touch()
    assert doctor.check_containers(str(site))[0].level == "ok"
    apptainer.unlink()
    assert "not on the PATH" in doctor.check_containers(str(site))[0].found
    monkeypatch.setattr(
        doctor, "run_checks", lambda folder: [doctor.check_environment({"SLURM_JOB_ID": "7", "RANK": "0"})]
    )
    assert main(["doctor", "--runs", str(tmp_path), "--cluster", str(site)]) == 2
    printed = capsys.readouterr().out
    assert "inside job 7: 2 variables are not passed to submitted jobs (RANK, SLURM_JOB_ID)" in printed
    assert doctor.check_environment({"HOME": "/"}).level == "ok"
