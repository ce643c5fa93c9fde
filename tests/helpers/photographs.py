"""A folder of small photographs, and an experiment that packs them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

TOML = """
name = "folder"
[data]
name = "image_folder"
root = "{root}"
resize = {resize}
crop = {crop}
augmentation = "{augmentation}"
[[nets]]
seeds = [1, 2]
network = {{ name = "small", channels = [4], hidden = [] }}
[training]
epochs = 1
threads = 1
[statistics]
comparisons = ["conv1"]
"""


def write_photographs(folder: Path) -> Path:
    """Two classes of small photographs, all different, some tall and some wide."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 19), ("val", 5)):
        for label in ("n01", "n02"):
            (folder / split / label).mkdir(parents=True)
            for k in range(n):
                coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
                size = (40 + 3 * k, 61) if k % 2 else (61, 45 + 2 * k)
                coarse.resize(size, Image.Resampling.BICUBIC).save(folder / split / label / f"{k}.JPEG", quality=95)
    return folder


def config(folder: Path, root: Path, resize="[40, 44]", crop=31, augmentation="crop") -> Path:
    path = folder / "folder.toml"
    path.write_text(TOML.format(root=root.as_posix(), resize=resize, crop=crop, augmentation=augmentation))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pack_command(path: Path, out: Path) -> list[str]:
    """Words that pack the images of a config into a folder; the run folder is beside the config."""
    return ["pack", str(path), "--out", str(out), "--runs", str(path.parent / "runs")]
