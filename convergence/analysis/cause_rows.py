"""Similarity of trained nets by what their trainings share, as rows of the table ``causes``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from convergence.analysis.kinds import network_of
from convergence.analysis.summaries import Columns, PopulationNumbers, kind_of
from convergence.inference.causes import CAUSES, SharedCauses, shared_causes
from convergence.inference.populations import nets_interval

Row = dict[str, Any]


def cause_rows(numbers: PopulationNumbers, members: Columns) -> Iterator[Row]:
    """Rows of the table ``causes``; none where a net takes part more than once, or all pairs share the same causes."""
    if len(set(members["net"].tolist())) < len(members["net"]):
        return
    networks = {
        member: network_of(text)
        for member, text in zip(members["member"].tolist(), members["initialisation"].tolist(), strict=True)
    }
    pairs = numbers.pairs
    trained = np.isin(pairs["kind"], ["trained", "same_init"])
    of_x, of_y = ([networks[name] for name in pairs[column].tolist()] for column in ("x", "y"))
    several = len(set(networks.values())) > 1
    for network in dict.fromkeys(networks.values()):
        own = [x == y == network for x, y in zip(of_x, of_y, strict=True)]
        at = np.flatnonzero(trained & np.array(own, dtype=bool))
        if not len(at):
            continue
        shares = np.stack([pairs[cause][at] for cause in CAUSES], axis=1)
        units = [[numbers.unit(pairs[column][k]) for column in ("x", "y")] for k in at]
        for measure, evaluation in numbers.keys:
            values = numbers.values((measure, evaluation))
            kind = kind_of(measure)
            for found in shared_causes(values.value[at], values.without[at], shares, units, values.smooth, kind):
                keys = {"network": network if several else "", "measure": measure, "evaluation": evaluation}
                yield keys | _row(found)


def _row(found: SharedCauses) -> Row:
    names = [*CAUSES.values()]
    mean = nets_interval(found.mean)
    row: Row = {
        "shared": " and ".join(names[k] for k in found.causes) or "nothing",
        **dict(zip(CAUSES, found.shared, strict=True)),
        "n_pairs": len(found.pairs), "n_initialisations": sum(found.mean.n_units.values()), "value": mean.value,
        "net_error": mean.error, "df": mean.df, "low": mean.low, "high": mean.high, "missing": mean.missing,
    }  # fmt: skip
    if found.effect is None:
        return row
    effect = nets_interval(found.effect)
    return row | {
        "effect": effect.value, "effect_error": effect.error, "effect_df": effect.df, "effect_low": effect.low,
        "effect_high": effect.high, "effect_p": effect.p, "effect_missing": effect.missing,
    }  # fmt: skip
