"""Rows of agreement: sums, counts, distributions and error bars."""

from __future__ import annotations

import numpy as np
from scipy.stats import wasserstein_distance

from benchmarks.conformance_layers import Float32, Float64
from benchmarks.conformance_table import DEFINITION, Cases, module, row
from convergence.analysis.distributions import shape_distances
from convergence.inference import false_discovery_rates, jackknife
from convergence.statistics.bin_edges import encode, equal_mass_bins
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.information import mutual_information
from convergence.statistics.joint_counts import JointCounts
from convergence.statistics.moments import Moments

HOSTILE_UNITS = "mean/std 1e4 of either sign, 80 % zeros, heavy tails, drift, a jump, scales of 1e-6 and 1e6"
BINNED_UNITS = "rectified, negative, zero but for 10 of 20,000 samples, always zero, of three values"
GROUPS = "the hostile units, in groups of 100, 4099 and 20,000 samples"
BINS = 10


def hostile_units(n: int = 20_000) -> Float32:
    """(n_units, n) units that break careless sums."""
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((3, n))
    rows = [
        1e4 + a, 0.6 * a + 0.8 * b - 1e4, np.maximum(a - 0.84, 0), np.maximum(0.9 * a + 0.4 * c - 0.84, 0),
        rng.standard_t(2.1, n), np.linspace(0, 100, n) + b, np.where(np.arange(n) < n // 2, 0, 300) + c,
        1e-6 * b, 1e6 * np.maximum(a, 0), np.exp(1.5 * c),
    ]  # fmt: skip
    return np.array(rows, dtype=np.float32)


def merged(samples: Float32, precision: str, size: int) -> Moments:
    """Moments of groups of so many samples, added up."""
    total = Moments(samples[:, :10].mean(axis=1), precision)
    for start in range(0, samples.shape[1], size):
        part = Moments(total.shift, precision)
        part.update(samples[:, start : start + size])
        total.merge(part)
    return total


def _correlations(precision: str) -> Cases:
    samples = hostile_units()
    for size in (100, 4099, 20_000):
        yield merged(samples, precision, size).correlation(), np.corrcoef(samples.astype(np.float64))


@row('Moments(…, "float32").correlation', "numpy", "`corrcoef` in float64", GROUPS, 1e-6)
def correlation_float32() -> Cases:
    return _correlations("float32")


@row('Moments(…, "float64").correlation', "numpy", "`corrcoef` in float64", GROUPS, 1e-12)
def correlation_float64() -> Cases:
    return _correlations("float64")


@row(
    'Moments(…, "float64").covariance', "numpy", "`cov` in float64", f"{GROUPS}; divided by standard deviations", 1e-12
)
def covariance() -> Cases:
    samples = hostile_units()
    wanted = np.cov(samples.astype(np.float64), bias=True)
    deviations = np.sqrt(np.diag(wanted))
    for size in (100, 4099, 20_000):
        yield (
            merged(samples, "float64", size).covariance() / np.outer(deviations, deviations),
            wanted / np.outer(deviations, deviations),
        )


def binned_units(n: int = 20_000) -> Float32:
    """(n_units, n): rectified, negative, zero but for ten samples, always zero, of three values."""
    rng = np.random.default_rng(1)
    a = rng.standard_normal((4, n))
    rare, few = np.zeros(n), rng.integers(0, 3, n)
    rare[rng.choice(n, 10, replace=False)] = rng.random(10)
    return np.array([*np.maximum(a[:3], 0), a[3] + 0.5 * a[0], rare, np.zeros(n), few], dtype=np.float32)


def joint_counts(samples: Float32) -> tuple[Float32, np.ndarray, np.ndarray]:
    """Edges (n_units, K − 1), bin numbers (n_units, n), and counts of all pairs (n_units, n_units, K, K)."""
    histograms = UnitHistograms.zeros(len(samples))
    histograms.update(samples)
    edges = equal_mass_bins(histograms, BINS).edges
    codes = encode(samples, edges)
    joint = JointCounts(len(samples), len(samples), BINS)
    joint.update(codes, codes)
    return edges, codes, joint.counts()


@row("JointCounts.counts", "numpy", "`histogram2d` on the same edges", "the binned units, all pairs", 0.0)
def counts_of_bins() -> Cases:
    samples = binned_units()
    edges, _, counts = joint_counts(samples)
    ends = np.pad(edges, ((0, 0), (1, 1)), constant_values=(-np.inf, np.inf)).clip(-1e30, 1e30).astype(np.float64)
    for x, y in np.ndindex(counts.shape[:2]):
        yield counts[x, y], np.histogram2d(samples[x], samples[y], [ends[x], ends[y]])[0]


@row(
    "mutual_information",
    "scikit-learn",
    "`mutual_info_score` less (Kx − 1)(Ky − 1) / 2N",
    "the binned units, all pairs; nats",
    1e-12,
)
def information() -> Cases:
    from sklearn.metrics import mutual_info_score

    _, codes, counts = joint_counts(binned_units())
    found = mutual_information(counts)
    for x, y in np.ndindex(found.shape):
        free = (len(np.unique(codes[x])) - 1) * (len(np.unique(codes[y])) - 1)
        yield found[x, y], mutual_info_score(codes[x], codes[y]) - free / (2 * codes.shape[1])


@row(
    "UnitHistograms.percentiles",
    "numpy",
    '`percentile`, "inverted_cdf"',
    "six of each of the binned units; relative to the value",
    2e-3,
)
def percentiles() -> Cases:
    samples, percents = binned_units(), (1, 25, 50, 90, 99, 99.96)
    histograms = UnitHistograms.zeros(len(samples))
    histograms.update(samples)
    for unit, found in zip(samples, histograms.percentiles(percents), strict=True):
        wanted = np.percentile(unit.astype(np.float64), percents, method="inverted_cdf")
        scale = np.where(wanted == 0, 1.0, wanted)
        yield found / scale, wanted / scale


@row(
    "shape_distances",
    "scipy",
    "`stats.wasserstein_distance`",
    "units as 100 quantiles, rectified and heavy-tailed",
    1e-12,
)
def distances() -> Cases:
    rng = np.random.default_rng(3)
    x = np.sort(np.maximum(rng.standard_normal((5, 100)), 0), axis=1)
    y = np.sort(rng.standard_t(2.1, (6, 100)), axis=1)
    for (i, j), found in np.ndenumerate(shape_distances(x, y)):
        yield found, wasserstein_distance(x[i], y[j])


def jackknife_cases() -> list[Float64]:
    rng = np.random.default_rng(4)
    return [rng.exponential(size=n) for n in (2, 3, 16, 64)]


@row("jackknife", "astropy", "`stats.jackknife_stats`", "bias and error of a variance; 2 to 64 groups", 1e-12)
def jackknife_astropy() -> Cases:
    for values in jackknife_cases():
        found = jackknife(float(np.var(values)), [np.var(np.delete(values, g)) for g in range(len(values))])
        _, bias, error, _ = module("astropy.stats").jackknife_stats(values, np.var)
        yield [found.bias, found.standard_error], [bias, error]


@row("jackknife", DEFINITION, "the error of a mean is s / √G, the bias of a variance −s² / G", "2 to 64 groups", 1e-12)
def jackknife_theory() -> Cases:
    for values in jackknife_cases():
        without = [np.delete(values, g) for g in range(len(values))]
        of_mean = jackknife(float(values.mean()), [part.mean() for part in without])
        of_variance = jackknife(float(np.var(values)), [np.var(part) for part in without])
        s2 = np.var(values, ddof=1) / len(values)
        yield [of_mean.standard_error, of_mean.bias, of_variance.bias], [np.sqrt(s2), 0.0, -s2]


P_VALUES = "1 to 200 p-values, ties, zeros and ones"


def p_values() -> list[Float64]:
    rng = np.random.default_rng(5)
    return [np.array([0.3]), np.array([0.0, 1.0, 1.0, 0.0]), rng.random(50).round(1), rng.random(200) ** 3]


@row("false_discovery_rates", "statsmodels", '`multipletests`, "fdr_bh"', P_VALUES, 1e-14)
def rates_statsmodels() -> Cases:
    multitest = module("statsmodels.stats.multitest")
    for p in p_values():
        yield false_discovery_rates(p), multitest.multipletests(p, method="fdr_bh")[1]


@row("false_discovery_rates", DEFINITION, "least n t / #{p ≤ t} over thresholds t ≥ p", P_VALUES, 1e-14)
def rates() -> Cases:
    for p in p_values():
        yield false_discovery_rates(p), [min(1.0, *(len(p) * t / np.sum(p <= t) for t in p if t >= q)) for q in p]
