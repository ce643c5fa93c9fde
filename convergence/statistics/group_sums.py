"""All sums over one image group of one comparison, accumulated batch by batch.

The sums are the moments of units and norms, the unit histograms and, optionally, products with the next image:

* **norms**: q = ‖x − s‖² over the units of one member is an additional row of the moments for every member, below the
  rows of the units. The moments then contain the sums of q, of q q' for two members and of q x for every unit. The
  unbiased HSIC needs them (:mod:`convergence.statistics.hsic`);
* **shifted products**: Σ (x_t − s)(x_{t+1} − s)ᵀ over the images t of the group in a ring. They keep the marginals of
  all units and lose what units share within an image: a chance level.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.hsic import squared_norms
from convergence.statistics.moments import BAND, Moments

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
NewMatrix = Callable[[str, int], Any]
"""``new_matrix(name, n)``: zeros (n, n) float64 to accumulate in, an array or a dataset of the file of results."""
CHUNK_VALUES = 1 << 22
"""Values converted to float64 at a time."""


class FinishedSums(NamedTuple):
    """The sums of a group: ``products`` (upper triangle) and ``shifted`` are arrays, datasets, or read row by row."""

    n_samples: int
    sums: Float64
    products: Any
    shifted: Any
    histograms: UnitHistograms


class GroupSums(ABC):
    """The sums of one group and comparison.

    Parameters
    ----------
    widths : units of each member, in order along the unit axis
    shift : (n_units + n_members,) the point about which units and norms are summed: :func:`shift_of`
    precision : type of the products, "float32" or "float64"
    shifted : whether products with the next image are summed
    """

    def __init__(self, widths: tuple[int, ...], shift: Float64, precision: str, shifted: bool) -> None:
        self.widths, self.shift = widths, shift

    @abstractmethod
    def update(self, samples: Any, n_images: int) -> None:
        """Add samples (n_units, n_images · positions) float32, image by image."""

    @abstractmethod
    def finish(self) -> FinishedSums:
        """Add buffered samples and return the sums; no samples may be added afterwards."""

    def arrays(self) -> Iterator[tuple[str, Any]]:
        """Finish, and yield every sum with its name."""
        found = self.finish()
        yield "shift", self.shift
        yield "count", np.asarray(found.n_samples)
        yield "sums", found.sums
        for key, array in found.histograms.to_arrays().items():
            yield f"histogram/{key}", array
        yield "products", found.products
        if found.shifted is not None:
            yield "shifted", found.shifted


def in_memory(name: str, n_rows: int) -> Float64:
    """A matrix in memory, see :data:`NewMatrix`."""
    return np.zeros((n_rows, n_rows))


class HostGroupSums(GroupSums):
    """Sums of numpy arrays; ``new_matrix`` makes the matrices."""

    def __init__(
        self,
        widths: tuple[int, ...],
        shift: Float64,
        precision: str,
        shifted: bool,
        new_matrix: NewMatrix = in_memory,
    ) -> None:
        super().__init__(widths, shift, precision, shifted)
        n_units = sum(widths)
        self._moments = Moments(shift, precision, new_matrix("products", len(shift)))
        self._histograms = UnitHistograms.zeros(n_units)
        self._shifted = ShiftedProducts(shift[:n_units], new_matrix("shifted", n_units)) if shifted else None

    def update(self, samples: Float32, n_images: int) -> None:
        self._moments.update(samples, squared_norms(samples, self.widths, self._moments.shift))
        self._histograms.update(samples)
        if self._shifted is not None:
            self._shifted.update(samples, samples.shape[1] // n_images)

    def finish(self) -> FinishedSums:
        moments = self._moments
        shifted = None if self._shifted is None else self._shifted.finish()
        return FinishedSums(moments.count, moments.sums, moments.upper, shifted, self._histograms)


def shift_of(samples: Float32, widths: tuple[int, ...]) -> Float64:
    """The shift (n_units + n_members,): means of units and norms over first samples (n_units, n_samples); 0 for NaN.

    Values have float32 precision, so the sums are about exactly this point.
    """
    units = _float32_mean(samples)
    return np.concatenate([units, _float32_mean(squared_norms(samples, widths, units))])


def _float32_mean(samples: Float32) -> Float64:
    mean = np.nan_to_num(samples.mean(axis=1, dtype=np.float64), posinf=0.0, neginf=0.0)
    return mean.astype(np.float32).astype(np.float64)


class ShiftedProducts:
    """Σ (x_t − s)(x_{t+1} − s)ᵀ over the images t of a group in a ring: (n_units, n_units), not symmetric.

    ``shift`` is (n_units,). ``total`` is the array or dataset to accumulate in; a new array if not given.
    """

    def __init__(self, shift: Float64, total: Any = None) -> None:
        self._shift = shift[:, None]
        self._total = np.zeros((len(shift),) * 2) if total is None else total
        self._first = self._last = np.empty((len(shift), 0))
        self._is_empty = True

    def update(self, samples: Float32, per_image: int) -> None:
        """Add whole images: samples (n_units, n_images · per_image)."""
        step = max(1, CHUNK_VALUES // (len(samples) * per_image)) * per_image
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
        """Close the ring and return the sums; no samples may be added afterwards."""
        self._add(self._last, self._first)
        return self._total

    def _add(self, earlier: Float64, later: Float64) -> None:
        for start in range(0, len(earlier), BAND):
            rows = slice(start, start + BAND)
            product = earlier[rows] @ later.T
            self._total[rows] = product if self._is_empty else self._total[rows] + product
        self._is_empty = False
