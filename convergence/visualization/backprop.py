"""Backpropagation of a unit's value at one position to the pixels of an image.

Both methods propagate a signal like a gradient and differ from it at activation functions f only:

    deconvolution (Zeiler & Fergus 2014, arXiv 1311.2901)          g ← max(g, 0)
    guided backpropagation (Springenberg et al. 2015, 1412.6806)   g ← f′(x) max(g, 0)

where the gradient has g ← f′(x) g. Max pooling propagates it to the position of the maximum (the *switches*),
convolutions by their transposed filters, normalisation in evaluation mode by its factor. Deconvolution starts from the
unit's value, guided backpropagation from one.

The net is run as a graph, so that activation functions are found as modules, functions, in place or used several times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from convergence.networks.graphs import is_rectifier
from convergence.visualization.layer import PicturedLayer

Method = Literal["deconvolution", "guided"]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def backprop(
    layer: PicturedLayer, method: Method, images: Floats, units: Indices, positions: Indices, batch: int
) -> Floats:
    """Signals at the pixels of a position's receptive field, for n triples of image, unit and position.

    ``images`` are (n, channels, height, width), ``units`` (n,), ``positions`` (n, 2); ``batch`` of them are processed
    at a time. Returns (n, channels, *layer.geometry.size) float32, zero beyond the border of the image.
    """
    geometry, walker = layer.geometry, _Backwards(layer.module, method == "guided")
    boxes = geometry.boxes(positions)
    out = np.zeros((len(images), images.shape[1], *geometry.size), np.float32)
    for rows, parts, within in geometry.batches(positions, batch):
        cut = np.stack([images[r, :, y0:y1, x0:x1] for r, (y0, x0, y1, x1) in zip(rows, parts, strict=True)])
        x = torch.from_numpy(cut).to(layer.device).requires_grad_()
        with torch.enable_grad():
            maps = layer.maps(walker.run(x)["after"])
            value = maps[torch.arange(len(rows)), units[rows], within[:, 0], within[:, 1]]
            start = value.detach() if method == "deconvolution" else torch.ones_like(value)
            (signal,) = torch.autograd.grad(value, x, start)
        found = signal.cpu().numpy()
        for k, row in enumerate(rows):
            place(out[row], boxes[row], found[k], parts[k])
    return out


def place(out: Floats, box: Indices, part: Floats, part_box: Indices) -> None:
    """Copy the overlap of a part (channels, …) at ``part_box`` with ``box`` into ``out``, the pixels of ``box``."""
    first, last = np.maximum(box[:2], part_box[:2]), np.minimum(box[2:], part_box[2:])
    (y0, x0), (y1, x1) = first - box[:2], last - box[:2]
    (v0, u0), (v1, u1) = first - part_box[:2], last - part_box[:2]
    out[:, y0:y1, x0:x1] = part[:, v0:v1, u0:u1]


class _Backwards(fx.Interpreter):
    """Runs a front part with the backward rule of a method at every activation function."""

    def __init__(self, module: fx.GraphModule, guided: bool) -> None:
        super().__init__(module)
        self._guided = guided
        modules = dict(module.named_modules())
        self._rectifiers = {node for node in module.graph.nodes if is_rectifier(node, modules)}

    def run_node(self, node: fx.Node) -> Any:
        if node not in self._rectifiers:
            return super().run_node(node)
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        named = {name: value for name, value in kwargs.items() if name != "input"}
        first, *rest = args or (kwargs["input"],)
        call = getattr(self, node.op)

        def compute(x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = call(node.target, (x, *rest), named)
            return result

        return _Rectified.apply(first, compute, self._guided)


class _Rectified(torch.autograd.Function):
    """An activation function with the backward rule of deconvolution or guided backpropagation."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, compute: Callable[[torch.Tensor], torch.Tensor], guided: bool) -> Any:
        ctx.save_for_backward(x)
        ctx.compute, ctx.guided = compute, guided
        return compute(x)

    @staticmethod
    def backward(ctx: Any, signal: torch.Tensor) -> Any:
        signal = signal.clamp(min=0)
        if ctx.guided:
            with torch.enable_grad():
                x = ctx.saved_tensors[0].detach().requires_grad_()
                (signal,) = torch.autograd.grad(ctx.compute(x), x, signal)
        return signal, None, None
