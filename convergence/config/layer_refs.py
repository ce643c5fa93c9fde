"""What a comparison joins: members, each one layer of one net with the weights of one epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

FINAL = -1
"""Epoch of a member for which no epoch was asked: its net's final (or only) weights."""


class LayerRef(NamedTuple):
    """A layer of a net with the weights of an epoch.

    Attributes
    ----------
    name : label along the axes of results: the net's name, with ``:layer`` if the net takes part with several layers,
        and ``@epoch`` if epochs were asked for
    net, layer : names
    epoch : as asked for; ``FINAL`` if none was
    kept : the epoch whose weights were kept beside the final ones; None for the final ones
    """

    name: str
    net: str
    layer: str
    epoch: int
    kept: int | None

    @property
    def weights(self) -> str:
        """A name for the weights: members of the same ones are read in one pass."""
        return self.net if self.kept is None else f"{self.net}@{self.kept}"


def layer_refs_of_net(net: str, layers: Sequence[str], epochs: Sequence[int], last: int) -> list[LayerRef]:
    """The members that one net contributes, layer by layer, and by epoch within each.

    ``epochs`` is empty for the final weights alone; ``last`` is the epoch that ends with them.
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
