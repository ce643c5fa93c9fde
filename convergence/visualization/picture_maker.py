"""The stage of the pictures: partial results of all nets and layers, and one file of them.

Each net and layer has two partial results below ``pictures.partial/``: its top images (patches, signals, filters) and
its activation maximisation. Finished ones are kept when a run is killed. Memory is that of the net, of
``pictures.batch`` images in it, and of a few hundred images.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from convergence.config.schema import Experiment, Net
from convergence.data.images import ImageSet, read_batches
from convergence.errors import FileError, UserError
from convergence.io import hdf5
from convergence.io.files import create_for_owner, file_sha256, remove_leftovers
from convergence.networks.devices import choose_device, reproducible_arithmetic
from convergence.networks.weights import load_net, weights_path
from convergence.networks.work import quick_pooling, threads_for, use_threads
from convergence.progress import Progress
from convergence.runs.run_folder import RunFolder
from convergence.runs.signals import check
from convergence.statistics import partial_results
from convergence.statistics.file import open_statistics
from convergence.statistics.top_images import TopImages
from convergence.visualization.backprop import backprop, place
from convergence.visualization.colours import Colours, reduced, reduced_size, signal_to_bytes
from convergence.visualization.file import DATASETS, create_layer, create_pictures
from convergence.visualization.layer import PicturedLayer
from convergence.visualization.maximization import frame_of, maximize
from convergence.visualization.top_images import active_top_images, find_top_images, images_of, stored_top_images

logger = logging.getLogger(__name__)
SCHEMA = "convergence-pictures-partial"
VERSION = 1
MADE_BY = "convergence pictures CONFIG"
BLOCK_IMAGES = 256
"""Number of top images in memory at a time."""
SAMPLE = 256
"""Number of images for the covariance of colours."""


def pictures(folder: RunFolder) -> None:
    """Make ``pictures.h5`` of a run with statistics.

    Raises
    ------
    UserError
        if the images are missing or cannot be shown, or a layer is unknown.
    """
    maker = PictureMaker(folder)
    create_for_owner(maker.partial)
    remove_leftovers(maker.partial)
    wanted = [piece for net, layers in folder.experiment.pictured() for piece in maker.partial_results(net, layers)]
    missing = [path for path, _ in wanted if not maker.is_done(path)]
    with Progress("pictures", len(wanted), len(wanted) - len(missing)) as progress:
        for path, make in wanted:
            if path in missing:
                check()
                make()
                progress.advance()
    maker.assemble()


class PictureMaker:
    """Makes and saves the partial results of a run's pictures."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.experiment = folder, folder.experiment
        self.config = self.experiment.pictures
        self.digest = folder.pictures_task().digest
        (self.partial,) = folder.pictures_task().scratch
        reproducible_arithmetic(self.config.threads)
        self.device = choose_device(self.config.device)
        self.images = images_at_hand(self.experiment)
        used = images_of(self.experiment, self.images)
        self.colours = Colours.of(self.images, used[:SAMPLE])
        self._layer: PicturedLayer | None = None
        self._net: tuple[str, Any] = ("", None)
        self._top: dict[tuple[str, str], TopImages] = {}

    def partial_results(self, net: Net, layers: tuple[str, ...]) -> Iterator[tuple[Path, Callable[[], None]]]:
        """Path and maker of every partial result of a net, layer by layer."""
        for layer in layers:
            yield self.path(net, layer, "top"), partial(self.make_top, net, layer)
            if "maximization" in self.config.methods:
                yield self.path(net, layer, "maximization"), partial(self.make_best, net, layer)

    def path(self, net: Net, layer: str, kind: str) -> Path:
        """File of a partial result."""
        return self.partial / f"{net.name}-{layer}-{kind}.h5"

    def is_done(self, path: Path) -> bool:
        """Whether a partial result is finished, intact and of these settings; a damaged one is removed."""
        return partial_results.is_done(path, SCHEMA, VERSION, self.digest)

    def make_top(self, net: Net, name: str) -> None:
        """Top images of a layer, their patches and signals, and filters."""
        layer = self._open_layer(net, name)
        top, dead = active_top_images(self._top_images(net, name), layer.rectified)
        position = np.where(
            (top.position >= 0)[..., None],
            np.stack(np.divmod(top.position, layer.geometry.map_shape[1]), axis=2),
            -1,
        )
        box = layer.geometry.boxes(position.reshape(-1, 2)).reshape(*top.image.shape, 4)
        box[top.image < 0] = 0
        with self._create(net, layer, "top") as file:
            for key, array in (
                ("top_value", top.value), ("top_image", top.image), ("top_position", position), ("top_box", box),
                ("dead", dead),
            ):  # fmt: skip
                self._write(file, key, array)
            weights = layer.first_filters() if "filters" in self.config.methods else None
            if weights is not None and weights.shape[1] == self.images.image_shape[0]:
                pixels, scale = signal_to_bytes(np.nan_to_num(weights.float().cpu().numpy()))
                self._write(file, "filters", pixels)
                self._write(file, "filters_scale", scale)
            self._write_of_top_images(file, layer, top, position)

    def _write_of_top_images(
        self, file: h5py.File, layer: PicturedLayer, top: TopImages, position: npt.NDArray[np.int64]
    ) -> None:
        methods = [method for method in ("patches", "deconvolution", "guided") if method in self.config.methods]
        n_units, n_top = top.image.shape
        size = reduced_size(layer.geometry.size, self.config.max_side)
        shape = (n_units, n_top, *size, self.images.image_shape[0])
        growing = {method: self._growing(file, method, shape, np.uint8) for method in methods}
        scales = {method: np.zeros((n_units, n_top), np.float32) for method in methods if method != "patches"}
        step = max(1, BLOCK_IMAGES // n_top)
        for start in range(0, n_units if methods else 0, step):
            check()
            some = slice(start, min(start + step, n_units))
            image = top.image[some].ravel()
            there = image >= 0
            seen = self._read(image[there])
            places = position[some].reshape(-1, 2)[there]
            units = np.repeat(np.arange(some.start, some.stop), n_top)[there]
            for method in methods:
                if method == "patches":
                    pixels = np.broadcast_to(self.colours.mean, (len(image), *shape[2:])).copy()
                    pixels[there] = self.colours.to_bytes(reduced(cut_out(layer, seen, places), self.config.max_side))
                else:
                    pixels = np.full((len(image), *shape[2:]), 128, np.uint8)
                    found = backprop(layer, method, seen, units, places, self.config.batch)
                    small, scale = signal_to_bytes(reduced(np.nan_to_num(found), self.config.max_side))
                    pixels[there] = small
                    scales[method][some].reshape(-1)[there] = scale
                growing[method].add(pixels.reshape(-1, *shape[1:]))
        for method, scale in scales.items():
            self._write(file, f"{method}_scale", scale)

    def make_best(self, net: Net, name: str) -> None:
        """Activation maximisation of a layer's units."""
        layer, config = self._open_layer(net, name), self.config.maximization
        best = self._top_images(net, name).value[:, 0]
        shape = (layer.n_units, config.seeds, *frame_of(layer, config.objective).size, self.images.image_shape[0])
        values = np.empty((layer.n_units, config.seeds), np.float32)
        with self._create(net, layer, "maximization") as file:
            growing = self._growing(file, "maximization", shape, np.uint8)
            units = np.arange(layer.n_units)
            for unit, (pixels, value) in enumerate(maximize(layer, units, self.colours, config, self.config.batch)):
                check()
                growing.add(pixels[None])
                values[unit] = value
            self._write(file, "maximization_value", values)
            self._write(file, "maximization_best_real", best)

    def assemble(self) -> None:
        """Write ``pictures.h5`` from the partial results."""
        experiment = self.experiment
        about = {
            "split": experiment.statistics.split,
            "images_manifest_sha256": self.images.manifest_hash(),
            "image_shape": np.array(self.images.image_shape, np.int64),
        }
        with create_pictures(
            self.folder.pictures_file, self.digest, experiment.model_dump_json(indent=1), about
        ) as file:
            for net, layers in experiment.pictured():
                for layer in layers:
                    group: h5py.Group | None = None
                    for path, _ in self.partial_results(net, (layer,)):
                        with hdf5.open_checked(path, SCHEMA, VERSION, MADE_BY) as piece:
                            if group is None:
                                geometry = [tuple(int(n) for n in piece.attrs[name]) for name in GEOMETRY]
                                kind = str(piece.attrs["kind"])
                                group = create_layer(file, net.name, layer, kind, *geometry)  # type: ignore[arg-type]
                                group.attrs["whole_image_reason"] = piece.attrs["whole_image_reason"]
                            for key in piece:
                                hdf5.verify_dataset(piece[key])
                                piece.copy(key, group)
                file["nets"][net.name].attrs["weights_sha256"] = file_sha256(weights_path(self.folder.net_folder(net)))

    def _open_layer(self, net: Net, name: str) -> PicturedLayer:
        if self._net[0] != net.name:
            shape, n_classes = self.images.image_shape, self.images.n_classes
            module = quick_pooling(load_net(self.folder.net_folder(net), net.spec, shape, n_classes))
            use_threads(threads_for(self.config.threads, module, shape, self.images.dtype, self.config.batch))
            self._net = (net.name, module)
            self._layer = None
        if self._layer is None or self._layer.name != name:
            self._layer = PicturedLayer(
                self._net[1], name, self.images.image_shape, self.device, self.experiment.layer_configs([name])[name]
            )
        return self._layer

    def _top_images(self, net: Net, name: str) -> TopImages:
        """From the statistics, or from one pass for all layers of the net that they lack."""
        if (net.name, name) not in self._top:
            self._top.clear()
            (layers,) = (layers for one, layers in self.experiment.pictured() if one.name == net.name)
            with open_statistics(self.folder.statistics_file) as file:
                for layer in layers:
                    kept = stored_top_images(self.experiment, file, net.name, layer, self.config.top)
                    if kept is not None:
                        self._top[net.name, layer] = kept
            lacking = [layer for layer in layers if (net.name, layer) not in self._top]
            if lacking:
                logger.info("pictures: the statistics have no top images of %s %s", net.name, ", ".join(lacking))
                found = find_top_images(self._net[1], lacking, self.images, self.experiment, self.device)
                self._top.update({(net.name, layer): top for layer, top in found.items()})
        return self._top[net.name, name]

    def _read(self, image: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Inputs of the net, each image read once."""
        unique, back = np.unique(image, return_inverse=True)
        if not len(unique):
            return np.empty((0, *self.images.image_shape), np.float32)
        ((_, batch),) = read_batches(self.images, [unique], self.config.loader_workers)
        return batch[back]

    def _create(self, net: Net, layer: PicturedLayer, kind: str) -> Any:
        geometry = layer.geometry
        whole = geometry.kind == "whole"
        reason = geometry.field.whole or ("the receptive field is larger than the image" if whole else "")
        attributes = {
            "digest": self.digest,
            "kind": geometry.kind,
            "whole_image_reason": reason,
            "receptive_field": np.array(geometry.size, np.int64),
            "stride": np.array((0, 0) if whole else geometry.field.stride, np.int64),
            "padding": np.array((0, 0) if whole else geometry.field.padding, np.int64),
            "map": np.array(geometry.map_shape, np.int64),
        }
        return hdf5.create(self.path(net, layer.name, kind), SCHEMA, VERSION, attributes)

    def _write(self, file: h5py.File, name: str, array: npt.NDArray[Any]) -> None:
        axes, about = DATASETS[name]
        hdf5.write_array(file, name, array, axes, about=about)

    def _growing(self, file: h5py.File, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> hdf5.Growing:
        axes, about = DATASETS[name]
        return hdf5.Growing(file, name, shape, dtype, axes, about)


GEOMETRY = ("receptive_field", "stride", "padding", "map")


def cut_out(
    layer: PicturedLayer, images: npt.NDArray[np.float32], positions: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Receptive fields of positions (n, 2) in images (n, channels, height, width); zero beyond the border."""
    out = np.zeros((len(images), images.shape[1], *layer.geometry.size), np.float32)
    whole = np.array([0, 0, *layer.geometry.image])
    for row, box in enumerate(layer.geometry.boxes(positions)):
        place(out[row], box, images[row], whole)
    return out


def images_at_hand(experiment: Experiment) -> ImageSet:
    """The evaluation images; FileError if they are missing."""
    try:
        splits = experiment.images.load()
    except UserError as error:
        raise FileError(
            f"pictures need the evaluation images, which were not found: {error} The report can be made without "
            "pictures."
        ) from error
    images = splits.test if experiment.statistics.split == "test" else splits.train
    if len(images.image_shape) != 3:
        raise FileError(
            f"inputs of the data set have the shape {images.image_shape}; pictures need images (channels, height, "
            "width). Set pictures.enabled = false."
        )
    return images
