"""Full disks, on a small file system: one clear message, what was there before survives, and the work goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from convergence.cli import main
from convergence.errors import DiskFullError, FileError
from convergence.io import hdf5
from convergence.io.files import CHECKPOINTS, disk_full_errors, full, is_full
from convergence.training import checkpoints
from tests.helpers.runs import datasets, forget_statistics

pytestmark = pytest.mark.slow


class SmallDisk:
    """A file system of so many MiB in memory, and what fills it."""

    def __init__(self, path: Path) -> None:
        self.path, self._ballast = path, path / "ballast"

    def fill(self, left: int) -> None:
        """Leave this many bytes."""
        self._ballast.unlink(missing_ok=True)
        with self._ballast.open("wb") as file:
            file.write(bytes(max(0, shutil.disk_usage(self.path).free - left)))

    def make_room(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system is mounted as root on Linux, and not in every container")
    yield SmallDisk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def says_so(capsys, folder: Path) -> bool:
    errors = capsys.readouterr().err
    (line,) = [line for line in errors.splitlines() if line.startswith("convergence: ")]
    return "Traceback" not in errors and f"convergence: {folder}" in line and "bytes are free" in line


def test_full_disk_keeps_checkpoint_and_training_resumes(disk, tiny_config, tiny_run, monkeypatch, capsys, caplog):
    runs = disk.path / "runs"
    command = ["train", str(tiny_config), "--runs", str(runs), "--net", "net1"]
    command += ["--set", "training.checkpoint_minutes=1e-6"]
    write, written = checkpoints.write, []

    def filling(path, state):
        written.append((state["epoch"], state["step"]))
        if len(written) == 4:
            disk.fill(left=0)
        write(path, state)

    monkeypatch.setattr(checkpoints, "write", filling)
    assert main(command) == 2
    folder = runs / "tiny" / "nets" / "net1"
    assert says_so(capsys, folder)
    states = [checkpoints.read(folder / name) for name in CHECKPOINTS]
    assert [(state["epoch"], state["step"]) for state in states] == [written[2], written[1]]
    assert main(command) == 2, "there is no room yet"
    monkeypatch.undo()
    disk.make_room()
    caplog.set_level("INFO")
    assert main(command) == 0
    assert "resuming after epoch" in caplog.text
    assert (folder / "weights.safetensors").read_bytes() == (
        tiny_run / "nets" / "net1" / "weights.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(("stage", "room"), [("statistics", (0, 100_000, 900_000)), ("analyze", (100_000,))])
def test_statistics_and_analysis_resume_after_full_disk(disk, stage, room, tiny_config, tiny_run, capsys):
    run = disk.path / "runs" / "tiny"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("report", "pictures.*"))
    command = [stage, str(tiny_config), "--runs", str(run.parent)]
    name = "statistics" if stage == "statistics" else "analysis"
    if stage == "statistics":
        forget_statistics(run)
    else:
        (run / "analysis.h5").unlink()
        (run / "analysis.json").unlink()
    for left in room:
        disk.fill(left)
        assert main(command) == 2, left
        assert says_so(capsys, run), left
        assert not (run / f"{name}.h5").exists()
    disk.make_room()
    assert main(command) == 0
    assert datasets(run / f"{name}.h5") == datasets(tiny_run / f"{name}.h5")
    assert not list(run.glob(".*.partial"))


def write_new(path: Path, size: int) -> None:
    with hdf5.create(path, "s", 1, {"which": "new"}) as file:
        for k in range(20):
            hdf5.write_array(file, f"x{k}", np.zeros(size), about="y" * 200)


def test_full_disk_keeps_previous_file(disk):
    """Also where the last bytes of HDF5's own bookkeeping are what finds none."""
    path = disk.path / "a.h5"
    with hdf5.create(path, "s", 1, {"which": "old"}) as file:
        hdf5.write_array(file, "x", np.arange(3))
    for left, size in ((0, 1), (4096, 1), (8192, 600), (500_000, 100_000)):
        disk.fill(left)
        with pytest.raises(DiskFullError, match="bytes are free"), disk_full_errors(path.parent):
            write_new(path, size)
        with h5py.File(path) as file:
            assert file.attrs["which"] == "old"
            hdf5.verify(file)


def test_errors_of_full_disk_and_quota_are_recognised(tmp_path):
    assert is_full(OSError(28, os.strerror(28)))
    assert is_full(OSError(122, os.strerror(122)))
    assert is_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    of_a_library = ValueError("something else")
    of_a_library.__cause__ = OSError(28, os.strerror(28))
    assert is_full(of_a_library)
    assert not is_full(OSError(5, os.strerror(5)))
    assert "quota" in str(full(tmp_path / "not" / "there", OSError(122, os.strerror(122))))
    with pytest.raises(FileError, match="another"), disk_full_errors(tmp_path):
        raise FileError("another")
