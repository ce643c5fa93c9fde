"""Who owns what: plain arithmetic on rank and size, which may be passed in and tested without any rank."""

from __future__ import annotations


def owned(n_items: int, rank: int, size: int) -> range:
    """Items of a rank, round robin: sizes differ by at most one and every item has one owner.

    Raises
    ------
    ValueError
        for a rank outside ``0 … size − 1``.
    """
    if not 0 <= rank < size:
        raise ValueError(f"rank {rank} is not within 0 … {size - 1}")
    return range(rank, n_items, size)
