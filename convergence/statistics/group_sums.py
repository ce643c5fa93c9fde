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

from convergence import hdf5
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
        n_units = sum(widths)
        self._place, self._widths, self._shift = place, widths, shift
        self._on_device = None
        if device is not None:
            from convergence.statistics.device_sums import DeviceSums

            self._on_device = DeviceSums(widths, shift, precision, shifted, device)
            return
        self._moments = Moments(shift, precision, _matrix(place, "products", len(shift)))
        self._histograms = UnitHistograms.zeros(n_units)
        self._shifted = None
        if shifted:
            self._shifted = ShiftedProducts(self._moments.shift[:n_units], _matrix(place, "shifted", n_units))

    def update(self, samples: Any, n_images: int) -> None:
        """Add samples (n_units, n_images · positions) float32, image by image."""
        if self._on_device is not None:
            self._on_device.update(samples, n_images)
            return
        self._moments.update(samples, norms(samples, self._widths, self._moments.shift))
        self._histograms.update(samples)
        if self._shifted is not None:
            self._shifted.update(samples, samples.shape[1] // n_images)

    def close(self) -> None:
        """Write what is still in memory, and the checksums."""
        shifted: Any
        if self._on_device is not None:
            self._on_device.finish()
            count, sums, products = self._on_device.count, self._on_device.sums, self._on_device.products
            histograms, shifted = self._on_device.histograms, self._on_device.shifted
        else:
            count, sums, products = self._moments.count, self._moments.sums, self._moments.upper
            histograms = self._histograms
            shifted = None if self._shifted is None else self._shifted.finish()
        hdf5.write_array(self._place, "shift", self._shift)
        hdf5.write_array(self._place, "count", count)
        hdf5.write_array(self._place, "sums", sums)
        for key, array in histograms.to_arrays().items():
            hdf5.write_array(self._place, f"histogram/{key}", array)
        _keep(self._place, "products", products)
        if shifted is not None:
            _keep(self._place, "shifted", shifted)


def shift_of(samples: Float32, widths: tuple[int, ...]) -> Float64:
    """The shift (n_units + n_nets,) from first samples (n_units, n_samples): means of units and of norms; 0 for NaN."""
    units = np.nan_to_num(samples.mean(axis=1, dtype=np.float64), posinf=0.0, neginf=0.0).astype(np.float32)
    means = norms(samples, widths, units.astype(np.float64)).mean(axis=1, dtype=np.float64)
    return np.concatenate([units.astype(np.float64), np.nan_to_num(means, posinf=0.0, neginf=0.0)])


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
