"""Two nets zipped: units merged with whichever unit is most like them, of the other net or of their own.

After ZipIt! (Stoica et al. 2024, ICLR). The 2n units of a space, of both nets, are paired greedily by correlation; a
merged unit is the mean of its pair (merge matrix M, n × 2n), and what reads a unit reads the merged one in its place
(unmerge matrix U, 2n × n). A layer between two zipped spaces has the weights M_out (W_x ⊕ W_y) U_in. Zipped up to some
space the nets share their first layers and keep their own after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from convergence.errors import UserError
from convergence.functional.following import LOGITS
from convergence.functional.spaces import Slot, Space, State

Float64 = npt.NDArray[np.float64]


class Zip(NamedTuple):
    """How the units of both nets become those of one.

    Attributes
    ----------
    merge : (2, n, n) mean of the pairs, from the units of each net
    unmerge : (2, n, n) which merged unit each net's units have become
    within : pairs of two units of the same net
    """

    merge: Float64
    unmerge: Float64
    within: int


def zippable(spaces: Sequence[Space]) -> list[Space]:
    """The spaces whose units are merged, in the order of the layers.

    Raises
    ------
    UserError
        naming a space whose units are fixed.
    """
    found = [space for space in spaces if space.fixed != LOGITS]
    for space in found:
        if space.fixed:
            raise UserError(f"{space.name} cannot be zipped: {space.fixed}.")
    return found


def depths(spaces: Sequence[Space]) -> list[int]:
    """After how many of the zippable spaces the nets can part: where all that makes merged units reads merged units.

    In a residual net an early space is written by later layers, so that it cannot be shared alone.
    """
    order = [space.name for space in zippable(spaces)]
    reads: dict[str, set[str]] = {}
    for space in spaces:
        for slot in space.of_role("in"):
            reads.setdefault(slot.parameter, set()).add(space.name)
    needs = [
        set().union(*(reads.get(slot.parameter, set()) for slot in space.of_role("out"))) for space in zippable(spaces)
    ]
    return [d for d in range(len(order) + 1) if all(need <= set(order[:d]) for need in needs[:d])]


def zip_units(joint: npt.ArrayLike) -> Zip:
    """Pair 2n units greedily, the largest correlation first; each unit is in one pair.

    ``joint`` (2n, 2n): correlations of the units of the first net and of the second.
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


def zipped(states: tuple[State, State], spaces: Sequence[Space], zips: Mapping[str, Zip]) -> tuple[State, State]:
    """Two nets with the spaces in ``zips`` merged: what makes merged units is the same in both.

    Layers whose units are not in ``zips`` stay each net's own, and read merged units if their inputs are. With all
    spaces zipped the nets differ in their last layer only; its mean is that of their logits.
    """
    outs: dict[str, list[tuple[Slot, Space]]] = {}
    ins: dict[str, list[tuple[Slot, Space]]] = {}
    for space in spaces:
        for slot in space.slots:
            (ins if slot.role == "in" else outs).setdefault(slot.parameter, []).append((slot, space))
    found: tuple[State, State] = ({}, {})
    for name in states[0]:
        values = [state[name] for state in states]
        for side in (0, 1):
            for slot, space in ins.get(name, []):
                if space.name in zips:
                    values[side] = _mixed(values[side], slot, zips[space.name].unmerge[side].T, space.n_units)
        makers = outs.get(name, [])
        shared = [(slot, space) for slot, space in makers if space.name in zips]
        if shared:
            merged = [value.clone() for value in values]
            for slot, space in shared:
                for side in (0, 1):
                    merged[side] = _mixed(merged[side], slot, zips[space.name].merge[side], space.n_units)
                entries = torch.from_numpy(slot.entries(np.arange(space.n_units))).to(values[0].device)
                both = sum(value.index_select(slot.axis, entries) for value in merged)
                values = [value.index_copy(slot.axis, entries, both) for value in values]  # type: ignore[arg-type]
        for side in (0, 1):
            found[side][name] = values[side]
    return found


def _mixed(value: torch.Tensor, slot: Slot, matrix: Float64, n_units: int) -> torch.Tensor:
    """A parameter with the units of a slot replaced by sums of them: row k of the matrix gives the new unit k."""
    entries = torch.from_numpy(slot.entries(np.arange(n_units))).to(value.device)
    taken = value.index_select(slot.axis, entries).movedim(slot.axis, 0)
    weights = torch.from_numpy(np.ascontiguousarray(matrix)).to(value.device)
    mixed = (weights @ taken.reshape(n_units, -1).double()).to(value.dtype).reshape(taken.shape)
    return value.index_copy(slot.axis, entries, mixed.movedim(0, slot.axis).contiguous())
