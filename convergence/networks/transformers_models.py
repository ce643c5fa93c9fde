"""Networks of transformers: ``hf:<folder>`` or ``hf:<name>`` of a repository in the local cache.

The built module keeps the model's own module paths. It takes one tensor (images, or token ids) and answers with one
(:mod:`convergence.networks.answers`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from convergence.errors import ConfigError, FileError, did_you_mean, listed
from convergence.networks import NetworkSpec, Task
from convergence.networks.preprocessing import Preprocessing
from convergence.networks.weight_files import weight_files
from convergence.networks.zoo import DEFAULT, ZooNetwork, not_cached
from convergence.settings import expand_path

if TYPE_CHECKING:
    import torch

INSTALL = "transformers is not installed: pip install 'convergent-learning[hf]'"
PREFIX = "hf:"
GIVEN = "given"
"""``pretrained`` of nets whose weights are files: the config of the folder decides about the number of outputs."""
FILES = ["config.json", "preprocessor_config.json", "model*.safetensors", "*.index.json", "pytorch_model*.bin"]
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


class TransformersNetwork(ZooNetwork):
    """``hf:<folder or name>``: a model of transformers, with random initial weights or those of the folder."""

    name: str = Field(pattern=r"^hf:.+$", max_length=1000)
    options: dict[str, Any] = Field(default_factory=dict, description="Values of the model's config to replace.")
    model: str = Field(
        "", max_length=255, description="Class of transformers, for example 'AutoModel' or 'BertModel'. Default: the "
        "architecture in the config of the folder.",
    )  # fmt: skip
    task: Task = Field(
        "classes",
        description="What the net answers, and is trained for: a class of each input, or ('next_token') logits of the "
        "next token at every token, (n, tokens, vocabulary).",
    )

    def trained_for(self) -> Task:
        return self.task

    def names_weights(self, text: str) -> bool:
        return text == DEFAULT or text.startswith(PREFIX)

    def with_weights(self, name: str) -> NetworkSpec:
        return self.model_copy(update={"pretrained": GIVEN})

    def build(self, image_shape: tuple[int, ...], n_classes: int) -> torch.nn.Module:
        from convergence.networks.answers import inputs_of, with_answer

        config, model = self._config(n_classes), self._class()
        try:
            module: torch.nn.Module = model._from_config(config) if hasattr(model, "_from_config") else (
                model.from_config(config)
            )  # fmt: skip
        except Exception as error:
            raise self.failed(error) from error
        pad = getattr(config, "pad_token_id", None)
        return with_answer(
            module.float(), self.answer, inputs_of(module, pad if isinstance(pad, int) and pad >= 0 else 0)
        )

    def find_weights(self, name: str, download: bool) -> tuple[Path, ...]:
        text = self.name if name == DEFAULT else name
        return weight_files(_folder(text.removeprefix(PREFIX), download))

    def read_weights(self, name: str, files: tuple[Path, ...], module: torch.nn.Module) -> dict[str, torch.Tensor]:
        import torch

        try:
            loaded, about = self._class().from_pretrained(
                str(files[0].parent), config=self._config(0), local_files_only=True, output_loading_info=True,
                dtype=torch.float32, trust_remote_code=False, ignore_mismatched_sizes=True,
            )  # fmt: skip
        except Exception as error:
            raise FileError(f"{files[0].parent}: the weights could not be read: {error}.") from error
        problems = [
            f"{len(about[kind])} {words}: {listed(_first(about[kind]))}"
            for kind, words in (
                ("missing_keys", "keys of the net are missing in the files"),
                ("mismatched_keys", "arrays have another shape"),
            )
            if about[kind]
        ]
        if problems:
            raise FileError(
                f"{files[0].parent}: the weights do not fit {type(loaded).__name__}: {'. '.join(problems)}. Name the "
                'class that they were saved from, or a part of it: network.model = "AutoModel".'
            )
        return dict(loaded.state_dict())

    def preprocessing(self) -> Preprocessing | None:
        if not self.pretrained:
            return None
        import json

        try:
            folder = _folder(self.name.removeprefix(PREFIX), download=False)
            asked = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
            size = asked["size"]
            cropped = asked.get("crop_size") if asked.get("do_center_crop", "crop_size" in asked) else None
            crop = _side(cropped or size)
            size = (int(size["height"]), int(size["width"])) if "height" in size else _side(size)
            mean, deviation = tuple(asked["image_mean"]), tuple(asked["image_std"])
            return Preprocessing(size, crop, mean, deviation, RESAMPLING.get(asked.get("resample", 2), "bilinear"))
        except (OSError, ValueError, KeyError, TypeError, FileError):
            return None  # text, or not known

    def usual_shape(self) -> tuple[int, ...] | None:
        config = self._config(0)
        if hasattr(config, "vocab_size") and not hasattr(config, "image_size"):
            return (16,)
        size = getattr(config, "image_size", None)
        sides = (size, size) if isinstance(size, int) else tuple(size or ())
        return (int(getattr(config, "num_channels", 3)), *sides) if len(sides) == 2 else None

    def _config(self, n_classes: int) -> Any:
        """The config of the folder, with the options; classifiers from seeds have an output for each class."""
        transformers = _transformers()
        folder = _folder(self.name.removeprefix(PREFIX), download=False)
        try:
            config = transformers.AutoConfig.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, **self.options
            )
        except Exception as error:
            raise ConfigError(f"{self.name}: the config of the model cannot be used: {error}.") from error
        unknown = [name for name in self.options if not hasattr(config, name)]
        if unknown:
            raise ConfigError(
                f'{self.name}: network.options: the config has no "{unknown[0]}"; '
                f"{did_you_mean(unknown[0], config.to_dict())}"
            )
        if n_classes and not self.pretrained and "num_labels" not in self.options and self._class_name(config).endswith(
            ("ForImageClassification", "ForSequenceClassification")
        ):  # fmt: skip
            config.num_labels = n_classes
        return config

    def _class_name(self, config: Any) -> str:
        named = getattr(config, "architectures", None) or ["AutoModel"]
        return self.model or str(named[0])

    def _class(self) -> Any:
        transformers = _transformers()
        folder = _folder(self.name.removeprefix(PREFIX), download=False)
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        name = self._class_name(config)
        found = getattr(transformers, name, None)
        if not isinstance(found, type) or not hasattr(found, "from_pretrained"):
            raise ConfigError(
                f'{self.name}: transformers has no model "{name}". Name one: network.model = "AutoModel". Models whose '
                "code comes with their files are not run."
            )
        return found


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(f"{INSTALL}.") from error
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # missing keys are an error here
    return transformers


def _folder(text: str, download: bool) -> Path:
    """The folder of a model: a local one, or that of a repository in the cache of huggingface_hub."""
    path = expand_path(text)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileError(f"{path}: the folder has no config.json. Save the model with save_pretrained.")
        return path
    _transformers()
    from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(text, "config.json")
    except HFValidationError as error:
        raise FileError(f"{PREFIX}{text}: there is no such folder, and it is no name of a repository.") from error
    if isinstance(found, str):
        return Path(found).parent
    if not download:
        raise not_cached(f"{PREFIX}{text}", str(constants.HF_HUB_CACHE), "give the folder of the model")
    try:
        return Path(snapshot_download(text, allow_patterns=FILES))
    except Exception as error:  # errors of the hub and of the network have no common type
        raise FileError(f"{PREFIX}{text}: it could not be downloaded: {error}.") from error


def _first(found: Iterable[Any]) -> list[str]:
    """The first eight of some keys, which transformers returns as texts or tuples."""
    return sorted(str(one[0] if isinstance(one, tuple) else one) for one in found)[:8]


def _side(size: Any) -> int:
    if isinstance(size, dict):
        size = size.get("shortest_edge") or size["height"]
    return int(size)
