"""Convert the weights of SpliceAI, and cut human DNA of the documentation of AUGUSTUS into windows."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from splice_nets import SpliceNet, convolutions, norms

FOLDER = Path(__file__).parent / "data"
PACKAGE, DEBIAN = "spliceai==1.3.1", "augustus-doc"
REGIONS = ("chr3.42M.fa", "chr4.103M.fa", "chr5.124M.fa")
"""Two million bases each of the human genome hg19."""
INSTALLED = Path("/usr/share/doc/augustus/tutorial/data")
LENGTH, WINDOWS, FAMILY, SEED = 2000, 160, 100_000, 1
"""Bases of a window, windows of a region, and bases of a family of windows."""


def main() -> None:
    """Write the files, if they are not there yet."""
    if (FOLDER / "families.npy").exists():
        return
    FOLDER.mkdir(exist_ok=True)
    convert_weights()
    cut_windows()


def convert_weights() -> None:
    """Read the Keras files of the package, which is downloaded and not installed: its code needs TensorFlow."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(FOLDER), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{PACKAGE} cannot be downloaded, so this study does not run here: {last_line(done.stderr)}")
    (wheel,) = FOLDER.glob("spliceai-*.whl")
    print("SpliceAI: code GPL-3; weights CC BY-NC 4.0, for non-commercial use (Illumina, Inc.)")
    with zipfile.ZipFile(wheel) as archive:
        for k in range(1, 6):
            with archive.open(f"spliceai/models/spliceai{k}.h5") as file, h5py.File(file) as weights:
                save_file(state_of(weights), FOLDER / f"splice{k}.safetensors")
    wheel.unlink()


def state_of(weights: h5py.File) -> dict[str, torch.Tensor]:
    """Weights of a net from a file of Keras, whose kernels have the axes (position, input, output)."""
    net = SpliceNet()
    group = weights.get("model_weights", weights)
    with torch.no_grad():
        for number, conv in enumerate(convolutions(net), start=1):
            own = group[f"conv1d_{number}/conv1d_{number}"]
            conv.weight.copy_(torch.from_numpy(own["kernel:0"][()].transpose(2, 1, 0).copy()))
            conv.bias.copy_(torch.from_numpy(own["bias:0"][()]))
        for number, norm in enumerate(norms(net), start=1):
            own = group[f"batch_normalization_{number}/batch_normalization_{number}"]
            for key, target in (("gamma", norm.weight), ("beta", norm.bias), ("moving_mean", norm.running_mean),
                                ("moving_variance", norm.running_var)):  # fmt: skip
                target.copy_(torch.from_numpy(own[f"{key}:0"][()]))
    return {name: value.contiguous() for name, value in net.state_dict().items()}


def cut_windows() -> None:
    """Windows of known bases at random places that do not overlap, one-hot coded, with their families."""
    rng = np.random.default_rng(SEED)
    inputs, families = [], []
    for region, name in enumerate(REGIONS):
        lines = fasta(name).splitlines()[1:]
        bases = np.frombuffer("".join(lines).upper().encode(), np.uint8)
        places = rng.permutation(len(bases) // LENGTH)
        known = [at for at in places if np.isin(bases[at * LENGTH : (at + 1) * LENGTH], list(b"ACGT")).all()]
        for at in sorted(known[:WINDOWS]):
            window = bases[at * LENGTH : (at + 1) * LENGTH]
            inputs.append(np.stack([window == base for base in b"ACGT"]).astype(np.float32))
            families.append(1000 * region + at * LENGTH // FAMILY)
    np.save(FOLDER / "windows.npy", np.stack(inputs))
    np.save(FOLDER / "families.npy", np.array(families))
    print(f"{len(inputs)} windows of {LENGTH:,} bases in {len(set(families))} families")


def fasta(name: str) -> str:
    """Text of a file of the Debian package, which is unpacked below the data if it is not installed."""
    if (INSTALLED / name).exists():
        return (INSTALLED / name).read_text()
    unpacked = FOLDER / "augustus"
    if not unpacked.exists():
        if shutil.which("apt-get") is None:
            sys.exit(f"{INSTALLED / name}: there is no such file. Install {DEBIAN} of Debian, which holds human DNA.")
        done = subprocess.run(["apt-get", "download", "-qq", DEBIAN], cwd=FOLDER, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{DEBIAN} cannot be downloaded, so this study does not run here: {last_line(done.stderr)}")
        (package,) = FOLDER.glob("augustus-doc_*.deb")
        subprocess.run(["dpkg-deb", "--extract", package.name, "augustus"], cwd=FOLDER, check=True)
        package.unlink()
    return (unpacked / str(INSTALLED)[1:] / name).read_text()


def last_line(text: str) -> str:
    """The last line of a message."""
    return (text.strip().splitlines() or ["no reason given"])[-1]


if __name__ == "__main__":
    main()
