"""Reading layers of a net, against a bare forward pass of the same batches.

    python -m benchmarks.layer_reading
    python -m benchmarks.layer_reading --images 3x96x96 --batch 16 --rounds 11

ResNet-18 and ConvNeXt-tiny of torchvision with random weights, float32, on the CPU, one thread. "every module" reads
what every module of the net returns, "after activations" the same names at the default point, and "stages" the last
block of every stage; all as (images, units, positions). The peer is the net in evaluation mode without gradients,
called on the same batch. Every round runs all candidates in turn; ratios are medians over rounds, and their range.

The process keeps freed memory, as the statistics stage does (``keep_freed_memory``); --return-memory leaves the default
of the C library. Takes a minute.
"""

from __future__ import annotations

import argparse
from statistics import median

from benchmarks.timing import interleaved  # before torch, see there

# isort: split
import torch
from torchvision import models

from convergence.checks.layer_listing import list_layers
from convergence.networks.devices import keep_freed_memory
from convergence.networks.layer_config import LayerConfig
from convergence.networks.layer_reader import LayerReader

BAR = 1.1
STAGES = {
    "resnet18": ("layer1.1", "layer2.1", "layer3.1", "layer4.1"),
    "convnext_tiny": ("features.1.2", "features.3.2", "features.5.8", "features.7.2"),
}


def compare(name: str, shape: tuple[int, ...], batch: int, rounds: int) -> None:
    """Print one line a candidate."""
    torch.manual_seed(0)
    net = models.get_model(name, weights=None).eval()
    images = torch.randn((batch, *shape))
    layers = [row.layer for row in list_layers(net, images[:3]) if not row.note]
    readers = {
        "every module": LayerReader(net, {layer: LayerConfig(point="output") for layer in layers}, images[:3]),
        "after activations": LayerReader(net, layers, images[:3]),
        "stages": LayerReader(net, STAGES[name], images[:3]),
    }

    def bare() -> None:
        with torch.no_grad():
            net(images)

    candidates = {"bare": bare} | {what: lambda r=reader: r(images) for what, reader in readers.items()}
    seconds = interleaved(candidates, rounds)
    print(f"{name}, {batch} images of {'x'.join(map(str, shape))}: bare pass {median(seconds['bare']):.3f} s")
    for what, reader in readers.items():
        found = reader.tensors(images)
        size = sum({id(tensor): tensor.nbytes for tensor in found.values()}.values())
        ratios = sorted(a / b for a, b in zip(seconds[what], seconds["bare"], strict=True))
        print(
            f"  {what:18s} {len(found):3d} layers, {size / 1e6:4.0f} MB: {median(ratios):.2f} x the bare pass "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


def main() -> None:
    """Compare on each net."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", default="3x64x64")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--return-memory", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if not chosen.return_memory:
        keep_freed_memory()
    print(f"torch {torch.__version__}, one thread; bar: {BAR} x a bare pass for all layers at once")
    for name in STAGES:
        compare(name, tuple(map(int, chosen.images.split("x"))), chosen.batch, chosen.rounds)


if __name__ == "__main__":
    main()
