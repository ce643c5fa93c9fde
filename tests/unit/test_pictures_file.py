"""The file of pictures: what is written is read, damage is found, mistakes get a sentence."""

import h5py
import numpy as np
import pytest

from convergence.errors import FileError
from convergence.visualization.file import DATASETS, open_pictures
from tests.helpers.pictures_file import DIGITS, write_pictures_file


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_pictures_file(tmp_path_factory.mktemp("pictures") / "pictures.h5", without=("guided",), channels=3)


def test_pictures_file_survives_round_trip(path):
    with h5py.File(path) as raw, open_pictures(path) as file:
        assert file.nets == ("net1", "net2", "net3", "net4")
        assert file.layers("net2") == tuple(DIGITS)
        pictures = file.of("net2", "conv1")
        assert (pictures.kind, pictures.receptive_field, pictures.map) == ("conv", (3, 3), (8, 8))
        assert pictures.n_units == 16
        for name in DATASETS:
            found = getattr(pictures, name)
            if name == "guided":
                assert found is None
                assert pictures.unit(0)[name] is None
            else:
                stored = raw[f"nets/net2/conv1/{name}"][()]
                np.testing.assert_array_equal(found[()], stored)
                np.testing.assert_array_equal(pictures.unit(5)[name], stored[5])
        assert pictures.patches[3].shape == (9, 3, 3, 3)
        assert file.of("net1", "fc1").kind == "whole"
        file.verify()


def test_misuse_of_pictures_file_is_explained(path, tmp_path):
    with open_pictures(path) as file:
        with pytest.raises(FileError, match="no pictures of the net"):
            file.layers("net9")
        with pytest.raises(FileError, match="Known: conv1, conv2, fc1"):
            file.of("net1", "conv")
        with pytest.raises(FileError, match="Valid are 0 … 15"):
            file.of("net1", "conv1").unit(16)
        with pytest.raises(AttributeError, match="patch"):
            _ = file.of("net1", "conv1").patch
    with pytest.raises(FileError, match="convergence pictures"), open_pictures(tmp_path / "none.h5"):
        pass


def test_damage_of_pictures_file_is_found(path, tmp_path):
    copy = tmp_path / "pictures.h5"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "r+") as raw:
        raw["nets/net1/conv1/top_image"][0, 0] += 1
    with open_pictures(copy) as file:
        with pytest.raises(FileError, match="top_image does not match its checksum"):
            _ = file.of("net1", "conv1").top_image
        with pytest.raises(FileError, match="checksum"):
            file.verify()
