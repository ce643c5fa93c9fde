"""Layer references: the layers that a comparison joins, each of one net with the weights of one epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

FINAL = -1
"""Epoch of a layer reference without a requested epoch: the final (or only) weights of its net."""


class LayerRef(NamedTuple):
    """A layer of a net with the weights of an epoch.

    Attributes
    ----------
    name : label along the axes of results: the name of the net, with ``:layer`` if the comparison joins several layers
        of the net, and ``@epoch`` if the comparison lists epochs
    net, layer : names
    epoch : the requested epoch; ``FINAL`` if the comparison lists none
    kept : epoch of the weights file (``training.keep_epochs``); None for the final weights
    """

    name: str
    net: str
    layer: str
    epoch: int
    kept: int | None

    @property
    def weights(self) -> str:
        """Name of the weights; layers with the same weights are read in one pass."""
        return self.net if self.kept is None else f"{self.net}@{self.kept}"


def layer_refs_of_net(net: str, layers: Sequence[str], epochs: Sequence[int], last: int) -> list[LayerRef]:
    """List the layer references of one net, by layer and, within a layer, by epoch.

    ``epochs`` is empty for the final weights only; ``last`` is the number of the last epoch.
    """
    return [
        LayerRef(
            name=net + (f":{layer}" if len(layers) > 1 else "") + (f"@{epoch}" if epochs else ""),
            net=net,
            layer=layer,
            epoch=epoch,
            kept=None if epoch in (FINAL, last) else epoch,
        )
        for layer in layers
        for epoch in epochs or (FINAL,)
    ]
