"""Hostile input: the truth, what the toolkit gives, and what the usual few lines of numpy and SciPy give."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import scipy.linalg
from scipy.optimize import linear_sum_assignment
from scipy.spatial import procrustes as scipy_procrustes
from sklearn.metrics import mutual_info_score

from benchmarks.conformance_layers import Float32, Float64, Layers, pair_sums, scores, units
from benchmarks.conformance_table import Outcome, hostile
from convergence.clustering.eigenvectors import spectral_embedding
from convergence.clustering.graph import similarity_graph
from convergence.errors import UserError
from convergence.similarity import MEASURES
from convergence.statistics.bin_edges import encode, equal_mass_bins
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.information import mutual_information
from convergence.statistics.joint_counts import joint_counts_plain
from convergence.statistics.moments import Moments, correlation_plain


def attempt(usual: Callable[[], float]) -> float | str:
    """The number that some lines give, or the name of the exception that they end with."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return float(usual())
        except (ValueError, np.linalg.LinAlgError) as error:
            return type(error).__name__


def ours(name: str, layers: Layers) -> tuple[float | None, str]:
    """A measure of two layers, and what is said of units that are left out."""
    with np.errstate(invalid="ignore"):
        sums, reasons = pair_sums(*layers)
    names = [*(f"x {u}" for u in range(len(layers[0]))), *(f"y {u}" for u in range(len(layers[1])))]
    said = "; ".join(f"{unit} {reason}" for unit, reason in zip(names, reasons, strict=True) if reason)
    try:
        return MEASURES.load(name)(sums.pooled), f"left out: {said}" if said else ""
    except UserError as error:
        return None, str(error)


def usual_cca(x: Float32, y: Float32) -> float:
    """Mean canonical correlation by the textbook's eigenvalues of Sxx⁻¹ Sxy Syy⁻¹ Syx."""
    joint, k = np.cov(np.concatenate([x, y]).astype(np.float64)), len(x)
    product = np.linalg.inv(joint[:k, :k]) @ joint[:k, k:] @ np.linalg.inv(joint[k:, k:]) @ joint[k:, :k]
    squares = np.sort(np.linalg.eigvals(product).real)[::-1][: min(len(x), len(y))]
    return float(np.sqrt(squares).mean())


def usual_cka(x: Float32 | Float64, y: Float32 | Float64) -> float:
    """Linear CKA of samples (n, units), centred."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return float(np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def usual_matching(x: Float32, y: Float32) -> float:
    r = np.corrcoef(np.concatenate([x, y]))[: len(x), len(x) :]
    return float(r[linear_sum_assignment(r, maximize=True)].mean())


def z_scores(samples: Float32) -> Float32:
    """(n, units) without a thought for units that do not vary."""
    return np.asarray(((samples - samples.mean(axis=1, keepdims=True)) / samples.std(axis=1, keepdims=True)).T)


def cosines(x: Float64, y: Float64) -> float:
    """The truth of mean CCA: from an orthonormal basis of the samples (n, units) themselves."""
    return float(np.cos(scipy.linalg.subspace_angles(x, y)).mean())


def copies() -> Layers:
    x, y = units(8, 7, 500, seed=11)
    return np.concatenate([x, x[:3], 2 * x[3:5]]), y


def dead() -> Layers:
    x, y = units(6, 6, 400, seed=12)
    x[2] = 0
    return x, y


def without(layers: Layers, unit: int) -> Layers:
    """The same without a unit of x."""
    return np.delete(layers[0], unit, axis=0), layers[1]


@hostile("five of 13 units are copies", "`mean_cca`", "eigenvalues of inv(Sxx) Sxy inv(Syy) Syx")
def copies_cca() -> Outcome:
    x, y = copies()
    here, said = ours("mean_cca", (x, y))
    return Outcome(cosines(scores(x[:8]), scores(y)), here, attempt(lambda: usual_cca(x, y)), 1e-9, said)


@hostile(
    "copies at 3.3 times the scale, rounded to float32",
    "`mean_cca`",
    "sqrtm(Sxx)⁻¹ Sxy sqrtm(Syy)⁻¹, its singular values",
)
def rounded_copies() -> Outcome:
    x, y = units(8, 7, 500, seed=11)
    layers = np.concatenate([x, np.float32(3.3) * x[:5]]), y
    here, said = ours("mean_cca", layers)

    def usual() -> float:
        s = np.cov(np.concatenate(layers).astype(np.float64))
        roots = [np.linalg.inv(scipy.linalg.sqrtm(part).real) for part in (s[:13, :13], s[13:, 13:])]
        return float(np.linalg.svd(roots[0] @ s[:13, 13:] @ roots[1], compute_uv=False).mean())

    return Outcome(cosines(scores(x), scores(y)), here, attempt(usual), 1e-6, said)


@hostile("20 samples of 30 and 24 units", "`mean_cca`", "eigenvalues of inv(Sxx) Sxy inv(Syy) Syx")
def few_cca() -> Outcome:
    x, y = units(30, 24, 20, seed=13, bias=2.0)
    here, said = ours("mean_cca", (x, y))
    return Outcome(1.0, here, attempt(lambda: usual_cca(x, y)), 1e-9, said)


@hostile("independent layers, 100 samples of 200 units", "`debiased_cka`", "linear CKA")
def few_cka() -> Outcome:
    x, y = np.random.default_rng(14).standard_normal((2, 200, 100)).astype(np.float32)
    here, said = ours("debiased_cka", (x, y))
    return Outcome(0.0, here, attempt(lambda: usual_cka(x.T, y.T)), 0.02, said)


@hostile("a unit that is always zero", "`matching`", "numpy.corrcoef, linear_sum_assignment")
def dead_matching() -> Outcome:
    layers = dead()
    here, said = ours("matching", layers)
    truth = usual_matching(*without(layers, 2))
    return Outcome(truth, here, attempt(lambda: usual_matching(*layers)), 1e-9, said)


@hostile("a unit that is always zero", "`linear_cka`", "z-scores by mean and std, linear CKA")
def dead_cka() -> Outcome:
    x, y = dead()
    here, said = ours("linear_cka", (x, y))
    truth = usual_cka(scores(np.delete(x, 2, axis=0)), scores(y))
    return Outcome(truth, here, attempt(lambda: usual_cka(z_scores(x), z_scores(y))), 1e-9, said)


@hostile("a unit of each layer that is always 3.3", "`semi_matching`", "z-scores in float32, their products / n")
def constant() -> Outcome:
    x, y = units(5, 5, 500, seed=15)
    x[1] = y[0] = 3.3
    here, said = ours("semi_matching", (x, y))
    zx, zy = scores(np.delete(x, 1, axis=0)), scores(y[1:])
    truth = (zx.T @ zy / len(zx)).max(axis=1).mean()

    def usual() -> float:
        zx, zy = z_scores(x), z_scores(y)
        return float((zx.T @ zy / len(zx)).max(axis=1).mean())

    return Outcome(float(truth), here, attempt(usual), 1e-9, said)


@hostile("a layer that is always zero", "any measure", "z-scores, linear CKA")
def nothing() -> Outcome:
    x, y = units(4, 4, 400, seed=23)
    x[:] = 0
    here, said = ours("linear_cka", (x, y))
    return Outcome(None, here, attempt(lambda: usual_cka(z_scores(x), z_scores(y))), 0.0, said)


@hostile("one sample of one unit is NaN", "`linear_cka`", "linear CKA")
def not_a_number() -> Outcome:
    x, y = units(6, 6, 400, seed=16)
    x[4, 7] = np.nan
    here, said = ours("linear_cka", (x, y))
    truth = usual_cka(*map(scores, without((x, y), 4)))
    return Outcome(truth, here, attempt(lambda: usual_cka(x.T, y.T)), 1e-9, said)


@hostile("a layer of one unit", "`mean_cca`", "numpy.cov of each layer, Sxx⁻¹ by numpy.linalg.inv")
def one_unit() -> Outcome:
    x, y = units(1, 6, 400, seed=17)
    here, said = ours("mean_cca", (x, y))

    def usual() -> float:
        s_xy = (x - x.mean()) @ (y - y.mean(axis=1, keepdims=True)).T / x.shape[1]
        return float(np.linalg.eigvals(np.linalg.inv(np.cov(x)) @ s_xy @ np.linalg.inv(np.cov(y)) @ s_xy.T).max())

    return Outcome(cosines(scores(x), scores(y)), here, attempt(usual), 1e-9, said)


@hostile("layers of 5 and 9 units", "`procrustes`", "scipy.spatial.procrustes")
def widths() -> Outcome:
    x, y = units(5, 9, 400, seed=18)
    here, said = ours("procrustes", (x, y))
    zx, zy = scores(x), scores(y)
    truth = np.linalg.norm(zx.T @ zy, "nuc") / (np.linalg.norm(zx) * np.linalg.norm(zy))
    return Outcome(float(truth), here, attempt(lambda: np.sqrt(1 - scipy_procrustes(zx, zy)[2])), 1e-9, said)


@hostile(
    "means of 10,000 standard deviations, float32",
    "`Moments.correlation` of two units",
    "E[xy] − E[x] E[y] from running float32 sums",
)
def far() -> Outcome:
    rng = np.random.default_rng(19)
    a, b = rng.standard_normal((2, 20_000))
    samples = np.stack([a + 1e4, 0.6 * a + 0.8 * b + 1e4]).astype(np.float32)
    moments = Moments(samples[:, 0])
    moments.update(samples)

    def usual() -> float:
        products, sums = np.zeros((2, 2), np.float32), np.zeros(2, np.float32)
        for batch in np.split(samples, 20, axis=1):
            products, sums = products + batch @ batch.T, sums + batch.sum(axis=1)
        covariance = products / np.float32(20_000) - np.outer(sums, sums) / np.float32(20_000) ** 2
        return float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))

    return Outcome(float(correlation_plain(samples)[0, 1]), float(moments.correlation()[0, 1]), attempt(usual), 1e-6)


def independent_codes() -> np.ndarray:
    """(pairs, 2, n) bins of independent units."""
    return np.random.default_rng(20).integers(0, 10, (100, 2, 1_000)).astype(np.uint8)


@hostile("independent units, 1,000 samples, mean of 100", "`mutual_information`", "sklearn.metrics.mutual_info_score")
def plug_in() -> Outcome:
    pairs = independent_codes()
    here = np.mean([mutual_information(joint_counts_plain(a, b, 10)) for a, b in pairs])
    plain = attempt(lambda: np.mean([mutual_info_score(a, b) for a, b in pairs]))
    return Outcome(0.0, float(here), plain, 3e-3)


@hostile("the same", "`mutual_information`", "the same less K² / (2N ln 2), as Li et al. 2016 have it")
def papers_term() -> Outcome:
    found, term = plug_in(), 100 / (2 * 1_000 * np.log(2))
    return Outcome(0.0, found.here, attempt(lambda: float(found.plain) - term), 3e-3)


@hostile(
    "a unit that is zero but in 10 of 20,000 samples, with a copy",
    "`mutual_information`",
    "numpy.histogram2d with percentiles as edges",
)
def rare() -> Outcome:
    rng = np.random.default_rng(21)
    unit = np.zeros((1, 20_000), np.float32)
    unit[0, rng.choice(20_000, 10, replace=False)] = rng.random(10) + 0.1
    histograms = UnitHistograms.zeros(1)
    histograms.update(unit)
    codes = encode(unit, equal_mass_bins(histograms, 10).edges)[0]
    here = float(mutual_information(joint_counts_plain(codes, codes, 10)))
    p = np.bincount(codes) / len(codes)
    bias = (len(p) - 1) ** 2 / (2 * len(codes))

    def usual() -> float:
        edges = np.percentile(unit[0], np.linspace(0, 100, 11))
        counts = np.histogram2d(unit[0], unit[0], [edges, edges])[0]
        p = counts / counts.sum()
        return float(np.nansum(p * np.log(p / np.outer(p.sum(axis=1), p.sum(axis=0)))))

    return Outcome(float(-(p * np.log(p)).sum() - bias), here, attempt(usual), 1e-9)


@hostile(
    "units that correlate negatively",
    "smallest eigenvalue of the Laplacian, `spectral_embedding`",
    "D − R of signed correlations, as Li et al. 2016 have it",
)
def signed() -> Outcome:
    samples = np.concatenate(units(12, 12, 500, seed=22)) * np.where(np.arange(24) % 2, -1, 1)[:, None]
    r = np.asarray(np.corrcoef(samples))
    here = float(spectral_embedding(similarity_graph(r), 3).values[0])
    plain = attempt(lambda: scipy.linalg.eigvalsh(np.diag(r.sum(axis=1)) - r)[0])
    return Outcome(0.0, here, plain, 1e-9)
