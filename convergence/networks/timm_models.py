"""Networks of timm by name: ``timm:resnet18``, or ``timm:resnet18.a1_in1k`` with the tag of named weights."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from convergence.errors import ConfigError, did_you_mean
from convergence.networks.preprocessing import Preprocessing
from convergence.networks.zoo import DEFAULT, ZooNetwork, hub_file, not_cached

if TYPE_CHECKING:
    import torch

INSTALL = "timm is not installed: pip install 'convergent-learning[timm]'"
CACHED_NAMES = ("model.safetensors", "pytorch_model.bin")


class TimmNetwork(ZooNetwork):
    """``timm:<model>``: a model of timm, with its initialisation or named weights."""

    name: str = Field(pattern=r"^timm:[A-Za-z0-9_]+(\.[A-Za-z0-9_.-]+)?$", max_length=255)

    def build(self, image_shape: tuple[int, ...], n_classes: int) -> torch.nn.Module:
        from convergence.networks.answers import with_answer

        arguments: dict[str, Any] = {}
        if not self.pretrained:
            if n_classes:
                arguments["num_classes"] = n_classes
            if len(image_shape) == 3 and image_shape[0] != 3:
                arguments["in_chans"] = image_shape[0]
        return with_answer(self._create(self.pretrained, arguments | self.options), self.answer)

    def find_weights(self, name: str, download: bool) -> tuple[Path, ...]:
        config = self._config(name)
        what = f"{self.name}, weights {name}"
        if config.file:
            return (Path(config.file),)
        if config.hf_hub_id:
            names = (config.hf_hub_filename,) if config.hf_hub_filename else CACHED_NAMES
            return (_hub_repository_file(config.hf_hub_id, names, what, download),)
        if config.url:
            return (hub_file(config.url, what, download),)
        raise ConfigError(f"{what}: timm has no weights of this model. Give files, or seeds.")

    def read_weights(self, name: str, files: tuple[Path, ...], module: torch.nn.Module) -> dict[str, torch.Tensor]:
        overlay = {"file": str(files[0])}
        loaded = self._create(name, self.options, pretrained=True, pretrained_cfg_overlay=overlay)
        return dict(loaded.state_dict())

    def preprocessing(self) -> Preprocessing | None:
        if not self.pretrained:
            return None
        from timm.data import resolve_data_config

        asked = resolve_data_config(pretrained_cfg=self._config(self.pretrained).to_dict())
        side = int(asked["input_size"][-1])
        scaled = math.floor(side / float(asked["crop_pct"]))
        resize = (scaled, scaled) if asked.get("crop_mode") == "squash" else scaled
        return Preprocessing(resize, side, tuple(asked["mean"]), tuple(asked["std"]), str(asked["interpolation"]))

    def usual_shape(self) -> tuple[int, ...] | None:
        return tuple(int(size) for size in self._config(self.pretrained).input_size)

    def _full_name(self, pretrained: str) -> str:
        """Name of the model with the tag of weights."""
        model = self.name.removeprefix("timm:")
        return model if pretrained in ("", DEFAULT) else f"{model.partition('.')[0]}.{pretrained}"

    def _create(self, tag: str, arguments: dict[str, Any], **more: Any) -> torch.nn.Module:
        timm = _timm()
        name = self._full_name(tag)
        self._check_name(name)
        try:
            module: torch.nn.Module = timm.create_model(name, **{"pretrained": False, **more}, **arguments)
        except Exception as error:
            raise self.failed(error) from error
        return module

    def _config(self, pretrained: str) -> Any:
        """What timm knows about the weights of a name."""
        timm = _timm()
        name = self._full_name(pretrained)
        self._check_name(name)
        return timm.get_pretrained_cfg(name)

    def _check_name(self, name: str) -> None:
        timm = _timm()
        model, _, tag = name.partition(".")
        if not timm.is_model(model):
            raise ConfigError(f'timm has no model "{model}"; {did_you_mean(model, timm.list_models())}')
        tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{model}.*")]
        if tag and tag not in tags:
            raise ConfigError(f'timm:{model} has no weights "{tag}"; {did_you_mean(tag, tags)}')


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"{INSTALL}.") from error
    logging.getLogger("timm").setLevel(logging.WARNING)  # it tells of every file that it loads
    return timm


def _hub_repository_file(repository: str, names: tuple[str, ...], what: str, download: bool) -> Path:
    """The first of some files of a repository in the cache of huggingface_hub."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    repository, _, revision = repository.partition("@")
    for name in names:
        found = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    if not download:
        raise not_cached(what, f"{repository} in {constants.HF_HUB_CACHE}", f"copy the cache of {repository} there")
    reasons = []
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, revision=revision or None))
        except Exception as error:  # errors of the hub and of the network have no common type
            reasons.append(str(error).splitlines()[0] if str(error) else type(error).__name__)
    raise ConfigError(f"{what}: {repository} could not be downloaded: {'; '.join(reasons)}.")
