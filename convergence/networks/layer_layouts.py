"""The axes of a layer's output: which one runs over images, which over units; the others are positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from convergence.errors import ConfigError
from convergence.networks.layer_config import LayerConfig

Tokens = Literal["all", "first", "last"] | tuple[int, ...]


@dataclass(frozen=True)
class LayerLayout:
    """The axes of a layer's output.

    Attributes
    ----------
    n_units : number of units
    map_shape : shape of the positions; () for a layer without positions
    image_axis, unit_axis : of the output; −1 for the units of an output of one number for each image
    per_image : rows of each image along the image axis, such as windows of attention: positions of the image
    tokens : positions that are read
    """

    n_units: int
    map_shape: tuple[int, ...]
    image_axis: int
    unit_axis: int
    per_image: int = 1
    tokens: Tokens = "all"

    def maps(self, output: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """The output of a layer as (n_images, n_units, n_positions)."""
        if self.unit_axis < 0:
            return output[:, None, None]
        units = self.unit_axis + (self.unit_axis > self.image_axis)
        parted = output.unflatten(self.image_axis, (-1, self.per_image))
        maps = parted.movedim((self.image_axis, units), (0, 1)).flatten(2)
        if self.tokens == "all":
            return maps
        if self.tokens == "first":
            return maps[:, :, :1]
        if self.tokens == "last":
            last = _last_tokens(inputs, maps.shape[2])
            return maps.gather(2, last[:, None, None].expand(-1, maps.shape[1], 1))
        return maps[:, :, list(self.tokens)]


def _last_tokens(inputs: torch.Tensor, n_positions: int) -> torch.Tensor:
    """The last position of each input that is no padding; padding of token numbers is negative."""
    if inputs.ndim == 2 and not inputs.is_floating_point() and inputs.shape[1] == n_positions:
        places = torch.arange(n_positions, device=inputs.device)
        return torch.where(inputs >= 0, places, 0).amax(dim=1)
    return torch.full((len(inputs),), n_positions - 1, device=inputs.device)


def find_image_axis(two: tuple[int, ...], three: tuple[int, ...]) -> int | None:
    """The axis that runs over images, from the shapes for two and for three images; None without one."""
    images = [k for k in range(len(two)) if len(two) == len(three) and two[k] != three[k]]
    return images[0] if len(images) == 1 and two[images[0]] * 3 == three[images[0]] * 2 else None


def find_layout(
    layer: str, two: tuple[int, ...], three: tuple[int, ...], axis: int | None, config: LayerConfig
) -> LayerLayout:
    """The layout of a layer from its shapes for two and for three images, and the axis of units that the net tells.

    Raises
    ------
    ConfigError
        for an output without an axis of images, and for units along an axis that is not known.
    """
    image_axis, n_axes = find_image_axis(two, three), len(two)
    if image_axis is None:
        raise ConfigError(
            f'"{layer}" has shape {two} for 2 images and {three} for 3: no axis runs over the images. Choose a layer '
            "with values for each image."
        )
    if 0 in two:
        raise ConfigError(f'"{layer}" has shape {two} for 2 images, which is empty. Choose another layer.')
    per_image = two[image_axis] // 2
    if config.unit_axis is not None:
        axis = config.unit_axis + n_axes * (config.unit_axis < 0)
        if not 0 <= axis < n_axes or axis == image_axis:
            raise ConfigError(
                f'"{layer}" has shape {two} for 2 images; unit_axis = {config.unit_axis} is not one of its axes of '
                "units and positions."
            )
    elif n_axes == 1:
        return LayerLayout(1, (), 0, -1)
    elif n_axes == 2:
        axis = 1 - image_axis
    if axis is None or axis == image_axis:
        raise ConfigError(
            f'"{layer}" has shape {two} for 2 images, and the operations of the net do not tell which axis runs over '
            f'units: {readings(two, image_axis)}. Set it with [layers."{layer}"] unit_axis, or read another layer.'
        )
    others = [size for k, size in enumerate(two) if k not in (axis, image_axis)]
    map_shape = (per_image, *others) if per_image > 1 else tuple(others)
    n_positions = 1
    for size in map_shape:
        n_positions *= size
    if config.tokens != "all":
        map_shape = _selected(layer, config.tokens, map_shape, n_positions)
    return LayerLayout(two[axis], map_shape, image_axis, axis, per_image, config.tokens)


def _selected(layer: str, tokens: Tokens, map_shape: tuple[int, ...], n_positions: int) -> tuple[int, ...]:
    if len(map_shape) != 1:
        raise ConfigError(
            f'"{layer}" has positions of shape {map_shape}; tokens = {tokens!r} needs a sequence. Leave tokens out.'
        )
    if isinstance(tokens, str):
        return ()
    wrong = [place for place in tokens if not -n_positions <= place < n_positions]
    if wrong or not tokens:
        raise ConfigError(f'"{layer}" has {n_positions} positions; tokens = {list(tokens)} are not all among them.')
    return (len(tokens),)


def readings(shape: tuple[int, ...], image_axis: int) -> str:
    """The possible readings of a shape, as text."""
    found = []
    for axis in range(len(shape)):
        if axis != image_axis:
            others = " × ".join(str(size) for k, size in enumerate(shape) if k not in (axis, image_axis))
            found.append(f"axis {axis} for {shape[axis]} units at {others} positions")
    return ", or ".join(found)
