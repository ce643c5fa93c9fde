"""Given activations go through the same stages to the same numbers, without torch."""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pytest

from convergence.cli import main
from tests.helpers.analysis_rows import rows

pytestmark = pytest.mark.slow

CONFIG = """
name = "given"
[activations]
root = "{root}"
untrained = ["c"]
[activations.nets.a]
conv = "a_conv.npy"
fc = "more.npz:a"
[activations.nets.b]
conv = "b.h5:maps/conv"
fc = "more.npz:b"
[activations.nets.c]
conv = "c_conv.npy"
fc = "c_fc.npy"
[statistics]
comparisons = ["conv", "fc"]
groups = 4
batch_size = 7
precision = "float64"
threads = 1
[statistics.mutual_information]
positions = 3
[analysis]
rotations = 2
"""


@pytest.fixture
def arrays(tmp_path) -> dict[str, np.ndarray]:
    """Two nets with the same units in another order, and one with others; fc of double precision."""
    rng = np.random.default_rng(0)
    conv = np.maximum(rng.standard_normal((50, 6, 4, 4)), 0).astype(np.float32)
    fc = rng.standard_normal((50, 5))
    found = {
        "a_conv": conv, "b_conv": conv[:, ::-1], "c_conv": rng.standard_normal((50, 4, 2, 2)).astype(np.float32),
        "a_fc": fc, "b_fc": fc[:, [2, 0, 1, 4, 3]], "c_fc": rng.integers(0, 9, (50, 3)),
    }  # fmt: skip
    np.save(tmp_path / "a_conv.npy", found["a_conv"])
    np.save(tmp_path / "c_conv.npy", found["c_conv"])
    np.save(tmp_path / "c_fc.npy", found["c_fc"])
    np.savez(tmp_path / "more.npz", a=found["a_fc"], b=found["b_fc"])
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["maps/conv"] = found["b_conv"]
    (tmp_path / "given.toml").write_text(CONFIG.format(root=tmp_path.as_posix()), encoding="utf-8")
    return found


def test_given_activations_reach_the_report_without_torch(arrays, tmp_path):
    code = (
        "import sys\n"
        "class NotInstalled:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'torchvision', 'mpi4py', 'safetensors'}:\n"
        "            raise ModuleNotFoundError(f'no module named {name}', name=name)\n"
        "sys.meta_path.insert(0, NotInstalled())\n"
        "from convergence.cli import main\n"
        "for verb in ('run', 'show'):\n"
        "    assert main([verb, sys.argv[1], '--runs', sys.argv[2]]) == 0, verb\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "given.toml"), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "4 of 4" in done.stdout
    analysis = tmp_path / "given" / "analysis.h5"
    assert rows(analysis, "conv", "matching", x="a", y="b")["unit_y"].tolist() == [5, 4, 3, 2, 1, 0]
    assert rows(analysis, "fc", "matching", x="a", y="b")["unit_y"].tolist() == [1, 2, 0, 4, 3]
    with h5py.File(analysis) as file:
        correlation = file["comparisons/fc/correlation"][()]
    joined = np.concatenate([arrays["a_fc"], arrays["b_fc"], arrays["c_fc"]], axis=1).astype(np.float32)
    assert np.abs(correlation - np.corrcoef(joined.astype(float), rowvar=False)).max() < 1e-12
    with h5py.File(tmp_path / "given" / "statistics.h5") as file:
        assert list(file["comparisons/conv"].attrs["map_shape"]) == [2, 2]
        assert file["comparisons/conv/group_count"][()].sum() == 50 * 4
    page = (tmp_path / "given" / "report" / "index.html").read_text(encoding="utf-8")
    assert "nan" not in page.split("The nets")[1].split("</table>")[0]


def test_changed_array_makes_the_statistics_stale(arrays, tmp_path, caplog):
    arguments = ["statistics", str(tmp_path / "given.toml"), "--runs", str(tmp_path)]
    assert main(arguments) == 0
    np.save(tmp_path / "c_fc.npy", np.concatenate([arrays["c_fc"], arrays["c_fc"]], axis=1))
    with caplog.at_level("INFO"):
        assert main(arguments) == 0
    assert "files" in caplog.text
    with h5py.File(tmp_path / "given" / "statistics.h5") as file:
        assert list(file["comparisons/fc"].attrs["widths"]) == [5, 5, 6]


def test_faulty_activation_files_are_refused(arrays, tmp_path, capsys):
    def refused(*changes: str) -> str:
        sets = [word for change in changes for word in ("--set", change)]
        assert main(["statistics", str(tmp_path / "given.toml"), "--runs", str(tmp_path / "r"), *sets]) == 2
        return capsys.readouterr().err

    assert 'has no array "x"; Known: a, b' in refused('activations.nets.a.fc="more.npz:x"')
    assert "there is no such file" in refused('activations.nets.a.fc="none.npy"')
    assert 'has no layer "fd" for the comparison "fd"; Known: conv, fc' in refused('statistics.comparisons=["fd"]')
    assert 'unknown net "d"' in refused('activations.untrained=["d"]')
    assert "[activations] replaces [data] and [[nets]]" in refused('data.name="digits"')
    np.save(tmp_path / "short.npy", arrays["a_fc"][:40])
    assert "not of the same images" in refused('activations.nets.a.fc="short.npy"')
    np.save(tmp_path / "odd.npy", np.array(["a", "b"]))
    assert "needed are numbers (n_images, units)" in refused('activations.nets.a.fc="odd.npy"')
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY\x01")
    assert "no array could be read" in refused('activations.nets.a.fc="torn.npy"')


def test_mutual_information_does_not_depend_on_the_size_of_code_arrays(arrays, tmp_path, monkeypatch):
    found = []
    for samples in (65_536, 7):
        monkeypatch.setattr("convergence.statistics.code_buffer.CODES_SAMPLES", samples)
        runs = tmp_path / str(samples)
        assert main(["statistics", str(tmp_path / "given.toml"), "--runs", str(runs)]) == 0
        with h5py.File(runs / "given" / "statistics.h5") as file:
            found.append([file[f"comparisons/{name}/mutual_information"][()].tobytes() for name in ("conv", "fc")])
    assert found[0] == found[1]
