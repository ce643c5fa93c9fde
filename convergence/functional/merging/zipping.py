"""ZipIt! (Stoica et al. 2024, ICLR): units are merged with the most similar unit of either net.

The 2n units of a permutation group of both nets are paired greedily by correlation. A merged unit is the mean of its
pair (merge matrix M, n × 2n), and its consumers read the merged unit (unmerge matrix U, 2n × n). A layer between two
zipped groups has the weights M_out (W_x ⊕ W_y) U_in. Nets zipped up to some group share their first layers and keep
their own later layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from convergence.errors import UserError
from convergence.functional.surgery.permutations import ParameterAxis, PermutationGroup, State
from convergence.functional.surgery.tracing import LOGITS

Float64 = npt.NDArray[np.float64]


class Zip(NamedTuple):
    """How the units of both nets are merged.

    Attributes
    ----------
    merge : (2, n, n) weights of each net's units in the merged units
    unmerge : (2, n, n) the merged unit of each net's units
    within : number of pairs of two units of the same net
    """

    merge: Float64
    unmerge: Float64
    within: int


def zippable(groups: Sequence[PermutationGroup]) -> list[PermutationGroup]:
    """Groups whose units are merged, in the order of the layers.

    Raises
    ------
    UserError
        for a group whose units are fixed.
    """
    found = [group for group in groups if group.fixed != LOGITS]
    for group in found:
        if group.fixed:
            raise UserError(f"{group.name} cannot be zipped: {group.fixed}.")
        if group.together:
            raise UserError(f"{group.name} cannot be zipped: units of {group.together} stay in their heads.")
    return found


def depths(groups: Sequence[PermutationGroup]) -> list[int]:
    """Numbers of groups that can be zipped: all layers that compute merged units must read merged units.

    In a residual net later layers add to an early group, so that it cannot be zipped alone.
    """
    order = [group.name for group in zippable(groups)]
    reads: dict[str, set[str]] = {}
    for group in groups:
        for axis in group.of_role("in"):
            reads.setdefault(axis.parameter, set()).add(group.name)
    needs = [
        set().union(*(reads.get(axis.parameter, set()) for axis in group.of_role("out"))) for group in zippable(groups)
    ]
    return [d for d in range(len(order) + 1) if all(need <= set(order[:d]) for need in needs[:d])]


def zip_units(joint: npt.ArrayLike) -> Zip:
    """Pair 2n units greedily, the largest correlation first.

    ``joint`` (2n, 2n): correlations of the units of both nets.
    """
    similarity = np.array(joint, dtype=np.float64)
    n = len(similarity) // 2
    pairs: list[tuple[int, int]] = []
    free = np.ones(2 * n, dtype=bool)
    above = np.triu_indices(2 * n, 1)
    for k in np.argsort(-similarity[above], kind="stable"):
        a, b = int(above[0][k]), int(above[1][k])
        if free[a] and free[b]:
            free[a] = free[b] = False
            pairs.append((a, b))
    merge, unmerge = np.zeros((n, 2 * n)), np.zeros((2 * n, n))
    for new, pair in enumerate(sorted(pairs)):
        merge[new, list(pair)] = 0.5
        unmerge[list(pair), new] = 1.0
    within = sum((a < n) == (b < n) for a, b in pairs)
    return Zip(np.stack([merge[:, :n], merge[:, n:]]), np.stack([unmerge[:n], unmerge[n:]]), within)


def zipped(
    states: tuple[State, State], groups: Sequence[PermutationGroup], zips: Mapping[str, Zip]
) -> tuple[State, State]:
    """Two nets with the groups in ``zips`` merged; layers that compute merged units are the same in both.

    With all groups zipped the nets differ in their last layer only, whose mean gives the mean of their logits.
    """
    outs: dict[str, list[tuple[ParameterAxis, PermutationGroup]]] = {}
    ins: dict[str, list[tuple[ParameterAxis, PermutationGroup]]] = {}
    for group in groups:
        for axis in group.axes:
            (ins if axis.role == "in" else outs).setdefault(axis.parameter, []).append((axis, group))
    found: tuple[State, State] = ({}, {})
    for name in states[0]:
        values = [state[name] for state in states]
        for side in (0, 1):
            for axis, group in ins.get(name, []):
                if group.name in zips:
                    values[side] = _mixed(values[side], axis, zips[group.name].unmerge[side].T, group.n_units)
        makers = outs.get(name, [])
        shared = [(axis, group) for axis, group in makers if group.name in zips]
        if shared:
            merged = [value.clone() for value in values]
            for axis, group in shared:
                for side in (0, 1):
                    merged[side] = _mixed(merged[side], axis, zips[group.name].merge[side], group.n_units)
                entries = torch.from_numpy(axis.entries(np.arange(group.n_units))).to(values[0].device)
                both = sum(value.index_select(axis.dim, entries) for value in merged)
                values = [value.index_copy(axis.dim, entries, both) for value in values]  # type: ignore[arg-type]
        for side in (0, 1):
            found[side][name] = values[side]
    return found


def _mixed(value: torch.Tensor, axis: ParameterAxis, matrix: Float64, n_units: int) -> torch.Tensor:
    """A parameter with the units of an axis replaced by weighted sums: row k of the matrix gives the new unit k."""
    entries = torch.from_numpy(axis.entries(np.arange(n_units))).to(value.device)
    taken = value.index_select(axis.dim, entries).movedim(axis.dim, 0)
    weights = torch.from_numpy(np.ascontiguousarray(matrix)).to(value.device)
    mixed = (weights @ taken.reshape(n_units, -1).double()).to(value.dtype).reshape(taken.shape)
    return value.index_copy(axis.dim, entries, mixed.movedim(0, axis.dim).contiguous())
