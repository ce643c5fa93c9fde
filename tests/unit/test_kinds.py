"""Kinds of nets and pairs: nets of one initialisation are no independent nets."""

from types import SimpleNamespace

import pytest

from convergence.analysis.kinds import PairKinds, kinds_of_nets
from convergence.results import KINDS, TRAINED_OR_NOT


def sums(**changes):
    """Members a1 a2 (one initialisation), b1 (another one), a0 (untrained, of the first), c (untrained)."""
    known = {
        "nets": ("a1", "a2", "b1", "a0", "c"),
        "trained": (True, True, True, False, False),
        "initialisations": ("a", "a", "b", "a", "c"),
        "order_seeds": (1, 2, 1, -1, -1),
        "subset_seeds": (-2, -2, -2, -1, -1),
        "layers": ("conv1",) * 5,
        "epochs": (-1,) * 5,
    }
    known |= changes
    return SimpleNamespace(**{"of_net": known["nets"], **known})


@pytest.mark.parametrize(
    ("x", "y", "kind", "shared"),
    [
        ("a1", "a2", "same_init", {"same_init", "same_data"}),
        ("a1", "b1", "trained", {"same_order", "same_data"}),
        ("a2", "b1", "trained", {"same_data"}),
        ("a1", "a0", "mixed", {"same_init"}),
        ("a0", "c", "untrained", set()),
    ],
)
def test_pair_has_a_kind_and_what_its_nets_share(x, y, kind, shared):
    pairs = PairKinds(sums())
    for pair in ((x, y), (y, x)):
        assert pairs.kind(*pair) == kind
        assert {name for name, holds in pairs.shared(*pair).items() if holds} == shared


def test_members_of_one_net_are_not_of_a_shared_initialisation():
    over_time = sums(of_net=("a1", "a1", "b1", "a0", "c"))
    assert PairKinds(over_time).kind("a1", "a2") == "trained"


def test_consensus_takes_the_first_net_of_each_initialisation():
    assert kinds_of_nets(sums()) == {"trained": ["a1", "b1"], "untrained": ["a0", "c"]}
    two_layers = sums(layers=("conv1", "conv2", "conv1", "conv1", "conv1"))
    assert kinds_of_nets(two_layers)["trained conv2"] == ["a2"]


def test_results_know_every_kind():
    assert KINDS == ("trained", "untrained", "mixed", "same_init")
    assert TRAINED_OR_NOT == ("trained", "untrained")
