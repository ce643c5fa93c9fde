"""Networks by name. To add one, write a :class:`NetworkSpec` in a new file and register it below.

Besides these names, ``torchvision:<model>`` is any torchvision classifier, ``timm:<model>`` a model of timm,
``hf:<folder or name>`` a model of transformers, and ``package.module:factory`` any callable that returns a
``torch.nn.Module``.

alexnet.py       AlexNet of Li et al. 2016
small.py         a small convolutional net
transformer.py   a small transformer for tokens or images; transformer_modules.py: its modules
external.py      torchvision classifiers and factories of modules
zoo.py           what model zoos have in common; preprocessing.py: how they prepare images
timm_models.py, transformers_models.py  models of timm and of transformers
answers.py       nets that take tokens, or answer with tuples and dicts
weights.py       initialise, save and load weights
checkpoints.py   read weights of other programs; weight_files.py lists their files
state_keys.py    fit the keys of a checkpoint to a net
common_origin.py  whether nets were trained from the same weights
layer_reader.py  read layers of a net after their activation functions
layer_config.py  settings of a layer: its module, the point where it is read, the axis of units
layer_names.py  find a layer by its name
layer_layouts.py  the axes of images, units and positions of a layer
recording.py    what a net computes, by running it once
attention_heads.py  the heads of nn.MultiheadAttention
unit_axes.py    the axis of units of everything that a net computes
graphs.py       nets as graphs of torch.fx
activation_functions.py  the function that a layer is read after, and its input
privileged_bases.py  whether the basis of a layer's units is privileged
devices.py       choice of the device, reproducible arithmetic
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

from convergence.errors import ConfigError
from convergence.registry import Registry
from convergence.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from convergence.networks.preprocessing import Preprocessing

NETWORKS = Registry(
    "network",
    {
        "small": "convergence.networks.small:Small",
        "alexnet": "convergence.networks.alexnet:AlexNet",
        "transformer": "convergence.networks.transformer:Transformer",
        "torchvision": "convergence.networks.external:TorchvisionNetwork",
        "timm": "convergence.networks.timm_models:TimmNetwork",
        "hf": "convergence.networks.transformers_models:TransformersNetwork",
        "factory": "convergence.networks.external:FactoryNetwork",
    },
)
ZOOS = ("torchvision", "timm", "hf")
"""Networks that have models by name, as in ``torchvision:resnet18``."""
Task = Literal["classes", "next_token"]
"""What a net answers: the class of an input, or at each of its tokens the next one."""
PRE_ACTIVATIONS = "pre-activations of "
"""Key of the pre-activations of a layer among the values that are read: this, and the name of the layer."""


class NetworkSpec(Settings):
    """The ``network`` table of a group of nets; each network adds its own settings."""

    name: str

    def code(self) -> str:
        """Return ``module:attribute`` of the user's code that :meth:`build` runs; "" for networks of the toolkit."""
        return ""

    def code_folder(self) -> Path | None:
        """Return the folder beside the config from which that code is imported; None for other code."""
        return None

    def refusal(self) -> str:
        """Say why :meth:`build` may not run that code; "" if it may."""
        return ""

    def names_weights(self, text: str) -> bool:
        """Whether a text names weights of the network's model zoo; otherwise it is the path of a checkpoint."""
        return False

    def with_weights(self, name: str) -> NetworkSpec:
        """The network as it is built for some named weights, or ("") for those of a file."""
        return self

    def find_weights(self, name: str, download: bool) -> tuple[Path, ...]:
        """Files of named weights on this machine.

        Raises
        ------
        MissingWeightsError
            for weights that are not on this machine, unless ``download`` is set.
        """
        raise TypeError(f"{type(self).__name__} has no named weights")

    def read_weights(self, name: str, files: tuple[Path, ...], module: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Read named weights from their files as the model zoo does, with the keys of the built module."""
        raise TypeError(f"{type(self).__name__} has no named weights")

    def ignored_keys(self) -> tuple[str, ...]:
        """Return beginnings of the keys of checkpoints that the net does without."""
        return ()

    def preprocessing(self) -> Preprocessing | None:
        """Return how images have to be prepared for the named weights; None where that is not known."""
        return None

    def usual_shape(self) -> tuple[int, ...] | None:
        """Return the shape of the images that the model is made for, or (tokens,); None where that is not known."""
        return None

    def known_layers(self) -> Collection[str] | None:
        """Return the names of all layers; None where only the built net knows them."""
        return None

    def trained_for(self) -> Task:
        """Return what the net answers and is trained for."""
        return "classes"

    def check_tokens(self, n_tokens: int) -> None:
        """Raise ConfigError if the data have more tokens than the net; ``n_tokens`` is their largest id plus one."""

    def check_images(self, image_shape: tuple[int, ...]) -> None:
        """Raise ConfigError if the net cannot read images of a shape; by default every shape is valid."""

    def check_classes(self, n_classes: int) -> None:
        """Raise ConfigError if a net that has an output for each class is to be built for images without labels."""
        if not n_classes:
            raise ConfigError(
                f"the network {self.name} has an output for each class, and the images have no labels. Give labels, or "
                "nets whose number of outputs is known without them."
            )

    def build(self, image_shape: tuple[int, ...], n_classes: int) -> torch.nn.Module:
        """Build an untrained module in float32 on the CPU: (n, *image_shape) -> (n, n_classes) logits.

        ``n_classes`` is 0 for images without labels. A net for next tokens gives logits (n, tokens, n_tokens).

        Initial weights are drawn from torch's global generator, which the caller seeds. Only this method imports torch.
        """
        raise TypeError(f"{type(self).__name__} does not implement build()")
