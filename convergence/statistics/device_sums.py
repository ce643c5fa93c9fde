"""The sums of one image group on the device that computes the activations, which then never leave it.

The same sums as :mod:`convergence.statistics.group_sums` keeps on the host, by the same rules: centres, products of
float32 or float64 of a bounded number of samples, everything else in float64, integers for histograms. Products of
float32 are IEEE products (TF32 is off, see :mod:`convergence.networks.devices`). Only the finished sums go to the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from convergence.statistics.buckets import FIRST_BUCKET, N_BUCKETS, PATTERN_SHIFT
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.moments import BAND, PRODUCT_SAMPLES


class DeviceSums:
    """Moments of units and norms, unit histograms and, if asked for, products with the next image.

    Parameters
    ----------
    widths : units of each net
    shift : (n_units + n_nets,) float64, of units and norms
    precision : type of the products, "float32" or "float64"
    shifted : whether products with the next image are summed
    device : where
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        shift: npt.NDArray[np.float64],
        precision: str,
        shifted: bool,
        device: torch.device,
    ) -> None:
        rows, units = len(shift), sum(widths)
        self._widths = widths
        self._type = torch.float64 if precision == "float64" else torch.float32
        self._shift = torch.from_numpy(np.asarray(shift, np.float32).astype(np.float64)).to(device)
        self._gathered = torch.empty((rows, PRODUCT_SAMPLES), dtype=torch.float32, device=device)
        self._n_gathered = 0
        self.count = 0
        self._sums = torch.zeros(rows, dtype=torch.float64, device=device)
        self._products = torch.zeros((rows, rows), dtype=torch.float64, device=device)
        self._zero = torch.zeros(units, dtype=torch.int64, device=device)
        self._nonfinite = torch.zeros_like(self._zero)
        self._buckets: dict[bool, torch.Tensor] = {}
        self._shifted = torch.zeros((units, units), dtype=torch.float64, device=device) if shifted else None
        self._first: torch.Tensor | None = None
        self._last: torch.Tensor | None = None

    def update(self, samples: torch.Tensor, n_images: int) -> None:
        """Add samples (n_units, n_images · positions) float32, image by image."""
        self._count_values(samples)
        if self._shifted is not None:
            self._add_shifted(samples, samples.shape[1] // n_images)
        start = 0
        while start < samples.shape[1]:
            n = min(samples.shape[1] - start, PRODUCT_SAMPLES - self._n_gathered)
            piece = samples[:, start : start + n]
            place = self._gathered[:, self._n_gathered : self._n_gathered + n]
            place[: len(piece)] = piece
            row = 0
            for net, width in enumerate(self._widths):
                centred = piece[row : row + width].double() - self._shift[row : row + width, None]
                place[len(piece) + net] = (centred * centred).sum(dim=0)
                row += width
            self._n_gathered += n
            start += n
            if self._n_gathered == PRODUCT_SAMPLES:
                self._add_gathered()

    def _add_gathered(self) -> None:
        n = self._n_gathered
        if not n:
            return
        x = self._gathered[:, :n].double()
        mean = x.mean(dim=1)
        variance = (x - mean[:, None]).square().mean(dim=1)
        centre = torch.where(mean * mean <= variance, torch.zeros_like(mean), mean).float().double()
        offset = centre - self._shift
        centred = (x - centre[:, None]).to(self._type)
        residual = centred.double().sum(dim=1)
        moved = residual + n * offset
        for start in range(0, len(x), BAND):
            rows = slice(start, start + BAND)
            product = (centred[rows] @ centred.T).double()
            self._products[rows] += product + torch.outer(moved[rows], offset) + torch.outer(offset[rows], residual)
        self._sums += moved
        self.count += n
        self._n_gathered = 0

    def _count_values(self, samples: torch.Tensor) -> None:
        pattern = samples.contiguous().view(torch.int32)
        magnitude = pattern & 0x7FFFFFFF
        self._zero += (magnitude == 0).sum(dim=1)
        finite = magnitude < 0x7F800000
        self._nonfinite += (~finite).sum(dim=1)
        unit = torch.arange(len(samples), device=samples.device)[:, None] * N_BUCKETS
        bucket = ((magnitude >> PATTERN_SHIFT) - FIRST_BUCKET).clamp_(0, N_BUCKETS - 1) + unit
        for negative, chosen in ((False, pattern > 0), (True, (pattern < 0) & (magnitude > 0))):
            places = bucket[chosen & finite]
            if len(places):
                counts = torch.bincount(places, minlength=len(samples) * N_BUCKETS)
                self._buckets[negative] = self._buckets[negative] + counts if negative in self._buckets else counts

    def _add_shifted(self, samples: torch.Tensor, per_image: int) -> None:
        assert self._shifted is not None
        x = samples.double() - self._shift[: len(samples), None]
        if self._last is None:
            self._first = x[:, :per_image].clone()
            self._shifted += x[:, :-per_image] @ x[:, per_image:].T
        else:
            self._shifted += torch.cat([self._last, x[:, :-per_image]], dim=1) @ x.T
        self._last = x[:, -per_image:].clone()

    def finish(self) -> None:
        """Add what is still gathered; nothing may be added afterwards."""
        self._add_gathered()
        if self._shifted is not None and self._first is not None and self._last is not None:
            self._shifted += self._last @ self._first.T
            self._first = None

    @property
    def sums(self) -> npt.NDArray[np.float64]:
        """(n_units + n_nets,) sums about the shift."""
        return np.asarray(self._sums.cpu().numpy())

    @property
    def products(self) -> Rows:
        """Sums of products; the upper triangle counts."""
        return Rows(self._products)

    @property
    def shifted(self) -> Rows | None:
        """Products with the next image."""
        return None if self._shifted is None else Rows(self._shifted)

    @property
    def histograms(self) -> UnitHistograms:
        """The unit histograms, on the host."""
        found = UnitHistograms.zeros(len(self._zero))
        found.zero += self._zero.cpu().numpy()
        found.n_nonfinite += self._nonfinite.cpu().numpy()
        for negative, counts in self._buckets.items():
            found.add_buckets(counts.reshape(-1, N_BUCKETS).cpu().numpy(), negative)
        return found


class Rows:
    """A matrix on a device whose rows come to the host when they are asked for."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self._matrix = matrix
        self.shape = tuple(matrix.shape)

    def __getitem__(self, index: Any) -> npt.NDArray[np.float64]:
        return np.asarray(self._matrix[index].cpu().numpy())


def encode_on_device(samples: torch.Tensor, edges: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Bins (n_units, n_samples) on the host, as :func:`convergence.statistics.bin_edges.encode`."""
    bounds = torch.from_numpy(np.ascontiguousarray(edges)).to(samples.device)
    codes = torch.searchsorted(bounds, samples.contiguous(), right=True)
    codes = torch.where(samples.isnan(), torch.zeros_like(codes), codes)
    return np.asarray(codes.to(torch.uint8).cpu().numpy())
