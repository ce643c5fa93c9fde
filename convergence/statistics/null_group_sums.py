"""Sums of pseudo-nets over one image group of one comparison, see :mod:`convergence.statistics.null_sums`.

Pseudo-units are computed batch by batch and gathered until there are enough for an efficient product. Each float32
product is of a bounded number of samples, and products are added up in float64. The shift is close to the mean of a
unit on every sample of the images, because image groups are random samples, so nothing cancels. Units of a very small
or very large scale are divided by a power of two that is the same for all groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from convergence.kernels.jit import njit
from convergence.statistics.group_sums import NewMatrix, in_memory
from convergence.statistics.moments import PRODUCT_SAMPLES, exponents
from convergence.statistics.nonlinearities import relu
from convergence.statistics.pseudo_nets import PseudoUnits

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
BUFFER_BYTES = 1 << 22
"""Pseudo-units gathered for one product, which fit a processor's cache, unless they would be fewer samples than
``LEAST_SAMPLES``."""
LEAST_SAMPLES = 1024
PRODUCT_BYTES = 1 << 26
"""Products computed at a time."""
APPLY_VALUES = 1 << 17
"""Pseudo-units computed at a time, of at most ``APPLY_ROWS`` rows and at least ``LEAST_APPLIED`` samples."""
APPLY_ROWS = 4096
LEAST_APPLIED = 64


NARROW = 32
"""Units of a layer up to which their products are made in two bands of rows: numpy leaves the product of a matrix with
itself to BLAS's symmetric update, which takes twice as long for few rows."""


@dataclass(frozen=True)
class NullAbout:
    """The points about which units are summed, and the powers of two by which they are divided.

    Attributes
    ----------
    real, real_exponent : (n_units,) of the real units
    pseudo, exponent : (n_draws, n_pseudo) of the pseudo-units of all members that have them, side by side
    """

    real: Float64
    real_exponent: Int64
    pseudo: Float64
    exponent: Int64

    @classmethod
    def of(cls, real: Float32, shift: Float64, pseudo: Float32, members: Sequence[PseudoUnits]) -> NullAbout:
        """Means and scales of first samples: of real units (n_units, n), and of pseudo-units (n_draws, n_pseudo, n)."""
        x, p = real.astype(np.float64), pseudo.astype(np.float64)
        mean = np.nan_to_num(p.mean(axis=2), posinf=0.0, neginf=0.0).astype(np.float32).astype(np.float64)
        squares = [((values - about[..., None]) ** 2).mean(axis=-1) for values, about in ((x, shift), (p, mean))]
        for member in members:  # a unit that is constant in these samples has the scale of its pre-activation
            variance = 1.0 / member.maps.host_scale.astype(np.float64) ** 2
            for found, place in ((squares[0], member.units), (squares[1].T, member.place)):
                found[place] = np.where(found[place].T == 0, variance, found[place].T).T
        return cls(shift, exponents(squares[0]), mean, exponents(squares[1]))


class NullVectors(NamedTuple):
    """The sums of one group without its matrices: small arrays that are stored as one.

    ``n_samples`` (1,); ``real_sums``, ``real_squares`` and ``real_exponent`` (n_units,); ``sums``, ``shift`` and
    ``exponent`` (n_draws, n_pseudo), see :class:`convergence.statistics.null_sums.NullSums`.
    """

    n_samples: npt.NDArray[Any]
    real_sums: npt.NDArray[Any]
    real_squares: npt.NDArray[Any]
    real_exponent: npt.NDArray[Any]
    sums: npt.NDArray[Any]
    shift: npt.NDArray[Any]
    exponent: npt.NDArray[Any]

    def joined(self) -> Float64:
        """All values, in the order of the fields."""
        return np.concatenate([np.ravel(field) for field in self]).astype(np.float64)

    @classmethod
    def of(cls, values: Float64, n_units: int, n_draws: int) -> NullVectors:
        """The fields of :meth:`joined` values."""
        of_draws = (len(values) - 1 - 3 * n_units) // 3
        lengths = [1, *[n_units] * 3, *[of_draws] * 3]
        parts = np.split(values, np.cumsum(lengths)[:-1])
        return cls(*parts[:4], *(part.reshape(n_draws, -1) for part in parts[4:]))


class NullGroupSums:
    """The sums of one group and comparison, of numpy arrays; a subclass has tensors on a device.

    Parameters
    ----------
    members : the pseudo-units of those members that have them
    about : the points about which units are summed, and their scales
    pooled : whether a sample is an image, and values are means over positions
    precision : type of the products, "float32" or "float64"
    new_matrix : makes the matrices
    """

    def __init__(
        self,
        members: Sequence[PseudoUnits],
        about: NullAbout,
        pooled: bool,
        precision: str = "float32",
        new_matrix: NewMatrix = in_memory,
    ) -> None:
        self.members, self.about, self.pooled = members, about, pooled
        self.n_draws, self.n_pseudo = about.pseudo.shape
        n_units, rows = len(about.real), about.pseudo.size
        widest = max(member.place.stop - member.place.start for member in members)
        self._room = min(PRODUCT_SAMPLES, max(LEAST_SAMPLES, BUFFER_BYTES // (4 * rows)))
        self._is_wide = precision == "float64"
        self._count = self._n_gathered = 0
        self._real_sums, self._real_squares, self._sums = (self._zeros((n,)) for n in (n_units, n_units, rows))
        self._products = self._matrix(new_matrix, "null/products", (rows, n_units))
        self._own = self._matrix(new_matrix, "null/own", (rows, widest))
        self._real_shift = self._float32(about.real)[:, None]
        self._shift = self._float32(about.pseudo.reshape(-1))[:, None]
        self._real, self._pseudo = self._empty((n_units, 0)), self._empty((rows, 0))

    def update(
        self, real: Any, pre: Sequence[Any], n_images: int, weights: Sequence[Float32 | None] | None = None
    ) -> None:
        """Add samples of whole images.

        ``real`` (n_units, n_samples) are all units. ``pre`` are the pre-activations (units, n_images · positions) of
        the members that have pseudo-units, at the positions of the samples, or at all positions if pooled; then
        ``weights`` has for each of them the weights (n_images, positions) of the mean, or None for equal ones.
        """
        per_image = real.shape[1] // n_images
        step = max(1, self._room // per_image)
        parts = [z.reshape(len(z), n_images, -1) for z in pre]
        weights = weights or [None] * len(pre)
        shift = self._shift.reshape(self.n_draws, self.n_pseudo, 1)
        for start in range(0, n_images, step):
            images = slice(start, min(start + step, n_images))
            n = (images.stop - images.start) * per_image
            if self._n_gathered + n > self._pseudo.shape[1]:
                self._add_gathered()
                if n > self._pseudo.shape[1]:
                    room = max(self._room, n)
                    self._real, self._pseudo = (
                        self._empty((len(buffer), room)) for buffer in (self._real, self._pseudo)
                    )
            place = slice(self._n_gathered, self._n_gathered + n)
            x, p = self._real[:, place], self._pseudo.reshape(self.n_draws, self.n_pseudo, -1)[:, :, place]
            x[:] = real[:, images.start * per_image : images.stop * per_image]
            x -= self._real_shift
            chosen = [None if w is None else w[images] for w in weights]
            compute_pseudo_units(self.members, [z[:, images] for z in parts], self.pooled, p, shift, chosen)
            self._n_gathered += n

    def arrays(self) -> Iterator[tuple[str, Any]]:
        """Add gathered samples, and yield every sum with its name; no samples may be added afterwards."""
        self._add_gathered()
        yield (
            "vectors",
            NullVectors(
                n_samples=np.array([self._count]),
                real_sums=self._on_host(self._real_sums),
                real_squares=self._on_host(self._real_squares),
                real_exponent=self.about.real_exponent,
                sums=self._on_host(self._sums),
                shift=self.about.pseudo,
                exponent=self.about.exponent,
            ).joined(),
        )
        for name, matrix in (("products", self._products), ("own", self._own)):
            yield name, self._on_host(matrix).astype(np.float32) if isinstance(matrix, type(self._sums)) else matrix

    def _add_gathered(self) -> None:
        n, self._n_gathered = self._n_gathered, 0
        if not n:
            return
        x, p = self._real[:, :n], self._pseudo[:, :n]
        self._real_sums += self._wide(x).sum(1)
        self._real_squares += (self._wide(x) ** 2).sum(1)
        self._sums += p.sum(1)
        x, p = self._scaled(x, self.about.real_exponent), self._scaled(p, self.about.exponent.reshape(-1))
        if self._is_wide:
            x, p = self._wide(x), self._wide(p)
        step = max(1, PRODUCT_BYTES // (4 * len(x)))
        for start in range(0, len(p), step):
            rows = slice(start, min(start + step, len(p)))
            self._add(self._products, (rows, slice(None)), p[rows] @ x.T)
        for draw in range(self.n_draws):
            for member in self.members:
                first, width = draw * self.n_pseudo + member.place.start, member.place.stop - member.place.start
                units = p[first : first + width]
                band = (width + 1) // 2 if width <= NARROW else width
                for row in range(0, width, band):
                    rows = slice(first + row, first + min(row + band, width))
                    self._add(self._own, (rows, slice(0, width)), p[rows] @ units.T)
        self._count += n

    def _add(self, total: Any, block: tuple[slice, slice], values: Any) -> None:
        """Add to a block of an array, or of a dataset that has no values before the first time."""
        if isinstance(total, type(self._sums)):
            total[block] += values
        else:
            total[block] = values if not self._count else total[block] + values.astype(np.float64)

    def _matrix(self, new_matrix: NewMatrix, name: str, shape: tuple[int, int]) -> Any:
        return new_matrix(name, shape)

    def _zeros(self, shape: tuple[int, ...]) -> Any:
        return np.zeros(shape)

    def _empty(self, shape: tuple[int, ...]) -> Any:
        return np.empty(shape, np.float32)

    def _float32(self, values: Float64) -> Any:
        return values.astype(np.float32)

    def _wide(self, values: Any) -> Any:
        return values.astype(np.float64)

    def _scaled(self, values: Any, exponent: Int64) -> Any:
        return np.ldexp(values, -exponent[:, None].astype(np.int32)) if exponent.any() else values

    def _on_host(self, values: Any) -> Any:
        return values


@njit(nogil=True)
def _rectify(values, offset, shift):  # type: ignore[no-untyped-def]
    """Replace products (n, units, n_samples) by max(products + offset, 0) − shift."""
    for draw in range(values.shape[0]):
        for unit in range(values.shape[1]):
            row, added, about = values[draw, unit], offset[draw, unit], shift[draw, unit, 0]
            for s in range(len(row)):
                value = row[s] + added
                row[s] = (np.float32(0.0) if value < np.float32(0.0) else value) - about


def compute_pseudo_units(
    members: Sequence[PseudoUnits],
    pre: Sequence[Any],
    pooled: bool,
    out: Any,
    shift: Any,
    weights: Sequence[Float32 | None] | None = None,
) -> None:
    """Write the pseudo-units of all draws, minus ``shift``, to ``out`` (n_draws, n_pseudo, n_samples).

    Pre-activations are (units, n_images, positions); a sample is an image if pooled, and a position otherwise.
    ``shift`` is (n_draws, n_pseudo, 1). ``weights`` are those of :meth:`NullGroupSums.update`.
    """
    for member, z, w in zip(members, pre, weights or [None] * len(members), strict=True):
        of_positions = w if w is None or isinstance(out, np.ndarray) else out.new_tensor(w)
        standard, per_sample = member.maps.standardise(z), z.shape[2] if pooled else 1
        n_draws = max(1, APPLY_ROWS // len(z))
        step = max(LEAST_APPLIED, APPLY_VALUES // (len(z) * min(n_draws, len(out))) // per_sample)
        for first in range(0, len(out), n_draws):
            draws = slice(first, min(first + n_draws, len(out)))
            weights = member.maps.weights[draws]
            for start in range(0, out.shape[2], step):
                samples = slice(start, min(start + step, out.shape[2]))
                chunk = standard[:, samples.start * per_sample : samples.stop * per_sample]
                place = out[draws, member.place, samples]
                if member.nonlinearity is relu and not pooled:  # the same operations in one pass over the values
                    products = member.maps.products(weights, chunk)
                    _rectify(products, member.maps.offset[draws], shift[draws, member.place])
                    place[:] = products
                    continue
                values = member.nonlinearity(member.maps.apply(draws, weights, chunk))
                if pooled:
                    values = values.reshape(*values.shape[:2], -1, per_sample)
                    values = values.mean(3) if of_positions is None else (values * of_positions[samples]).sum(3)
                if isinstance(out, np.ndarray):
                    np.subtract(values, shift[draws, member.place], out=place)
                else:
                    place[:] = values - shift[draws, member.place]
