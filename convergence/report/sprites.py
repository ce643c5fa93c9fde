"""Many small pictures in few files: tiles of units, and sheets of tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
TILE = 216
"""Side in pixels that a tile does not exceed by much."""
SMALLEST = 24
"""Smaller pictures are enlarged by a whole factor, so that their pixels can be told apart."""
CRISP = 32
"""Pictures up to this side are kept without loss."""
GAP, GREY = 2, 150
COLUMNS = 8
PER_SHEET = COLUMNS * COLUMNS
WAITING = 8


def tiles(pictures: npt.NDArray[Any], present: npt.NDArray[np.bool_] | None = None) -> Pixels:
    """(n, side, side', 3) one tile a unit: its pictures in a square, ranks in reading order.

    Parameters
    ----------
    pictures : (n, K, h, w, 1 or 3)
        uint8; grey ones get three equal channels.
    present : (n, K)
        Places to leave empty where False; None leaves none.

    Notes
    -----
    Large pictures shrink by whole factors to the mean of their pixels; small ones grow by whole factors.
    """
    n, k, height, width, channels = pictures.shape
    per_side = math.ceil(math.sqrt(k))
    factor = max(1, math.ceil(max(height, width) / (TILE // per_side)))
    h, w = max(height // factor, 1), max(width // factor, 1)
    small = np.ascontiguousarray(pictures[:, :, : h * factor, : w * factor])
    if factor > 1:
        small = _shrink(small, factor).reshape(n, k, h, w, channels)
    grow = max(1, SMALLEST // max(h, w))
    if grow > 1:
        small = small.repeat(grow, axis=2).repeat(grow, axis=3)
        h, w = h * grow, w * grow
    out = np.full((n, per_side * (h + GAP) - GAP, per_side * (w + GAP) - GAP, 3), GREY, np.uint8)
    for rank in range(k):
        top, left = (rank // per_side) * (h + GAP), (rank % per_side) * (w + GAP)
        shown = slice(None) if present is None else present[:, rank]
        out[shown, top : top + h, left : left + w] = small[shown, rank]
    return out


def _shrink(pictures: Pixels, factor: int) -> Pixels:
    """Means over squares of ``factor`` pixels; heights and widths are multiples of it."""
    n, k, height, width, channels = pictures.shape
    stacked = pictures.reshape(n * k * height, width, channels)
    image = Image.fromarray(stacked[..., 0] if channels == 1 else stacked)
    return np.asarray(image.reduce(factor), dtype=np.uint8)


def sheet(all_tiles: Sequence[Pixels]) -> Pixels:
    """Tiles of one shape, ``COLUMNS`` a row."""
    height, width, _ = all_tiles[0].shape
    rows = math.ceil(len(all_tiles) / COLUMNS)
    columns = min(COLUMNS, len(all_tiles)) if rows == 1 else COLUMNS
    out = np.full((rows * height, columns * width, 3), GREY, np.uint8)
    for at, tile in enumerate(all_tiles):
        top, left = (at // COLUMNS) * height, (at % COLUMNS) * width
        out[top : top + height, left : left + width] = tile
    return out


class SheetWriter:
    """Writes sheets as WebP, two at a time; an error of one is raised when the block ends."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(2)
        self._pending: list[Future[None]] = []

    def __enter__(self) -> SheetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                for one in self._pending:
                    one.result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def write(self, path: Path, all_tiles: Sequence[Pixels], crisp: bool) -> dict[str, int]:
        """Have a sheet written; its grid: columns and rows of tiles, and the width and height of one."""
        pixels = sheet(all_tiles)
        height, width, _ = all_tiles[0].shape
        while len(self._pending) >= WAITING:
            self._pending.pop(0).result()
        self._pending.append(self._pool.submit(_save, path, pixels, crisp))
        return {
            "columns": pixels.shape[1] // width, "rows": pixels.shape[0] // height, "width": width, "height": height,
        }  # fmt: skip


def _save(path: Path, pixels: Pixels, crisp: bool) -> None:
    image = Image.fromarray(pixels)
    if crisp:
        image.save(path, "WEBP", lossless=True, quality=20, method=0)
    else:
        image.save(path, "WEBP", quality=80, method=0)
