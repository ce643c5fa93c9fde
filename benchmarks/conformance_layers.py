"""Layers to conform on, kind and hostile, and their sums as the toolkit makes them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from convergence.analysis.active_units import active_units
from convergence.analysis.pair_sums import PairSums
from convergence.similarity.pair import PairMoments
from convergence.statistics.file import ComparisonSums
from convergence.statistics.group_sums import shift_of
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.moments import Moments

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Layers = tuple[Float32, Float32]


def units(n_x: int, n_y: int, n: int, seed: int = 0, causes: int = 4, bias: float = 0.0) -> Layers:
    """Rectified units (n_x, n) and (n_y, n) of two layers that see the same causes, some with hardly any noise."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((causes, n))

    def layer(k: int) -> Float32:
        noise = rng.permutation(np.geomspace(0.05, 1, k))[:, None] * rng.standard_normal((k, n))
        return np.maximum(rng.standard_normal((k, causes)) @ shared + noise + bias, 0).astype(np.float32)

    return layer(n_x), layer(n_y)


def duplicated() -> Layers:
    """Units that are there twice or thrice, one of them at another scale."""
    x, y = units(6, 5, 300, seed=1)
    return np.concatenate([x, x[:3], 4 * x[:1]]), y[[0, 1, 2, 3, 4, 4]]


def far_from_zero() -> Layers:
    """Means of 10,000 standard deviations, of either sign, in float32."""
    x, y = units(7, 5, 300, seed=2)
    return x + 1e4 * np.sign(np.arange(7) - 3.5, dtype=np.float32)[:, None], y - np.float32(1e4)


def sparse() -> Layers:
    """Zero in 80 % of the samples, at scales from 0.001 to 1000."""
    x, y = units(8, 6, 400, seed=3)
    x, y = (np.maximum(v - np.quantile(v, 0.8, axis=1, keepdims=True), 0) for v in (x, y))
    return (x * np.geomspace(1e-3, 1e3, 8)[:, None]).astype(np.float32), y.astype(np.float32)


def half_shared() -> Layers:
    """Four units of x and four of y in one span, but for little noise; three and two that have nothing in common."""
    rng = np.random.default_rng(6)
    x, own = rng.standard_normal((7, 300)), rng.standard_normal((2, 300))
    y = np.concatenate([rng.standard_normal((4, 4)) @ x[:4] + 0.2 * rng.standard_normal((4, 300)), own])
    return x.astype(np.float32), y.astype(np.float32)


PLAIN, UNEQUAL, FEW, ONE = (
    units(10, 8, 300),
    units(4, 13, 250, seed=4),
    units(30, 24, 20, seed=5, bias=2.0),
    units(1, 6, 200),
)
LAYERS: dict[str, Layers] = {
    "plain": PLAIN,
    "unequal widths": UNEQUAL,
    "mean/std 1e4": far_from_zero(),
    "80 % zeros": sparse(),
    "duplicated units": duplicated(),
    "n < units": FEW,
    "one unit": ONE,
    "half of the units shared": half_shared(),
}


N_GROUPS = 4


def sums_of(x: Float32, y: Float32, precision: str = "float64", n_groups: int = N_GROUPS) -> ComparisonSums:
    """Sums of two layers in image groups; sample s in group s mod ``n_groups``."""
    samples, widths = np.concatenate([x, y]), (len(x), len(y))
    n_units = len(samples)
    shift = shift_of(samples[:, :10])
    parts = [Moments(shift, precision) for _ in range(n_groups)]
    for g, part in enumerate(parts):
        group = np.ascontiguousarray(samples[:, g::n_groups])
        part.update(group)
    histograms = UnitHistograms.zeros(n_units)
    histograms.update(samples)
    sums, products = np.stack([part.sums for part in parts]), np.stack([part.products for part in parts])
    nets = ("x", "y")
    return ComparisonSums(
        name="layer", nets=nets, trained=(True, True), layers=nets, sources=nets, map_shape=(),
        unit_net=np.repeat([0, 1], widths), shift=shift,
        group_count=np.array([part.count for part in parts]),
        group_sums=sums, group_products=products, group_shifted_products=None,
        histograms=histograms, mutual_information=None, mutual_information_without=None,
        subset_samples=samples.T.copy(), subset_group=np.arange(samples.shape[1]) % n_groups,
        image_gram=np.stack([v.T.astype(np.float64) @ v.astype(np.float64) for v in (x, y)]),
    )  # fmt: skip


def pair_sums(x: Float32, y: Float32, precision: str = "float64") -> tuple[PairSums, tuple[str, ...]]:
    """The pair's sums, and for each unit of x and y why it is left out, "" if it is not."""
    sums = sums_of(x, y, precision)
    live = active_units(sums)
    return PairSums.of(sums, live, "x", "y"), live.reason


def pair_of(layers: Layers, precision: str = "float64") -> PairMoments:
    """What measures take, from group sums; ValueError if a unit is left out, which no definition here would do."""
    found, reasons = pair_sums(*layers, precision)
    if any(reasons):
        raise ValueError(f"a unit of these layers carries nothing: {reasons}")
    return found.pooled


def scores(samples: Float32) -> Float64:
    """(n, n_units) standardised samples in float64, by the definition."""
    x = samples.T.astype(np.float64)
    x = x - x.mean(axis=0)
    return x / np.sqrt((x**2).mean(axis=0))
