"""Workers of the analysis as jobs of a real Slurm on this machine: the same bits, and nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PORT = "26937"
CONFIG = """
name = "layers"
[activations]
root = "ROOT"
nets.a = { layer = "a.npy" }
nets.b = { layer = "b.npy" }
[statistics]
comparisons = ["layer"]
groups = 4
[statistics.mutual_information]
enabled = false
[analysis]
rotations = 2
[analysis.sparse]
alphas = 4
max_units = 2
"""
CUT = "from convergence.analysis import cost; cost.TOGETHER = 0.0; from convergence.cli import main; import sys; "
CUT += "sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def slurm_environment(tmp_path_factory):
    """Environment of commands that speak to a Slurm of two virtual nodes."""
    from shutil import which

    if os.name != "posix" or os.geteuid() or not which("slurmctld") or not which("munged"):
        pytest.skip("a Slurm is started as root and with slurm-wlm and munge installed (tests/setup.sh)")
    folder = tmp_path_factory.mktemp("slurm")
    scripts = ROOT / "tests" / "cluster" / "site"
    subprocess.run(["sh", scripts / "start.sh", folder, "2", "2", PORT], check=True, timeout=120)
    said = subprocess.run(
        ["sh", "-c", f". {folder}/environment; env -0"], check=True, capture_output=True, timeout=60
    ).stdout.decode()
    yield dict(line.split("=", 1) for line in said.split("\0") if "=" in line)
    subprocess.run(["sh", scripts / "stop.sh", folder], check=False, timeout=120)


def test_the_same_bits_from_worker_jobs(slurm_environment, tmp_path):
    import numpy as np

    from convergence.cli import main
    from tests.helpers.content_hash import content_hash

    rng = np.random.default_rng(0)
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.maximum(rng.standard_normal((300, 8)), 0).astype(np.float32))
    config = tmp_path / "layers.toml"
    config.write_text(CONFIG.replace("ROOT", str(tmp_path)), encoding="utf-8")
    hashes = []
    for runs in (tmp_path / "here", tmp_path / "jobs"):
        assert main(["statistics", str(config), "--runs", str(runs)]) == 0
        command = [sys.executable, "-c", CUT, "analyze", str(config), "--runs", str(runs)]
        if runs.name == "jobs":
            command += ["--cluster", str(ROOT / "configs" / "clusters" / "local_test.toml"), "--workers", "2"]
        environ = slurm_environment | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        hashes.append(content_hash(runs / "layers" / "analysis.h5"))
    assert hashes[0] == hashes[1]
    left = [path.name for path in (tmp_path / "jobs" / "workers").iterdir()]
    assert any(name.startswith("convergence-worker") for name in left)
    assert not any(name.startswith("tls") for name in left)
    queue = subprocess.run(["squeue", "-h"], env=slurm_environment, capture_output=True, text=True, check=True).stdout
    assert not [line for line in queue.splitlines() if " CG " not in line]
