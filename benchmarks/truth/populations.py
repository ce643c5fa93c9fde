"""Simulated populations of nets of which everything is known: activations of one layer of several nets.

A unit is a cause, or a mixture of causes, with noise of its own, through the layer's nonlinearity. A population says
which cause each unit has one to one with other nets (−1: none), so that a partner is right or wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import erf

from convergence.linalg import random_rotation

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Generator = np.random.Generator
NOISE = 0.5
"""Standard deviation of a unit's own noise; causes have 1."""
RARE = 6
"""Images that a rare unit fires on."""


def relu(z: Float64) -> Float64:
    """Rectified pre-activations."""
    return np.maximum(z, 0.0)


def gelu(z: Float64) -> Float64:
    """Pre-activations z as z · Φ(z), like torch.nn.GELU."""
    return z * (1.0 + erf(z / np.sqrt(2.0))) / 2.0


NONLINEARITIES: dict[str, Callable[[Float64], Float64]] = {"none": lambda z: z, "relu": relu, "gelu": gelu}


@dataclass(frozen=True)
class Population:
    """One layer of several nets on the same images.

    Attributes
    ----------
    pre : by net, pre-activations (n_images, n_units) or (n_images, n_units, height, width)
    nonlinearity : none (a linear layer), relu or gelu
    causes : by net, (n_units,) the cause that a unit shares one to one with the other nets, −1 for none
    untrained : names of the nets that are the baseline
    families : (n_images,) equal for near copies; None for independent images
    labels : (n_images,) class of each image; None without classes
    groups : by net, (n_units,) planted cluster of each unit
    """

    pre: dict[str, Float64]
    nonlinearity: str = "relu"
    causes: dict[str, Indices] = field(default_factory=dict)
    untrained: tuple[str, ...] = ()
    families: Indices | None = None
    labels: Indices | None = None
    groups: dict[str, Indices] = field(default_factory=dict)

    @property
    def activations(self) -> dict[str, Float64]:
        """The pre-activations through the nonlinearity."""
        return {net: NONLINEARITIES[self.nonlinearity](z) for net, z in self.pre.items()}

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(next(iter(self.pre.values())))


def names(n_trained: int, n_untrained: int = 0) -> tuple[list[str], tuple[str, ...]]:
    """Names of trained and of untrained nets."""
    return [f"net{k + 1}" for k in range(n_trained)], tuple(f"untrained{k + 1}" for k in range(n_untrained))


def share_of_units(
    rng: Generator,
    n_shared: int,
    signs: bool = False,
    everyone: bool = False,
    nonlinearity: str = "relu",
    n_nets: int = 4,
    n_untrained: int = 0,
    width: int = 24,
    n_images: int = 1000,
    noise: float = NOISE,
) -> Population:
    """``n_shared`` of ``width`` units are one cause in all trained nets, in another place of each; the rest is private.

    ``signs``: each net has each cause with a random sign. ``everyone``: untrained nets share them as well.
    """
    trained, untrained = names(n_nets, n_untrained)
    shared = rng.standard_normal((n_images, n_shared))
    pre, causes = {}, {}
    for net in (*trained, *untrained):
        z, cause = rng.standard_normal((n_images, width)), np.full(width, -1)
        if everyone or net in trained:
            z[:, :n_shared] = shared * (rng.choice([-1.0, 1.0], n_shared) if signs else 1.0)
            cause[:n_shared] = np.arange(n_shared)
        z += noise * rng.standard_normal((n_images, width))
        order = rng.permutation(width)
        pre[net], causes[net] = z[:, order], cause[order]
    return Population(pre, nonlinearity, causes, untrained)


def rotated(
    rng: Generator,
    nonlinearity: str,
    n_nets: int = 4,
    width: int = 24,
    n_images: int = 1000,
    noise: float = 0.3,
    falling: bool = False,
) -> Population:
    """One subspace of ``width`` dimensions, in another basis in each net: everything is shared but no unit.

    ``falling``: variances of the dimensions fall as 1/k, so that the first three have half of the variance.
    """
    causes = rng.standard_normal((n_images, width))
    if falling:
        causes /= np.sqrt(np.arange(1, width + 1) / width * np.sum(1 / np.arange(1, width + 1)))
    return Population(
        {
            net: causes @ random_rotation(width, rng) + noise * rng.standard_normal((n_images, width))
            for net in names(n_nets)[0]
        },
        nonlinearity,
    )


def mixed_at_random(
    rng: Generator,
    nonlinearity: str = "relu",
    n_causes: int = 10,
    n_nets: int = 4,
    width: int = 24,
    n_images: int = 1000,
    noise: float = NOISE,
) -> Population:
    """A few causes, mixed at random by each net: a subspace of ``n_causes`` dimensions is shared and no unit.

    Without noise and with 20 causes, these are random features of a 20-dimensional input.
    """
    causes = rng.standard_normal((n_images, n_causes))
    pre = {}
    for net in names(n_nets)[0]:
        mixing = rng.standard_normal((n_causes, width)) / np.sqrt(n_causes)
        pre[net] = causes @ mixing + noise * rng.standard_normal((n_images, width))
    return Population(pre, nonlinearity)


def half_and_mixed(rng: Generator, n_causes: int = 8, noise: float = NOISE) -> Population:
    """Half of the units are shared one to one, the others mix a few other causes at random, anew in each net."""
    half = share_of_units(rng, 12, width=12, noise=noise)
    rest = mixed_at_random(rng, n_causes=n_causes, width=12, noise=noise)
    pre, causes = {}, {}
    for net in half.pre:
        order = rng.permutation(24)
        pre[net] = np.hstack([half.pre[net], rest.pre[net]])[:, order]
        causes[net] = np.r_[half.causes[net], np.full(12, -1)][order]
    return Population(pre, "relu", causes)


CODE_SIZES = (1, 3, 20)


def codes(rng: Generator, n_nets: int = 4, width: int = 24, n_images: int = 1500, noise: float = 0.1) -> Population:
    """Nets of odd number have the causes as units; in even ones a third each is one cause, the sum of 3, and of 20.

    The ``causes`` say how many units of an odd net make a unit, for even nets.
    """
    shared = rng.standard_normal((n_images, width))
    sizes = np.repeat(CODE_SIZES, width // len(CODE_SIZES))
    pre, causes = {}, {}
    for k, net in enumerate(names(n_nets)[0]):
        mixing = np.eye(width)
        if k % 2:
            for unit, size in enumerate(sizes.tolist()):
                if size > 1:
                    mixing[:, unit] = 0.0
                    chosen = rng.choice(width, size, replace=False)
                    mixing[chosen, unit] = rng.choice([-1.0, 1.0], size) / np.sqrt(size)
        pre[net] = shared @ mixing + noise * rng.standard_normal((n_images, width))
        causes[net] = sizes if k % 2 else np.ones(width, np.int64)
    return Population(pre, "none", causes)


def families(
    rng: Generator, n_families: int = 100, copies: int = 10, n_nets: int = 4, width: int = 24, likeness: float = 0.9
) -> Population:
    """Independent nets that see ``copies`` near copies of each photograph; ``likeness`` is the shared variance."""
    n_images = n_families * copies
    family = np.repeat(np.arange(n_families), copies)
    pre = {}
    for net in names(n_nets)[0]:
        of_family = rng.standard_normal((n_families, width))[family]
        pre[net] = np.sqrt(likeness) * of_family + np.sqrt(1 - likeness) * rng.standard_normal((n_images, width))
    return Population(pre, families=family)


def constant_maps(rng: Generator, n_nets: int = 4, width: int = 8, n_images: int = 300, side: int = 6) -> Population:
    """Independent nets whose maps are constant over positions."""
    return Population(
        {
            net: np.broadcast_to(rng.standard_normal((n_images, width, 1, 1)), (n_images, width, side, side)).copy()
            for net in names(n_nets)[0]
        }
    )


def rare_units(
    rng: Generator, n_rare: int = 6, n_nets: int = 4, width: int = 24, n_images: int = 1000, noise: float = NOISE
) -> Population:
    """``n_rare`` units fire on the same few images in all nets and nowhere else; the other units are private."""
    base = share_of_units(rng, 0, n_nets=n_nets, width=width, n_images=n_images, noise=noise)
    seen = [rng.choice(n_images, RARE, replace=False) for _ in range(n_rare)]
    pre, causes = {}, {}
    for net, z in base.pre.items():
        own, cause = z.copy(), np.full(width, -1)
        for k, images in enumerate(seen):
            own[:, k] = -1.0
            own[images, k] = 3.0 + rng.random(RARE)
            cause[k] = k
        order = rng.permutation(width)
        pre[net], causes[net] = own[:, order], cause[order]
    return Population(pre, "relu", causes)


def planted_clusters(rng: Generator, n_clusters: int, n_images: int = 1000, noise: float = 0.8) -> Population:
    """Disjoint groups of two units in each of two nets, |r| about 0.6 within a group and 0 between groups."""
    causes = rng.standard_normal((n_images, n_clusters))
    labels = np.repeat(np.arange(n_clusters), 2)
    pre, groups = {}, {}
    for net in names(2)[0]:
        order = rng.permutation(len(labels))
        groups[net] = labels[order]
        signs = rng.choice([-1.0, 1.0], len(labels))
        pre[net] = signs * causes[:, groups[net]] + noise * rng.standard_normal((n_images, len(labels)))
    return Population(pre, "none", groups=groups)


def class_only(
    rng: Generator, n_classes: int = 10, n_nets: int = 4, width: int = 24, n_images: int = 1000, noise: float = 1.0
) -> Population:
    """Unit k has the same mean activation for every class in all nets; within a class all is private."""
    labels = rng.permutation(np.arange(n_images) % n_classes)
    means = rng.standard_normal((n_classes, width))
    pre, causes = {}, {}
    for net in names(n_nets)[0]:
        order = rng.permutation(width)
        causes[net] = order
        pre[net] = (means[labels] + noise * rng.standard_normal((n_images, width)))[:, order]
    return Population(pre, "relu", causes, labels=labels)
