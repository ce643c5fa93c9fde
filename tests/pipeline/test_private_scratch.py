"""Scratch folders of Dask: private, and on no search path for imports."""

from __future__ import annotations

import importlib
import os
import shlex
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hpc.dask_executor import Workers, on_this_machine
from hpc.dask_jobs import worker_lines
from hpc.dask_preload import ROOT, without_scratch, without_working_folder
from slurm.dask_workers import batch_job, worker_resources
from slurm.profile import AnalyzeResources

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes of POSIX")
PLANTED = "raise SystemExit('planted code was imported')\n"


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A folder for temporary files that all users share, where another user made Dask's scratch folder first."""
    place = tmp_path / "shared"
    for folder in (place, place / "dask-scratch-space"):
        folder.mkdir()
        folder.chmod(0o1777)
    if os.geteuid() == 0:
        os.chown(place / "dask-scratch-space", 1234, 1234)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    return place


def plant(folder):
    for module in ("planted", "convergence", "numpy"):
        (folder / module).mkdir()
        (folder / module / "__init__.py").write_text(PLANTED, encoding="utf-8")


def _worker():
    from distributed import get_worker

    return Path(get_worker().local_directory), list(sys.path), os.getcwd()


def test_workers_neither_use_the_shared_scratch_folder_nor_import_from_their_own(shared, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    plant(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    before = list(sys.path)
    with on_this_machine(Workers(), 1, 1e8) as executor:
        folder, path, here = executor.submit(_worker).result(60)
        assert sys.path == before
        (private,) = (place for place in shared.iterdir() if place.name != "dask-scratch-space")
        assert folder.is_relative_to(private)
        assert (stat.S_IMODE(private.stat().st_mode), private.stat().st_uid) == (0o700, os.geteuid())
        assert here == str(tmp_path / "here")
        assert not any(Path(entry or here).is_relative_to(tmp_path) for entry in path)
        plant(folder)
        with pytest.raises(ModuleNotFoundError):
            executor.submit(importlib.import_module, "planted").result(60)
        assert executor.submit(importlib.import_module, "convergence").result(60).__file__.startswith(str(ROOT))
    assert not list((shared / "dask-scratch-space").iterdir())
    assert not private.exists()
    assert sys.path == before


def test_worker_of_a_job_makes_a_private_scratch_folder(shared, tmp_path):
    """The lines before a worker, in a shell, with the search path that a job gets."""
    here = tmp_path / "it's here"
    here.mkdir()
    plant(here)
    cwd = os.getcwd()
    os.chdir(here)
    try:
        job = batch_job(worker_resources(AnalyzeResources(), Workers()), Workers(), tmp_path / "workers")
    finally:
        os.chdir(cwd)
    assert f"#SBATCH --chdir={shlex.quote(str(here))}" in job.script([])
    shown = [
        'stat -c "%a %u" "$CONVERGENCE_SCRATCH"',
        'echo "$DASK_TEMPORARY_DIRECTORY"; echo "$DASK_DISTRIBUTED__WORKER__PRELOAD"',
        f'{sys.executable} -c "import os, convergence; print(os.getcwd()); print(convergence.__file__)"',
    ]
    script = job.script([*worker_lines(job), *shown])
    done = subprocess.run(["bash", "-c", script], cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modes, scratch, preload, place, package = done.stdout.splitlines()
    assert modes == f"700 {os.geteuid()}"
    assert Path(scratch).parent == shared
    assert not Path(scratch).exists()  # removed with the job
    assert preload == "['hpc.dask_preload']"
    assert place == str(here)
    assert package == str(ROOT / "convergence" / "__init__.py")


def test_only_scratch_and_working_folder_leave_the_search_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = ["", str(tmp_path), str(tmp_path / "scratch" / "worker"), str(ROOT), "/usr/lib/python3", "elsewhere.zip"]
    assert without_scratch(paths, tmp_path / "scratch") == [p for k, p in enumerate(paths) if k != 2]
    assert without_working_folder(paths) == paths[2:]
    monkeypatch.chdir(ROOT)
    assert without_working_folder(["", str(ROOT), "x"]) == ["", str(ROOT), "x"]
