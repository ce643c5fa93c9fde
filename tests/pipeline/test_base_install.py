"""The base package alone, in an environment of its own: what a laptop has that never saw torch, MPI or Slurm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NOTEBOOK = """
import importlib.util, sys
for name in ("torch", "torchvision", "mpi4py", "submitit", "safetensors", "pytest", "pandas"):
    assert importlib.util.find_spec(name) is None, name
import convergence
assert "site-packages" in convergence.__file__
run = convergence.open(sys.argv[1])
matching = run["conv1"].matching("net1", "net2")
assert matching.figure()._repr_png_().startswith(b"\\x89PNG")
assert matching.estimate is not None
print(matching.partners.tolist())
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Python of a fresh environment with the base package, installed from a copy of the checkout."""
    place = tmp_path_factory.mktemp("base")
    source = place / "source"
    source.mkdir()
    for name in ("convergence", "hpc", "slurm"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    environ = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    subprocess.run([sys.executable, "-m", "venv", place / "venv"], check=True, env=environ)
    python = place / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(source)]
    done = subprocess.run(install, capture_output=True, text=True, env=environ, timeout=900)
    if done.returncode:
        said = done.stderr.strip()
        unreachable = (
            "Connection",
            "connection",
            "Temporary failure",
            "No matching distribution",
            "Network is unreachable",
        )
        if any(words in said for words in unreachable):
            pytest.skip(f"the base package could not be installed without a network: {said.splitlines()[-1]}")
        pytest.fail(said)
    return python, environ


def test_the_base_package_analyses_and_reports_a_downloaded_file(base, planted_runs, tmp_path):
    python, environ = base
    shutil.copy(planted_runs / "runs" / "planted" / "statistics.h5", tmp_path / "statistics.h5")

    def run(*command):
        done = subprocess.run(
            [str(part) for part in command], cwd=tmp_path, env=environ, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    command = python.with_name("convergence")
    assert run(command, "analyze", "statistics.h5", "--comparison", "conv1") == str(tmp_path / "analysis.h5")
    page = Path(run(command, "report", "statistics.h5"))
    assert page.is_file()
    assert len(list((page.parent / "figures").glob("*.svg"))) > 5
    assert "checksums: all match" in run(command, "show", "statistics.h5", "--verify")
    run(command, "subset", "statistics.h5", "--comparison", "fc", "fc.h5")
    from tests.helpers.runs import ORDER

    assert run(python, "-c", NOTEBOOK, "statistics.h5") == str(ORDER)
