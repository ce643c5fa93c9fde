"""The net "upconv 7" of waifu2x: six convolutions without padding, and one that doubles the size of the image."""

from __future__ import annotations

import torch
from torch import nn

WIDTHS = (3, 16, 32, 64, 128, 128, 256)
MARGIN = 14
"""Pixels of the doubled image that the net cuts off on each side."""


class Upscaling(nn.Module):
    """Images of twice the size from images (n, 3, height, width) of values in 0 … 1; each side is cut by MARGIN."""

    def __init__(self) -> None:
        super().__init__()
        for k in range(1, 7):
            self.add_module(f"conv{k}", nn.Conv2d(WIDTHS[k - 1], WIDTHS[k], 3))
            self.add_module(f"relu{k}", nn.LeakyReLU(0.1))
        self.enlarge = nn.ConvTranspose2d(WIDTHS[6], 3, 4, stride=2, padding=3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for module in self.children():
            images = module(images)
        return images


def upscaling() -> nn.Module:
    """Build the net."""
    return Upscaling()
