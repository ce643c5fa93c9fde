"""LASSO paths from correlations, against scikit-learn's Gram coordinate descent, looped.

    python -m benchmarks.lasso                     # n = 96, 256, 384
    python -m benchmarks.lasso 96 1024             # others
    python -m benchmarks.lasso 4096 --targets 8    # the wide layer, a few minutes

Both solve the same problems from the same matrices, with warm starts, to optimality gaps of at most 1e-8 in
units of correlation: scikit-learn's tolerance is the loosest power of ten that reaches this. Two paths of 20
penalties: down to 0.01, where a target has tens of units, and down to 0.001, where it has a good part of the
layer. Wide layers (2048 units or more) have three, to 0.1, 0.03 and 0.01. Takes a minute.

Ours checks once a call that the whole matrix is finite, scikit-learn's kernel does not. On a wide layer with
few targets this is most of the time of the shortest path.
"""

from __future__ import annotations

import argparse
import warnings
from statistics import median

from benchmarks.timing import describe_blas, interleaved, ratio  # before numpy, see there

# isort: split
import time

import numpy as np
import sklearn
from sklearn.linear_model._cd_fast import enet_coordinate_descent_gram

from convergence.alignment import sparse

BAR = 1e-8
WIDE = 2048


def latent_units(n: int, n_targets: int, samples: int = 8192) -> tuple[np.ndarray, np.ndarray]:
    """Correlations of ReLU units of two layers that see the same n / 8 factors, each unit a tenth of them."""
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((samples, max(n // 8, 4)))
    mixing = rng.standard_normal((factors.shape[1], n + n_targets))
    mixing *= rng.random(mixing.shape) < 0.1
    noisy = factors @ mixing + 0.5 * rng.standard_normal((samples, n + n_targets))
    joint = np.corrcoef(np.maximum(noisy - 0.3, 0), rowvar=False)
    return joint[:n, :n].copy(), joint[:n, n:].copy()


def looped(r_xx: np.ndarray, targets: np.ndarray, alphas: np.ndarray, tolerance: float) -> np.ndarray:
    """scikit-learn's kernel, called once a target and penalty with the last solution as the start."""
    weights = np.empty((len(alphas), *targets.shape))
    unit_variance, order = np.ones(1), np.random.RandomState(0)
    for t, target in enumerate(targets):
        w = np.zeros(len(r_xx))
        for l, alpha in enumerate(alphas):
            enet_coordinate_descent_gram(
                w, alpha, 0.0, r_xx, target, unit_variance, 100_000, tolerance, order, False, False
            )
            weights[l, t] = w
    return weights


def worst_gap(r_xx: np.ndarray, r_xy: np.ndarray, weights: np.ndarray, alphas: np.ndarray) -> float:
    """Largest violation of optimality over the path, by its definition."""
    return max(float(sparse.kkt_gap(r_xx, r_xy, w, a).max()) for w, a in zip(weights, alphas, strict=True))


def loosest_tolerance(r_xx: np.ndarray, r_xy: np.ndarray, alphas: np.ndarray) -> tuple[float, float]:
    """The loosest power of ten with which scikit-learn's gaps are at most ``BAR``, and its gap there."""
    gap = np.inf
    for exponent in range(5, 15):
        weights = looped(r_xx, np.ascontiguousarray(r_xy.T), alphas, 10.0**-exponent)
        gap = worst_gap(r_xx, r_xy, weights, alphas)
        if gap <= BAR:
            break
    return 10.0**-exponent, gap


def compare(r_xx: np.ndarray, r_xy: np.ndarray, alphas: np.ndarray) -> None:
    """Print one line for a layer and a path."""
    n, n_targets = r_xy.shape
    targets = np.ascontiguousarray(r_xy.T)
    tolerance, theirs = loosest_tolerance(r_xx, r_xy, alphas)
    path = sparse.lasso_path(r_xx, r_xy, alphas)
    seconds = interleaved(
        {
            "scikit-learn": lambda: looped(r_xx, targets, alphas, tolerance),
            "ours": lambda: sparse.lasso_path(r_xx, r_xy, alphas),
        }
    )
    each = {name: median(values) / n_targets * 1e3 for name, values in seconds.items()}
    print(
        f"n = {n:5d}  alpha {alphas[0]:.2g} .. {alphas[-1]:<5.2g}  support {path.n_nonzero.mean():5.1f}   "
        f"scikit-learn {each['scikit-learn']:8.3f} ms a target (gap {theirs:.0e}, tol {tolerance:.0e})   "
        f"ours {each['ours']:7.3f} ms (gap {worst_gap(r_xx, r_xy, path.weights, alphas):.0e})   "
        f"ratio {ratio(seconds, 'scikit-learn', 'ours'):5.1f}",
        flush=True,
    )


def main() -> None:
    """Parse the widths and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("widths", nargs="*", type=int, default=[96, 256, 384], help="units of the predicting layer")
    parser.add_argument("--targets", type=int, default=32)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn's own about convergence: gaps are measured here
    print(f"{describe_blas()}; scikit-learn {sklearn.__version__}; one thread")
    start = time.perf_counter()
    sparse.lasso_path(np.eye(3), np.zeros((3, 1)), [0.1])
    print(f"kernel ready after {time.perf_counter() - start:.1f} s (compiled once, then read from the cache)")
    for n in arguments.widths:
        r_xx, r_xy = latent_units(n, arguments.targets)
        for smallest in (0.1, 0.03, 0.01) if n >= WIDE else (0.01, 0.001):
            compare(r_xx, r_xy, np.geomspace(0.9, smallest, 20))


if __name__ == "__main__":
    main()
