"""Joint counts of all pairs of units, against np.histogram2d, np.bincount and a product of one-hot matrices.

    python -m benchmarks.mutual_information

Ten bins, the zeros of the ReLU in a bin of their own. The unit is the pair-sample: one sample counted for one ordered
pair of units. Ours is everything from bin numbers to counts of all pairs. The peers:

* np.histogram2d, called once a pair with the percentiles of that pair's values as edges, as one would write it; beside
  it with the edges given;
* np.bincount on one number for both bins, once a pair;
* torch._int_mm: samples as rows of ones and zeros (bins 1 to 9 of every unit) in int8, and one product for all pairs;
  left out if torch is not installed.

All counts are compared, not only timed. One thread. Takes half a minute.
"""

from __future__ import annotations

from benchmarks.timing import describe_blas, interleaved  # before numpy, see there

# isort: split
from collections.abc import Callable
from statistics import median

import numpy as np
import numpy.typing as npt

from benchmarks.units import rectified
from convergence.statistics.bin_edges import encode, equal_mass_bins
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.joint_counts import JointCounts, joint_counts_plain

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

BINS = 10
SAMPLES = 65_536
PRODUCT_SAMPLES = 8_192
PAIRS = 4
"""Pairs that a round of the slow peers counts."""
BAR = 1_200


def percentile_edges(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Bin 0 for zeros, the others of equal mass."""
    inner = np.percentile(values[values > 0], np.linspace(0, 100, BINS)[1:-1])
    return np.concatenate([[-np.inf, 1e-30], inner, [np.inf]])


def given_edges(samples: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Edges with both ends (n_units, BINS + 1), and bin numbers, of all units."""
    histograms = UnitHistograms.zeros(len(samples))
    histograms.update(samples)
    edges = equal_mass_bins(histograms, BINS).edges
    return np.pad(edges, ((0, 0), (1, 1)), constant_values=(-np.inf, np.inf)).astype(np.float64), encode(samples, edges)


def one_hot_counts(codes: npt.NDArray[np.uint8], n_x: int) -> npt.NDArray[np.int32]:
    """(n_x, n_units, BINS − 1, BINS − 1) counts of the bins but 0, by one product in int8."""
    n_units, n_samples = codes.shape
    levels = torch.arange(1, BINS, dtype=torch.uint8)
    hot = (torch.from_numpy(codes)[:, None] == levels[:, None]).to(torch.int8).reshape(-1, n_samples)
    product = torch._int_mm(hot[: n_x * (BINS - 1)], hot.T)
    return product.reshape(n_x, BINS - 1, n_units, BINS - 1).numpy().transpose(0, 2, 1, 3)


def our_counts(codes: npt.NDArray[np.uint8], n_x: int) -> npt.NDArray[np.int64]:
    """(n_x, n_units, BINS, BINS) counts."""
    joint = JointCounts(n_x, len(codes), BINS)
    joint.update(codes[:n_x], codes)
    return joint.counts()


def compare(n_units: int, n_x: int) -> None:
    """Print a table for the pairs of the first ``n_x`` of ``n_units`` units with all of them."""
    samples = rectified(n_units, SAMPLES)
    edges, codes = given_edges(samples)
    few = np.ascontiguousarray(codes[:, :PRODUCT_SAMPLES])
    pairs = [tuple(pair) for pair in np.random.default_rng(1).integers(0, n_x, (PAIRS, 2))]
    candidates: dict[str, tuple[Callable[[], object], int]] = {
        "np.histogram2d, percentiles a pair": (
            lambda: [
                np.histogram2d(samples[x], samples[y], [percentile_edges(samples[x]), percentile_edges(samples[y])])
                for x, y in pairs
            ],
            PAIRS * SAMPLES,
        ),
        "np.histogram2d, edges given": (
            lambda: [np.histogram2d(samples[x], samples[y], [edges[x], edges[y]]) for x, y in pairs],
            PAIRS * SAMPLES,
        ),
        "np.bincount on bin numbers": (
            lambda: [joint_counts_plain(codes[x], codes[y], BINS) for x, y in pairs],
            PAIRS * SAMPLES,
        ),
        "ours": (lambda: our_counts(codes, n_x), n_x * n_units * SAMPLES),
    }
    if torch is not None:
        torch.set_num_threads(1)
        candidates["torch._int_mm of one-hot int8"] = (
            lambda: one_hot_counts(few, n_x),
            n_x * n_units * PRODUCT_SAMPLES,
        )

    check(samples, edges, codes, n_x)
    seconds = interleaved({name: run for name, (run, _) in candidates.items()})
    each = {name: [s / candidates[name][1] for s in values] for name, values in seconds.items()}
    print(f"n = {n_units}, pairs of {n_x} units with all, {(codes == 0).mean():.0%} of the samples zero; counts exact")
    for name, per_sample in each.items():
        ratios = [
            median(slow / fast for slow, fast in zip(each[peer], per_sample, strict=True))
            for peer in ("np.histogram2d, percentiles a pair", "np.histogram2d, edges given")
        ]
        print(
            f"  {name:36s} {1e-9 / median(per_sample):9.4f} G pair-samples / s   {ratios[0]:8.1f} x histogram2d"
            f"   ({ratios[1]:8.1f} x with edges given)",
            flush=True,
        )


def check(
    samples: npt.NDArray[np.float32], edges: npt.NDArray[np.float64], codes: npt.NDArray[np.uint8], n_x: int
) -> None:
    """Counts of a thousand pairs against np.bincount, of some against np.histogram2d, of all against the product."""
    ours = our_counts(codes, n_x)
    rng = np.random.default_rng(2)
    for i in range(1000):
        x, y = rng.integers(0, n_x), rng.integers(0, len(codes))
        np.testing.assert_array_equal(ours[x, y], joint_counts_plain(codes[x], codes[y], BINS))
        if i < 20:
            found = np.histogram2d(samples[x], samples[y], [edges[x], edges[y]])[0]
            np.testing.assert_array_equal(ours[x, y], found)
    if torch is not None:
        few = np.ascontiguousarray(codes[:, :PRODUCT_SAMPLES])
        np.testing.assert_array_equal(our_counts(few, n_x)[:, :, 1:, 1:], one_hot_counts(few, n_x))


def main() -> None:
    """Compare at two widths."""
    torch_version = f"; torch {torch.__version__}" if torch is not None else "; no torch"
    print(f"{describe_blas()}{torch_version}; one thread; bar {BAR} x np.histogram2d with percentiles a pair")
    compare(256, 256)
    compare(1024, 64)


if __name__ == "__main__":
    main()
