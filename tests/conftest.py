"""One tiny experiment, run once a session, for tests that look at what stages leave; a folder of real JPEG files."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.fake_slurm import fake  # noqa: F401
from tests.slurm_site import cluster, site  # noqa: F401

TINY = """
name = "tiny"
[data]
name = "digits"
[[nets]]
seeds = [1, 2]
network = { name = "small", channels = [6, 8], hidden = [12] }
[[nets]]
label = "untrained"
seeds = [11, 12]
network = { name = "small", channels = [6, 8], hidden = [12] }
trained = false
[training]
epochs = 2
threads = 1
[statistics]
comparisons = ["conv1", "conv2", "fc1"]
max_images = 200
groups = 5
batch_size = 16
shifted_null = true
threads = 1
[statistics.mutual_information]
positions = 20
[analysis]
rotations = 3
[analysis.sparse]
alphas = 6
max_units = 4
"""


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory) -> Path:
    """Path of the tiny experiment's config."""
    path = tmp_path_factory.mktemp("configs") / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_config, tmp_path_factory) -> Path:
    """Folder of the finished tiny run; tests must not change it."""
    from convergence.cli import main

    runs = tmp_path_factory.mktemp("runs")
    assert main(["run", str(tiny_config), "--runs", str(runs)]) == 0
    return runs / "tiny"


@pytest.fixture
def tiny_copy(tiny_run, tmp_path) -> Path:
    """A copy of the finished tiny run below a fresh runs folder, to damage and re-run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "runs" / "tiny"))


@pytest.fixture(scope="session")
def planted_runs(tmp_path_factory) -> Path:
    """Runs folder with a run of given activations, made without torch: nets with the same units in another order.

    Unit i of net1 is unit ``ORDER[i]`` of net2 and ``OTHER[i]`` of net3, with noise; "alone" has units of its own.
    """
    from convergence.cli import main

    root = tmp_path_factory.mktemp("planted")
    for name, values in planted_activations().items():
        np.save(root / f"{name}.npy", values)
    (root / "planted.toml").write_text(PLANTED.format(root=root.as_posix()), encoding="utf-8")
    assert main(["statistics", str(root / "planted.toml"), "--runs", str(root / "runs")]) == 0
    assert main(["analyze", str(root / "planted.toml"), "--runs", str(root / "runs")]) == 0
    return root


ORDER, OTHER = [3, 0, 5, 1, 7, 2, 6, 4], [1, 2, 3, 4, 5, 6, 7, 0]
PLANTED = """
name = "planted"
[activations]
root = "{root}"
untrained = ["alone"]
[activations.nets]
net1 = {{ conv1 = "net1_conv1.npy", fc = "net1_fc.npy" }}
net2 = {{ conv1 = "net2_conv1.npy", fc = "net2_fc.npy" }}
net3 = {{ conv1 = "net3_conv1.npy", fc = "net3_fc.npy" }}
alone = {{ conv1 = "alone_conv1.npy", fc = "alone_fc.npy" }}
[statistics]
comparisons = ["conv1", "fc"]
groups = 6
subset = 40
shifted_null = true
threads = 1
[statistics.mutual_information]
bins = 4
blocks = 3
[analysis]
rotations = 3
[analysis.sparse]
alphas = 5
max_units = 3
[analysis.clustering]
max_clusters = 5
"""


def planted_activations() -> dict[str, np.ndarray]:
    """Of 240 images: conv1 with 8 units at 3 × 3 positions, fc with 8 units."""
    rng = np.random.default_rng(7)
    found = {}
    for layer, shape in (("conv1", (240, 8, 3, 3)), ("fc", (240, 8))):
        base = rng.standard_normal(shape)
        for net, order in (("net1", range(8)), ("net2", ORDER), ("net3", OTHER)):
            own = np.empty(shape)
            own[:, list(order)] = base
            noisy = own + 0.5 * rng.standard_normal(shape)
            found[f"{net}_{layer}"] = np.maximum(noisy, 0).astype(np.float32)
        found[f"alone_{layer}"] = np.maximum(rng.standard_normal(shape), 0).astype(np.float32)
    found["net2_fc"][:, 6] = 0  # a unit that carries nothing
    return found


@pytest.fixture(scope="session")
def image_root(tmp_path_factory):
    """Two classes of real JPEG files of different sizes, in ImageNet's layout."""
    from PIL import Image

    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, n in (("train", 6), ("val", 4)):
        for label, colour in (("n01", (200, 40, 40)), ("n02", (40, 40, 200))):
            folder = root / split / label
            folder.mkdir(parents=True)
            for k in range(n):
                noise = rng.integers(-30, 30, (50 + 7 * k, 64, 3))
                Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(folder / f"{k}.JPEG")
    return root


def datasets(path: Path) -> dict[str, str]:
    """SHA-256 of every dataset of an HDF5 file, read with h5py alone."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            values = np.asarray(item[()])
            found[name] = hashlib.sha256(
                repr(values).encode() if values.dtype == object else values.tobytes()
            ).hexdigest()

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=6, help="how often the kill test kills")


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


def forget_statistics(run: Path) -> None:
    """Have the statistics of a copied run made again."""
    (run / "statistics.h5").unlink(missing_ok=True)
    (run / "statistics.json").unlink(missing_ok=True)
