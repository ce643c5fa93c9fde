"""Kernels are compiled in a second process where they are not compiled yet."""

from __future__ import annotations

import json
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


CALLED = """
import importlib, json
from numba.core.dispatcher import Dispatcher
from convergence.cli import warm_up

warm_up.main()
called = []
for path in warm_up.kernel_files():
    name = ".".join(path.relative_to(warm_up.PACKAGE.parent).with_suffix("").parts)
    kernels = [one for one in vars(importlib.import_module(name)).values() if isinstance(one, Dispatcher)]
    if any(one.signatures for one in kernels if one.py_func.__module__ == name):
        called.append(path.name)
print(json.dumps(called))
"""


@pytest.mark.slow
def test_second_process_calls_kernels_of_every_file():
    done = subprocess.run([sys.executable, "-c", CALLED], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [path.name for path in kernel_files()]
