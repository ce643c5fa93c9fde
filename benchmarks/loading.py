"""Reading images for training: packed file against image folder against torchvision's reference loader.

    python -m benchmarks.loading [images] [height width]

JPEG files are made here: coarse noise with detail, about 110 kB each at 375 × 500 pixels, as ImageNet's are. All
readers give batches of 64 normalised float32 crops of 224 pixels to the consumer, in random order, with random crop and
flip, and have two threads or two worker processes. The clock is the one on the wall; files are in the page cache. Where
the machine has other work, the time on the processor says more.
Bars: the packed file at least 5 x the folder, the folder at least 1 x torchvision's ImageFolder and DataLoader.
"""

from __future__ import annotations

from benchmarks.timing import interleaved, ratio  # isort: skip

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torchvision import datasets, transforms

from convergence.config.schema import Experiment
from convergence.data.image_folder import ImageFolder
from convergence.data.images import ImageSet, batches_on_device
from convergence.data.packed import Packed
from convergence.runs.run_folder import RunFolder
from hpc.comm import SerialCommunicator
from hpc.pack import pack

BATCH, WORKERS, CROP = 64, 2, 224


def make_photographs(root: Path, n: int, height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", n), ("val", 8)):
        for k in range(count):
            folder = root / split / f"class{k % 4}"
            folder.mkdir(parents=True, exist_ok=True)
            parts = [rng.integers(0, 256, (height // s, width // s, 3), dtype=np.uint8) for s in (40, 10, 3)]
            layers = [
                np.asarray(Image.fromarray(part).resize((width, height), Image.Resampling.BICUBIC), np.float32)
                for part in parts
            ]
            pixels = (0.5 * layers[0] + 0.25 * layers[1] + 0.25 * layers[2]).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{k}.JPEG", quality=97)


def read_all(images: ImageSet) -> Callable[[], None]:
    """All images once, in an order of their own each time."""
    epochs = iter(range(1000))

    def run() -> None:
        epoch = next(epochs)
        order = np.random.default_rng(epoch).permutation(len(images))
        batches = (order[k : k + BATCH] for k in range(0, len(order), BATCH))
        for _ in batches_on_device(images, batches, torch.device("cpu"), WORKERS, epoch):
            pass

    return run


def reference(root: Path, augmentation: str) -> Callable[[], None]:
    """Torchvision's: ImageFolder, its transforms, and worker processes that live from epoch to epoch."""
    if augmentation == "resized_crop":
        first = [transforms.RandomResizedCrop(CROP)]
    else:
        first = [transforms.Resize((256, 256)), transforms.RandomCrop(CROP)]
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    transform = transforms.Compose([*first, transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalise])
    dataset = datasets.ImageFolder(root / "train", transform)
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True, prefetch_factor=2
    )

    def run() -> None:
        for _ in loader:
            pass

    return run


def main(n: int = 1024, height: int = 375, width: int = 500) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_photographs(root, n, height, width)
        size = median(path.stat().st_size for path in root.rglob("*.JPEG")) / 1e3
        print(f"{n} images of {height} x {width}, {size:.0f} kB; {os.cpu_count()} cores, {WORKERS} threads or workers")
        for augmentation in ("crop", "resized_crop"):
            settings = {"crop": CROP, "augmentation": augmentation}
            folder = ImageFolder(name="image_folder", root=root, resize=(256, 256), **settings)
            nets = [{"seeds": [1, 2], "network": {"name": "small"}}]
            experiment = Experiment(name="pack", data=folder, nets=nets, statistics={"comparisons": ["conv1"]})
            start = time.perf_counter()
            pack(RunFolder(root / "run", experiment), root / augmentation, SerialCommunicator())
            packing = time.perf_counter() - start
            packed = Packed(name="packed", root=root / augmentation, **settings)
            candidates = {
                "packed": read_all(packed.load().train),
                "folder": read_all(folder.load().train),
                "torchvision": reference(root, augmentation),
            }
            seconds = interleaved(candidates, rounds=7, clock=time.perf_counter)
            print(f"\naugmentation {augmentation}; packing took {packing:.1f} s")
            for reader, taken in seconds.items():
                print(f"  {reader:<12} {n / median(taken):7.0f} images a second")
            print(f"  packed against folder:      {ratio(seconds, 'folder', 'packed'):.2f} x  (bar: 5)")
            del candidates["torchvision"]  # its time on the processor is that of other processes
            on_cores = interleaved(candidates, rounds=5, clock=time.process_time)
            print(f"  the same in time on the processor: {ratio(on_cores, 'folder', 'packed'):.2f} x")
            print(f"  folder against torchvision: {ratio(seconds, 'torchvision', 'folder'):.2f} x  (bar: 1)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
