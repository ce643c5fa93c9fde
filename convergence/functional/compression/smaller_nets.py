"""Save pruned nets as weights and the units that they keep, and load them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from convergence.config.schema import NetGroup
from convergence.errors import FileError, UserError
from convergence.functional.surgery.permutations import permutation_groups, selected
from convergence.io.files import atomic_write
from convergence.networks import NetworkSpec
from convergence.networks.weights import initialise, load_arrays, load_checked, save_weights, weights_path

FORMAT = 1
DESCRIPTION = "smaller.json"


def save_smaller(
    module: nn.Module,
    folder: Path,
    network: NetworkSpec,
    image_shape: tuple[int, ...],
    n_classes: int,
    kept: Mapping[str, npt.ArrayLike],
    about: Mapping[str, Any],
) -> None:
    """Write ``weights.safetensors`` and ``smaller.json``: the network, and the units of each group that are kept.

    ``about`` is written, too, for readers of the file: how the units were chosen, what the net costs.
    """
    units = {name: np.asarray(some).tolist() for name, some in kept.items()}
    description = {
        "format": FORMAT,
        **about,
        "network": network.model_dump(mode="json"),
        "image_shape": list(image_shape),
        "n_classes": n_classes,
        "widths": {name: len(some) for name, some in units.items()},
        "kept": units,
    }
    save_weights(module, folder)
    with atomic_write(folder / DESCRIPTION) as temporary:
        temporary.write_text(json.dumps(description, indent=1), encoding="utf-8")


def load_smaller(folder: str | Path) -> nn.Module:
    """Load a net that :func:`save_smaller` wrote, in evaluation mode on the CPU.

    Raises
    ------
    FileError
        when a file is missing, damaged, of a newer format, or does not fit the other.
    """
    from safetensors import SafetensorError

    folder = Path(folder)
    path, weights = folder / DESCRIPTION, weights_path(folder)
    for file in (path, weights):
        if not file.exists():
            raise FileError(f"{file}: there is no such file. It is made by: convergence compress CONFIG.")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if description["format"] > FORMAT:
            raise FileError(
                f"{path}: format {description['format']} was written by a newer convergence; this one reads up to "
                f"{FORMAT}. Update the package."
            )
        network = NetGroup.model_validate({"network": description["network"], "seeds": [0]}).network
        shape = tuple(int(side) for side in description["image_shape"])
        whole = initialise(network, 0, shape, int(description["n_classes"]))
        module = selected(whole, permutation_groups(whole, shape), description["kept"])
        load_arrays(module, load_checked(weights))
    except FileError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, RuntimeError, SafetensorError, OSError, UserError) as error:
        raise FileError(
            f"{folder}: the smaller net cannot be read ({error}). Make it again: "
            "convergence compress CONFIG --overwrite."
        ) from error
    return module.eval()
