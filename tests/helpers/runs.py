"""Configs and activations of the shared runs, and what tests do with the files of a run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np

TINY = """
name = "tiny"
[data]
name = "digits"
[[nets]]
seeds = [1, 2]
network = { name = "small", channels = [6, 8], hidden = [12] }
[[nets]]
label = "untrained"
seeds = [11, 12]
network = { name = "small", channels = [6, 8], hidden = [12] }
trained = false
[training]
epochs = 2
threads = 1
[statistics]
comparisons = ["conv1", "conv2", "fc1"]
max_images = 200
groups = 5
batch_size = 16
shifted_null = true
threads = 1
[statistics.mutual_information]
positions = 20
[analysis]
rotations = 3
[analysis.sparse]
alphas = 6
max_units = 4
[pictures.maximization]
steps = 16
[report]
formats = ["svg"]
"""
ORDER, OTHER = [3, 0, 5, 1, 7, 2, 6, 4], [1, 2, 3, 4, 5, 6, 7, 0]
PLANTED = """
name = "planted"
[activations]
root = "{root}"
untrained = ["alone"]
labels = "labels.npy"
nonlinearity = "relu"
[activations.nets]
net1 = {{ conv1 = "net1_conv1.npy", fc = "net1_fc.npy" }}
net2 = {{ conv1 = "net2_conv1.npy", fc = "net2_fc.npy" }}
net3 = {{ conv1 = "net3_conv1.npy", fc = "net3_fc.npy" }}
alone = {{ conv1 = "alone_conv1.npy", fc = "alone_fc.npy" }}
[activations.pre]
net1 = {{ conv1 = "net1_conv1_pre.npy", fc = "net1_fc_pre.npy" }}
net2 = {{ conv1 = "net2_conv1_pre.npy", fc = "net2_fc_pre.npy" }}
net3 = {{ conv1 = "net3_conv1_pre.npy", fc = "net3_fc_pre.npy" }}
alone = {{ conv1 = "alone_conv1_pre.npy", fc = "alone_fc_pre.npy" }}
[statistics]
comparisons = ["conv1", "fc"]
groups = 6
batch_size = 40
subset = 40
shifted_null = true
threads = 1
[statistics.mutual_information]
bins = 4
blocks = 3
[analysis]
rotations = 3
[analysis.sparse]
alphas = 5
max_units = 3
[analysis.clustering]
max_clusters = 5
"""


def planted_activations() -> dict[str, np.ndarray]:
    """Of 240 images of three classes: conv1 with 8 units at 3 × 3 positions, fc with 8 units.

    Pre-activations have the suffix _pre.
    """
    rng = np.random.default_rng(7)
    found = {}
    for layer, shape in (("conv1", (240, 8, 3, 3)), ("fc", (240, 8))):
        base = rng.standard_normal(shape)
        for net, order in (("net1", range(8)), ("net2", ORDER), ("net3", OTHER)):
            own = np.empty(shape)
            own[:, list(order)] = base
            noisy = own + 0.5 * rng.standard_normal(shape)
            found[f"{net}_{layer}_pre"] = noisy.astype(np.float32)
        found[f"alone_{layer}_pre"] = rng.standard_normal(shape).astype(np.float32)
    found["net2_fc_pre"][:, 6] = 0  # a unit that carries nothing
    found |= {name.removesuffix("_pre"): np.maximum(values, 0) for name, values in found.items()}
    found["labels"] = np.arange(240) % 3
    return found


def datasets(path: Path) -> dict[str, str]:
    """SHA-256 of every dataset of an HDF5 file, read with h5py alone."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            values = np.asarray(item[()])
            found[name] = hashlib.sha256(
                repr(values).encode() if values.dtype == object else values.tobytes()
            ).hexdigest()

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def forget_statistics(run: Path) -> None:
    """Have the statistics of a copied run made again."""
    (run / "statistics.h5").unlink(missing_ok=True)
    (run / "statistics.json").unlink(missing_ok=True)
