"""Sums of products of units, against the machine's matrix product and np.corrcoef.

    python -m benchmarks.moments

Rectified units, float32, float32 products with float64 sums (the default). Ours is the whole of Moments.update. Two
peers: the peak is a float32 product of square matrices of 2048 rows by numpy's BLAS in this process, counting
2 n³ operations; of n units and K samples, n²K operations count as useful, because the result is symmetric. np.corrcoef
works on the same samples in float64, as is its default.

The error is the largest difference of a correlation from numpy's in float64, for these units and for hostile ones:
means up to a thousand standard deviations, means that drift, heavy tails, rare values. One thread. Takes a minute.
"""

from __future__ import annotations

from benchmarks.timing import describe_blas, interleaved, ratio  # before numpy, see there

# isort: split
from statistics import median

import numpy as np
import numpy.typing as npt

from benchmarks.units import rectified
from convergence.statistics.moments import Moments, correlation, covariance

SAMPLES = 65_536
SQUARE = 2048
BARS = "bars: 0.80 of the peak at n = 1024, 2.2 x np.corrcoef, error 1e-6"


def sums(samples: npt.NDArray[np.float32]) -> Moments:
    """Ours, from samples (n_units, n_samples) to sums."""
    moments = Moments(samples[:, :1024].mean(axis=1))
    moments.update(samples)
    assert moments.count == samples.shape[1]
    return moments


def error(samples: npt.NDArray[np.float32]) -> float:
    """Largest difference of a correlation from numpy's in float64."""
    ours = sums(samples)
    found = correlation(covariance(ours.count, ours.sums, ours.products))
    return float(np.abs(found - np.corrcoef(samples.astype(np.float64))).max())


def hostile(n_units: int = 384, n_samples: int = SAMPLES) -> npt.NDArray[np.float32]:
    """Units that share factors and have far means, drifting means, heavy tails, or values in a hundredth of samples."""
    rng = np.random.default_rng(1)
    x = rectified(n_units, n_samples, seed=1)
    x[0::4] += np.geomspace(1, 1000, len(x[0::4]), dtype=np.float32)[:, None] * x[0::4].std(axis=1, keepdims=True)
    x[1::4] += 10 * np.linspace(-1, 1, n_samples, dtype=np.float32)
    x[2::4] = np.sign(x[2::4]) * np.exp(x[2::4])
    x[3::4] *= rng.random(x[3::4].shape, dtype=np.float32) < 0.01
    return x


def compare(n: int) -> None:
    """Print one line for a width."""
    samples = rectified(n, SAMPLES)
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, SQUARE, SQUARE), dtype=np.float32)
    out = np.empty_like(a)
    seconds = interleaved(
        {
            "product": lambda: np.matmul(a, b, out=out),
            "ours": lambda: sums(samples),
            "np.corrcoef": lambda: np.corrcoef(samples),
        }
    )
    flops = {"product": 2 * SQUARE**3, "ours": n * n * SAMPLES, "np.corrcoef": n * n * SAMPLES}
    rate = {name: flops[name] / median(values) / 1e9 for name, values in seconds.items()}
    share = ratio(seconds, "product", "ours") * flops["ours"] / flops["product"]
    print(
        f"n = {n:5d}   peak {rate['product']:5.0f} Gflop/s   ours {rate['ours']:5.0f} ({share:.2f} of the peak)   "
        f"np.corrcoef {rate['np.corrcoef']:5.0f}   ratio {ratio(seconds, 'np.corrcoef', 'ours'):4.2f}   "
        f"error {error(samples):.1e}",
        flush=True,
    )


def main() -> None:
    """Compare at two widths, then the error on hostile units."""
    print(f"{describe_blas()}; one thread; {BARS}")
    for n in (384, 1024):
        compare(n)
    print(f"hostile units, n = 384: error {error(hostile()):.1e}")


if __name__ == "__main__":
    main()
