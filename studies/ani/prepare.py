"""Write the weights of the eight nets of ANI-1x, and atoms of molecules as their inputs, into a folder.

An input is a conformer of a molecule: one of its atoms of each element, drawn at random. The conformers of a molecule
are a family. Nothing is downloaded: the package torchani holds the parameters.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "data"
N_NETS, N_CONFORMERS, SEED = 8, 24, 1


def main() -> None:
    """Write the files, if they are not there yet."""
    if (FOLDER / "atoms.npy").exists():
        return
    warnings.simplefilter("ignore")  # of torchani: pkg_resources, and its CUDA extension
    try:
        import torchani
        from rdkit import RDLogger
    except ImportError as error:
        sys.exit(
            f"{error}: this study needs the packages of studies/ani/requirements.txt; make study NAME=ani gets them."
        )
    RDLogger.DisableLog("rdApp.*")
    resources = Path(torchani.__file__).parent / "resources" / "ani-1x_8x"
    if not (resources / "train7" / "networks").is_dir():
        sys.exit(f"{resources}: the eight nets of ANI-1x are not in this version of torchani; install torchani==2.2.4.")
    constants = torchani.neurochem.Constants(str(resources / "rHCNO-5.2R_16-3.5A_a4-8.params"))
    FOLDER.mkdir(exist_ok=True)
    for k in range(N_NETS):
        write_weights(
            torchani.neurochem.load_model(constants.species, str(resources / f"train{k}" / "networks")), k + 1
        )
    write_atoms(torchani.AEVComputer(**constants), constants.species)


def write_weights(model: Any, number: int) -> None:
    """Write a net with the names of ani_nets.py."""
    from safetensors.torch import save_file

    weights = {}
    for element, net in model.items():
        for name, values in net.state_dict().items():
            layer, kind = name.split(".")
            place = "energy" if layer == "6" else f"layer{int(layer) // 2 + 1}"
            weights[f"{element}.{place}.{kind}"] = values.float().contiguous()
    save_file(weights, str(FOLDER / f"ani{number}.safetensors"))


def write_atoms(environments: Any, elements: list[str]) -> None:
    """Write AEVs (conformers, elements, 384) of one atom of each element, and the molecule of each conformer."""
    import torch

    generator = np.random.default_rng(SEED)
    rows, families = [], []
    lines = (Path(__file__).parent / "molecules.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("#"):
            continue
        smiles, name = line.split()
        symbols, places = conformers(smiles)
        if not len(places):
            print(f"{name}: no conformer was found; left out", file=sys.stderr)
            continue
        species = torch.tensor([elements.index(symbol) for symbol in symbols]).expand(len(places), -1)
        values = environments((species, torch.tensor(places, dtype=torch.float32))).aevs.numpy()
        of_element = [np.flatnonzero(symbols == element) for element in elements]
        for conformer in values:
            rows.append(np.stack([conformer[generator.choice(atoms)] for atoms in of_element]))
            families.append(name)
    np.save(FOLDER / "molecules.npy", np.array(families))
    np.save(FOLDER / "atoms.npy", np.stack(rows).astype(np.float32))
    print(f"{len(rows):,} conformers of {len(set(families))} molecules")


def conformers(smiles: str) -> tuple[Any, Any]:
    """Symbols (atoms,) and coordinates (conformers, atoms, 3) in angstrom; fewer conformers where none are found."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    settings = AllChem.ETKDGv3()
    settings.randomSeed, settings.numThreads = SEED, 1
    AllChem.EmbedMultipleConfs(molecule, N_CONFORMERS, settings)
    symbols = np.array([atom.GetSymbol() for atom in molecule.GetAtoms()])
    return symbols, np.array([conformer.GetPositions() for conformer in molecule.GetConformers()])


if __name__ == "__main__":
    main()
