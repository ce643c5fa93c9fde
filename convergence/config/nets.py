"""Groups of nets: trained here from seeds, untrained, or trained already with given weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo, model_validator

from convergence.config.stages import Name
from convergence.errors import ConfigError, shown
from convergence.networks import NETWORKS, ZOOS, NetworkSpec
from convergence.settings import LONGEST_PATH, MAX_SEED, PLACE_ONLY, Settings

UNKNOWN_SEED = -1
"""Seed of a net whose initial weights are not known."""


def _network(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or "name" not in value:
        return value
    name = str(value["name"])
    kind = name.partition(":")[0]
    entry = kind if kind in ZOOS and ":" in name else "factory" if ":" in name else name
    return NETWORKS.load(entry).model_validate(value, context=info.context)


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Text = Annotated[str, Field(min_length=1, max_length=LONGEST_PATH)]


class NetGroup(Settings):
    """Nets of one architecture: one for each seed, or one for each file of weights that are trained already."""

    label: Name = Field(
        "net",
        description="The nets of the group are named <label>1, <label>2, …; a single net with weights: <label>.",
    )
    network: SerializeAsAny[Annotated[NetworkSpec, BeforeValidator(_network)]] = Field(
        description="Name and settings of the network; a text is its name."
    )
    seeds: tuple[Seed, ...] = Field(
        (), description="Seeds of the initial weights and of dropout, one per net; not with weights."
    )
    weights: Annotated[tuple[Text, ...], BeforeValidator(_one_or_more)] = Field(
        (),
        description="Weights of nets that are trained already, one per net: files of torch, Lightning or safetensors, "
        "an index of several files, or named weights of a model zoo ('DEFAULT', 'IMAGENET1K_V2').",
        json_schema_extra=PLACE_ONLY,
    )
    weights_key: str = Field(
        "", max_length=1000, description="Which part of a checkpoint holds the weights, if there are several: "
        "'state_dict_ema', 'student'.",
    )  # fmt: skip
    key_map: dict[str, str] = Field(
        {}, description="New beginnings of the keys of a checkpoint by old ones: { 'encoder.' = '' }."
    )
    download: bool = Field(
        False, description="Whether named weights that are not on this machine are downloaded.",
        json_schema_extra=PLACE_ONLY,
    )  # fmt: skip
    initialisations: tuple[Text, ...] | Text | None = Field(
        None,
        description="Names of the initial weights of nets with given weights, one per net, or one for all. Nets with "
        "one name were trained, or fine-tuned, from the same weights, and their pairs are of the kind same_init. "
        "Default: all nets have initial weights of their own.",
    )
    order_seeds: tuple[Seed, ...] | Seed | None = Field(
        None,
        description="Seeds of the image order and augmentation, one per net, or one for all; default: "
        "training.data_seed.",
    )
    subset_seeds: tuple[Seed, ...] | Seed | None = Field(
        None,
        description="Seeds of the subset of training images, one per net, or one for all; needs "
        "training.data_share < 1. Default: training.data_seed.",
    )
    trained: bool = Field(True, description="False keeps the initial weights: a baseline.")

    @model_validator(mode="after")
    def _valid(self) -> NetGroup:
        if self.weights:
            self._check_weights()
            return self
        if not self.seeds:
            raise ValueError(
                'seeds are missing; give seeds = [1, 2] for nets that are made here, or weights = ["a.pt", "b.pt"] for '
                "trained ones"
            )
        for name in ("weights_key", "key_map", "download", "initialisations"):
            if getattr(self, name):
                raise ValueError(f"{name} is given without weights; add weights, or remove it")
        self._check_seeds()
        return self

    def _check_weights(self) -> None:
        if not self.trained:
            raise ValueError(
                "weights are those of trained nets; remove trained = false, or give seeds for untrained nets"
            )
        for name in ("seeds", "order_seeds", "subset_seeds"):
            if getattr(self, name) not in ((), None):
                raise ValueError(f"{name} and weights are both given; nets with weights are not made from seeds")
        twice = next((one for k, one in enumerate(self.weights) if one in self.weights[:k]), None)
        if twice is not None:
            raise ValueError(f"weights list {shown(twice)} twice; the two nets would be the same net")
        if isinstance(self.initialisations, tuple) and len(self.initialisations) != len(self.weights):
            raise ValueError(
                f"initialisations lists {len(self.initialisations)} names for {len(self.weights)} nets; give one per "
                "net of weights, or one text for all"
            )
        named = [one for one in self.weights if self.network.names_weights(one)]
        if (self.weights_key or self.key_map) and named:
            raise ValueError(f"weights_key and key_map are for files, and {shown(named[0])} names weights of a zoo")
        if self.download and not named:
            raise ValueError("download is for named weights of a model zoo, and all weights are files; remove it")

    def _check_seeds(self) -> None:
        for name in ("order_seeds", "subset_seeds"):
            seeds = getattr(self, name)
            if seeds is not None and not self.trained:
                raise ValueError(f"{name} are given for untrained nets, which see no images; remove them")
            if isinstance(seeds, tuple) and len(seeds) != len(self.seeds):
                raise ValueError(
                    f"{name} lists {len(seeds)} seeds for {len(self.seeds)} nets; give one per net of seeds, or one "
                    "integer for all"
                )
        varied = [name for name in ("order_seeds", "subset_seeds") if isinstance(getattr(self, name), tuple)]
        if len(set(self.net_seeds())) < len(self.seeds):
            if not varied:
                raise ValueError(
                    f"seeds {shown(list(self.seeds))} list a seed twice; nets of a group need different seeds, or "
                    "different order_seeds or subset_seeds"
                )
            first = next(seeds for k, seeds in enumerate(self.net_seeds()) if seeds in self.net_seeds()[:k])
            named = [f"seed {first[0]}", *(f"{name[:-1]} {first[1 + (name[0] == 's')]}" for name in varied)]
            raise ValueError(f"two nets have {' and '.join(named)}, and would be the same net; change a seed")

    @property
    def n_nets(self) -> int:
        """Number of nets."""
        return len(self.weights) or len(self.seeds)

    @property
    def trained_here(self) -> bool:
        """Whether its nets are trained by this run."""
        return self.trained and not self.weights

    def net_seeds(self) -> list[tuple[int, int | None, int | None]]:
        """Seeds of each net: of its initial weights, its image order, and its training subset; None for no seed."""
        n = len(self.seeds)
        order, subset = (
            seeds if isinstance(seeds, tuple) else (seeds,) * n for seeds in (self.order_seeds, self.subset_seeds)
        )
        return list(zip(self.seeds, order, subset, strict=True))

    def resolved(self, data_seed: int, data_share: float) -> list[Net]:
        """List its nets; ``data_seed`` and ``data_share`` are those of ``[training]``."""
        if self.weights:
            return [self._with_weights(k, source) for k, source in enumerate(self.weights, start=1)]
        nets = []
        for k, (seed, order, subset) in enumerate(self.net_seeds(), start=1):
            net = Net(f"{self.label}{k}", self.label, self.network, seed, self.trained)
            if self.trained:
                net = net._replace(order_seed=data_seed if order is None else order)
                if data_share < 1:
                    net = net._replace(subset_seed=data_seed if subset is None else subset)
            nets.append(net)
        return nets

    def _with_weights(self, k: int, source: str) -> Net:
        named = self.network.names_weights(source)
        network = self.network.with_weights(source if named else "")
        weights = NetWeights(source, named, self.weights_key, tuple(sorted(self.key_map.items())), self.download)
        name = self.label if self.n_nets == 1 else f"{self.label}{k}"
        names = self.initialisations
        shared = names[k - 1] if isinstance(names, tuple) else names
        return Net(name, self.label, network, UNKNOWN_SEED, True, weights=weights, shared_initialisation=shared or "")


class NetWeights(NamedTuple):
    """Where the weights of a trained net come from.

    Attributes
    ----------
    source : path of a checkpoint as the config has it, or a name of the network's model zoo
    named : whether it is such a name
    key, key_map : which part of a checkpoint to take, and pairs of old and new beginnings of its keys
    download : whether named weights may be downloaded
    """

    source: str
    named: bool
    key: str = ""
    key_map: tuple[tuple[str, str], ...] = ()
    download: bool = False

    def digest_values(self) -> dict[str, Any]:
        """What decides about the net besides the content of the files."""
        return {"key": self.key, "key_map": dict(self.key_map)}


class Net(NamedTuple):
    """One net of the experiment, resolved from its group.

    Attributes
    ----------
    name, label : of the net and of its group
    network : None for given activations
    seed : of the initial weights and of dropout; -1 for given activations and for nets with given weights
    trained : False for a net with its initial weights
    order_seed : of the image order and augmentation; None for a net that is not trained here
    subset_seed : of the training subset; None for a net that is not trained here, or sees all training images
    weights : of a net that is trained already; None for others
    shared_initialisation : name of the initial weights of a given net, if the config has it
    """

    name: str
    label: str
    network: NetworkSpec | None
    seed: int
    trained: bool
    order_seed: int | None = None
    subset_seed: int | None = None
    weights: NetWeights | None = None
    shared_initialisation: str = ""

    @property
    def spec(self) -> NetworkSpec:
        """The network; ConfigError if the config gives only activations of the net."""
        if self.network is None:
            raise ConfigError(f"{self.name}: the config gives activations only; add [data] and [[nets]] for a network.")
        return self.network

    @property
    def trained_here(self) -> bool:
        """Whether this run trains the net."""
        return self.trained and self.network is not None and self.weights is None

    @property
    def initialisation(self) -> str:
        """Text that is equal for nets of equal initial weights: the network and the seed; the name if unknown."""
        if self.shared_initialisation:
            return f"initialisation {self.shared_initialisation}"
        if self.network is None or self.weights is not None:
            return self.name
        settings = json.dumps(self.network.digest_values(), sort_keys=True)
        return f"{self.network.name} {hashlib.sha256(settings.encode()).hexdigest()[:12]}, seed {self.seed}"
