"""The axis of units of every value that a net computes, from the operations that make it and use it.

A convolution makes its units along axis 1, a linear layer along the last axis. From there the units are followed by
markers: a tensor beside the value that holds the number of the unit of each entry. Operations that move entries
(transpose, reshape, split, concatenate) are applied to the markers as well, and the axis of units is the one along
which the markers change. Where nothing is known of how a value was made, the operation that uses it tells the axis: a
linear layer reads units along the last axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from convergence.networks.recording import Call, Recording, Value, tensors_in

SECOND = {
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "batch_norm",
    "group_norm", "instance_norm", "local_response_norm", "fold",
}  # fmt: skip
"""Functions whose result has units along axis 1."""
LAST = {
    "linear", "bilinear", "embedding", "embedding_bag", "multi_head_attention_forward", "heads", "lstm", "gru",
    "rnn_tanh", "rnn_relu", "rms_norm",
}  # fmt: skip
"""Functions whose result has units along the last axis."""
MOVING = {
    "permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "T", "mT", "t", "view", "view_as", "reshape",
    "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze", "getitem", "select", "narrow", "chunk", "split",
    "split_with_sizes", "tensor_split", "unbind", "cat", "concat", "concatenate", "stack", "roll", "flip", "expand",
    "expand_as", "repeat", "contiguous", "clone", "detach", "mean", "sum", "amax", "amin", "index_select",
    "channel_shuffle", "native_channel_shuffle", "unsafe_chunk", "unsafe_split", "unfold",
}  # fmt: skip
"""Functions that are applied to the markers unchanged: they move entries, or join entries of one unit."""
ATTENTION = {"scaled_dot_product_attention": 2, "matmul": 1, "bmm": 1, "baddbmm": 2}
"""Functions that mix the rows of an operand, whose units along the last axis stay: the operand's place."""
READ_SECOND = SECOND - {"local_response_norm"}
READ_LAST = {"linear", "rms_norm", "layer_norm"}


def unit_axes(recording: Recording) -> dict[Value, int]:
    """The axis of units of all values for which the operations tell it."""
    axes: dict[Value, int] = {}
    markers: dict[Value, torch.Tensor] = {}
    start = recording.values[0]
    if start.tensor.ndim > 2 and start.tensor.is_floating_point():
        _set(start, 1, axes, markers)
    for call in recording.calls:
        _follow(call, axes, markers)
    for value in recording.values:
        if value not in axes:
            found = _read_axis(value)
            if found is not None:
                axes[value] = found
    return axes


def _set(value: Value, axis: int, axes: dict[Value, int], markers: dict[Value, torch.Tensor]) -> None:
    axes[value] = axis
    markers[value] = _marker(value.shape, axis)


def _marker(shape: tuple[int, ...], axis: int) -> torch.Tensor:
    """Numbers 1 … n along an axis, in a tensor of some shape; it takes the memory of one row."""
    sizes = [1] * len(shape)
    sizes[axis] = shape[axis]
    return torch.arange(1.0, shape[axis] + 1).view(sizes).expand(shape)


def _follow(call: Call, axes: dict[Value, int], markers: dict[Value, torch.Tensor]) -> None:
    outputs = [value for value in call.outputs if value.tensor.is_floating_point() and value.tensor.ndim > 1]
    if not outputs or (call.name == "getitem" and not any(value in markers for value in call.inputs)):
        return
    if call.name in SECOND or _of_patches(call):
        _set(outputs[0], 1, axes, markers)
    elif call.name in LAST or (call.name == "layer_norm" and _one_axis(call)):
        for value in outputs[:1] if call.name == "multi_head_attention_forward" else outputs:  # not its weights
            _set(value, value.tensor.ndim - 1, axes, markers)
    elif call.name in MOVING:
        _moved(call, axes, markers)
    elif call.name in ATTENTION:
        _mixed_rows(call, outputs[0], axes, markers)
    else:
        for value in outputs:
            _inherited(call, value, axes, markers)


def _of_patches(call: Call) -> bool:
    """Whether a call is functional.unfold, whose result is (n, channels · taps, patches), and not Tensor.unfold."""
    return call.name == "unfold" and bool(call.inputs) and call.inputs[0].tensor.ndim > call.outputs[0].tensor.ndim


def _one_axis(call: Call) -> bool:
    shape = call.args[1] if len(call.args) > 1 else call.kwargs.get("normalized_shape", ())
    return isinstance(shape, int) or len(shape) == 1


def _inherited(call: Call, value: Value, axes: dict[Value, int], markers: dict[Value, torch.Tensor]) -> None:
    """Units of the result of an entry-wise operation or of pooling: those of the operand of as many axes."""
    for given in call.inputs:
        if given not in markers or given.tensor.ndim != value.tensor.ndim:
            continue
        if given.shape == value.shape:
            markers[value] = markers[given]
            if given in axes:
                axes[value] = axes[given]
            return
        axis = axes.get(given)
        if axis is not None and given.shape[axis] == value.shape[axis] and given.shape[0] == value.shape[0]:
            _set(value, axis, axes, markers)
            return


def _moved(call: Call, axes: dict[Value, int], markers: dict[Value, torch.Tensor]) -> None:
    known = {id(value.tensor): markers[value] for value in call.inputs if value in markers}
    if not known:
        return
    missing = [value for value in call.inputs if value not in markers and value.tensor.is_floating_point()]
    joined = call.name in ("cat", "concat", "concatenate")
    if joined and not missing:
        together = {axes.get(value) for value in call.inputs}
        axis = next(iter(together))
        if len(together) == 1 and axis is not None:  # units of several layers, one after the other
            for value in call.outputs:
                _set(value, axis, axes, markers)
            return
    try:
        with torch.no_grad():
            out = call.function(*_with(call.args, known), **_with(call.kwargs, known))
    except Exception:
        return
    for value, marker in zip(call.outputs, tensors_in(out), strict=False):
        if tuple(marker.shape) != value.shape or 0 in value.shape:
            return
        _mark(value, marker, axes, markers)


def _mark(value: Value, marker: torch.Tensor, axes: dict[Value, int], markers: dict[Value, torch.Tensor]) -> None:
    """Give a value its markers, in little memory, and the axis along which they change."""
    marker = _compact(marker)
    axis, line = _line(marker)
    markers[value] = line.expand(marker.shape)
    if axis is not None:
        axes[value] = axis


def _with(given: Any, markers: Mapping[int, torch.Tensor]) -> Any:
    """Arguments with markers in the place of values; other float tensors are zeros, the marker of nothing."""
    if isinstance(given, torch.Tensor):
        found = markers.get(id(given))
        if found is not None:
            return found
        return torch.zeros(given.shape) if given.is_floating_point() else given.cpu()
    if isinstance(given, dict):
        return {key: _with(item, markers) for key, item in given.items()}
    if isinstance(given, list | tuple) and not hasattr(given, "_fields"):
        return type(given)(_with(item, markers) for item in given)
    return given


def _mixed_rows(call: Call, value: Value, axes: dict[Value, int], markers: dict[Value, torch.Tensor]) -> None:
    """Units of weighted sums of rows: those of a row, if all rows have the same units."""
    place = ATTENTION[call.name]
    if place >= len(call.inputs):
        return
    given = call.inputs[place]
    marker = markers.get(given)
    if marker is None or given.tensor.ndim != value.tensor.ndim or given.shape[-1] != value.shape[-1]:
        return
    row = marker[..., :1, :]
    if not torch.equal(row.expand_as(marker), marker) or row.shape[:-2] != value.shape[:-2]:
        return
    _mark(value, row.expand(value.shape), axes, markers)


def _compact(marker: torch.Tensor) -> torch.Tensor:
    """The same markers, in the memory of one entry along every axis along which they are all alike."""
    shape = marker.shape
    for axis, size in enumerate(shape):
        if size > 1:
            first = marker.narrow(axis, 0, 1)
            alike = torch.equal(first, marker.narrow(axis, 1, 1))  # most markers that differ do so here
            if alike and (marker.stride(axis) == 0 or torch.equal(first.expand_as(marker), marker)):
                marker = first
    return marker.expand(shape)


def _line(marker: torch.Tensor) -> tuple[int | None, torch.Tensor]:
    """The one axis along which compact markers change, by a different number at each place, and these numbers.

    Zeros, which padding leaves, count as any number. Without such an axis: None, and the markers.
    """
    changing = [k for k, size in enumerate(marker.shape) if size > 1 and marker.stride(k)]
    values = marker[tuple(slice(None) if k in changing else slice(1) for k in range(marker.ndim))]
    if len(changing) == 1 or not bool(values.all()):
        for axis in changing:
            others = [k for k in range(marker.ndim) if k != axis]
            if axis == 0:
                continue
            line = values.amax(dim=others, keepdim=True)
            if bool(((values == line) | (values == 0)).all()) and len(torch.unique(line)) == line.numel():
                return axis, line
    return None, marker


def _read_axis(value: Value) -> int | None:
    """The axis of units by the operations that use a value."""
    for call in value.consumers:
        if not call.args or call.args[0] is not value.tensor:
            continue
        if call.name in READ_SECOND and value.tensor.ndim > 2:
            return 1
        if call.name in READ_LAST and value.tensor.ndim > 1:
            return value.tensor.ndim - 1
    return None
