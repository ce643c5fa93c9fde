"""``convergence.compare`` beside torch_cka: two torchvision nets, the same layers, images and batches, on one device.

    python benchmarks/compare_peers.py [--images 256] [--batch 64] [--model resnet18] [--positions 64] [--only-cka]

Both read the nets with the same number of threads, in turns, after a warm-up that compiles kernels. torch_cka gives the
linear CKA of all pairs of layers with images as samples; ``compare`` gives all numbers of an analysis with their errors
and chance levels. Needs ``pip install torch_cka``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

LAYERS = ("layer1", "layer2", "layer3", "layer4")


def main() -> None:
    """Time both, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--layers", nargs="+", default=LAYERS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--positions", default="all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--only-cka", action="store_true", help="linear CKA with errors and chance levels, not all else"
    )
    given = parser.parse_args()
    import torch
    from torch.utils.data import DataLoader, TensorDataset
    from torchvision import models

    torch.set_num_threads(given.threads)
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(models.get_model(given.model).eval())
    images = torch.from_numpy(smooth_images(given.images, given.side))
    loader = DataLoader(TensorDataset(images, torch.zeros(len(images))), given.batch)
    positions = given.positions if given.positions == "all" else int(given.positions)

    settings: dict[str, Any] = {"threads": given.threads}
    analysis: dict[str, Any] = {}
    if given.only_cka:
        settings |= {"mutual_information": {"enabled": False}, "top_images": 0, "image_gram": False}
        analysis = {"measures": ["linear_cka"], "sparse": {"enabled": False}, "clustering": {"enabled": False}}

    def ours() -> Any:
        import convergence

        return convergence.compare(
            {"a": nets[0], "b": nets[1]}, images, given.layers, positions=positions, batch_size=given.batch,
            device=given.device, statistics=settings, analysis=analysis, workers=None, progress=False,
        )  # fmt: skip

    def theirs() -> Any:
        from torch_cka import CKA

        cka = CKA(*nets, "a", "b", list(given.layers), list(given.layers), given.device)
        with torch.no_grad():
            cka.compare(loader)
        return cka

    def forward() -> None:
        with torch.no_grad():
            for (batch, _), net in ((batch, net) for batch in loader for net in nets):
                net.to(given.device)(batch.to(given.device))

    ours()
    times: dict[str, list[float]] = {"forward": [], "torch_cka": [], "compare": []}
    for _ in range(given.repeats):
        for name, run in (("forward", forward), ("torch_cka", theirs), ("compare", ours)):
            times[name].append(seconds(run))
            print(f"{name:10} {times[name][-1]:7.1f} s", flush=True)
    middle = {name: statistics.median(found) for name, found in times.items()}
    print(f"{given.images} images, batches of {given.batch}, {given.threads} threads, positions {given.positions}")
    for name, found in middle.items():
        print(f"{name:10} {found:7.1f} s, {found / middle['forward']:.2f} × two forward passes")
    print(f"compare / torch_cka: {middle['compare'] / middle['torch_cka']:.2f}")


def seconds(run: Callable[[], Any]) -> float:
    """Seconds of a call, with what it prints and warns left out."""
    start = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()
    return time.perf_counter() - start


def smooth_images(n: int, side: int) -> np.ndarray:
    """(n, 3, side, side) float32 noise with power at low frequencies, as photographs have."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) + 1 / side
    noise = np.fft.rfft2(rng.standard_normal((n, 3, side, side))) / frequency
    images = np.fft.irfft2(noise, (side, side))
    return (images / images.std()).astype(np.float32)


if __name__ == "__main__":
    main()
