"""Orders of the units of attention heads: heads change places as a whole, and units within their head.

Queries and keys of an attention are one permutation group, since a score is a sum over their common units; values,
with the inputs of the output projection, are another one. Both have the same heads in the same order. An order of such
groups is an order of the heads and, for each group and head, an order of its units. Other groups have one head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from convergence.alignment.matching import matching
from convergence.errors import UserError

if TYPE_CHECKING:
    from convergence.functional.surgery.permutations import PermutationGroup

Indices = npt.NDArray[np.intp]
Orders = dict[str, Indices]
"""By permutation group: new unit k is the old unit ``order[k]``."""
Bundle: TypeAlias = "list[PermutationGroup]"
"""Groups that are permuted together: those of an attention, or a single one."""


def bundles(groups: Sequence[PermutationGroup]) -> list[Bundle]:
    """The groups, those of an attention together, in the order of the first of them."""
    found: dict[str, Bundle] = {}
    for group in groups:
        found.setdefault(f"attention {group.together}" if group.together else f"group {group.name}", []).append(group)
    return list(found.values())


def random_order(bundle: Bundle, generator: np.random.Generator) -> Orders:
    """A random order of the units of a bundle."""
    heads = generator.permutation(bundle[0].heads) if bundle[0].heads > 1 else np.zeros(1, np.intp)
    found: Orders = {}
    for group in bundle:
        width = group.n_units // group.heads
        found[group.name] = np.concatenate([head * width + generator.permutation(width) for head in heads])
    return found


def best_order(bundle: Bundle, similarities: Mapping[str, npt.NDArray[np.float64]]) -> tuple[Orders, float]:
    """The order of a bundle of the largest total similarity, and that total.

    ``similarities`` (n_units, n_units) of each group: of unit k of one net, in its rows, with the units of the net that
    is permuted.
    """
    (first, *others) = bundle
    if first.heads == 1 and not others:
        single = matching(similarities[first.name])
        return {first.name: single.columns}, float(single.values.sum())
    n = first.heads
    scores = np.zeros((n, n))
    within: dict[str, list[list[Indices]]] = {}
    for group in bundle:
        width = group.n_units // n
        blocks = similarities[group.name].reshape(n, width, n, width).transpose(0, 2, 1, 3)
        each = [[matching(block) for block in row] for row in blocks]
        scores += [[one.values.sum() for one in row] for row in each]
        within[group.name] = [[one.columns for one in row] for row in each]
    heads = matching(scores)
    orders = {
        group.name: np.concatenate(
            [to * (group.n_units // n) + within[group.name][at][to] for at, to in enumerate(heads.columns)]
        )
        for group in bundle
    }
    return orders, float(heads.values.sum())


def check_heads(groups: Sequence[PermutationGroup], orders: Mapping[str, Indices]) -> None:
    """Check that orders keep heads whole, and that the groups of an attention have one order of heads.

    Raises
    ------
    UserError
        naming the group.
    """
    for bundle in bundles([group for group in groups if group.heads > 1]):
        taken: dict[tuple[int, ...], str] = {}
        for group in bundle:
            order = orders.get(group.name, np.arange(group.n_units)).reshape(group.heads, -1)
            of_head = order // order.shape[1]
            if (of_head != of_head[:, :1]).any():
                raise UserError(
                    f"{group.name}: the order moves units of {group.together} to another head. Permute whole heads, "
                    "and units within their head."
                )
            taken[tuple(of_head[:, 0].tolist())] = group.name
        if len(taken) > 1:
            raise UserError(
                f"{' and '.join(taken.values())}: the orders move the heads of {bundle[0].together} to different "
                "places. Give all groups of an attention the same order of heads."
            )
