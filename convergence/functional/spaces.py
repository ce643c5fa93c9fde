"""Unit spaces: sets of axes of a net's parameters that have to be permuted, or cut, together.

The order of the units of a layer is arbitrary: permute its outputs, and the inputs of all that reads them, and the net
computes the same function (Hecht-Nielsen 1990). What has to be permuted together is found in the net's graph
(:mod:`convergence.functional.following`), through residual addition, concatenation, norms and flattening, so that any
net of convolutions and linear layers can be taken, and what cannot be permuted is said by name.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from convergence.errors import UserError, did_you_mean
from convergence.functional.following import Follower

Indices = npt.NDArray[np.intp]
Role = Literal["out", "in", "norm"]
State = dict[str, torch.Tensor]
Key = tuple[str, int]


@dataclass(frozen=True)
class Slot:
    """Where the units of a space stand along an axis of a parameter.

    Attributes
    ----------
    parameter : its name in the net's state
    axis : of the parameter
    span : consecutive entries of one unit; more than 1 after flattening
    offset : where the first unit starts
    role : "out" for weights and biases that make the units, "in" for weights that read them, "norm" for a parameter of
        each unit (norms and their running statistics, depthwise convolutions, scales)
    starts : (n_units,) where each unit starts, if that is not ``offset + k · span``
    """

    parameter: str
    axis: int
    span: int
    offset: int
    role: Role
    starts: tuple[int, ...] = ()

    def entries(self, units: npt.ArrayLike) -> Indices:
        """Indices along the axis of some units, one unit after the other."""
        chosen = np.asarray(units, dtype=np.intp)
        first = np.array(self.starts)[chosen] if self.starts else self.offset + chosen * self.span
        return np.asarray((first[:, None] + np.arange(self.span)).ravel(), dtype=np.intp)


@dataclass(frozen=True)
class Space:
    """Units that are in the same order wherever they are.

    Attributes
    ----------
    name : of the first layer that makes them
    layers : names of modules and graph nodes whose channels are these units in this order; those that comparisons use
    n_units : how many
    slots : where they stand in the parameters
    fixed : why they cannot change places, or ""
    whole : why some cannot be cut out without changing what the others do, or ""
    """

    name: str
    layers: tuple[str, ...]
    n_units: int
    slots: tuple[Slot, ...]
    fixed: str = ""
    whole: str = ""

    def of_role(self, role: Role) -> tuple[Slot, ...]:
        """The slots of one role."""
        return tuple(slot for slot in self.slots if slot.role == role)


def unit_spaces(module: nn.Module, image_shape: tuple[int, int, int]) -> list[Space]:
    """All spaces of a net, in the order in which its layers compute; the logits are one of them, and fixed.

    Parts that evaluation mode does not run (auxiliary classifiers) belong to no space and stay as they are.

    Raises
    ------
    UserError
        naming the operation that cannot be followed.
    ConfigError
        for a net that cannot be traced.
    """
    follower = Follower(module, image_shape)
    members: dict[int, list[int]] = defaultdict(list)
    for unit in range(len(follower.producer)):
        members[follower.find(unit)].append(unit)
    places, roles = _places(module, follower)
    channels = {name: follower.found(labels) for name, labels in follower.channels.items()}
    fixed, whole = _reasons(follower.fixed, follower), _reasons(follower.whole, follower)
    alike: dict[tuple[object, str, str], list[int]] = defaultdict(list)
    for unit in sorted(places):
        makers = [follower.producer[member] for member in members[unit]]
        if len(set(makers)) < len(makers):
            fixed.setdefault(unit, "units of one layer are added to each other")
        shape = tuple((key, tuple(np.diff(entries) == 1)) for key, entries in places[unit].items())
        alike[shape, fixed.get(unit, ""), whole.get(unit, "")].append(unit)
    spaces: list[Space] = []
    taken: dict[str, int] = defaultdict(int)
    for (_, why_fixed, why_whole), units in alike.items():
        maker = next(follower.producer[m] for m in members[units[0]]) or next(iter(places[units[0]]))[0]
        taken[maker] += 1
        name = maker if taken[maker] == 1 else f"{maker}:{taken[maker]}"
        if all(not follower.producer[m] for unit in units for m in members[unit]):
            continue  # the channels of the images alone
        slots = tuple(
            slot for key in places[units[0]] for slot in _slots(key, [places[u][key] for u in units], roles[key])
        )
        spaces.append(Space(name, _layers(channels, follower.names, units), len(units), slots, why_fixed, why_whole))
    return spaces


def space_of(spaces: Sequence[Space], layer: str) -> Space:
    """The space of a layer's units, by the layer's name in a comparison.

    Raises
    ------
    UserError
        for a layer that no space runs over, or several.
    """
    for space in spaces:
        if layer in space.layers:
            return space
    known = [name for space in spaces for name in space.layers]
    raise UserError(f'no unit space is that of a layer "{layer}"; {did_you_mean(layer, known)}')


def permuted(module: nn.Module, spaces: Sequence[Space], orders: Mapping[str, npt.ArrayLike]) -> nn.Module:
    """A copy of a net that computes the same function with its units in another order.

    Parameters
    ----------
    module, spaces : a net and its spaces
        As :func:`unit_spaces` found them.
    orders : by the name of the space, (n_units,)
        New unit k is the old unit ``order[k]``; spaces that are not named stay as they are.

    Raises
    ------
    UserError
        for a space that is fixed or unknown, or an order that is not one.
    """
    found = copy.deepcopy(module)
    put_state(found, permuted_state(module.state_dict(), spaces, orders))
    return found


@torch.no_grad()
def put_state(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give a net the arrays of a state of the same shapes; those that the state does not name stay."""
    for name, value in module.state_dict().items():
        if name in state:
            value.copy_(state[name])


def permuted_state(
    state: Mapping[str, torch.Tensor], spaces: Sequence[Space], orders: Mapping[str, npt.ArrayLike]
) -> State:
    """:func:`permuted` of a net's state; untouched arrays are shared."""
    known = _known(spaces, orders)
    checked: dict[str, Indices] = {}
    for name, order in orders.items():
        checked[name] = np.asarray(order, dtype=np.intp)
        n = known[name].n_units
        if not np.array_equal(np.sort(checked[name]), np.arange(n)):
            raise UserError(f"{name}: the order is not one of its {n} units.")
        if known[name].fixed and not np.array_equal(checked[name], np.arange(n)):
            raise UserError(f"{name}: its units cannot change places: {known[name].fixed}.")
    return _taken(state, [(known[name], order) for name, order in checked.items()])


def selected(module: nn.Module, spaces: Sequence[Space], kept: Mapping[str, npt.ArrayLike]) -> nn.Module:
    """A smaller copy of a net, with some units of some spaces and no others: a net like any, to run and to save.

    Parameters
    ----------
    module, spaces : a net and its spaces
        As :func:`unit_spaces` found them.
    kept : by the name of the space
        Units that stay, in the order in which they are to stand; at least one.

    Raises
    ------
    UserError
        for a space that is unknown, or whose units cannot be cut out.
    """
    known = _known(spaces, kept)
    chosen: list[tuple[Space, Indices]] = []
    for name, units in kept.items():
        space, some = known[name], np.asarray(units, dtype=np.intp)
        if len(some) == 0 or len(np.unique(some)) < len(some) or some.min() < 0 or some.max() >= space.n_units:
            raise UserError(f"{name}: kept units must be some of its {space.n_units} units, each once.")
        if not np.array_equal(some, np.arange(space.n_units)):
            if reason := space.fixed or space.whole:
                raise UserError(f"{name}: its units cannot be cut out: {reason}.")
            chosen.append((space, some))
    smaller = copy.deepcopy(module)
    before = module.state_dict()
    state = _taken(before, chosen)
    for key, value in state.items():
        if value.shape == before[key].shape:
            continue
        owner, _, attribute = key.rpartition(".")
        part = smaller.get_submodule(owner)
        if attribute in part._parameters:
            own = part._parameters[attribute]
            setattr(part, attribute, nn.Parameter(value.clone(), requires_grad=bool(own is None or own.requires_grad)))
        else:
            part.register_buffer(attribute, value.clone())
        if attribute in ("weight", "running_mean"):
            _resize(part, value)
    put_state(smaller, state)
    return smaller


def _resize(part: nn.Module, value: torch.Tensor) -> None:
    """Tell a module its new widths."""
    if isinstance(part, nn.modules.conv._ConvNd):
        depthwise = part.groups > 1
        part.out_channels = value.shape[0]
        part.in_channels = value.shape[0] if depthwise else value.shape[1]
        part.groups = value.shape[0] if depthwise else 1
    elif isinstance(part, nn.Linear):
        part.out_features, part.in_features = value.shape
    elif isinstance(part, nn.modules.batchnorm._NormBase):
        part.num_features = len(value)
    elif isinstance(part, nn.GroupNorm):
        part.num_groups = part.num_channels = len(value)  # one group a channel; others are whole
    elif isinstance(part, nn.PReLU):
        part.num_parameters = len(value)


def _known(spaces: Sequence[Space], names: Mapping[str, npt.ArrayLike]) -> dict[str, Space]:
    known = {space.name: space for space in spaces}
    for name in names:
        if name not in known:
            raise UserError(f'there is no unit space "{name}"; {did_you_mean(name, known)}')
    return known


def _taken(state: Mapping[str, torch.Tensor], chosen: Sequence[tuple[Space, Indices]]) -> State:
    """The state with units of each space in another order, or without those that are left out."""
    places: dict[tuple[str, int], Indices] = {}
    for space, units in chosen:
        for slot in space.slots:
            key = slot.parameter, slot.axis
            if key not in places:
                places[key] = np.arange(state[slot.parameter].shape[slot.axis])
            target, source = slot.entries(np.arange(space.n_units)), slot.entries(units)
            if len(source) == len(target):
                places[key][target] = source
            else:
                places[key][target[: len(source)]] = source
                places[key][target[len(source) :]] = -1
    found = dict(state)
    for (parameter, axis), entries in places.items():
        value = found[parameter]
        found[parameter] = value.index_select(axis, torch.from_numpy(entries[entries >= 0]).to(value.device))
    return found


def _reasons(reasons: Mapping[int, str], follower: Follower) -> dict[int, str]:
    found: dict[int, str] = {}
    for unit, reason in reasons.items():
        found.setdefault(follower.find(unit), reason)
    return found


def _places(module: nn.Module, follower: Follower) -> tuple[dict[int, dict[Key, list[int]]], dict[Key, Role]]:
    """For each unit, by parameter and axis: its entries, ascending; and the role of each axis.

    A parameter with several names has them all.
    """
    names: dict[int, list[str]] = defaultdict(list)
    state = module.state_dict(keep_vars=True)
    for name, value in state.items():
        names[id(value)].append(name)
    found: dict[int, dict[Key, list[int]]] = defaultdict(lambda: defaultdict(list))
    roles: dict[Key, Role] = {}
    for (parameter, axis), use in follower.uses.items():
        for name in names[id(state[parameter])]:
            roles[name, axis] = use.role
            for entry, unit in enumerate(follower.found(use.labels).tolist()):
                found[unit][name, axis].append(entry)
    return found, roles


def _slots(key: Key, entries: Sequence[Sequence[int]], role: Role) -> list[Slot]:
    """The slots of an axis: one if each unit's entries are consecutive, else one for each of a unit's entries."""
    table = np.array(entries)
    consecutive = bool((np.diff(table, axis=1) == 1).all())
    found = []
    for starts in [table[:, 0]] if consecutive else table.T:
        span = table.shape[1] if consecutive else 1
        regular = np.array_equal(starts, starts[0] + span * np.arange(len(starts)))
        found.append(Slot(*key, span, int(starts[0]), role, () if regular else tuple(starts.tolist())))
    return found


def _layers(
    channels: Mapping[str, npt.NDArray[np.int64]], names: Sequence[str], units: Sequence[int]
) -> tuple[str, ...]:
    """Nodes whose channels are these units in this order, and the modules that end in such a node."""
    here = [name for name, own in channels.items() if np.array_equal(own, units)]
    last: dict[str, str] = {}
    for name in names:
        parts = name.split(".")
        for k in range(1, len(parts)):
            last[".".join(parts[:k])] = name
    return (*here, *(outer for outer, name in last.items() if outer not in channels and name in here))
