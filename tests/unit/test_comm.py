"""Every item has one owner; a world of another size than was launched is refused."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from convergence.cli import launch
from convergence.errors import UserError
from hpc.comm import SerialCommunicator, launched_ranks, owned, world


def test_every_item_has_one_owner():
    for size in range(1, 18):
        for n_items in (0, 1, 2, 7, 16, 17, 100):
            shares = [owned(n_items, rank, size) for rank in range(size)]
            assert sorted(item for share in shares for item in share) == list(range(n_items))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_rank_outside_the_world_is_refused():
    with pytest.raises(ValueError, match="rank 3"):
        owned(5, 3, 3)


def test_one_rank_without_a_launcher():
    interactive = {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0"}
    for environ in (
        {},
        {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "WORLD_SIZE": "4"},  # a batch script, not a step
        interactive,
        {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMI_SIZE": "1", "PMI_RANK": "0"},
        {"PMI_SIZE": "", "PALS_RANKID": "none", "PMI_RANK": "9" * 5000},
    ):
        assert launched_ranks(environ) == (1, "", False), environ
        assert isinstance(world(environ), SerialCommunicator)


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        *(({f"{name}_SIZE": "3", f"{name}_RANK": "2"}, (3, f"{name}_SIZE", False))
          for name in ("PMI", "OMPI_COMM_WORLD", "MV2_COMM_WORLD", "MVP_COMM_WORLD", "JSM_NAMESPACE")),
        ({"FLUX_JOB_SIZE": "3", "FLUX_TASK_RANK": "0"}, (3, "FLUX_JOB_SIZE", False)),
        ({"PALS_RANKID": "2"}, (3, "PALS_RANKID", True)),
        ({"ALPS_APP_PE": "1"}, (2, "ALPS_APP_PE", True)),
        ({"PMIX_RANK": "1", "PMIX_NAMESPACE": "x"}, (2, "PMIX_RANK", True)),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_NTASKS": "8"}, (3, "SLURM_STEP_ID", False)),
    ],
)  # fmt: skip
def test_launchers_that_mpi_does_not_see_are_recognised(environ, found, monkeypatch):
    assert launched_ranks(environ) == found
    mpi = SimpleNamespace(COMM_WORLD=SimpleNamespace(Get_rank=lambda: 0, Get_size=lambda: 1))
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=mpi))
    with pytest.raises(UserError, match=f"3 ranks|at least .*{found[1]}|MPI sees a world of 1") as caught:
        world(environ)
    assert f"env -u {found[1]}.)" in str(caught.value)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(UserError, match="mpi4py is not installed"):
        world(environ)


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


def test_interrupt_of_one_rank_ends_the_others(monkeypatch):
    """Otherwise it would wait for them in MPI_Finalize, and they for it in a barrier."""
    aborted = []
    comm = SimpleNamespace(rank=0, size=6, abort=lambda error, code: aborted.append(code))
    monkeypatch.setattr(launch, "_communicator", lambda verb, experiment: comm)

    def interrupt(comm):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch.on_ranks("statistics", None, interrupt)
    assert aborted == [130]
