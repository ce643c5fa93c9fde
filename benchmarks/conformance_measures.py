"""Rows of agreement: measures of similarity from group sums, against peers and definitions on samples in float64."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, combinations

import numpy as np
import scipy.linalg
from scipy.spatial import procrustes as scipy_procrustes
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from benchmarks.conformance_layers import LAYERS, N_GROUPS, Float64, Layers, pair_of, scores
from benchmarks.conformance_table import DEFINITION, Cases, row
from convergence.similarity import MEASURES
from convergence.similarity.cca import KEPT_VARIANCE, canonical_correlations, canonical_directions
from convergence.similarity.regression import RIDGE
from convergence.similarity.stored_images import NEIGHBOURS
from convergence.similarity.subspace_match import EPSILON, maximum_match

ALL = "the layers, both ways"
FULL_RANK = ("plain", "unequal widths", "mean/std 1e4", "80 % zeros", "half of the units shared")


def measured(name: str, layers: tuple[str, ...] = tuple(LAYERS)) -> Iterator[tuple[float, Float64, Float64]]:
    """The measure of each pair of layers both ways, with their scores (n, units)."""
    function = MEASURES.load(name)
    for key in layers:
        pair, (x, y) = pair_of(LAYERS[key]), map(scores, LAYERS[key])
        yield function(pair), x, y
        yield function(pair.swapped()), y, x


def kernel(x: Float64) -> Float64:
    """(n, n) linear kernel of samples (n, units), centred as Kornblith et al. write it: H K H."""
    centring = np.eye(len(x)) - 1 / len(x)
    return np.asarray(centring @ (x @ x.T) @ centring)


def cka_of(k: Float64, l: Float64) -> float:
    return float(np.sum(k * l) / np.sqrt(np.sum(k * k) * np.sum(l * l)))


def hsic_of(k: Float64, l: Float64) -> float:
    """Equation 5 of Song et al. 2007, from kernel matrices (n, n)."""
    n, ones = len(k), np.ones(len(k))
    k, l = (m - np.diag(np.diag(m)) for m in (k, l))
    both = ones @ k @ l @ ones
    sums = np.trace(k @ l) + (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2)) - 2 * both / (n - 2)
    return float(sums / (n * (n - 3)))


def samples(layers: Layers) -> tuple[Float64, Float64]:
    """(n, units) as they come, but for a mean that no measure sees and that would cost the definition its digits."""
    x, y = (v.T.astype(np.float64) for v in layers)
    return x - x[0], y - y[0]


@row("semi_matching", "numpy", "`corrcoef`, mean of the rows' largest", ALL, 1e-12)
def semi_matching() -> Cases:
    for found, x, y in measured("semi_matching"):
        yield found, np.corrcoef(x, y, rowvar=False)[: x.shape[1], x.shape[1] :].max(axis=1).mean()


@row("linear_cka", DEFINITION, "centred kernel matrices (n × n) of standardised units", ALL, 1e-12)
def linear_cka() -> Cases:
    for found, x, y in measured("linear_cka"):
        yield found, cka_of(kernel(x), kernel(y))


@row("linear_cka_raw", DEFINITION, "centred kernel matrices (n × n)", "the layers", 1e-12)
def linear_cka_raw() -> Cases:
    for layers in LAYERS.values():
        x, y = samples(layers)
        yield MEASURES.load("linear_cka_raw")(pair_of(layers)), cka_of(kernel(x), kernel(y))


@row("debiased_cka", DEFINITION, "sums over pairs of samples of different groups", ALL, 1e-10)
def debiased_cka() -> Cases:
    for found, *layers in measured("debiased_cka"):
        groups = np.arange(len(layers[0])) % N_GROUPS
        apart = groups[:, None] != groups
        own = np.stack([groups == g for g in range(N_GROUPS)]).astype(float)
        centring = np.eye(len(groups)) - own.T @ (own / own.sum(axis=1, keepdims=True))
        k, l = (centring @ (v @ v.T) @ centring for v in layers)
        yield found, cka_of(k * apart, l * apart)


@row("image_cka", DEFINITION, "unbiased HSIC of kernel matrices (n × n), Song et al. 2007, eq. 5", "the layers", 1e-10)
def image_cka() -> Cases:
    for layers in LAYERS.values():
        x, y = samples(layers)
        k, l = x @ x.T, y @ y.T
        wanted = hsic_of(k, l) / np.sqrt(hsic_of(k, k) * hsic_of(l, l))
        yield MEASURES.load("image_cka")(pair_of(layers)), wanted


@row("mean_cca", "scipy", "`linalg.subspace_angles`, mean cosine", ALL, 1e-12)
def mean_cca() -> Cases:
    for found, x, y in measured("mean_cca"):
        yield found, np.cos(scipy.linalg.subspace_angles(x, y)).mean()


@row(
    "canonical_correlations",
    "scikit-learn",
    "`cross_decomposition.CCA(3, tol=1e-12)`",
    "the first three; " + ", ".join(FULL_RANK),
    1e-8,
)
def canonical() -> Cases:
    from sklearn.cross_decomposition import CCA

    for key in FULL_RANK:
        pair, (x, y) = pair_of(LAYERS[key]), map(scores, LAYERS[key])
        mine = canonical_correlations(canonical_directions(pair), pair)[:3]
        u, v = CCA(3, tol=1e-12, max_iter=100_000).fit(x, y).transform(x, y)
        yield mine, [np.corrcoef(a, b)[0, 1] for a, b in zip(u.T, v.T, strict=True)]


def principal(x: Float64) -> Float64:
    """The principal components (n, k) of samples that hold 99 % of their variance."""
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    k = int(np.argmax(np.cumsum(s**2) >= KEPT_VARIANCE * np.sum(s**2))) + 1
    return u[:, :k] * s[:k]


@row("svcca", DEFINITION, "singular value decomposition and QR of samples", ALL, 1e-12)
def svcca() -> Cases:
    for found, x, y in measured("svcca"):
        bases = [np.linalg.qr(principal(v))[0] for v in (x, y)]
        yield found, np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean()


@row(
    "pwcca",
    DEFINITION,
    "canonical variables of samples by singular value decompositions",
    "the layers but n < units, both ways",
    1e-12,
)
def pwcca() -> Cases:
    # With n < units all correlations are 1 and their variables arbitrary: the weights have no definition.
    for found, x, y in measured("pwcca", tuple(k for k in LAYERS if k != "n < units")):
        bases = [scipy.linalg.orth(v, rcond=1e-10) for v in (x, y)]
        left, correlations, _ = np.linalg.svd(bases[0].T @ bases[1], full_matrices=False)
        weights = np.abs(x.T @ (bases[0] @ left)).sum(axis=0)
        yield found, np.average(correlations, weights=weights)


def padded(x: Float64, y: Float64) -> list[Float64]:
    """Both at the width of the wider one."""
    width = max(x.shape[1], y.shape[1])
    return [np.pad(v, ((0, 0), (0, width - v.shape[1]))) for v in (x, y)]


@row(
    "procrustes",
    "scipy",
    "`linalg.orthogonal_procrustes`",
    "the layers, both ways; the narrower one padded with zeros",
    1e-12,
)
def procrustes() -> Cases:
    for found, x, y in measured("procrustes"):
        scale = scipy.linalg.orthogonal_procrustes(*padded(x, y))[1]
        yield found, scale / (np.linalg.norm(x) * np.linalg.norm(y))


@row(
    "shape_distance",
    "scipy",
    "`spatial.procrustes`, arcsine of the root of the disparity",
    "the layers, both ways; the narrower one padded with zeros; radians",
    1e-12,
)
def shape_distance() -> Cases:
    for found, x, y in measured("shape_distance"):
        yield found, np.arcsin(np.sqrt(scipy_procrustes(*padded(x, y))[2]))


@row("r_squared", "scikit-learn", "`LinearRegression.score`", ALL, 1e-12)
def r_squared() -> Cases:
    from sklearn.linear_model import LinearRegression

    for found, x, y in measured("r_squared"):
        yield found, LinearRegression().fit(x, y).score(x, y)


@row("ridge_r_squared", "scikit-learn", "`Ridge(0.01 n).score`", ALL, 1e-12)
def ridge_r_squared() -> Cases:
    from sklearn.linear_model import Ridge

    for found, x, y in measured("ridge_r_squared"):
        yield found, Ridge(RIDGE * len(x)).fit(x, y).score(x, y)


PATTERNS = ("plain", "unequal widths", "mean/std 1e4", "n < units", "half of the units shared")


@row("rsa", "scipy", '`spatial.distance.pdist`, "correlation"; `stats.spearmanr`', ", ".join(PATTERNS), 1e-8)
def rsa() -> Cases:
    for key in PATTERNS:
        x, y = (v.T.astype(np.float64) for v in LAYERS[key])
        apart = (np.nan_to_num(pdist(v, "correlation"), nan=1.0).round(12) for v in (x, y))  # nan: a constant pattern
        yield MEASURES.load("rsa")(pair_of(LAYERS[key])), spearmanr(*apart).statistic


@row("rsa_cosine", "scipy", '`spatial.distance.pdist`, "cosine"; `stats.spearmanr`', ALL, 1e-12)
def rsa_cosine() -> Cases:
    for found, x, y in measured("rsa_cosine"):
        yield found, spearmanr(*(pdist(v, "cosine").round(12) for v in (x, y))).statistic


DISTINCT = ("plain", "n < units", "half of the units shared")


@row("mutual_knn", "scikit-learn", '`NearestNeighbors`, "cosine"', ", ".join(DISTINCT) + ", both ways", 1e-14)
def mutual_knn() -> Cases:
    from sklearn.neighbors import NearestNeighbors

    for found, x, y in measured("mutual_knn", DISTINCT):
        near = [NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine").fit(v).kneighbors()[1] for v in (x, y)]
        yield found, np.mean([len(set(a) & set(b)) for a, b in zip(*near, strict=True)]) / NEIGHBOURS


@row("mutual_knn", DEFINITION, "sorted by distance, of equal images the first", ALL, 1e-14)
def mutual_knn_ties() -> Cases:
    for found, x, y in measured("mutual_knn"):
        near = []
        for v in (x, y):
            apart = squareform(pdist(v, "cosine").round(12))
            np.fill_diagonal(apart, np.inf)
            near.append([set(np.lexsort((np.arange(len(v)), row))[:NEIGHBOURS]) for row in apart])
        yield found, np.mean([len(a & b) for a, b in zip(*near, strict=True)]) / NEIGHBOURS


def far(targets: Float64, units: Float64) -> Float64:
    """(n_targets,) distances of samples (n, n_targets) to the span of units (n, k), relative to their lengths."""
    rest = targets if not units.shape[1] else targets - units @ np.linalg.lstsq(units, targets, rcond=1e-10)[0]
    return np.asarray(np.linalg.norm(rest, axis=0) / np.linalg.norm(targets, axis=0))


def match_of_samples(x: Float64, y: Float64) -> int:
    """How many units the maximum match has: all that are too far from the other's span leave, until none is."""
    kept_x, kept_y = list(range(x.shape[1])), list(range(y.shape[1]))
    while True:
        near_x = [u for u, d in zip(kept_x, far(x[:, kept_x], y[:, kept_y]), strict=True) if d <= EPSILON]
        near_y = [u for u, d in zip(kept_y, far(y[:, kept_y], x[:, kept_x]), strict=True) if d <= EPSILON]
        if (near_x, near_y) == (kept_x, kept_y):
            return len(kept_x) + len(kept_y)
        kept_x, kept_y = near_x, near_y


@row("subspace_match", "numpy", "`linalg.lstsq` on samples, units leaving until none is too far", ALL, 1e-14)
def subspace_match() -> Cases:
    for found, x, y in measured("subspace_match"):
        yield found, match_of_samples(x, y) / (x.shape[1] + y.shape[1])


@row(
    "maximum_match",
    DEFINITION,
    "the largest of all pairs of subsets that match, by `numpy.linalg.lstsq`",
    "4 and 4 units, some in a common span; ε = 0.5",
    0.0,
)
def largest_match() -> Cases:
    subsets = [list(s) for s in chain.from_iterable(combinations(range(4), k) for k in range(5))]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((60, 4))
        y = np.concatenate([x[:, :3] @ rng.standard_normal((3, 2)), rng.standard_normal((60, 2))], axis=1)
        y += 0.3 * rng.standard_normal(y.shape)
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        r = np.corrcoef(x, y, rowvar=False)
        ours = maximum_match(r[:4, :4], r[:4, 4:], r[4:, 4:], EPSILON)
        sizes = [
            len(a) + len(b)
            for a in subsets
            for b in subsets
            if (far(x[:, a], y[:, b]) <= EPSILON).all() and (far(y[:, b], x[:, a]) <= EPSILON).all()
        ]
        yield ours[0].sum() + ours[1].sum(), max(sizes)


@row(
    "MEASURES",
    DEFINITION,
    "products in float64 beside those in float32, the default",
    "every measure of sums, of the layers",
    5e-6,
)
def float32_products() -> Cases:
    measures = [found for found in map(MEASURES.load, MEASURES) if found.needs != "samples"]
    for layers in LAYERS.values():
        single, double = pair_of(layers, "float32"), pair_of(layers)
        yield [found(single) for found in measures], [found(double) for found in measures]
