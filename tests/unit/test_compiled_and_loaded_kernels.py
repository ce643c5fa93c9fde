"""Kernels that were compiled in the process give the bits of kernels that were loaded from numba's cache."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import hashlib
import numpy as np
from convergence.alignment import sparse
from convergence.clustering.k_means import k_means
from convergence.statistics.moments import Moments

rng = np.random.default_rng(0)
factors = rng.standard_normal((4100, 12))
mixing = rng.standard_normal((12, 128)) * (rng.random((12, 128)) < 0.3)
units = np.maximum(factors @ mixing + 0.5 * rng.standard_normal((4100, 128)) - 0.3, 0)
r = np.corrcoef(units, rowvar=False)
r_xx, r_xy = r[:96, :96].copy(), r[:96, 96:].copy()
path = sparse.lasso_path(r_xx, r_xy, np.geomspace(0.9, 0.001, 20))
r_xx[:, 0] = r_xx[:, 1]
r_xx[0] = r_xx[1]                         # a copy of a unit: homotopy stops, coordinate descent continues
r_xy[0] = r_xy[1]
copies = sparse.lasso_path(r_xx, r_xy, np.geomspace(0.9, 0.001, 20))
fit, losses = sparse.refit(r_xx, r_xy, copies.weights)
order, forward = sparse.forward_selection(r_xx, r_xy, 12)
moments = Moments(np.zeros(128))
moments.update(np.ascontiguousarray(units.T, np.float32))
found = {
    "homotopy": (path.weights, path.loss), "coordinate descent": (copies.weights, copies.loss), "refit": (fit, losses),
    "forward": (order, forward), "loss": (sparse.sparse_loss(r_xx, r_xy, fit),),
    "k-means": (k_means(units[:, :9], 7, 0)[0], np.array(k_means(units[:, :9], 7, 0)[1])),
    "moments": (moments.sums, moments.products),
}
for name, arrays in found.items():
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))
    print(name, digest.hexdigest())
"""


def test_compiled_and_loaded_kernels_give_the_same_bits(tmp_path):
    printed = []
    for _ in range(2):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert list(tmp_path.rglob("*.nbc"))  # the second process had something to load
    assert printed[0].count("\n") == 7
    assert printed[0] == printed[1]
