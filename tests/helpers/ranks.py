"""Commands on MPI ranks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
COMMAND = [sys.executable, "-m", "convergence"]
PARALLEL = Path(sys.prefix) / "parallel"
"""Where the test setup builds an h5py with MPI."""


def launch(ranks: int, command: list[str], parallel: bool = False, **options) -> subprocess.Popen:
    """Start a command on so many ranks, with the h5py that has MPI or with the usual one."""
    if MPIEXEC is None:
        pytest.skip("no mpiexec: pip install 'mpich>=5,<6', or load the cluster's MPI")
    environ = os.environ | {"MPIR_CVAR_POLLS_BEFORE_YIELD": "0"}  # more ranks than cores
    if parallel:
        if not (PARALLEL / "h5py").exists():
            pytest.skip(f"no h5py with MPI in {PARALLEL}: sh tests/setup.sh {sys.prefix}")
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PARALLEL), environ.get("PYTHONPATH")]))
    return subprocess.Popen([MPIEXEC, "-n", str(ranks), *command], env=environ, text=True, **options)


def run_ranks(ranks: int, command: list[str], parallel: bool = False, timeout: float = 300):
    """Exit code and stderr of a command on so many ranks."""
    process = launch(ranks, command, parallel, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=timeout)
    return process.returncode, errors
