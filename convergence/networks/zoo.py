"""What model zoos have in common: named weights, the answer of a net, and files in the cache of torch.hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlparse

from pydantic import Field

from convergence.errors import ConfigError, FileError, shown
from convergence.networks import NetworkSpec
from convergence.networks.weight_files import MissingWeightsError

DEFAULT = "DEFAULT"
FILE_ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".safetensors", ".json", ".npz", ".pkl")
Answer = Annotated[int, Field(ge=0, le=1000)] | Annotated[str, Field(min_length=1, max_length=255)]


class AnsweringNetwork(NetworkSpec):
    """Base of the networks of other programs: options of the builder, and the choice of the answer."""

    options: dict[str, Any] = Field(default_factory=dict, description="Further arguments of the model's builder.")
    answer: Answer | None = Field(
        None, description="Which tensor is the answer of a net that returns several: its index in a tuple, or its key. "
        "Default: the logits, the last hidden state, or the only floating tensor.",
    )  # fmt: skip


class ZooNetwork(AnsweringNetwork):
    """Base of the networks of model zoos."""

    pretrained: str = Field(
        "", max_length=255, description="Named weights that the architecture is for; set by weights of the group."
    )

    def names_weights(self, text: str) -> bool:
        return bool(re.fullmatch(r"[A-Za-z0-9_.-]+", text)) and not text.lower().endswith(FILE_ENDINGS)

    def with_weights(self, name: str) -> NetworkSpec:
        return self.model_copy(update={"pretrained": name})

    def failed(self, error: Exception) -> ConfigError:
        """The error for a model that could not be built."""
        return ConfigError(f"{self.name} could not be built with options {shown(self.options)}: {error}")


def hub_file(url: str, what: str, download: bool) -> Path:
    """The file of a URL in the cache of torch.hub, where torchvision and timm keep it.

    Raises
    ------
    MissingWeightsError
        if it is not there and may not be downloaded.
    FileError
        if the download failed.
    """
    import torch

    name = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.exists():
        return path
    if not download:
        raise not_cached(what, str(path), f"copy {url} there")
    path.parent.mkdir(parents=True, exist_ok=True)
    found = re.search(r"-([a-f0-9]{8,})\.", name)
    try:
        torch.hub.download_url_to_file(url, str(path), found[1] if found else None)
    except Exception as error:  # of urllib, of the hash, of the disk
        raise FileError(f"{what}: {url} could not be downloaded: {error}.") from error
    return path


def not_cached(what: str, place: str, remedy: str) -> MissingWeightsError:
    """The error for weights that are not on this machine."""
    return MissingWeightsError(
        f"{what}: the weights are not in the cache of this machine ({place}), and nothing is downloaded unless asked. "
        f"Set download = true in the group of nets, or {remedy}."
    )


def check_named_hash(path: Path, sha256: str) -> None:
    """Raise FileError for a file whose name holds the beginning of its SHA-256, as those of torch.hub, and another one.

    ``resnet18-f37072fd.pth`` has a SHA-256 that begins with f37072fd.
    """
    found = re.search(r"-([a-f0-9]{8,64})\.(?:pth|pt|th)$", path.name)
    if found and not sha256.startswith(found[1]):
        raise FileError(
            f"{path}: the SHA-256 of the file begins with {sha256[:8]}, and its name says {found[1]}: the download was "
            "interrupted, or the file was changed. Remove it and download it again."
        )
