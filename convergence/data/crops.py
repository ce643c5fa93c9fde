"""Square crops of photographs and their normalisation.

A GPU receives bytes, a quarter of the size of float32, and normalises them itself. For the CPU the reading threads
normalise image by image, while an image is in the cache.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from convergence.data.images import DataSource, Floats, ImageSet, Indices
from convergence.settings import PLACE_ONLY

if TYPE_CHECKING:
    import torch

Pixels = npt.NDArray[np.uint8]
Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
Deviation = Annotated[float, Field(ge=1e-6, le=1e6)]


class Crop(NamedTuple):
    """A crop of an image: box (left, top, right, bottom) in pixels, and whether it is mirrored."""

    box: tuple[float, float, float, float]
    mirrored: bool


class Crops(DataSource):
    """Base of the data sets of photographs. Evaluation: centre crop; training: random crop and flip."""

    preparation: Literal["settings", "network"] = Field(
        "settings",
        description="'network' takes the settings of size, interpolation and normalisation that this section does not "
        "give from the named weights of the nets (torchvision, timm, hf).",
        json_schema_extra=PLACE_ONLY,
    )
    crop: int = Field(224, ge=1, le=4096, description="Side of the square input of the net in pixels.")
    augmentation: Literal["resized_crop", "crop"] = Field(
        "resized_crop",
        description="Training crops: random size and position, or random position after the resize.",
    )
    scale: float = Field(1 / 255, ge=1e-6, le=1e6, description="Factor applied to pixel values 0 … 255.")
    mean: tuple[Mean, Mean, Mean] = Field(
        (0.485, 0.456, 0.406), description="Mean per channel, subtracted after scaling."
    )
    deviation: tuple[Deviation, Deviation, Deviation] = Field(
        (0.229, 0.224, 0.225), description="Standard deviation per channel, divided by after the mean is subtracted."
    )

    def known_shape(self) -> tuple[int, int, int]:
        return 3, self.crop, self.crop

    def draw(self, width: int, height: int, augment_seed: int, index: int) -> Crop:
        """Draw the random crop of an image; it depends on the image size, the seed and the image index only."""
        generator = np.random.default_rng([augment_seed, index])
        if self.augmentation == "resized_crop":
            box = _random_box(width, height, generator)
        else:
            left = int(generator.integers(0, max(width - self.crop, 0) + 1))
            top = int(generator.integers(0, max(height - self.crop, 0) + 1))
            box = (left, top, left + self.crop, top + self.crop)
        return Crop(box, bool(generator.integers(2)))

    def centre(self, width: int, height: int) -> Crop:
        """Return the evaluation crop, at the position of torchvision's ``CenterCrop``."""
        left, top = round((width - self.crop) / 2), round((height - self.crop) / 2)
        return Crop((left, top, left + self.crop, top + self.crop), False)

    def normalise(self, pixels: Iterable[Pixels], out: Floats) -> None:
        """Normalise images of (height, width, 3) bytes into ``out`` (n, 3, height, width), the input of the net."""
        from convergence.data.tables import look_up

        mean, deviation = (np.array(v, np.float32)[:, None] for v in (self.mean, self.deviation))
        table = (np.arange(256, dtype=np.float32) * np.float32(self.scale) - mean) / deviation
        for image, scaled in zip(pixels, out, strict=True):
            look_up(image, table, scaled)

    def normalise_on_device(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise (n, height, width, 3) bytes on their device, with the same values as :meth:`normalise`."""
        import torch

        mean, deviation = (torch.tensor(v, device=pixels.device)[:, None, None] for v in (self.mean, self.deviation))
        scaled = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return scaled.mul_(torch.tensor(self.scale, dtype=torch.float32)).sub_(mean).div_(deviation)


class PixelImages(ImageSet):
    """Images that are stored as bytes; ``source`` holds the settings of crops and normalisation."""

    source: Crops

    @abstractmethod
    def parts(self, indices: Indices, augment_seed: int | None = None) -> Iterator[Pixels]:
        """Yield crops before normalisation, (crop, crop, 3) each; the next crop may overwrite the memory of one."""

    def pixels(self, indices: Indices, augment_seed: int | None = None) -> Pixels:
        """Return the crops of :meth:`parts` in one array: (len(indices), crop, crop, 3)."""
        out = np.empty((len(indices), self.source.crop, self.source.crop, 3), np.uint8)
        for row, part in enumerate(self.parts(indices, augment_seed)):
            out[row] = part
        return out

    def pixel_range(self) -> tuple[Floats, Floats]:
        ends = np.zeros((2, 3, 1, 1), np.float32)
        self.source.normalise((np.full((1, 1, 3), value, np.uint8) for value in (0, 255)), ends)
        return ends[0].ravel(), ends[1].ravel()

    def read(self, indices: Indices, augment_seed: int | None = None) -> Floats:
        out = np.empty((len(indices), *self.image_shape), np.float32)
        self.read_into(out, indices, augment_seed)
        return out

    def read_into(self, out: Floats, indices: Indices, augment_seed: int | None = None) -> None:
        self.source.normalise(self.parts(indices, augment_seed), out)

    def fetch(self, indices: Indices, augment_seed: int | None = None) -> npt.NDArray[Any]:
        return self.pixels(indices, augment_seed)

    def finish(self, batch: torch.Tensor, indices: Indices, augment_seed: int | None = None) -> torch.Tensor:
        return self.source.normalise_on_device(batch)


def _random_box(width: int, height: int, generator: np.random.Generator) -> tuple[float, float, float, float]:
    """Draw a box of 8–100 % of the area with an aspect ratio of 3/4 … 4/3 (Szegedy et al. 2015, arXiv 1409.4842)."""
    for _ in range(10):
        area = width * height * generator.uniform(0.08, 1.0)
        aspect = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = np.sqrt(area * aspect), np.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = generator.uniform(0, width - w), generator.uniform(0, height - h)
            return left, top, left + w, top + h
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
