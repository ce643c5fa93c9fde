"""The net of SpliceAI-10k (Jaganathan et al. 2019): 16 residual blocks of dilated convolutions on one-hot DNA."""

from __future__ import annotations

import torch
from torch import nn

WIDTH = 32
KERNELS = (11,) * 8 + (21,) * 4 + (41,) * 4
DILATIONS = (1,) * 4 + (4,) * 4 + (10,) * 4 + (25,) * 4
EPSILON = 1e-3
"""Of the batch norms, as in Keras."""


class Block(nn.Module):
    """Norm, ReLU and convolution, twice, added to the input."""

    def __init__(self, kernel: int, dilation: int) -> None:
        super().__init__()
        for k in (1, 2):
            self.add_module(f"norm{k}", nn.BatchNorm1d(WIDTH, eps=EPSILON))
            self.add_module(f"relu{k}", nn.ReLU())
            self.add_module(f"conv{k}", nn.Conv1d(WIDTH, WIDTH, kernel, dilation=dilation, padding="same"))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        inner = values
        for module in self.children():
            inner = module(inner)
        return values + inner


class SpliceNet(nn.Module):
    """Logits of no splice site, acceptor and donor at the middle of a sequence (n, 4, length).

    Initial weights are Glorot's uniform ones, and biases of 0, as in Keras.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, WIDTH, 1)
        self.skip = nn.Conv1d(WIDTH, WIDTH, 1)
        self.blocks = nn.ModuleList(
            Block(kernel, dilation) for kernel, dilation in zip(KERNELS, DILATIONS, strict=True)
        )
        self.skips = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 1) for _ in range(4))
        self.out = nn.Conv1d(WIDTH, 3, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, bases: torch.Tensor) -> torch.Tensor:
        values = self.first(bases)
        total = self.skip(values)
        for k, block in enumerate(self.blocks):
            values = block(values)
            if k % 4 == 3:
                total = total + self.skips[k // 4](values)
        middle = total.shape[2] // 2
        return self.out(total[:, :, middle : middle + 1]).flatten(1)


def splice() -> nn.Module:
    """Build the net."""
    return SpliceNet()


def convolutions(net: SpliceNet) -> list[nn.Conv1d]:
    """The convolutions in the order of their numbers in the files of Keras."""
    found = [net.first, net.skip]
    for k, block in enumerate(net.blocks):
        found += [block.conv1, block.conv2]
        if k % 4 == 3:
            found.append(net.skips[k // 4])
    return [*found, net.out]


def norms(net: SpliceNet) -> list[nn.BatchNorm1d]:
    """The batch norms in the order of their numbers in the files of Keras."""
    return [norm for block in net.blocks for norm in (block.norm1, block.norm2)]
