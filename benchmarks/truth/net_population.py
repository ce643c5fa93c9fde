"""Nets as draws from a population: every net has its own noise and its own share of the shared units.

The mean similarity over all pairs of nets and all images is known, and so is that of the nets at hand over all images.
Units are rectified; with z of correlation ρ their correlation is that of the arc-cosine kernel of order 1 (Cho and Saul
2009). All units have one variance, and units of different causes do not correlate, so measures are means over units.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np

from benchmarks.truth.populations import Float64, Generator, Population, names

MEASURES = ("matching", "linear_cka", "r_squared")
PAIRS = 200_000
"""Pairs of nets that the truth is averaged over."""


def rectified_correlation(r: Float64) -> Float64:
    """Correlations of rectified standard normal variables with correlations r."""
    r = np.clip(r, -1.0, 1.0)
    angle = np.arccos(r)
    return np.asarray((np.sin(angle) + (np.pi - angle) * r - 1.0) / (np.pi - 1.0))


@dataclass(frozen=True)
class NetPopulation:
    """A distribution of nets.

    Attributes
    ----------
    strength : smallest and largest correlation of a net's units with their causes; uniform between
    share : smallest and largest share of a net's units that have a shared cause; uniform between
    width, n_images : units of a net, images of a draw
    """

    strength: tuple[float, float] = (0.5, 0.95)
    share: tuple[float, float] = (0.6, 1.0)
    width: int = 16
    n_images: int = 3000

    def nets(self, n: int, rng: Generator) -> Float64:
        """(n, width) correlation of each unit of each net with its cause, 0 for private units."""
        strength = rng.uniform(*self.strength, (n, 1))
        return np.where(rng.random((n, self.width)) < rng.uniform(*self.share, (n, 1)), strength, 0.0)

    @lru_cache  # noqa: B019  (a few populations, of a few bytes each)
    def truth(self) -> dict[str, float]:
        """Means over all pairs of different nets and all images."""
        rng = np.random.default_rng(0)
        return self.of_pairs(self.nets(PAIRS, rng), self.nets(PAIRS, rng))

    def of_these(self, loadings: Float64) -> dict[str, float]:
        """Means over the pairs of the nets at hand, and all images."""
        first, second = np.array(list(combinations(range(len(loadings)), 2))).T
        return self.of_pairs(loadings[first], loadings[second])

    @staticmethod
    def of_pairs(x: Float64, y: Float64) -> dict[str, float]:
        """Means of the measures over pairs of rows."""
        r = rectified_correlation(x * y)
        return {"matching": float(r.mean()), "linear_cka": float((r**2).mean()), "r_squared": float((r**2).mean())}

    def draw(self, rng: Generator, n_trained: int, n_untrained: int = 0) -> tuple[Population, Float64]:
        """Nets of the population, some of them called untrained, and their loadings in the order of the nets."""
        trained, untrained = names(n_trained, n_untrained)
        loadings = self.nets(n_trained + n_untrained, rng)
        causes = rng.standard_normal((self.n_images, self.width))
        pre = {}
        for net, a in zip((*trained, *untrained), loadings, strict=True):
            z = a * causes + np.sqrt(1.0 - a**2) * rng.standard_normal(causes.shape)
            pre[net] = z[:, rng.permutation(self.width)]
        return Population(pre, "relu", untrained=untrained), loadings


def both(first: Population, second: Population) -> Population:
    """The nets of ``first`` as the trained ones, those of ``second`` as untrained ones, on the same images."""
    return Population(
        first.pre | {f"un{net}": z for net, z in second.pre.items()},
        first.nonlinearity,
        untrained=tuple(f"un{net}" for net in second.pre),
    )
