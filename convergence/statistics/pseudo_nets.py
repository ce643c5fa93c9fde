"""Pseudo-nets: the pre-activations of a net in another basis, each with the mean and variance of a real unit.

For pre-activations z (C,) of a layer with mean μ, standard deviation σ and correlation R, and a random basis B of
:class:`~convergence.linalg.RandomBases`, u = Bᵀ (z − μ) / σ are units of variance 1 with the span of z and nearly the
eigenvalues of R. The pre-activations of a pseudo-net are u σ + μ, an affine map of z. The layer's own nonlinearity is
applied to them. μ, σ and R come from a pilot of some images.

A pre-activation without variance in the pilot is not mixed with others and stays what it is. The basis depends on a
seed, on the layer and its weights, and on the number of the draw, so it is the same in every comparison.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from convergence.linalg import RandomBases

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
LEAST_POSITIONS = 16
"""Positions that ``statistics.null.positions = "auto"`` takes at least.

Of 8 × 8 smooth maps of 400 images, P(p <= .05) is .040, .047 and .046 with 32, 16 and 8 positions for one subspace in
other bases, and .032, .031 and .018 for nets that share nothing, whose correlations depend on the number of samples."""
CONSTANT = 1e-6
"""A standard deviation below this share of the mean is rounding of float32."""


@dataclass(frozen=True)
class PseudoMaps:
    """The affine maps from pre-activations z of a layer to those of its pseudo-nets.

    Attributes
    ----------
    mixed : (k,) units that are mixed
    centre, scale : (C,) z is standardised as (z − centre) · scale; both are finite
    weights : (n_draws, k, k) from standardised mixed units to mixed units; an array, or read when it is indexed
    offset : (n_draws, C) added to the mapped units
    """

    mixed: Any
    centre: Any
    scale: Any
    weights: Any
    offset: Any

    def arrays(self) -> dict[str, Any]:
        """The arrays, to be stored."""
        return {key: getattr(self, key) for key in ("mixed", "centre", "scale", "weights", "offset")}

    @property
    def host_scale(self) -> Float32:
        """The scale as a numpy array."""
        return np.asarray(self.scale)

    def standardise(self, z: Any) -> Any:
        """Standardised pre-activations (C, n) of pre-activations (C, …); values that are not finite become 0."""
        standard = z.reshape(len(z), -1) - self.centre[:, None]
        standard *= self.scale[:, None]
        return self._finite(standard)

    def apply(self, draws: slice, weights: Any, z: Any) -> Any:
        """Pre-activations (n, C, n_samples) of the pseudo-nets of some draws, from standardised ones.

        ``weights`` are those of these draws.
        """
        found = self.products(weights, z)
        found += self.offset[draws, :, None]
        return found

    def products(self, weights: Any, z: Any) -> Any:
        """:meth:`apply` without the offset."""
        n, k, _ = weights.shape
        if k == len(z):
            found = (weights.reshape(n * k, k) @ z).reshape(n, k, -1)
        else:
            found = self._like(n, z)
            found[:] = z / self.scale[:, None]
            found[:, self.mixed] = (weights.reshape(n * k, k) @ z[self.mixed]).reshape(n, k, z.shape[-1])
        return found

    def _finite(self, standard: Any) -> Any:
        if not np.isfinite(standard.sum()):
            np.nan_to_num(standard, copy=False, posinf=0.0, neginf=0.0)
        return standard

    def _like(self, n: int, z: Any) -> Any:
        return np.empty((n, *z.shape), np.float32)


class PseudoUnits(NamedTuple):
    """The pseudo-units of one member of a comparison.

    Attributes
    ----------
    units : the member's units along the unit axis
    place : its pseudo-units among those of all members that have them
    maps, nonlinearity : from pre-activations (n_units, n) to pseudo-units (n_draws, n_units, n)
    """

    units: slice
    place: slice
    maps: PseudoMaps
    nonlinearity: Callable[[Any], Any]


def pseudo_units(
    widths: Sequence[int], maps: Sequence[PseudoMaps | None], functions: Sequence[Callable[[Any], Any] | None]
) -> list[PseudoUnits]:
    """The pseudo-units of those members of a comparison that have maps."""
    found, start, place = [], 0, 0
    for width, of_member, function in zip(widths, maps, functions, strict=True):
        if of_member is not None and function is not None:
            units = slice(start, start + width)
            found.append(PseudoUnits(units, slice(place, place + width), of_member, function))
            place += width
        start += width
    return found


def make_maps(mean: Float64, covariance: Float64, n_draws: int, seed: int, layer: str) -> PseudoMaps:
    """Maps of all draws from the mean (C,) and covariance (C, C) of pre-activations.

    ``layer`` names the weights and the layer; the bases are drawn by it, by ``seed`` and by the number of the draw.
    """
    sd = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    with np.errstate(invalid="ignore"):
        varies = np.isfinite(sd) & np.isfinite(mean) & (sd > CONSTANT * np.abs(mean))
    mixed = np.flatnonzero(varies)
    sd, known = np.where(varies, sd, 1.0), np.nan_to_num(mean, posinf=0.0, neginf=0.0)
    centre, scale = known.astype(np.float32), (1.0 / sd).astype(np.float32)
    correlation = covariance[np.ix_(mixed, mixed)]
    correlation /= sd[mixed, None]
    correlation /= sd[mixed]
    stable = int.from_bytes(hashlib.sha256(layer.encode()).digest()[:8], "little")
    weights = np.empty((n_draws, len(mixed), len(mixed)), np.float32)
    offset = np.empty((n_draws, len(mean)), np.float32)
    bases = RandomBases(correlation)
    for draw in range(n_draws):
        weights[draw] = bases.draw(np.random.default_rng([seed, stable, draw])).T * sd[mixed, None]
        offset[draw] = centre
        moved = (centre.astype(np.float64) - known)[mixed] / sd[mixed]  # the centre is rounded, the mean is not
        offset[draw, mixed] = known[mixed] + weights[draw] @ moved
    return PseudoMaps(mixed, centre, scale, weights, offset)


def read_maps(arrays: Mapping[str, Any]) -> PseudoMaps:
    """The inverse of :meth:`PseudoMaps.arrays`."""
    return PseudoMaps(**{key: arrays[key] for key in ("mixed", "centre", "scale", "weights", "offset")})


def n_null_positions(n_sampled: int, wanted: int | str, n_draws: int) -> int:
    """Positions of an image that the null uses, of ``n_sampled`` samples, for ``statistics.null.positions``."""
    if wanted == "all":
        return n_sampled
    if wanted == "auto":
        wanted = max(LEAST_POSITIONS, -(-n_sampled // max(2 * n_draws, 1)))
    return min(n_sampled, int(wanted))


def null_columns(n_sampled: int, n_used: int, seed: int) -> Indices | None:
    """Which of an image's sampled positions the null uses, ascending, the same for all images; None for all."""
    if n_used >= n_sampled:
        return None
    drawn = np.random.default_rng([seed, n_sampled, n_used]).choice(n_sampled, n_used, replace=False)
    return np.sort(drawn).astype(np.int64)
