"""Matching of two large dictionaries: time and memory, and a dense matching as the peer where it fits into memory.

    python -m benchmarks.dictionaries                              # 16,384 latents, with the dense peer at 4,096
    python -m benchmarks.dictionaries --latents 131072 --dims 768  # minutes and 3 GB

Half of the latents of the second dictionary are those of the first with noise, in another order, the other half random.
Prints the share of the planted pairs that is found, the mean similarity with its bound, and the chance level. Codes
are activations of as many latents over tokens, 32 a token.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import scipy.sparse
from scipy.optimize import linear_sum_assignment

from benchmarks.timing import describe_blas
from convergence.alignment.dictionaries import (
    DictionaryMatching,
    code_candidates,
    direction_candidates,
    match,
    match_directions,
    rotated_directions,
)

ACTIVE = 32


def planted(n: int, dims: int, noise: float = 0.4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions of two dictionaries, and the partner of each latent of the first; -1 for none."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, dims), dtype=np.float32)
    order = rng.permutation(n)
    y = np.where((np.arange(n) < n // 2)[:, None], x[order], 0) + noise * rng.standard_normal(
        (n, dims), dtype=np.float32
    )
    partner = np.full(n, -1)
    partner[order[: n // 2]] = np.arange(n // 2)
    return x, y.astype(np.float32), partner


def planted_codes(n: int, n_tokens: int) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array, np.ndarray]:
    """Activations of latents, of which a tenth is missing in the second dictionary, in another order."""
    rng = np.random.default_rng(1)
    # Latents differ in how often they are active, as in trained dictionaries.
    latents = np.minimum((n * rng.random((n_tokens, ACTIVE)) ** 2).astype(np.int64), n - 1)
    tokens = np.repeat(np.arange(n_tokens), ACTIVE)
    values = rng.exponential(size=latents.size).astype(np.float32)
    x = scipy.sparse.csr_array((values, (tokens, latents.ravel())), shape=(n_tokens, n))
    kept = rng.random(latents.size) > 0.1
    order = rng.permutation(n)
    y = scipy.sparse.csr_array((values[kept], (tokens[kept], order[latents.ravel()[kept]])), shape=(n_tokens, n))
    return x, y, order


def report(name: str, found: DictionaryMatching, partner: np.ndarray) -> None:
    """Print what was found."""
    there = partner >= 0
    share = np.mean(found.partner[there] == partner[there])
    print(f"{name}: {share:.2%} of the planted pairs found; mean {found.mean:.4f}, at most {found.bound:.4f}")


def main() -> None:
    """Print times, peak memory and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=16384)
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--dense", type=int, default=4096, help="latents of the dense peer; 0 for none")
    chosen = parser.parse_args()
    print(describe_blas())
    small = planted(64, 8)
    match_directions(small[0], small[1])  # compiles the kernels
    x, y, partner = planted(chosen.latents, chosen.dims)
    start, cpu = time.monotonic(), time.process_time()
    candidates = direction_candidates(x, y)
    middle, middle_cpu = time.monotonic(), time.process_time()
    found = match(candidates)
    end, end_cpu = time.monotonic(), time.process_time()
    print(
        f"{chosen.latents:,} directions of {chosen.dims}: candidates {middle - start:.1f} s "
        f"({middle_cpu - cpu:.1f} s of processors), matching {end - middle:.1f} s ({end_cpu - middle_cpu:.1f} s)"
    )
    report("directions", found, partner)
    if chosen.latents <= 32768:
        print(f"chance, rotated: mean {match_directions(x, rotated_directions(y)).mean:.4f}")
    codes_x, codes_y, order = planted_codes(chosen.latents, chosen.tokens)
    start, cpu = time.monotonic(), time.process_time()
    of_codes = match(code_candidates(codes_x, codes_y))
    print(
        f"{chosen.latents:,} latents, {chosen.tokens:,} tokens, {ACTIVE} active: {time.monotonic() - start:.1f} s "
        f"({time.process_time() - cpu:.1f} s of processors)"
    )
    active = np.bincount(codes_x.indices, minlength=chosen.latents) > 5
    report("codes", of_codes, np.where(active, order, -1))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
    if chosen.dense:
        x, y, _ = planted(chosen.dense, chosen.dims)
        cpu = time.process_time()
        ours = match_directions(x, y)
        ours_cpu, cpu = time.process_time() - cpu, time.process_time()
        unit_x, unit_y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
        cosines = unit_x @ unit_y.T
        rows, columns = linear_sum_assignment(cosines, maximize=True)
        print(
            f"{chosen.dense:,} directions: {(time.process_time() - cpu) / ours_cpu:.1f} times as fast as the dense "
            f"matrix and scipy.optimize.linear_sum_assignment; mean {ours.mean:.5f} and "
            f"{cosines[rows, columns].mean():.5f}"
        )


if __name__ == "__main__":
    main()
