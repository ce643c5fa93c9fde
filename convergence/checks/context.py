"""What the checks of a run share: its images, its distinct nets, and facts that later checks use."""

from __future__ import annotations

import random
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convergence.checks.findings import shortened
from convergence.checks.needs import Needs
from convergence.config.schema import Net
from convergence.data.images import Floats, ImageSet, Splits
from convergence.errors import UserError
from convergence.networks import NetworkSpec
from convergence.runs.run_folder import RunFolder
from convergence.statistics.activation_source import JoinedUnits, LayerShape

if TYPE_CHECKING:  # a run of given activations is checked without torch
    import torch
    from torch import nn

N_IMAGES = 3
"""Images that nets are run on; layers are read with two and with three of them."""


@dataclass
class NetFacts:
    """Measured facts of a network, for estimates.

    Attributes
    ----------
    parameters : number of them
    state_bytes : of its weights and buffers
    activation_bytes : outputs of all its modules, for one image
    evaluation_s, training_s : seconds of one image on this machine; None if not measured
    evaluation_cpu_s : seconds of all cores for one image, which other processes do not change
    training_batch : images of the measured step
    training_device : of the measured step
    """

    parameters: int = 0
    state_bytes: int = 0
    activation_bytes: int = 0
    evaluation_s: float | None = None
    training_s: float | None = None
    evaluation_cpu_s: float = 0.0
    training_batch: int = 0
    training_device: str = ""


@dataclass(eq=False)
class DistinctNet:
    """A network of the config and the nets that have it; it is built once, from the seed of the first net.

    Attributes
    ----------
    spec : the network
    nets : nets of the config with this network
    module : the built net, in evaluation mode; None until the check of nets built it
    working : whether it could be run; the checks of its layers and of training need that
    n_outputs : the ``n_classes`` that the module was built with, if that is not the number of classes; else 0
    classifies : whether it has an output for each class
    fixed : whether it is a fixed function of each image; otherwise values are not compared
    logits : its output for two images
    shapes : shapes of the layers that were read
    read : names of the layers that were read or refused
    """

    spec: NetworkSpec
    nets: tuple[Net, ...]
    module: nn.Module | None = None
    working: bool = False
    n_outputs: int = 0
    classifies: bool = True
    fixed: bool = True
    logits: torch.Tensor | None = None
    facts: NetFacts = field(default_factory=NetFacts)
    shapes: dict[str, LayerShape] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Names of its nets; of more than three, the first two and the number of the others."""
        names = [net.name for net in self.nets]
        return ", ".join(names) if len(names) < 4 else f"{', '.join(names[:2])} and {len(names) - 2} more"

    @property
    def trained_here(self) -> list[Net]:
        """Its nets that this run trains."""
        return [net for net in self.nets if net.trained_here]

    @property
    def given(self) -> list[Net]:
        """Its nets with given weights."""
        return [net for net in self.nets if net.weights is not None]


class CheckContext:
    """A run that is checked.

    Attributes
    ----------
    folder, experiment : the run
    processes : processes that share a batch in training
    limits : bytes of memory of jobs, by stage, if the run will be on other machines; None if it will be on this one
    images_usable : whether nets can run on the images, once these were checked
    nets : the distinct nets
    joined : members of each comparison, once the layers were read
    needs : estimates, once the resources were checked
    """

    def __init__(self, folder: RunFolder, processes: int = 1, limits: Mapping[str, float] | None = None) -> None:
        self.folder, self.experiment = folder, folder.experiment
        self.processes, self.limits, self.needs = processes, limits, Needs()
        self.images_usable = False
        self.joined: dict[str, JoinedUnits] = {}
        found: dict[str, list[Net]] = {}
        if self.experiment.activations is None:
            for net in self.experiment.all_nets():
                found.setdefault(net.spec.model_dump_json(), []).append(net)
        self.nets = [DistinctNet(nets[0].spec, tuple(nets)) for nets in found.values()]

    @property
    def elsewhere(self) -> bool:
        """Whether the run will be on other machines."""
        return self.limits is not None

    @cached_property
    def splits(self) -> Splits:
        """Training and held-out images; UserError if they are missing or damaged."""
        return self.experiment.images.load()

    @property
    def images(self) -> ImageSet:
        """The evaluation images."""
        return self.splits.test if self.experiment.statistics.split == "test" else self.splits.train

    @cached_property
    def samples(self) -> torch.Tensor:
        """Some evaluation images (:data:`N_IMAGES`, channels, height, width)."""
        import torch

        return torch.from_numpy(self.read(self.images, N_IMAGES))

    def read(self, images: ImageSet, n: int, augment_seed: int | None = None) -> Floats:
        """``n`` images spread over a set; fewer images than that are repeated."""
        chosen = np.linspace(0, len(images) - 1, n).round().astype(np.int64)
        return images.read(chosen, augment_seed)

    def build(self, spec: NetworkSpec, seed: int, n_outputs: int = 0) -> nn.Module:
        """A net with the initial weights of a seed, by default for the classes; UserError if its code fails."""
        from convergence.networks.weights import initialise

        train = self.splits.train
        with user_code(f"building {spec.name} from seed {seed}"):
            return initialise(spec, seed, train.image_shape, n_outputs or train.n_classes)

    @property
    def working_nets(self) -> list[DistinctNet]:
        """The nets that ran on images."""
        return [net for net in self.nets if net.working]


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Raise UserError for any exception of somebody else's code, with the line that raised it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} failed: {type(error).__name__}: {shortened(error)}{_line_of(error)}") from error


def _line_of(error: BaseException) -> str:
    """The innermost line of code outside installed packages and this one, or ""."""
    own = str(Path(__file__).resolve().parents[1])
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "site-packages" not in frame.filename and not frame.filename.startswith((own, "<")):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Restore the random states of torch, numpy and Python, and the number of threads, afterwards."""
    import torch

    states: tuple[Any, Any] = (np.random.get_state(), random.getstate())  # noqa: NPY002  nets may draw from it
    threads = torch.get_num_threads()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])
        torch.set_num_threads(threads)


def tensors_of(value: Any) -> list[torch.Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in items for tensor in tensors_of(item)]


def described(value: Any) -> str:
    """What a net or a layer returned, for messages."""
    import torch

    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, dict):
        return f"a dict with the keys {shortened(', '.join(map(str, value)))}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)} values"
    return f"a {type(value).__name__}"
