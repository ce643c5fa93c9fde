"""Sums larger than the memory of the process that computes them, or of the process that reads them."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict

import h5py
import numpy as np
import pytest
from torch import nn

from convergence.io import hdf5

pytestmark = pytest.mark.slow

WIDTH = 6_000
LIMIT = "900000000"
CONFIG = """
name = "wide"
[data]
name = "digits"
[[nets]]
seeds = [1, 2]
network = { name = "tests.pipeline.test_memory:wide_net" }
trained = false
[statistics]
comparisons = ["wide"]
max_images = 40
groups = 2
threads = 1
loader_workers = 0
mutual_information = { enabled = false }
null = { draws = 0 }
"""
LIMITED = """
import resource, sys
from convergence import cli
import torch, convergence.statistics.passes, convergence.statistics.writer, hpc.statistics
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + int(sys.argv[1]),) * 2)
sys.exit(cli.main(sys.argv[2:]))
"""


def wide_net(n_classes: int) -> nn.Module:
    """A few weights and many units."""
    return nn.Sequential(
        OrderedDict(flatten=nn.Flatten(), wide=nn.Linear(64, WIDTH), relu=nn.ReLU(), out=nn.Linear(WIDTH, n_classes))
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's memory is Linux's")
def test_statistics_larger_than_memory_are_computed(tmp_path):
    """Twelve thousand units: the products of one group alone are 1.15 GB, and the process may take 0.9 GB more."""
    config = tmp_path / "wide.toml"
    config.write_text(CONFIG)
    command = ["statistics", str(config), "--runs", str(tmp_path)]
    train = subprocess.run([sys.executable, "-m", "convergence", "train", *command[1:]], capture_output=True, text=True)
    assert train.returncode == 0, train.stderr
    too_much = "import numpy\n" + LIMITED.replace("sys.exit", "numpy.ones((12_000, 12_000)) #")
    refused = subprocess.run([sys.executable, "-c", too_much, LIMIT], capture_output=True, text=True)
    assert "Unable to allocate 1.07 GiB" in refused.stderr, "the limit holds"
    done = subprocess.run([sys.executable, "-c", LIMITED, LIMIT, *command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    with h5py.File(tmp_path / "wide" / "statistics.h5") as file:
        place = file["comparisons/wide"]
        assert place["group_products"].shape == (2, 2 * WIDTH, 2 * WIDTH)
        count, sums = place["group_count"][1], place["group_sums"][1, 5_990:6_010]
        rows = place["group_products"][1, 5_990:6_010]  # across the nets, off the beginning of a block
        columns = place["group_products"][1, :, 5_990:6_010]
        np.testing.assert_array_equal(rows, columns.T)
        variance = np.diagonal(rows[:, 5_990:6_010]) / count - (sums / count) ** 2
        assert (variance >= -1e-9).all()
        assert (variance > 0).any()
        hdf5.verify(file)


ACTIVATIONS = """
name = "many"
[activations]
root = "."
[activations.nets]
NETS
[statistics]
comparisons = ["wide"]
groups = 32
subset = 0
mutual_information = { enabled = false }
[analysis]
measures = ["linear_cka"]
rotations = 2
sparse = { enabled = false }
clustering = { enabled = false }
"""


IMPORTS = """import convergence.analysis.run, hpc.dask_executor, ot
from convergence.analysis import net_sums
net_sums.KEPT_BYTES = 20_000_000"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's memory is Linux's")
def test_analysis_reads_a_pair_at_a_time(tmp_path):
    """Three nets of 400 units in 32 groups: the products take 0.38 GB, and none are kept; the limit is 0.35 GB."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal((400, 50))
    for k in range(3):
        values = common @ rng.standard_normal((50, 400)) + rng.standard_normal((400, 400))
        np.save(tmp_path / f"net{k}.npy", values.astype(np.float32))
    config = tmp_path / "many.toml"
    config.write_text(ACTIVATIONS.replace("NETS", "\n".join(f'net{k} = {{ wide = "net{k}.npy" }}' for k in range(3))))
    command = [str(config), "--runs", str(tmp_path)]
    made = subprocess.run(
        [sys.executable, "-m", "convergence", "statistics", *command], capture_output=True, text=True, cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr
    size = (tmp_path / "many" / "statistics.h5").stat().st_size
    assert size > 360_000_000
    limited = LIMITED.replace(
        "import torch, convergence.statistics.passes, convergence.statistics.writer, hpc.statistics", IMPORTS
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, "350000000", "analyze", *command, "--workers", "1"],
        capture_output=True, text=True, timeout=600, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    with h5py.File(tmp_path / "many" / "analysis.h5") as file:
        assert len(file["comparisons/wide/pairs"]) == 3
        assert len(file["comparisons/wide/consensus_members"]) == 400 * 3
