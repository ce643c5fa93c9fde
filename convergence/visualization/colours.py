"""Conversion of a net's input (…, channels, height, width) to bytes, with the channels last, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.data.images import ImageSet
from convergence.errors import FileError
from convergence.statistics.sampling import Indices

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
ZERO = 128
"""Byte of zero in images of signals."""


@dataclass(frozen=True)
class Colours:
    """The range of pixels, and the covariance of colours.

    Attributes
    ----------
    black, white : (channels,) inputs of the net for the bytes 0 and 255
    root : (channels, channels) symmetric root of the covariance of colours, its longest row of length one
    """

    black: Floats
    white: Floats
    root: npt.NDArray[np.float64]

    @classmethod
    def of(cls, images: ImageSet, sample: Indices) -> Colours:
        """Colours of a data set, with the covariance over some of its images.

        Raises
        ------
        FileError
            for images with other than one or three channels, or without a range.
        """
        channels = images.image_shape[0]
        if channels not in (1, 3):
            raise FileError(f"images have {channels} channels; pictures need one (grey) or three (colour).")
        black, white = images.pixel_range()
        if not (np.isfinite(black).all() and np.isfinite(white).all() and (white > black).all()):
            raise FileError(
                f"black is {black.tolist()} and white is {white.tolist()}; white must be larger in every channel."
            )
        pixels = images.read(sample).transpose(1, 0, 2, 3).reshape(channels, -1).astype(np.float64)
        pixels = (pixels - black[:, None]) / (white - black)[:, None]
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(pixels)))
        root = vectors @ np.diag(np.sqrt(values.clip(1e-8))) @ vectors.T
        return cls(black, white, root / np.sqrt((root**2).sum(axis=1).max()))

    def to_bytes(self, images: Floats) -> Bytes:
        """Inputs (…, channels, height, width) as bytes, clipped to black and white."""
        black, white = self.black[:, None, None], self.white[:, None, None]
        share = np.clip((images - black) / (white - black), 0, 1)
        return np.ascontiguousarray(np.moveaxis(np.rint(255 * share).astype(np.uint8), -3, -1))

    def from_bytes(self, pixels: Bytes) -> Floats:
        """Inputs of the net from bytes (…, height, width, channels)."""
        share = pixels.astype(np.float32) / np.float32(255)
        return np.ascontiguousarray(np.moveaxis(share * (self.white - self.black) + self.black, -1, -3))

    @property
    def mean(self) -> Bytes:
        """(channels,) the colour of an input of zero, as beyond the border of an image."""
        return self.to_bytes(np.zeros((len(self.black), 1, 1), np.float32))[0, 0]


def signal_to_bytes(signal: Floats) -> tuple[Bytes, Floats]:
    """Signed images (n, channels, height, width) as bytes about 128, and the values of ±127, (n,)."""
    scale = np.abs(signal).max(axis=(1, 2, 3)) if signal.size else np.zeros(len(signal), np.float32)
    unit = np.where(scale > 0, scale, 1)[:, None, None, None]
    return np.moveaxis(np.rint(ZERO + 127 * (signal / unit)).astype(np.uint8), 1, -1), scale.astype(np.float32)


def reduced(images: Floats, most: int) -> Floats:
    """Images (n, channels, height, width) reduced to a longer side of ``most`` pixels by means over areas."""
    import torch

    height, width = images.shape[2:]
    longer = max(height, width)
    if longer <= most or not len(images):
        return images
    size = reduced_size((height, width), most)
    small: Any = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(images)), size)
    return np.asarray(small.numpy())


def reduced_size(size: tuple[int, int], most: int) -> tuple[int, int]:
    """(height, width) of :func:`reduced` images."""
    longer = max(size)
    if longer <= most:
        return size
    height, width = (max(1, round(side * most / longer)) for side in size)
    return height, width
