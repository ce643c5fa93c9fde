"""Pictures of a run's units, if there are any that belong to it, and their sheets for the pages."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convergence.errors import FileError
from convergence.pictures.file import PicturesFile, UnitPictures, open_pictures
from convergence.report.slugs import slug
from convergence.report.sprites import CRISP, PER_SHEET, Pixels, SheetWriter, tiles
from convergence.summary import Layer

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
Wanted = set[tuple[str, int]]
Kept = dict[str, dict[tuple[str, int], Pixels]]


@dataclass(frozen=True)
class RunPictures:
    """The pictures of a run; ``file`` is None where there are none, and ``why`` then says it in a sentence."""

    file: PicturesFile | None
    why: str = ""

    def of(self, layer: Layer, member: int) -> UnitPictures | None:
        """Of a member's units; None where there are none, or not of as many units, or of another epoch's weights."""
        net, name = layer.of_net[member], layer.layers[member]
        if self.file is None or layer.epochs[member] >= 0 or net not in self.file.nets:
            return None
        if name not in self.file.layers(net):
            return None
        found = self.file.of(net, name)
        if found.n_units != int((layer.units["net"] == member).sum()):
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
    layer: Layer, pictures: RunPictures, folder: Path, writer: SheetWriter, wanted: Wanted
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


def gallery_sheets(layer: Layer, kept: Kept, folder: Path, writer: SheetWriter) -> dict[str, Any] | None:
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


TILE_CRISP = 3 * CRISP + 8
"""Tiles up to this side are of small pictures, kept without loss."""
