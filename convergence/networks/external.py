"""External networks: any torchvision classifier by name, or any factory of a module by import path."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from convergence.data.named_function import NamedFunction
from convergence.errors import ConfigError, did_you_mean
from convergence.networks import Task
from convergence.networks.factories import call_factory, load_factory, refusal
from convergence.networks.preprocessing import Preprocessing
from convergence.networks.zoo import DEFAULT, AnsweringNetwork, ZooNetwork, hub_file

if TYPE_CHECKING:
    import torch

AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""Heads that only training uses, and that named weights come with."""
DENSE = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var))$")
"""Keys of torchvision's DenseNets as their files have them: ``norm.1.weight`` is ``norm1.weight``."""


class TorchvisionNetwork(ZooNetwork):
    """``torchvision:<model>``: a classifier of torchvision, with its initialisation or named weights."""

    name: str = Field(pattern=r"^torchvision:[A-Za-z0-9_]+$", max_length=255)

    @property
    def _model(self) -> str:
        return self.name.removeprefix("torchvision:")

    def build(self, image_shape: tuple[int, ...], n_classes: int) -> torch.nn.Module:
        from torchvision import models

        from convergence.networks.answers import with_answer

        known = models.list_models(module=models)
        if self._model not in known:
            raise ConfigError(f'torchvision has no classifier "{self._model}"; {did_you_mean(self._model, known)}')
        arguments: dict[str, Any] = {"num_classes": n_classes} if n_classes else {}
        if self._model in AUXILIARY:
            arguments |= {"aux_logits": False, "init_weights": not self.pretrained}
        if self.pretrained:
            arguments |= self._of_weights(self._named(self.pretrained))
        try:
            module: torch.nn.Module = models.get_model(self._model, weights=None, **arguments | self.options)
        except Exception as error:
            raise self.failed(error) from error
        return with_answer(module, self.answer)

    def find_weights(self, name: str, download: bool) -> tuple[Path, ...]:
        return (hub_file(self._named(name).url, f"{self.name}, weights {name}", download),)

    def read_weights(self, name: str, files: tuple[Path, ...], module: torch.nn.Module) -> dict[str, torch.Tensor]:
        from convergence.networks.checkpoints import read_checkpoint

        state = read_checkpoint(files[0]).state
        return {DENSE.sub(r"\1\2", key): value for key, value in state.items()}

    def ignored_keys(self) -> tuple[str, ...]:
        return AUXILIARY.get(self._model, ())

    def preprocessing(self) -> Preprocessing | None:
        if not self.pretrained:
            return None
        asked = self._named(self.pretrained).transforms()
        return Preprocessing(
            asked.resize_size[0], asked.crop_size[0], tuple(asked.mean), tuple(asked.std), asked.interpolation.value
        )

    def usual_shape(self) -> tuple[int, ...] | None:
        from torchvision import models

        if self._model not in models.list_models(module=models):
            return None
        side = int(models.get_model_weights(self._model)[self.pretrained or DEFAULT].transforms().crop_size[0])
        return 3, side, side

    def _named(self, name: str) -> Any:
        """The weights of a name."""
        from torchvision import models

        try:
            known = models.get_model_weights(self._model)
        except ValueError as error:
            raise ConfigError(
                f'torchvision has no classifier "{self._model}"; {did_you_mean(self._model, models.list_models())}'
            ) from error
        if name != DEFAULT and name not in known.__members__:
            raise ConfigError(
                f'{self.name} has no weights "{name}"; {did_you_mean(name, [*known.__members__, DEFAULT])}. A file is '
                "named by its path, for example ./weights.pt"
            )
        return known[name]

    def _of_weights(self, weights: Any) -> dict[str, Any]:
        """Arguments that torchvision's builders set for named weights."""
        arguments: dict[str, Any] = {"num_classes": len(weights.meta["categories"])}
        if self._model in AUXILIARY:
            arguments["transform_input"] = True
        if self._model.startswith("vit_"):
            arguments["image_size"] = weights.meta["min_size"][0]
        if self._model.startswith("maxvit"):
            arguments["input_size"] = weights.meta["min_size"]
        return arguments


class FactoryNetwork(NamedFunction, AnsweringNetwork):
    """``package.module:factory``: a callable that returns a ``torch.nn.Module``.

    It is called with the options, and with ``image_shape`` and ``n_classes`` if it names such parameters; without
    ``n_classes`` for images without labels.
    """

    task: Task = Field(
        "classes",
        description="What the net answers, and is trained for: a class of each input, or ('next_token') logits of the "
        "next token at every token, (n, tokens, vocabulary).",
    )

    def trained_for(self) -> Task:
        return self.task

    def refusal(self) -> str:
        return refusal(self.name, self._folder)

    def build(self, image_shape: tuple[int, ...], n_classes: int) -> torch.nn.Module:
        import torch

        from convergence.networks.answers import with_answer

        factory = load_factory(self.name, self._folder)
        offered = {"image_shape": image_shape} | ({"n_classes": n_classes} if n_classes else {})
        by_name = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
        named = {name for name, one in inspect.signature(factory).parameters.items() if one.kind in by_name}
        arguments = {name: value for name, value in offered.items() if name in named} | self.options
        module = call_factory(self.name, factory, arguments)
        if not isinstance(module, torch.nn.Module):
            raise ConfigError(f"{self.name} returned a {type(module).__name__}; it must return a torch.nn.Module.")
        return with_answer(module, self.answer)
