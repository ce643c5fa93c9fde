"""HDF5 files of results: every byte of meaning is covered, and only plain files are read."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from convergence.errors import FileError
from convergence.io import hdf5
from convergence.io.file_errors import probe
from convergence.io.seal import BLOCK, LIST_BYTES, read_seal, write_seal
from tests.helpers.hdf5_edits import resealed

SCHEMA, MADE_BY = "convergence-statistics", "convergence statistics CONFIG"


@pytest.fixture
def path(tmp_path) -> Path:
    """A file with a matrix in blocks, a table, texts and attributes, sealed in two steps."""
    path = tmp_path / "a.h5"
    with hdf5.create(path, SCHEMA, 3, {"digest": "d", "names": ["é", "b"]}, sealed=False) as file:
        group = file.create_group("g", track_order=True)
        group.attrs["width"] = np.array([3, 4])
        hdf5.write_array(group, "texts", ["one", "two"], ("text",))
        hdf5.write_array(group, "table", np.zeros(4, [("a", "<f8"), ("b", "S3")]))
        hdf5.write_array(group, "number", 3.0)
        hdf5.create_blocks(group, "matrix", (2, 30, 40), ("group", "unit", "unit"))
    values = np.random.default_rng(0).standard_normal((2, 30, 40))
    with hdf5.complete(path) as file:
        file["g/matrix"][...] = values
        hdf5.write_checksum(file["g/matrix"], map(hdf5.block_digest, (values[0], values[1])))
    return path


def read_all(path: Path) -> dict[str, object]:
    """Everything in a file, through the readers of the package."""
    found: dict[str, object] = {}
    with hdf5.open_checked(path, SCHEMA, 3, MADE_BY) as file, hdf5.reading(path):
        found |= {f"@{name}": repr(value) for name, value in file.attrs.items()}
        found |= {f"g@{name}": repr(value) for name, value in file["g"].attrs.items()}
        for name in file["g"]:
            found[name] = repr(hdf5.read_array(file["g"], name).tolist())
        found["part"] = hdf5.large_array(file["g"], "matrix")[1, 3:5].tolist()
    return found


def test_a_flipped_bit_is_an_error_or_changes_nothing(path, monkeypatch):
    """Bits of the structure, of attributes, of data and of the seal; most are refused without HDF5."""
    monkeypatch.setattr("convergence.io.hdf5.probe", lambda path: "damaged")
    whole, expected, rng = path.read_bytes(), read_all(path), np.random.default_rng(0)
    refused = 0
    for at in (*rng.integers(0, 300, 40), *rng.integers(BLOCK, len(whole), 160)):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            assert read_all(path) == expected, f"bit in byte {at}"
        except FileError:
            refused += 1
    assert refused > 190


def test_damage_of_a_dataset_is_named_and_leaves_others_readable(path):
    with h5py.File(path, "r+") as file:
        file["g/matrix"][0, 0, 0] += 1
    with hdf5.open_checked(path, SCHEMA, 3, MADE_BY) as file:
        assert hdf5.read_array(file["g"], "number") == 3
        with pytest.raises(FileError, match="/g/matrix does not match its checksum"):
            hdf5.large_array(file["g"], "matrix")[1, 2]
        with pytest.raises(FileError, match="/g/matrix does not match its checksum"):
            hdf5.verify(file)


@pytest.mark.parametrize("change", ["attribute", "label", "new", "deleted", "swapped"])
def test_changed_attributes_and_structure_are_found(path, change):
    with h5py.File(path, "r+") as file:
        if change == "attribute":
            file["g"].attrs.modify("width", np.array([4, 3]))
        elif change == "label":
            file["g/matrix"].dims[1].label = "unix"
        elif change == "new":
            file["g/more"] = 1
        elif change == "deleted":
            del file["g/number"]
        else:
            file.move("g/number", "g/other")
            file.move("g/table", "g/number")
    with pytest.raises(FileError, match="damaged or changed after it was written"):
        read_all(path)


def test_opening_a_file_for_writing_without_a_change_keeps_its_seal(path):
    with h5py.File(path, "r+"):
        pass
    read_all(path)


def test_a_seal_has_room_for_the_largest_datasets_only(tmp_path):
    path = tmp_path / "many.h5"
    with hdf5.create(path, SCHEMA, 3, {}) as file:
        for k in range(400):
            hdf5.write_array(file, f"d{k}", np.full(k + 1, k))
    seal = read_seal(path)
    assert len(seal.head()) <= LIST_BYTES + 200
    assert 100 < len(seal.apart) < 400
    assert min(n_bytes for _, n_bytes in seal.apart) > 8
    with hdf5.open_checked(path, SCHEMA, 3, MADE_BY) as file:
        hdf5.verify(file)


def link(file):
    file["g/number2"] = h5py.SoftLink("/g")


def external(file):
    file["g/number2"] = h5py.ExternalLink("/dev/zero", "/")


def hard(file):
    file["g/number2"] = file["g"]


def chunked(file):
    file.create_dataset("bomb", (10**9, 100), "f4", chunks=(1000, 100), compression="gzip")


def virtual(file):
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    file.create_virtual_dataset("v", layout)


def outside(file):
    file.create_dataset("zeros", (1 << 30,), "u1", external=[("/dev/zero", 0, 1 << 30)])


def declared(file):
    space = h5py.h5s.create_simple((10**11,))
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    h5py.h5d.create(file.id, b"huge", h5py.h5t.IEEE_F64LE, space, layout)


def named_type(file):
    file["type"] = np.dtype("f8")


def reference(file):
    file.attrs["ref"] = file["g"].ref


def deep(file):
    file.create_group("/".join("abcdefghijklmnopqrstuvwxyz"))


@pytest.mark.parametrize(
    "trap", [link, external, hard, chunked, virtual, outside, declared, named_type, reference, deep]
)
def test_files_that_are_not_plain_are_refused_before_reading(path, trap):
    with resealed(path) as file:
        trap(file)
    start = time.monotonic()
    with pytest.raises(FileError, match=re.escape(str(path))):
        read_all(path)
    assert time.monotonic() - start < 2


def test_devices_pipes_and_folders_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "folder.h5").mkdir()
    for name, says in (("pipe.h5", "a pipe"), ("folder.h5", "folder"), ("/dev/zero", "device"), ("n" * 300, "long")):
        with pytest.raises(FileError, match=says):
            read_all(tmp_path / name)


def test_a_seal_that_names_other_places_is_refused(path):
    for extents in ([(BLOCK, 1 << 40)], [(0, 8)], [(BLOCK + 64, 64), (BLOCK + 32, 64)]):
        try:
            write_seal(path, SCHEMA, 3, extents)
        except ValueError:
            continue
        raise AssertionError(f"{extents} were sealed")


def test_other_versions_are_told_apart_from_damage(path):
    for version, says in ((2, "version 3 is needed"), (99, "written by a newer convergence")):
        with h5py.File(path, "r+") as file:  # without a seal that holds, as another program would
            file.attrs.modify("schema_version", version)
        with pytest.raises(FileError, match=says):
            read_all(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert isinstance(probe(path), str)
    with pytest.raises(FileError, match="truncated"):
        read_all(path)


def test_threads_verify_a_matrix_once(path, monkeypatch):
    os.utime(path, (1, 1))
    time.sleep(0.06)
    calls = []
    compare = hdf5._compare
    monkeypatch.setattr(hdf5, "_compare", lambda *of: (calls.append(1), compare(*of)))
    with hdf5.open_checked(path, SCHEMA, 3, MADE_BY) as file:
        arrays = [hdf5.large_array(file["g"], "matrix") for _ in range(4)]
        threads = [threading.Thread(target=array.__getitem__, args=((0, 1),)) for array in arrays]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(calls) == 1


def test_the_lines_of_the_documents_verify_a_file(path, tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    exec(re.findall(r"```python\n(.*?)```", text, re.S)[-1], names)
    names["verify"](path)
    for change in (lambda file: file["g"].attrs.modify("width", [9, 9]), lambda file: file["g/table"].write_direct(
        np.ones(4, file["g/table"].dtype)
    )):  # fmt: skip
        copy = Path(shutil.copy(path, tmp_path / "copy.h5"))
        with h5py.File(copy, "r+") as file:
            change(file)
        with pytest.raises(AssertionError, match=r"seal|g/table"):
            names["verify"](copy)
