"""Kernels are compiled in a second process where they are not compiled yet."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from convergence.cli.warm_up import are_compiled, kernel_files


def test_kernels_count_as_compiled_once_each_file_has_machine_code(tmp_path, monkeypatch):
    files = kernel_files()
    assert {"homotopy_kernels.py", "joint_counts.py", "moments.py", "k_means.py"} <= {path.name for path in files}
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert not are_compiled(files)
    for path in files:
        assert not are_compiled(files)
        (tmp_path / f"{path.stem}.kernel-1.py311.nbi").touch()
    assert are_compiled(files)


@pytest.mark.slow
def test_second_process_compiles_every_kernel_of_a_run(tmp_path, monkeypatch):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "convergence.cli.warm_up"], env=environment, check=True)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert [path.name for path in kernel_files() if not are_compiled([path])] == []
