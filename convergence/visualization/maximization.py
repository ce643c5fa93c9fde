"""Activation maximisation by gradient ascent from noise (Erhan et al. 2009; Yosinski et al. 2015).

The objective is the unit *before* its activation function, so that an inactive unit has a gradient. Shifts by some
pixels (jitter) and a blur prevent high-frequency patterns; both end before the last steps. The stored value is that of
the stored image in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from convergence.config.stages import MaximizationConfig
from convergence.training.optimisers import AdamW
from convergence.visualization.colours import Bytes, Colours
from convergence.visualization.layer import PicturedLayer
from convergence.visualization.parametrisation import Parametrisation
from convergence.visualization.receptive import Pair

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
FREE_SHARE = 0.1
"""Share of the steps, at the end, without jitter."""
BLURRED_SHARE = 0.75
"""Share of the steps, at the beginning, with blur."""


class Frame(NamedTuple):
    """Position of a picture in the part of an image that the net is run on.

    Attributes
    ----------
    size : (height, width) of the picture
    canvas : (height, width) of the net's input; zero beyond the picture
    corner : first row and column of the picture on the canvas
    position : (y, x) in the map of the canvas, None for the whole map
    """

    size: Pair
    canvas: Pair
    corner: Pair
    position: Pair | None


def frame_of(layer: PicturedLayer, objective: str) -> Frame:
    """A picture of the central position's receptive field within an image, or of a whole image."""
    geometry = layer.geometry
    if objective == "channel":
        return Frame(geometry.image, geometry.image, (0, 0), None)
    position = geometry.central()[None]
    (part,), (within,) = geometry.parts(position)
    (box,) = geometry.boxes(position)
    first, last = np.maximum(box[:2], 0), np.minimum(box[2:], geometry.image)
    height, width = (int(n) for n in last - first)
    corner = first - part[:2]
    canvas = part[2:] - part[:2]
    return Frame(
        (height, width), (int(canvas[0]), int(canvas[1])), (int(corner[0]), int(corner[1])),
        (int(within[0]), int(within[1])),
    )  # fmt: skip


def maximize(
    layer: PicturedLayer, units: Indices, colours: Colours, config: MaximizationConfig, batch: int
) -> Iterator[tuple[Bytes, Floats]]:
    """For each unit, images (seeds, height, width, channels) and their values (seeds,).

    The value is that of the maximised position, or the largest of the map for the objective "channel". It is NaN, and
    the image grey, where the net is not finite. ``batch`` images are processed at a time, independently.
    """
    frame = frame_of(layer, config.objective)
    jobs = [(int(unit), seed) for unit in units for seed in range(config.seeds)]
    pixels: list[Bytes] = []
    values: list[np.float32] = []
    for start in range(0, len(jobs), batch):
        some = jobs[start : start + batch]
        images = _ascend(layer, frame, some, colours, config)
        pixels.extend(images)
        values.extend(values_of(layer, frame, np.array([unit for unit, _ in some]), images, colours))
        while len(pixels) >= config.seeds:
            yield np.stack(pixels[: config.seeds]), np.array(values[: config.seeds], np.float32)
            del pixels[: config.seeds], values[: config.seeds]


def _ascend(
    layer: PicturedLayer, frame: Frame, jobs: list[tuple[int, int]], colours: Colours, config: MaximizationConfig
) -> Bytes:
    """(n, height, width, channels): gradient ascent for pairs of unit and seed."""
    jitter = min(config.jitter, min(frame.size) // 8)
    height, width = (n + 2 * jitter for n in frame.size)
    shape = (len(colours.black), height, width)
    noise = np.stack(
        [np.random.default_rng([config.seed, *job]).standard_normal(shape, dtype=np.float32) for job in jobs]
    )
    black, white = (torch.from_numpy(end).to(layer.device)[:, None, None] for end in (colours.black, colours.white))
    mean = np.clip(-colours.black / (colours.white - colours.black), 0, 1)
    image = Parametrisation(config.parametrisation, noise, mean, colours.root, layer.device)
    optimiser = AdamW([image.parameters], lr=config.learning_rate, weight_decay=0.0)  # Adam
    units = torch.tensor([unit for unit, _ in jobs], device=layer.device)
    rows = torch.arange(len(jobs), device=layer.device)
    free = round(config.steps * (1 - FREE_SHARE))
    blurred = round(config.steps * BLURRED_SHARE)
    for step in range(config.steps):
        shift = np.full(2, jitter)
        if step < free and jitter:
            shift = np.random.default_rng([config.seed, 1, step]).integers(0, 2 * jitter + 1, 2)
        with torch.enable_grad():
            window = image.images()[:, :, shift[0] : shift[0] + frame.size[0], shift[1] : shift[1] + frame.size[1]]
            maps = layer.maps(layer.module(on_canvas(black + window * (white - black), frame))["before"])
            chosen = maps[rows, units]
            objective = chosen.mean(dim=(1, 2)) if frame.position is None else chosen[:, *frame.position]
            optimiser.zero_grad()
            (-objective.sum()).backward()
        optimiser.step()
        image.settle(config.blur * max(0.0, 1 - step / blurred) if blurred else 0.0)
    with torch.no_grad():
        found = image.images()[:, :, jitter : jitter + frame.size[0], jitter : jitter + frame.size[1]]
        grey = torch.from_numpy(mean).to(layer.device)[:, None, None]
        there = torch.isfinite(found) & ~torch.from_numpy(layer.broken).to(layer.device)[units][:, None, None, None]
        share = torch.where(there, found, grey).clamp(0, 1)
    return np.rint(255 * share.permute(0, 2, 3, 1).cpu().numpy()).astype(np.uint8)


def values_of(layer: PicturedLayer, frame: Frame, units: Indices, images: Bytes, colours: Colours) -> Floats:
    """(n,) values of one unit each for stored images (n, height, width, channels); NaN where not finite."""
    seen = torch.from_numpy(colours.from_bytes(images)).to(layer.device)
    maps = layer.values(on_canvas(seen, frame))[torch.arange(len(units)), torch.from_numpy(units)]
    values = maps.flatten(1).amax(dim=1) if frame.position is None else maps[:, *frame.position]
    found = values.float().cpu().numpy()
    return np.where(np.isfinite(found) & ~layer.broken[units], found, np.float32(np.nan))


def on_canvas(pictures: torch.Tensor, frame: Frame) -> torch.Tensor:
    """Pictures (n, channels, *size) padded to (n, channels, *canvas)."""
    if frame.size == frame.canvas:
        return pictures
    (y, x), (height, width) = frame.corner, frame.size
    below, right = frame.canvas[0] - y - height, frame.canvas[1] - x - width
    return torch.nn.functional.pad(pictures, (x, right, y, below))
