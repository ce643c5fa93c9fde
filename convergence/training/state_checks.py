"""Check a state from a checkpoint against the net, the optimiser and the settings that it is to be restored into.

A checkpoint that matches its checksum may still come from other hands, or from other code: a wrong step would train on
without an error and end in other weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from convergence.errors import FileError

KEYS = {"module", "optimiser", "scaler", "rows", "random", "epoch", "step", "sums"}
State = Mapping[str, Any]


def check_state(
    state: Any,
    module: State,
    optimiser: State,
    scaler: State,
    parameters: Sequence[str],
    limits: tuple[int, int, int],
    columns: Sequence[str],
) -> None:
    """Check everything that a state holds besides the random states.

    Parameters
    ----------
    state
        As :meth:`convergence.training.trainer.Trainer.state` returns it.
    module, optimiser, scaler
        State dicts of what the state is to be restored into; the module has its initial weights.
    parameters
        Names of the optimiser's parameters, in its order.
    limits
        Epochs of the training, steps of an epoch, targets of an epoch (:mod:`~convergence.training.objectives`).
    columns
        Names of the metrics of an epoch; empty where no metrics are kept.

    Raises
    ------
    FileError
        naming the first part of another type, shape or range.
    """
    epochs, steps, most_targets = limits
    need(isinstance(state, dict) and set(state) >= KEYS, "its parts")
    need(is_int(state["epoch"], 0, epochs), f"epoch, which is 0 to {epochs}")
    last = 0 if state["epoch"] == epochs else steps
    need(is_int(state["step"], 0, last), f"step, which is 0 to {last} in epoch {state['epoch']}")
    sums = state["sums"]
    need(isinstance(sums, tuple | list) and len(sums) == 4, "sums")
    need(is_number(sums[0]) and is_int(sums[2], 0, most_targets) and is_number(sums[3], 0), "sums")
    need(is_int(sums[1], 0, sums[2]), "sums")
    _check_rows(state["rows"], state["epoch"] if columns else 0, columns)
    _check_arrays(state["module"], module, "module")
    taken = state["epoch"] * steps + state["step"]
    _check_optimiser(state["optimiser"], optimiser, [module[name] for name in parameters], taken, not scaler)
    if columns:  # a parameter without gradients has no moments, and keeps its initial value
        for k in set(range(len(parameters))) - set(state["optimiser"]["state"]) if taken else ():
            name = parameters[k]
            need(torch.equal(state["module"][name].cpu(), module[name].cpu()), f"optimiser: no moments of {name}")
    found = state["scaler"]
    need(isinstance(found, dict) and set(found) == set(scaler), "scaler")
    need(all(is_number(value, 0) for value in found.values()), "scaler")


def check_random(states: Any, device: torch.device) -> None:
    """Check a state of the generators that a forward pass draws from; FileError if they would refuse it."""
    need(isinstance(states, dict) and "cpu" in states and set(states) <= {"cpu", "cuda"}, "random")
    for kind, value in states.items():
        need(isinstance(value, torch.Tensor) and value.dtype == torch.uint8 and value.ndim == 1, "random")
        if kind == "cpu" or device.type == "cuda":
            try:
                torch.Generator(device if kind == "cuda" else "cpu").set_state(value)
            except (RuntimeError, TypeError):
                need(False, "random")
    need(device.type != "cuda" or "cuda" in states, "random")


def need(holds: bool, what: str) -> None:
    """Raise FileError about a part of a state unless a condition holds."""
    if not holds:
        raise FileError(f"a wrong type, shape or value of {what}")


def is_int(value: Any, low: int, high: float = math.inf) -> bool:
    """Whether a value is an integer, and no boolean, within bounds."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: Any, low: float = -math.inf) -> bool:
    """Whether a value is a finite number of at least ``low``."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= low


def _check_rows(rows: Any, n: int, columns: Sequence[str]) -> None:
    need(isinstance(rows, list) and len(rows) == n, "rows, one an epoch")
    for k, row in enumerate(rows):
        need(isinstance(row, dict) and set(row) == set(columns) and row["epoch"] == k + 1, "rows")
        need(all(isinstance(value, int | float) for value in row.values()), "rows")


def _check_arrays(found: Any, wanted: State, what: str) -> None:
    need(isinstance(found, dict) and set(found) == set(wanted), f"{what}: other names")
    for name, value in wanted.items():
        if isinstance(value, torch.Tensor):
            _check_like(found[name], value, f"{what}, {name}")


def _check_like(value: Any, like: torch.Tensor, what: str) -> None:
    need(
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.shape == like.shape
        and value.dtype == like.dtype,
        what,
    )


def _check_optimiser(
    found: Any, wanted: State, parameters: Sequence[torch.Tensor], taken: int, every_step: bool
) -> None:
    """Check the moments after ``taken`` steps; with ``every_step`` no step was left out, as a scaler may."""
    need(isinstance(found, dict) and set(found) == set(wanted), "optimiser")
    groups = found["param_groups"]
    need(isinstance(groups, list) and len(groups) == len(wanted["param_groups"]), "optimiser")
    for group, own in zip(groups, wanted["param_groups"], strict=True):
        need(isinstance(group, dict) and set(group) == set(own) and is_number(group.get("lr"), 0), "optimiser")
        need(all(_equal(group[key], value) for key, value in own.items() if key != "lr"), "optimiser")
    need(isinstance(found["state"], dict) and set(found["state"]) <= set(range(len(parameters))), "optimiser")
    adam = "betas" in wanted["param_groups"][0]
    momentum = not adam and wanted["param_groups"][0]["momentum"] > 0
    names = {"step", "exp_avg", "exp_avg_sq"} if adam else {"momentum_buffer"}
    most = 0  # a net may leave out some of its layers in a step, but not all
    for number, state in found["state"].items():
        need(
            isinstance(state, dict) and (set(state) == names or (not adam and not momentum and not state)), "optimiser"
        )
        for name, value in state.items():
            if name == "step":
                count = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
                need(is_number(count, 1) and count <= taken, "optimiser, step")
                most = max(most, int(count))
            elif value is not None or momentum or adam:
                _check_like(value, parameters[number], f"optimiser, {name}")
    need(not (adam and every_step) or most == taken, "optimiser, step")


def _equal(value: Any, own: Any) -> bool:
    if isinstance(own, tuple | list):
        return isinstance(value, tuple | list) and list(value) == list(own)
    return type(value) is type(own) and bool(value == own)
