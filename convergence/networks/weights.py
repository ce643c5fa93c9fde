"""Weights of a net: initialise from a seed, save to files of plain arrays, and load."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from convergence.errors import FileError
from convergence.io.files import atomic_write
from convergence.io.seal import check_regular
from convergence.networks import NetworkSpec

OUTPUTS = "n_outputs"
"""Key of the number of outputs among the metadata of a file of weights."""


def initialise(network: NetworkSpec, seed: int, image_shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """Build a net with the initial weights of a seed, in float32 on the CPU; the global random state is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network.build(image_shape, n_classes)


def weights_path(folder: Path, epoch: int | None = None) -> Path:
    """Path of the weights after an epoch (0: initial weights, None: final weights)."""
    return folder / "weights.safetensors" if epoch is None else folder / "epochs" / f"{epoch:05d}.safetensors"


def save_weights(module: nn.Module, folder: Path, epoch: int | None = None, n_outputs: int = 0) -> None:
    """Write the weights of a net to :func:`weights_path`, as plain arrays without code, with their checksum.

    ``n_outputs`` is the ``n_classes`` that the net was built with, if it is not that of the data.
    """
    from safetensors.torch import save

    state = state_arrays(module)
    with atomic_write(weights_path(folder, epoch)) as temporary:
        about = {"sha256": arrays_sha256(state)} | ({OUTPUTS: str(n_outputs)} if n_outputs else {})
        content = save(state, about)
        temporary.write_bytes(content)  # save_file makes its own temporary file, which a kill would leave


def _outputs(path: Path) -> int:
    """The number of outputs that :func:`save_weights` wrote; 0 if it is that of the data."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(OUTPUTS, "0")
    return int(text) if text.isdecimal() and len(text) < 9 else 0


def arrays_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) of the names, types, shapes and bytes of arrays, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_checked(path: Path) -> dict[str, torch.Tensor]:
    """Load the arrays of a safetensors file, and verify their checksum if the file has one.

    Raises
    ------
    FileError
        for arrays that do not match their checksum.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    check_regular(path)
    with safe_open(path, "pt") as file:
        wanted = (file.metadata() or {}).get("sha256")
    state: dict[str, torch.Tensor] = load_file(path)
    if wanted is not None and wanted != arrays_sha256(state):
        raise FileError(
            f"{path}: the weights do not match their checksum: the file was damaged after it was written. Copy it "
            "again, or remove it and make it again."
        )
    return state


def state_arrays(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights and buffers of a net as contiguous arrays on the CPU, as weights files hold them.

    A tensor that several modules share (tied weights) is an array of its own for each of them, of equal values.
    """
    state: dict[str, torch.Tensor] = {}
    memories: set[int] = set()
    for name, value in module.state_dict().items():
        array = value.detach().cpu().contiguous()
        memory = array.untyped_storage().data_ptr()
        state[name] = array.clone() if memory in memories else array
        memories.add(memory)
    return state


def load_arrays(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load plain arrays into a net, with the version metadata that some modules need; raises as load_state_dict."""
    versioned = OrderedDict(state)
    versioned._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    module.load_state_dict(versioned)


def load_net(
    folder: Path,
    network: NetworkSpec,
    image_shape: tuple[int, ...],
    n_classes: int,
    epoch: int | None = None,
) -> nn.Module:
    """Load a net with its final weights, or the kept weights of an epoch, in evaluation mode on the CPU.

    Raises
    ------
    FileError
        if the weights are missing, damaged, of another network, or in another precision than float32.
    """
    from safetensors import SafetensorError

    path = weights_path(folder, epoch)
    if not path.exists():
        what = "the net has no weights yet" if epoch is None else f"the weights of epoch {epoch} were not kept"
        remedy = "" if epoch is None else f" with {epoch} among training.keep_epochs"
        raise FileError(f"{path}: {what}. Run `convergence train`{remedy} first.")
    try:
        state = load_checked(path)
        module = initialise(network, 0, image_shape, _outputs(path) or n_classes)
        coarse = sorted({str(value.dtype) for value in state.values() if value.is_floating_point()} - {"torch.float32"})
        if coarse:
            raise FileError(
                f"{path}: weights are stored as {', '.join(coarse)}; float32 is needed, because results in float32 "
                "would differ from those of the trained net. Train the net with this toolkit."
            )
        load_arrays(module, state)
    except (SafetensorError, OSError) as error:
        raise FileError(
            f"{path}: the weights are damaged ({error}). Remove {folder} and train the net again."
        ) from error
    except RuntimeError as error:
        raise FileError(f"{path}: the weights are those of another network: {error}. Train the net again.") from error
    return module.eval()
