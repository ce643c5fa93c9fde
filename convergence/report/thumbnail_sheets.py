"""Pictures of a run's units, if there are any that belong to it, as sheets of thumbnails for the pages."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from convergence.errors import FileError
from convergence.figures.style import slug
from convergence.results import ComparisonResults
from convergence.visualization.file import PicturesFile, UnitPictures, open_pictures

logger = logging.getLogger(__name__)
KINDS = {
    "patches": "top patches",
    "deconvolution": "deconvolution",
    "guided": "guided",
    "maximization": "maximised",
    "filters": "weights",
}
"""Pictures in the order in which they are shown, as buttons call them."""
ABOUT = {
    "patches": "the image patches that excite the unit most, strongest first",
    "deconvolution": "what of each patch excites the unit, by deconvolution (Zeiler & Fergus 2014); grey is nothing",
    "guided": "the same by guided backpropagation (Springenberg et al. 2015)",
    "maximization": "images made to excite the unit as much as possible",
    "filters": "the weights of the unit; grey is zero",
}
OF_PATCHES = ("patches", "deconvolution", "guided")
NONE_YET = (
    "There are no pictures of the units of this run, so they are listed by their numbers. “convergence pictures "
    "CONFIG” makes the pictures, and “convergence report CONFIG” then shows them."
)
Pixels = npt.NDArray[np.uint8]
TILE = 216
"""Side in pixels that a tile does not exceed by much."""
SMALLEST = 24
"""Smaller pictures are enlarged by a whole factor, so that their pixels are visible."""
CRISP = 32
"""Pictures up to this side are kept without loss."""
GAP, GREY = 2, 150
COLUMNS = 8
PER_SHEET = COLUMNS * COLUMNS
WAITING = 8
TILE_CRISP = 3 * CRISP + 8
"""Tiles up to this side are of small pictures, kept without loss."""
Wanted = set[tuple[str, int]]
Kept = dict[str, dict[tuple[str, int], Pixels]]


@dataclass(frozen=True)
class RunPictures:
    """The pictures of a run; ``file`` is None where there are none, and ``why`` then says it in a sentence."""

    file: PicturesFile | None
    why: str = ""

    def of(self, layer: ComparisonResults, member: int) -> UnitPictures | None:
        """Of a member's units; None where there are none, or not of as many units, or of another epoch's weights."""
        net, name = layer.of_net[member], layer.layers[member]
        if self.file is None or layer.epochs[member] >= 0 or net not in self.file.nets:
            return None
        if name not in self.file.layers(net):
            return None
        found = self.file.of(net, name)
        if found.n_units != layer.widths[member]:
            logger.warning(
                "report: %s has pictures of %d units of %s in %s, which has another number; left out",
                self.file.path.name, found.n_units, name, net,
            )  # fmt: skip
            return None
        return found


@contextmanager
def run_pictures(path: Path | None, digest: str | None) -> Iterator[RunPictures]:
    """The pictures in a file, if it is there, can be read and bears the digest (any, for None)."""
    if path is None or not path.exists():
        yield RunPictures(None, NONE_YET)
        return
    try:
        opened = open_pictures(path)
        file = opened.__enter__()
    except FileError as error:
        logger.warning("report: without pictures: %s", error)
        yield RunPictures(None, f"The file of pictures cannot be used, so units are listed by their numbers: {error}")
        return
    try:
        if digest is not None and file.digest != digest:
            why = (
                f"{path.name} is of another run or of other settings (its digest is {file.digest[:12]}…, not "
                f"{digest[:12]}…). It is left out; “convergence pictures CONFIG” makes the pictures of this run."
            )
            logger.warning("report: %s", why)
            yield RunPictures(None, why)
        else:
            yield RunPictures(file)
    finally:
        opened.__exit__(None, None, None)


def place_sheets(
    layer: ComparisonResults, pictures: RunPictures, folder: Path, writer: SheetWriter, wanted: Wanted
) -> tuple[dict[str, list[dict[str, Any]]], Kept]:
    """Write the sheets of a comparison's units below ``folder``.

    Returns
    -------
    for each member the sheets of each kind of picture, as the unit browser reads them; and the tiles of the ``wanted``
    units (member, index) by kind
    """
    sheets: dict[str, list[dict[str, Any]]] = {}
    kept: Kept = {}
    for k, member in enumerate(layer.nets):
        found = pictures.of(layer, k)
        if found is None:
            continue
        for kind in KINDS:
            images = getattr(found, kind)
            if images is None:
                continue
            about: dict[str, Any] = {"kind": kind, "files": [], "per_sheet": PER_SHEET}
            for start in range(0, found.n_units, PER_SHEET):
                some = slice(start, min(start + PER_SHEET, found.n_units))
                block = np.asarray(images[some])
                made = tiles(block[:, None] if kind == "filters" else block, _present(found, kind, some))
                name = f"pictures/{slug(layer.name)}--{slug(member)}--{kind}-{start // PER_SHEET}.webp"
                crisp = max(block.shape[-3:-1]) <= CRISP
                grid = writer.write(folder / name, list(made), crisp)
                about["files"].append({"file": name, **grid})
                about["crisp"] = crisp
                for unit in range(some.start, some.stop):
                    if (member, unit) in wanted:
                        kept.setdefault(kind, {})[member, unit] = made[unit - start].copy()
            sheets.setdefault(member, []).append(about)
    return sheets, kept


def _present(found: UnitPictures, kind: str, some: slice) -> Any:
    """Which pictures of some units there are; None for all."""
    if kind in OF_PATCHES and found.top_image is not None:
        return found.top_image[some] >= 0
    if found.dead is not None and kind == "maximization":
        return np.broadcast_to(~found.dead[some, None], (some.stop - some.start, found.maximization.shape[1]))
    return None


def gallery_sheets(layer: ComparisonResults, kept: Kept, folder: Path, writer: SheetWriter) -> dict[str, Any] | None:
    """One sheet a kind with the tiles that the galleries show; None without any.

    Returns ``{"kinds": {kind: file}, "crisp": …, "columns", "rows", "place": {(member, unit): index}}``; all sheets
    have the same grid.
    """
    patches = kept.get("patches")
    if not patches:
        return None
    units = sorted(patches)
    kinds: dict[str, dict[str, Any]] = {}
    for kind in ("patches", "deconvolution", "maximization"):
        of_kind: Mapping[tuple[str, int], Pixels] = kept.get(kind, {})
        by_shape = {tile.shape for tile in of_kind.values()}
        if len(by_shape) != 1 or any(unit not in of_kind for unit in units):
            continue
        name = f"pictures/{slug(layer.name)}--gallery-{kind}.webp"
        crisp = max(next(iter(by_shape))[:2]) <= TILE_CRISP
        grid = writer.write(folder / name, [of_kind[unit] for unit in units], crisp)
        kinds[kind] = {"file": name, "crisp": crisp, **grid}
    if not kinds:
        return None
    return {"kinds": kinds, "place": {unit: at for at, unit in enumerate(units)}}


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
