"""Permutation groups: sets of parameter axes of a net that have to be permuted, or cut, together.

Permuting the outputs of a layer and the inputs of its consumers does not change the function of the net (Hecht-Nielsen
1990). The axes that belong together are traced through the net's graph (:mod:`.tracing`), through residual addition,
concatenation, norms and flattening. Groups that cannot be permuted or cut have the reason.
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
from convergence.functional.surgery.heads import Indices, check_heads
from convergence.functional.surgery.tracing import UnitTracer

Role = Literal["out", "in", "norm"]
State = dict[str, torch.Tensor]
Key = tuple[str, int]


@dataclass(frozen=True)
class ParameterAxis:
    """An axis of a parameter that runs over the units of a group.

    Attributes
    ----------
    parameter : name in the net's state
    dim : of the parameter
    span : consecutive entries of one unit; more than 1 after flattening
    offset : first entry of the first unit
    role : "out" for weights and biases that compute the units, "in" for weights that read them, "norm" for parameters
        of each unit (norms and their running statistics, depthwise convolutions, scales)
    starts : (n_units,) first entry of each unit, if that is not ``offset + k · span``
    """

    parameter: str
    dim: int
    span: int
    offset: int
    role: Role
    starts: tuple[int, ...] = ()

    def entries(self, units: npt.ArrayLike) -> Indices:
        """Indices along the axis of some units, unit by unit."""
        chosen = np.asarray(units, dtype=np.intp)
        first = np.array(self.starts)[chosen] if self.starts else self.offset + chosen * self.span
        return np.asarray((first[:, None] + np.arange(self.span)).ravel(), dtype=np.intp)


@dataclass(frozen=True)
class PermutationGroup:
    """Units that have to be in the same order on all their axes.

    Attributes
    ----------
    name : of the first layer that computes the units
    layers : names of modules and graph nodes whose channels are these units in this order
    n_units : number of units
    axes : parameter axes that run over the units
    fixed : why the units cannot be permuted, or ""
    whole : why single units cannot be cut out, or ""
    heads : number of attention heads, equal consecutive parts of the units that stay together
        (:mod:`convergence.functional.surgery.heads`); 1 for other layers
    together : name of the attention; "" for other layers
    """

    name: str
    layers: tuple[str, ...]
    n_units: int
    axes: tuple[ParameterAxis, ...]
    fixed: str = ""
    whole: str = ""
    heads: int = 1
    together: str = ""

    def of_role(self, role: Role) -> tuple[ParameterAxis, ...]:
        """Axes of one role."""
        return tuple(axis for axis in self.axes if axis.role == role)


def permutation_groups(module: nn.Module, image_shape: tuple[int, ...]) -> list[PermutationGroup]:
    """All permutation groups of a net, in the order of computation; the logits are one of them, and fixed.

    Parts that evaluation mode does not run (auxiliary classifiers) belong to no group.

    Raises
    ------
    UserError
        for an operation that cannot be traced.
    ConfigError
        for a net that cannot be traced.
    """
    tracer = UnitTracer(module, image_shape)
    members: dict[int, list[int]] = defaultdict(list)
    for unit in range(len(tracer.units.producer)):
        members[tracer.units.find(unit)].append(unit)
    places, roles = _places(module, tracer)
    channels = {name: tracer.units.found(labels) for name, labels in tracer.channels.items()}
    fixed, whole = _reasons(tracer.fixed, tracer), _reasons(tracer.whole, tracer)
    for unit in sorted(places):
        makers = [tracer.units.producer[member] for member in members[unit]]
        if len(set(makers)) < len(makers):
            fixed.setdefault(unit, "units of one layer are added to each other")
    heads = _heads(tracer, places, fixed, whole)
    alike = _alike(places, fixed, whole)
    groups: list[PermutationGroup] = []
    taken: dict[str, int] = defaultdict(int)
    for (_, why_fixed, why_whole), units in alike.items():
        maker = next(tracer.units.producer[m] for m in members[units[0]]) or next(iter(places[units[0]]))[0]
        taken[maker] += 1
        name = maker if taken[maker] == 1 else f"{maker}:{taken[maker]}"
        if all(not tracer.units.producer[m] for unit in units for m in members[unit]):
            continue  # the channels of the images alone
        axes = tuple(
            axis for key in places[units[0]] for axis in _axes(key, [places[u][key] for u in units], roles[key])
        )
        layers = _layers(channels, tracer.names, units)
        of_heads = heads.get(tuple(units), (1, ""))
        groups.append(PermutationGroup(name, layers, len(units), axes, why_fixed, why_whole, *of_heads))
    return groups


def _alike(
    places: Mapping[int, Mapping[Key, list[int]]], fixed: Mapping[int, str], whole: Mapping[int, str]
) -> dict[tuple[object, str, str], list[int]]:
    """Units, ascending, with entries of the same kind on the same axes, and the same reasons."""
    found: dict[tuple[object, str, str], list[int]] = defaultdict(list)
    for unit in sorted(places):
        shape = tuple((key, tuple(np.diff(entries) == 1)) for key, entries in places[unit].items())
        found[shape, fixed.get(unit, ""), whole.get(unit, "")].append(unit)
    return found


def _heads(
    tracer: UnitTracer, places: Mapping[int, Mapping[Key, list[int]]], fixed: dict[int, str], whole: dict[int, str]
) -> dict[tuple[int, ...], tuple[int, str]]:
    """The number of heads and the name of the attention, by the units of a group.

    Units that an attention reads and that do not form a group are fixed, with a reason.
    """
    found: dict[tuple[int, ...], tuple[int, str]] = {}
    groups = set(map(tuple, _alike(places, fixed, whole).values()))
    for attention in tracer.attentions:
        parts = [tuple(tracer.units.found(units.ravel()).tolist()) for units in (attention.scores, attention.values)]
        whose, units = {found.get(part) for part in parts}, [unit for part in parts for unit in part]
        reason = next((fixed[unit] for unit in units if unit in fixed), "")
        if not reason and whose == {None} and parts[0] != parts[1] and groups.issuperset(parts):
            found |= dict.fromkeys(parts, (len(attention.scores), attention.name))
        elif reason or len(whose) > 1 or None in whose:
            for unit in units:
                fixed.setdefault(unit, reason or f"{attention.name} reads some of them as units of its heads")
    for part, (_, name) in found.items():
        for unit in part:
            whole[unit] = f"{name} has heads of equal width"
    return found


def permuted(module: nn.Module, groups: Sequence[PermutationGroup], orders: Mapping[str, npt.ArrayLike]) -> nn.Module:
    """A copy of a net that computes the same function with permuted units.

    Parameters
    ----------
    module, groups : a net and its groups
        As :func:`permutation_groups` found them.
    orders : by the name of the group, (n_units,)
        New unit k is the old unit ``order[k]``; other groups are not permuted.

    Raises
    ------
    UserError
        for a group that is fixed or unknown, or an order that is no permutation.
    """
    found = copy.deepcopy(module)
    put_state(found, permuted_state(module.state_dict(), groups, orders))
    return found


@torch.no_grad()
def put_state(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Copy the arrays of a state into a net; arrays that the state does not have are not changed."""
    for name, value in module.state_dict().items():
        if name in state:
            value.copy_(state[name])


def permuted_state(
    state: Mapping[str, torch.Tensor], groups: Sequence[PermutationGroup], orders: Mapping[str, npt.ArrayLike]
) -> State:
    """:func:`permuted` of a net's state; untouched arrays are shared."""
    known = _known(groups, orders)
    checked: dict[str, Indices] = {}
    for name, order in orders.items():
        checked[name] = np.asarray(order, dtype=np.intp)
        n = known[name].n_units
        if not np.array_equal(np.sort(checked[name]), np.arange(n)):
            raise UserError(f"{name}: the order is no permutation of its {n} units.")
        if known[name].fixed and not np.array_equal(checked[name], np.arange(n)):
            raise UserError(f"{name}: its units cannot be permuted: {known[name].fixed}.")
    check_heads(groups, checked)
    return _taken(state, [(known[name], order) for name, order in checked.items()])


def selected(module: nn.Module, groups: Sequence[PermutationGroup], kept: Mapping[str, npt.ArrayLike]) -> nn.Module:
    """A smaller copy of a net, with some units of some groups.

    Parameters
    ----------
    module, groups : a net and its groups
        As :func:`permutation_groups` found them.
    kept : by the name of the group
        Units that are kept, in their new order; at least one.

    Raises
    ------
    UserError
        for a group that is unknown, or whose units cannot be cut out, and for invalid units.
    """
    known = _known(groups, kept)
    chosen: list[tuple[PermutationGroup, Indices]] = []
    for name, units in kept.items():
        group, some = known[name], np.asarray(units, dtype=np.intp)
        if len(some) == 0 or len(np.unique(some)) < len(some) or some.min() < 0 or some.max() >= group.n_units:
            raise UserError(f"{name}: kept units must be some of its {group.n_units} units, each once.")
        if not np.array_equal(some, np.arange(group.n_units)):
            if reason := group.fixed or group.whole:
                raise UserError(f"{name}: its units cannot be cut out: {reason}.")
            chosen.append((group, some))
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
    """Set the widths of a module."""
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


def _known(groups: Sequence[PermutationGroup], names: Mapping[str, npt.ArrayLike]) -> dict[str, PermutationGroup]:
    known = {group.name: group for group in groups}
    for name in names:
        if name not in known:
            raise UserError(f'there is no permutation group "{name}"; {did_you_mean(name, known)}')
    return known


def _taken(state: Mapping[str, torch.Tensor], chosen: Sequence[tuple[PermutationGroup, Indices]]) -> State:
    """The state with the chosen units of each group in their order."""
    places: dict[tuple[str, int], Indices] = {}
    for group, units in chosen:
        for axis in group.axes:
            key = axis.parameter, axis.dim
            if key not in places:
                places[key] = np.arange(state[axis.parameter].shape[axis.dim])
            target, source = axis.entries(np.arange(group.n_units)), axis.entries(units)
            if len(source) == len(target):
                places[key][target] = source
            else:
                places[key][target[: len(source)]] = source
                places[key][target[len(source) :]] = -1
    found = dict(state)
    for (parameter, dim), entries in places.items():
        value = found[parameter]
        found[parameter] = value.index_select(dim, torch.from_numpy(entries[entries >= 0]).to(value.device))
    return found


def _reasons(reasons: Mapping[int, str], tracer: UnitTracer) -> dict[int, str]:
    found: dict[int, str] = {}
    for unit, reason in reasons.items():
        found.setdefault(tracer.units.find(unit), reason)
    return found


def _places(module: nn.Module, tracer: UnitTracer) -> tuple[dict[int, dict[Key, list[int]]], dict[Key, Role]]:
    """For each unit its entries by parameter and axis, ascending, and the role of each axis.

    A parameter with several names is listed under all of them.
    """
    names: dict[int, list[str]] = defaultdict(list)
    state = module.state_dict(keep_vars=True)
    for name, value in state.items():
        names[id(value)].append(name)
    found: dict[int, dict[Key, list[int]]] = defaultdict(lambda: defaultdict(list))
    roles: dict[Key, Role] = {}
    for (parameter, axis), use in tracer.uses.items():
        for name in names[id(state[parameter])]:
            roles[name, axis] = use.role
            for entry, unit in enumerate(tracer.units.found(use.labels).tolist()):
                found[unit][name, axis].append(entry)
    return found, roles


def _axes(key: Key, entries: Sequence[Sequence[int]], role: Role) -> list[ParameterAxis]:
    """One axis if the entries of each unit are consecutive, else one per entry of a unit."""
    table = np.array(entries)
    consecutive = bool((np.diff(table, axis=1) == 1).all())
    found = []
    for starts in [table[:, 0]] if consecutive else table.T:
        span = table.shape[1] if consecutive else 1
        regular = np.array_equal(starts, starts[0] + span * np.arange(len(starts)))
        found.append(ParameterAxis(*key, span, int(starts[0]), role, () if regular else tuple(starts.tolist())))
    return found


def _layers(
    channels: Mapping[str, npt.NDArray[np.int64]], names: Sequence[str], units: Sequence[int]
) -> tuple[str, ...]:
    """Nodes whose channels are these units in this order, and modules that end in such a node."""
    here = [name for name, own in channels.items() if np.array_equal(own, units)]
    last: dict[str, str] = {}
    for name in names:
        parts = name.split(".")
        for k in range(1, len(parts)):
            last[".".join(parts[:k])] = name
    return (*here, *(outer for outer, name in last.items() if outer not in channels and name in here))
