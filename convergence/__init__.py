"""The science: networks, their statistics, alignments, measures and pictures. No MPI, no Slurm, no Dask.

In a notebook::

    import convergence

    results = convergence.compare({"a": net1, "b": net2}, data=loader, layers=["layer1", "layer2"])
    results.report("report/")

    run = convergence.open("statistics.h5")  # or a run folder, or analysis.h5
    run["conv1"].matching("net1", "net2").figure()

``compare`` is :func:`convergence.notebook.compare.compare` and ``open`` is :func:`convergence.results.run.open`; what
they need is imported when it is used.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from convergence.errors import UserError
    from convergence.notebook.compare import compare
    from convergence.results.run import Run
    from convergence.results.run import open as open

__all__ = ["Run", "UserError", "__version__", "compare"]  # not open: `import *` would hide Python's own
_LAZY = {
    "compare": "convergence.notebook.compare",
    "open": "convergence.results.run",
    "Run": "convergence.results.run",
    "UserError": "convergence.errors",
}


def __getattr__(name: str) -> Any:
    """What is public and not imported yet (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    found = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
