"""Compile the kernels of the statistics and the analysis in a second process while nets train.

numba compiles a kernel when it is first called, and keeps the machine code beside the source. In a new installation
that takes about as long as training small nets; a second process does it on an idle core. ``python -m
convergence.cli.warm_up`` compiles them by comparing small arrays.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import convergence

PACKAGE = Path(convergence.__file__).parent
USES_KERNELS = "kernels.jit import njit"
NOT_NEEDED = {"dictionary_kernels.py", "tables.py"}
"""Kernels that no stage of a run calls, or only with images that are read from files."""


def kernel_files(package: Path = PACKAGE) -> list[Path]:
    """Source files of the kernels that a run calls."""
    return [
        path
        for path in sorted(package.rglob("*.py"))
        if path.name not in NOT_NEEDED and path != Path(__file__) and USES_KERNELS in path.read_text(encoding="utf-8")
    ]


def are_compiled(files: list[Path]) -> bool:
    """Whether machine code of every file is kept beside it, or in the folder that the user chose."""
    return all(any(folder.rglob(f"{path.stem}.*.nbi")) for path in files for folder in [_cache_of(path)])


def _cache_of(path: Path) -> Path:
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    return Path(chosen) if chosen else path.parent / "__pycache__"


@contextmanager
def compiling_kernels() -> Iterator[None]:
    """Compile the kernels beside the block, at low priority, where they are not compiled and a core is idle."""
    files = kernel_files()
    if (os.cpu_count() or 1) < 2 or not os.access(PACKAGE, os.W_OK) or are_compiled(files):
        yield
        return
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=PACKAGE.parent,
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Compare small arrays, with everything that calls a kernel."""
    import numpy as np

    if hasattr(os, "nice"):
        os.nice(10)
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((48, 10, 3, 3))
    nets, pre = {}, {}
    for name in ("a", "b", "c"):
        values = (shared + rng.standard_normal(shared.shape)).astype(np.float32)
        pre[name], nets[name] = {"layer": values}, {"layer": np.maximum(values, 0)}
    convergence.compare(
        nets, labels=rng.integers(0, 3, 48), pre=pre, nonlinearity="relu", groups=8, progress=False,
        statistics={"shifted_null": True, "pilot": 16},
    )  # fmt: skip


if __name__ == "__main__":
    main()
