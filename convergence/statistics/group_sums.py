"""Everything that is summed over one image group for one comparison, and how it lies in a file.

Beside the moments and the histograms of the units these are

* **norms**: q = ‖x − s‖² over the units of a net is one more row for every net, below those of the units, so that the
  moments hold the sums of q, of q q' for two nets and of q x for every unit. The unbiased HSIC needs them (Song et al.
  2007, arXiv 0805.2368);
* **shifted products** (an option): Σ (x_t − s)(x_{t+1} − s)ᵀ, every image with the next one of the group and the last
  with the first. The marginals of all units stay, what they share within an image goes: a chance level.
"""

from __future__ import annotations

from typing import Any

import h5py
import numba as nb
import numpy as np
import numpy.typing as npt

from convergence.io import hdf5
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.moments import BAND, Moments

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
MATRIX_BYTES = 1 << 28
"""A matrix above this size is kept in the file while it grows, a band of it in memory."""
PIECE_VALUES = 1 << 22
"""Values that are held in float64 at a time."""


class GroupSums:
    """The sums of one group and comparison, kept in ``place`` of a file that is being written.

    Parameters
    ----------
    place : an empty HDF5 group
    widths : units of each net, side by side along the unit axis
    shift : (n_units + n_nets,) the point about which sums are taken, of units and then of norms: :func:`shift_of`
    precision : type of the products
    shifted : whether shifted products are summed
    device : where samples are and sums are taken; None for arrays on the host
    """

    def __init__(
        self,
        place: h5py.Group,
        widths: tuple[int, ...],
        shift: Float64,
        precision: str,
        shifted: bool,
        device: Any = None,
    ) -> None:
        self._place, self._shift = place, shift
        self._sums: Any
        if device is None:
            self._sums = HostSums(place, widths, shift, precision, shifted)
        else:
            from convergence.statistics.device_sums import DeviceSums

            self._sums = DeviceSums(widths, shift, precision, shifted, device)

    def update(self, samples: Any, n_images: int) -> None:
        """Add samples (n_units, n_images · positions) float32, image by image."""
        self._sums.update(samples, n_images)

    def close(self) -> None:
        """Write what is still in memory, and the checksums."""
        self._sums.finish()
        hdf5.write_array(self._place, "shift", self._shift)
        hdf5.write_array(self._place, "count", self._sums.count)
        hdf5.write_array(self._place, "sums", self._sums.sums)
        for key, array in self._sums.histograms.to_arrays().items():
            hdf5.write_array(self._place, f"histogram/{key}", array)
        _keep(self._place, "products", self._sums.products)
        if self._sums.shifted is not None:
            _keep(self._place, "shifted", self._sums.shifted)


class HostSums:
    """The sums of arrays on the host; large matrices grow in ``place``. Arguments as of :class:`GroupSums`."""

    def __init__(
        self, place: h5py.Group, widths: tuple[int, ...], shift: Float64, precision: str, shifted: bool
    ) -> None:
        n_units = sum(widths)
        self._widths = widths
        self._moments = Moments(shift, precision, _matrix(place, "products", len(shift)))
        self.histograms = UnitHistograms.zeros(n_units)
        self._shifted = ShiftedProducts(shift[:n_units], _matrix(place, "shifted", n_units)) if shifted else None
        self.shifted: Any = None

    def update(self, samples: Float32, n_images: int) -> None:
        """Add samples (n_units, n_images · positions), image by image."""
        self._moments.update(samples, norms(samples, self._widths, self._moments.shift))
        self.histograms.update(samples)
        if self._shifted is not None:
            self._shifted.update(samples, samples.shape[1] // n_images)

    def finish(self) -> None:
        """Add what is still gathered; nothing may be added afterwards."""
        self.count, self.sums, self.products = self._moments.count, self._moments.sums, self._moments.upper
        if self._shifted is not None:
            self.shifted = self._shifted.finish()


def shift_of(samples: Float32, widths: tuple[int, ...]) -> Float64:
    """The shift (n_units + n_nets,) from first samples (n_units, n_samples): means of units and of norms; 0 for NaN.

    Values of float32 precision, so that the sums are about this very point and no rounded one.
    """
    units = _float32_mean(samples)
    return np.concatenate([units, _float32_mean(norms(samples, widths, units))])


def _float32_mean(samples: Float32) -> Float64:
    mean = np.nan_to_num(samples.mean(axis=1, dtype=np.float64), posinf=0.0, neginf=0.0)
    return mean.astype(np.float32).astype(np.float64)


def norms(samples: Float32, widths: tuple[int, ...], shift: Float64) -> Float32:
    """‖x − s‖² of every net, (n_nets, n_samples), of samples (n_units, n_samples)."""
    out = np.empty((len(widths), samples.shape[1]), np.float32)
    start = 0
    for net, width in enumerate(widths):
        out[net] = _squared_norms(samples[start : start + width], shift[start : start + width])
        start += width
    return out


@nb.njit(cache=True, nogil=True)
def _squared_norms(samples, shift):  # type: ignore[no-untyped-def]
    """(n_samples,) float64, added up unit by unit."""
    out = np.zeros(samples.shape[1])
    for unit in range(samples.shape[0]):
        for s in range(samples.shape[1]):
            value = samples[unit, s] - shift[unit]
            out[s] += value * value
    return out


class ShiftedProducts:
    """Σ (x_t − s)(x_{t+1} − s)ᵀ over the images t of a group in a ring; (n_units, n_units), not symmetric.

    ``shift`` is (n_units,); ``total`` a dataset to grow in, or None for an array.
    """

    def __init__(self, shift: Float64, total: Any = None) -> None:
        self._shift = shift[:, None]
        self._total = np.zeros((len(shift),) * 2) if total is None else total
        self._first = self._last = np.empty((len(shift), 0))
        self._is_empty = True

    def update(self, samples: Float32, per_image: int) -> None:
        """Add whole images: samples (n_units, n_images · per_image)."""
        step = max(1, PIECE_VALUES // (len(samples) * per_image)) * per_image
        for start in range(0, samples.shape[1], step):
            x = samples[:, start : start + step] - self._shift
            if not self._last.shape[1]:
                self._first = x[:, :per_image].copy()
                earlier, later = x[:, :-per_image], x[:, per_image:]
            else:
                earlier, later = np.concatenate([self._last, x[:, :-per_image]], axis=1), x
            self._last = x[:, -per_image:].copy()
            self._add(earlier, later)

    def finish(self) -> Any:
        """Close the ring; the sums. Nothing may be added afterwards."""
        self._add(self._last, self._first)
        return self._total

    def _add(self, earlier: Float64, later: Float64) -> None:
        for start in range(0, len(earlier), BAND):
            rows = slice(start, start + BAND)
            product = earlier[rows] @ later.T
            self._total[rows] = product if self._is_empty else self._total[rows] + product
        self._is_empty = False


def _matrix(place: h5py.Group, name: str, n_rows: int) -> Any:
    """Where a matrix grows: a dataset of the file, or None for in memory."""
    if 8 * n_rows**2 <= MATRIX_BYTES:
        return None
    return hdf5.create_blocks(place, name, (n_rows, n_rows))


def _keep(place: h5py.Group, name: str, matrix: Any) -> None:
    """Write a matrix that grew elsewhere than in the file, and set the checksum of its blocks."""
    dataset = matrix
    if not isinstance(matrix, h5py.Dataset):
        dataset = hdf5.create_blocks(place, name, matrix.shape)
        for index in hdf5.blocks(matrix.shape):
            dataset[index] = matrix[index]
    hdf5.seal(dataset, (hdf5.block_digest(dataset[index]) for index in hdf5.blocks(matrix.shape)))
