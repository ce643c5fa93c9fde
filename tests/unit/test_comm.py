"""Ownership is arithmetic; the communicator refuses worlds that are not what was launched."""

import os
import subprocess
import sys

import pytest

from convergence.errors import UserError
from hpc.comm import SerialCommunicator, launched_ranks, owned, world


def test_every_item_has_one_owner():
    for size in range(1, 18):
        for n_items in (0, 1, 2, 7, 16, 17, 100):
            shares = [owned(n_items, rank, size) for rank in range(size)]
            assert sorted(item for share in shares for item in share) == list(range(n_items))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_rank_outside_the_world_is_refused():
    with pytest.raises(ValueError, match="rank 3"):
        owned(5, 3, 3)


def test_without_a_launcher_there_is_one_rank():
    assert launched_ranks({}) == 1
    assert isinstance(world({}), SerialCommunicator)
    assert isinstance(world({"SLURM_NTASKS": "4"}), SerialCommunicator)  # a batch script, not a step


def test_launcher_without_pmi_is_refused():
    """What srun without PMI looks like from inside: four tasks, a world of one."""
    environ = os.environ | {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4"}
    code = "from hpc.comm import world; world()"
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode
    assert "4 ranks were launched, but MPI sees a world of 1" in done.stderr
    assert "--mpi=pmi2" in done.stderr


def test_abort_without_ranks_raises():
    with pytest.raises(UserError, match="mended"):
        SerialCommunicator().abort(UserError("can be mended"), 2)
