"""All sums over one image group of one comparison, accumulated batch by batch.

The sums are the moments of units, the unit histograms and, optionally, the sums of each class and products with the
next image:

* **class sums**: Σ (x − s) over the samples of each class. They divide every covariance into a part between the classes
  and a part within them;
* **shifted products**: Σ (x_t − s)(x_{t+1} − s)ᵀ over the images t of the group in a ring, both at the positions
  that are samples of image t. They keep the marginals of all units and lose what units share within
  an image: a chance level.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from convergence.kernels import lanes
from convergence.kernels.jit import njit
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.moments import BAND, Moments

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
NewMatrix = Callable[[str, int | tuple[int, int]], Any]
"""``new_matrix(name, n)``: zeros (n, n) float64 to accumulate in, an array or a dataset of the file of results.

``new_matrix(name, (rows, columns))``: zeros float64, or a float32 dataset without values.
"""
CHUNK_VALUES = 1 << 22
"""Values converted to float64 at a time."""


class FinishedSums(NamedTuple):
    """The sums of a group: ``products`` (upper triangle) and ``shifted`` are arrays, datasets, or read row by row.

    ``by_class`` (n_classes, n_units) is None without labels.
    """

    n_samples: int
    sums: Float64
    products: Any
    shifted: Any
    histograms: UnitHistograms
    by_class: Float64 | None


class GroupSums(ABC):
    """The sums of one group and comparison.

    Parameters
    ----------
    shift : (n_units,) the point about which units are summed: :func:`shift_of`
    precision : type of the products, "float32" or "float64"
    shifted : whether products with the next image are summed
    n_classes : number of classes; 0 for no sums of classes
    """

    def __init__(self, shift: Float64, precision: str, shifted: bool, n_classes: int = 0) -> None:
        self.shift = shift
        self._class_count = np.zeros(n_classes, np.int64)

    @abstractmethod
    def update(self, samples: Any, n_images: int, classes: Indices | None = None, later: Any = None) -> None:
        """Add samples (n_units, n_images · positions) float32, image by image.

        ``classes`` (n_images,) are the classes of the images. ``later`` are samples of the same images at the positions
        of the images before them; None if these are the same positions.
        """

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
        if found.by_class is not None:
            yield "class_count", self._class_count
            yield "class_sums", found.by_class

    def _count_classes(self, classes: Indices, per_image: int) -> None:
        self._class_count += per_image * np.bincount(classes, minlength=len(self._class_count))


def in_memory(name: str, shape: int | tuple[int, int]) -> Float64:
    """A matrix in memory, see :data:`NewMatrix`."""
    return np.zeros((shape, shape) if isinstance(shape, int) else shape)


class HostGroupSums(GroupSums):
    """Sums of numpy arrays; ``new_matrix`` makes the matrices."""

    def __init__(
        self,
        shift: Float64,
        precision: str,
        shifted: bool,
        n_classes: int = 0,
        new_matrix: NewMatrix = in_memory,
    ) -> None:
        super().__init__(shift, precision, shifted, n_classes)
        n_units = len(shift)
        self._moments = Moments(shift, precision, new_matrix("products", n_units))
        self._histograms = UnitHistograms.zeros(n_units)
        self._shifted = ShiftedProducts(shift, new_matrix("shifted", n_units)) if shifted else None
        self._by_class = np.zeros((n_units, n_classes))

    def update(
        self, samples: Float32, n_images: int, classes: Indices | None = None, later: Float32 | None = None
    ) -> None:
        per_image = samples.shape[1] // n_images
        self._moments.update(samples)
        self._histograms.update(samples)
        if self._shifted is not None:
            self._shifted.update(samples, per_image, later)
        if len(self._class_count) and classes is not None:
            self._count_classes(classes, per_image)
            add_by_class(samples, self._moments.shift, classes, self._by_class)

    def finish(self) -> FinishedSums:
        moments = self._moments
        shifted = None if self._shifted is None else self._shifted.finish()
        by_class = np.ascontiguousarray(self._by_class.T) if len(self._class_count) else None
        return FinishedSums(moments.count, moments.sums, moments.upper, shifted, self._histograms, by_class)


def shift_of(samples: Float32) -> Float64:
    """The shift (n_units,): means of units over first samples (n_units, n_samples); 0 for NaN.

    Values have float32 precision, so the sums are about exactly this point.
    """
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

    def update(self, samples: Float32, per_image: int, later: Float32 | None = None) -> None:
        """Add whole images: samples (n_units, n_images · per_image).

        ``later`` are samples of the same images at the positions of the images before them, which are multiplied with
        the samples of these; None if the positions are the same.
        """
        step = max(1, CHUNK_VALUES // (len(samples) * per_image)) * per_image
        for start in range(0, samples.shape[1], step):
            chunk = slice(start, start + step)
            x = samples[:, chunk] - self._shift
            after = x if later is None else later[:, chunk] - self._shift
            if not self._last.shape[1]:
                self._first = after[:, :per_image].copy()
                earlier, after = x[:, :-per_image], after[:, per_image:]
            else:
                earlier = np.concatenate([self._last, x[:, :-per_image]], axis=1)
            self._last = x[:, -per_image:].copy()
            self._add(earlier, after)

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


@njit(nogil=True)
def add_by_class(samples, shift, classes, total):  # type: ignore[no-untyped-def]
    """Add Σ (x − s) of samples (n_units, n_images · positions) by class to ``total`` (n_units, n_classes)."""
    per_image = samples.shape[1] // len(classes)
    whole = per_image - per_image % lanes.LANES
    for unit in range(samples.shape[0]):
        row, about = samples[unit], shift[unit]
        for image in range(len(classes)):
            first = image * per_image
            sums = lanes.zeros()
            for s in range(first, first + whole, lanes.LANES):
                sums = lanes.plus(sums, lanes.minus(lanes.load(row, s), about))
            of_image = lanes.total(sums)
            for s in range(first + whole, first + per_image):
                of_image += np.float64(row[s]) - about
            total[unit, classes[image]] += of_image
