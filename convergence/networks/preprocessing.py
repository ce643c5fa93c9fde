"""How the images of a net were prepared in its training: what the weights of a model zoo ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Preprocessing(NamedTuple):
    """Preparation of an image: resize, centre crop, normalisation of values 0 … 1.

    Attributes
    ----------
    resize : size of the shorter side after the resize, or (height, width), in pixels
    crop : side of the centre crop, in pixels
    mean, deviation : of each channel
    interpolation : "bilinear", "bicubic", …
    """

    resize: int | tuple[int, int]
    crop: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    interpolation: str

    def settings(self) -> dict[str, Any]:
        """The settings of ``[data]`` that prepare images in this way."""
        return {
            "resize": self.resize if isinstance(self.resize, int) else list(self.resize),
            "crop": self.crop,
            "scale": 1 / 255,
            "mean": [round(value, 6) for value in self.mean],
            "deviation": [round(value, 6) for value in self.deviation],
            "interpolation": self.interpolation,
        }

    def differences(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that differ from those of a data set; settings that it does not have are left out."""
        return {
            name: wanted
            for name, wanted in self.settings().items()
            if data.get(name) is not None and not _alike(data[name], wanted)
        }


def _alike(found: Any, wanted: Any) -> bool:
    if isinstance(found, str) or isinstance(wanted, str):
        return bool(found == wanted)
    one, other = ([value] if isinstance(value, int | float) else list(value) for value in (found, wanted))
    return len(one) == len(other) and all(
        abs(float(a) - float(b)) <= 1e-4 * max(abs(float(b)), 1e-9) for a, b in zip(one, other, strict=True)
    )
