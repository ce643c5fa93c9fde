"""How the images of a net were prepared in its training: what the weights of a model zoo ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Preprocessing(NamedTuple):
    """Preparation of an image: resize, centre crop, normalisation of values 0 … 1.

    Attributes
    ----------
    resize : size of the shorter side after the resize, in pixels
    crop : side of the centre crop, in pixels
    mean, deviation : of each channel
    interpolation : "bilinear", "bicubic", …
    """

    resize: int
    crop: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    interpolation: str

    def settings(self) -> dict[str, Any]:
        """The settings of ``[data]`` that prepare images in this way."""
        return {
            "resize": self.resize,
            "crop": self.crop,
            "mean": [round(value, 6) for value in self.mean],
            "deviation": [round(value, 6) for value in self.deviation],
        }

    def differences(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that differ from those of a data set; settings that it does not have are left out."""
        differing = {}
        for name, wanted in self.settings().items():
            found = data.get(name)
            if found is not None and not _alike(found, wanted):
                differing[name] = wanted
        scale = data.get("scale")
        if scale is not None and not _alike(scale, 1 / 255):
            differing["scale"] = round(1 / 255, 9)
        found = data.get("interpolation")
        if found is not None and found != self.interpolation:
            differing["interpolation"] = self.interpolation
        return differing


def _alike(found: Any, wanted: Any) -> bool:
    if isinstance(found, list | tuple):
        if not isinstance(wanted, list):
            return all(_alike(one, wanted) for one in found)
        return len(found) == len(wanted) and all(_alike(a, b) for a, b in zip(found, wanted, strict=True))
    return abs(float(found) - float(wanted)) <= 1e-4 * max(abs(float(wanted)), 1e-9)
