"""Arrays of other programs: the same values however they are stored; damage and traps are clear errors."""

from __future__ import annotations

import os
import zipfile
import zlib

import h5py
import numpy as np
import pytest

from convergence.data import given_arrays
from convergence.data.given_arrays import chunk_blocks, open_array
from convergence.errors import FileError

VALUES = np.maximum(np.random.default_rng(0).standard_normal((60, 7)), 0).astype(np.float32)
IMAGES = np.array([3, 4, 11, 59])


def write_hdf5(path, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("maps/fc", data=VALUES, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "gzip"},
        {"compression": "lzf", "shuffle": True},
        {"chunks": (60, 1), "compression": "gzip", "fletcher32": True},
        {"chunks": (7, 3)},
        {"dtype": ">f8"},
    ],
)
def test_hdf5_arrays_have_the_same_values_however_they_are_stored(tmp_path, options):
    write_hdf5(tmp_path / "a.h5", **options)
    array = open_array(tmp_path, "a.h5:maps/fc")
    assert array.shape == VALUES.shape
    np.testing.assert_array_equal(array[IMAGES], VALUES[IMAGES])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
def test_npz_arrays_are_unpacked_piece_by_piece(tmp_path, monkeypatch, order, dtype):
    monkeypatch.setattr(given_arrays, "BLOCK_BYTES", 64)
    values = np.asarray(VALUES.astype(dtype), order=order)
    np.savez_compressed(tmp_path / "a.npz", fc=values)
    np.testing.assert_array_equal(open_array(tmp_path, "a.npz:fc")[IMAGES], values[IMAGES])


def test_a_copy_is_made_once_and_a_damaged_copy_again(tmp_path, monkeypatch):
    write_hdf5(tmp_path / "a.h5", chunks=(60, 1), compression="gzip")
    folder = tmp_path / "scratch"
    folder.mkdir()
    open_array(tmp_path, "a.h5:maps/fc").unpack(folder)
    (copy,) = folder.iterdir()
    first = os.stat(copy).st_ino
    open_array(tmp_path, "a.h5:maps/fc").unpack(folder)
    assert [os.stat(path).st_ino for path in folder.iterdir()] == [first]
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    array = open_array(tmp_path, "a.h5:maps/fc")
    array.unpack(folder)
    np.testing.assert_array_equal(array[np.arange(60)], VALUES)
    assert list(folder.iterdir()) == [copy]


@pytest.mark.parametrize("chunks", [(60, 1), (1, 7), (7, 3), (60, 7)])
def test_blocks_cover_each_chunk_once(chunks):
    seen = np.zeros((60, 7), int)
    for block in chunk_blocks((60, 7), chunks, 4, most=300):
        assert all(part.start % side == 0 for part, side in zip(block, chunks, strict=True))
        seen[block] += 1
    assert (seen == 1).all()


def external(path):
    with h5py.File(path, "w") as file:
        file["fc"] = h5py.ExternalLink("other.h5", "/fc")


def loop(path):
    with h5py.File(path, "w") as file:
        file["fc"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/fc")


def virtual(path):
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((60, 7), "f4")
        layout[:] = h5py.VirtualSource("other.h5", "fc", (60, 7))
        file.create_virtual_dataset("fc", layout)


def stored_outside(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("fc", (60, 7), "f4", external=[("/dev/zero", 0, 60 * 7 * 4)])


def declared(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("fc", (10**8, 2000), "f4", chunks=(100, 2000), compression="gzip")


def references(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("fc", (60, 7), h5py.ref_dtype)


def cut(path):
    write_hdf5(path, compression="gzip")
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (external, "link to another file"),
        (loop, "leads to itself"),
        (virtual, "from other files"),
        (stored_outside, "from other files"),
        (declared, r"declares 800,000,000,000 bytes"),
        (references, "plain numbers"),
        (cut, "no array could be read"),
    ],
)
def test_hdf5_traps_are_refused_before_anything_is_read(tmp_path, make, says):
    make(tmp_path / "a.h5")
    with pytest.raises(FileError, match=says):
        open_array(tmp_path, "a.h5:fc")


def test_links_within_a_file_are_followed(tmp_path):
    write_hdf5(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["also"] = h5py.SoftLink("/maps/fc")
        file["folder"] = h5py.SoftLink("maps")
    for name in ("also", "folder/fc"):
        np.testing.assert_array_equal(open_array(tmp_path, f"a.h5:{name}")[IMAGES], VALUES[IMAGES])


def test_damage_in_compressed_arrays_is_found_when_they_are_unpacked(tmp_path):
    write_hdf5(tmp_path / "a.h5", chunks=(60, 7), compression="gzip", fletcher32=True)
    with h5py.File(tmp_path / "a.h5") as file:
        offset = file["maps/fc"].id.get_chunk_info(0).byte_offset
    np.savez_compressed(tmp_path / "a.npz", fc=VALUES)
    for name, at in (("a.h5:maps/fc", offset + 300), ("a.npz:fc", 700)):
        path = tmp_path / name.partition(":")[0]
        content = bytearray(path.read_bytes())
        content[at] ^= 4
        path.write_bytes(content)
        with pytest.raises(FileError, match="no array could be read"):
            open_array(tmp_path, name)[IMAGES]


def test_damage_in_lzma_archives_is_found(tmp_path):
    np.save(tmp_path / "fc.npy", VALUES)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.write(tmp_path / "fc.npy", "fc.npy")
    np.testing.assert_array_equal(open_array(tmp_path, "a.npz:fc")[IMAGES], VALUES[IMAGES])
    content = bytearray((tmp_path / "a.npz").read_bytes())
    for at in range(60, len(content) - 120, 40):
        changed = content.copy()
        changed[at] ^= 4
        (tmp_path / "b.npz").write_bytes(changed)
        with pytest.raises(FileError, match=r"could be read|another size"):
            open_array(tmp_path, "b.npz:fc")[IMAGES]


def test_a_compressed_chunk_that_unpacks_to_more_than_its_values_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("fc", (60, 8), "f4", chunks=(60, 8), compression="gzip")
        file["fc"].id.write_direct_chunk((0, 0), zlib.compress(bytes(20_000_000), 9))
    with pytest.raises(FileError, match=r"a chunk of fc takes 19,\d+ bytes"):
        open_array(tmp_path, "a.h5:fc")


def test_archives_and_npy_files_that_lie_about_their_size_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", fc=np.zeros((1000, 5000), np.float32))
    with pytest.raises(FileError, match="more than 200 times"):
        open_array(tmp_path, "bomb.npz:fc")
    np.save(tmp_path / "a.npy", VALUES)
    content = (tmp_path / "a.npy").read_bytes()
    header = content[:128].replace(b"(60, 7), }      ", b"(6000000000, 7),}")[:128]
    lying = header.ljust(127)[:127] + b"\n" + content[128:]
    (tmp_path / "lying.npy").write_bytes(lying)
    with zipfile.ZipFile(tmp_path / "lying.npz", "w") as archive:
        archive.writestr("fc.npy", lying)
    whole = (tmp_path / "bomb.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "odd.npy").write_bytes(content[:10] + b"(\0" + content[12:])
    for name in ("lying.npy", "lying.npz:fc", "cut.npz:fc", "odd.npy"):
        with pytest.raises(FileError, match=r"could be read|another size"):
            open_array(tmp_path, name)


def test_objects_are_never_unpickled_and_odd_paths_are_errors(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    trap = np.array([[Trap()] * 2] * 2, object)
    np.save(tmp_path / "a.npy", trap)
    np.savez(tmp_path / "a.npz", fc=trap)
    os.mkfifo(tmp_path / "pipe.npy")
    os.symlink("loop.npy", tmp_path / "loop.npy")
    for name in ("a.npy", "a.npz:fc", "pipe.npy", "loop.npy", "n" * 300 + ".npy", "/dev/zero", ".", "a.npz:other"):
        with pytest.raises(FileError):
            open_array(tmp_path, name)
    assert not (tmp_path / "trapped").exists()


def test_values_whose_squares_overflow_are_refused_and_missing_values_are_not(tmp_path):
    for values in (np.array([[np.iinfo(np.int64).min, 1]] * 2), np.array([[1e300, 1.0]] * 2)):
        np.save(tmp_path / "a.npy", values)
        with pytest.raises(FileError, match=r"holds the value .*magnitudes up to 1e\+18"):
            open_array(tmp_path, "a.npy")[np.arange(2)]
    np.save(tmp_path / "a.npy", np.array([[np.nan, np.inf, 1e11]] * 2))
    assert np.isnan(open_array(tmp_path, "a.npy")[np.arange(2)][:, 0]).all()
