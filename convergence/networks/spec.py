"""The configuration section of a network: it knows how to build the module, torch is imported only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convergence.settings import Settings

if TYPE_CHECKING:
    import torch


class NetworkSpec(Settings):
    """The ``network`` table of a group of nets; each network adds its own settings."""

    name: str

    def build(self, image_shape: tuple[int, int, int], n_classes: int) -> torch.nn.Module:
        """An untrained module in float32 on the CPU: (n, channels, height, width) -> (n, n_classes) logits.

        Initial weights are drawn from torch's global generator, which the caller seeds.
        """
        raise TypeError(f"{type(self).__name__} does not say how to build its module")
