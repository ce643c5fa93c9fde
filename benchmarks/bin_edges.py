"""Edges of bins of equal mass, against a KLL sketch.

    python -m benchmarks.bin_edges

Rectified units: zeros in bin 0, nine bins of equal mass over the positive values. Ours is UnitHistograms.update and
edges. The peer is Apache DataSketches' KLL sketch of 32-bit floats, one a unit, which is given the positive values and
asked for their quantiles; it also reads values once and merges, but at random. With its default k = 200, and with one
that makes its bins about as even as ours. It is an extra to install:

    pip install datasketches

Without it our own figures are printed all the same. np.quantile, which needs all values in memory, is beside them.
The error is that of a bin's mass, relative to a ninth, the worst of all bins of all units. One thread. Takes half
a minute.
"""

from __future__ import annotations

from benchmarks.timing import describe_blas, interleaved, ratio  # before numpy, see there

# isort: split
from collections.abc import Callable
from statistics import median

import numpy as np
import numpy.typing as npt

from benchmarks.units import rectified
from convergence.statistics.bin_edges import equal_mass_bins
from convergence.statistics.histograms import UnitHistograms

try:
    from datasketches import kll_floats_sketch
except ImportError:
    kll_floats_sketch = None

BINS = 9
"""Bins of the positive values."""
INNER = np.arange(1, BINS) / BINS
DEFAULT_K, EVEN_K = 200, 2000
Edges = npt.NDArray[np.floating]


def our_edges(samples: npt.NDArray[np.float32]) -> Edges:
    """(n_units, BINS − 1) edges between the bins of the positive values."""
    histograms = UnitHistograms.zeros(len(samples))
    histograms.update(samples)
    return equal_mass_bins(histograms, BINS + 1).edges[:, 1:]


def sketch_edges(samples: npt.NDArray[np.float32], k: int) -> Edges:
    """The same by one sketch a unit."""
    edges = []
    for unit in samples:
        sketch = kll_floats_sketch(k)
        sketch.update(unit[unit > 0])
        edges.append(sketch.get_quantiles(INNER))
    return np.array(edges)


def exact_edges(samples: npt.NDArray[np.float32]) -> Edges:
    """The same from all values in memory."""
    return np.array([np.quantile(unit[unit > 0], INNER) for unit in samples])


def worst_error(samples: npt.NDArray[np.float32], edges: Edges) -> float:
    """Largest relative difference of a bin's mass from a ninth."""
    errors = []
    for unit, inner in zip(samples, edges, strict=True):
        mass = np.bincount(np.searchsorted(inner, unit[unit > 0], side="right"), minlength=BINS)
        errors.append(np.abs(mass * BINS / mass.sum() - 1).max())
    return float(max(errors))


def main() -> None:
    """Time a batch of many units, and print errors beside."""
    samples = rectified(128, 65_536)
    candidates: dict[str, Callable[[], Edges]] = {
        "ours": lambda: our_edges(samples),
        "np.quantile": lambda: exact_edges(samples),
    }
    if kll_floats_sketch is None:
        print("datasketches is not installed, so there is no sketch to compare with: pip install datasketches")
    else:
        for k in (DEFAULT_K, EVEN_K):
            candidates[f"KLL sketch, k = {k}"] = lambda k=k: sketch_edges(samples, k)  # type: ignore[misc]
    print(f"{describe_blas()}; one thread; bar 20 x KLL sketch, k = {EVEN_K}, at an error of at most 1 %")
    print(f"{samples.shape[0]} units, {samples.shape[1]:,} samples, {(samples == 0).mean():.0%} of them zero")
    seconds = interleaved(candidates)
    for name, run in candidates.items():
        print(
            f"  {name:22s} {median(seconds[name]) / samples.size * 1e9:6.2f} ns a value   "
            f"{ratio(seconds, name, 'ours'):5.1f} x ours   worst error of a bin {worst_error(samples, run()):6.2%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
