"""The pilot: some images by seed, read before all others, for what has to be known before sums are taken.

It gives the point about which units are summed (the mean over its first batch), the edges of fine bins, the mean,
variance and correlation of pre-activations from which pseudo-nets are made, and the points about which these are
summed. Runs of image groups divide it among processes; histograms are added as integers, moments in the order of runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from convergence.config.stages import StatisticsConfig
from convergence.io import hdf5
from convergence.networks import PRE_ACTIVATIONS
from convergence.statistics.activation_source import ActivationSource, Maps
from convergence.statistics.group_sums import NewMatrix, shift_of
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.masks import some_of_valid
from convergence.statistics.moments import Moments, covariance, symmetric
from convergence.statistics.null_group_sums import NullAbout, compute_pseudo_units
from convergence.statistics.partial_results import Arrays
from convergence.statistics.pseudo_nets import PseudoUnits, n_null_positions, null_columns
from convergence.statistics.sampling import Indices

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
ABOUT_SAMPLES = 1024
"""Samples that give the points about which pseudo-units are summed."""
ABOUT_IMAGES = 16
"""The same number of pooled images with many positions, at least."""


def pilot_arrays(
    source: ActivationSource,
    config: StatisticsConfig,
    batches: Iterator[tuple[Indices, Maps]],
    new_matrix: NewMatrix,
    is_first: bool,
) -> Arrays:
    """The sums of a run's part of the pilot.

    ``histograms/<comparison>/*`` are unit histograms, ``moments/<number of the layer>/*`` those of pre-activations. The
    first run has ``shift/<comparison>`` and ``about/<comparison>/*``: samples of its first batch.
    """
    with_bins, layers = config.mutual_information.enabled, list(source.nonlinearities)
    histograms = {name: UnitHistograms.zeros(joined.n_units) for name, joined in source.joined.items() if with_bins}
    moments: dict[int, Moments] = {}
    for number, (indices, maps) in enumerate(batches):
        seen = set()
        for name, samples, _ in source.samples(maps, indices, config.positions, config.seed):
            values = source.arrays.to_host(samples)
            if is_first and number == 0 and name not in seen:
                seen.add(name)
                yield f"shift/{name}", shift_of(values)
            if with_bins:
                histograms[name].update(values)
        if is_first and number == 0:
            yield from _about_samples(source, config, indices, maps)
        for k, (weights, layer) in enumerate(layers):
            source.check_pre_activations(weights, layer, maps)
            z = _samples_of_null(source, config, indices, maps[weights, PRE_ACTIVATIONS + layer])
            if k not in moments:
                moments[k] = Moments(shift_of(z), "float64", new_matrix(f"moments/{k}/products", len(z)))
            moments[k].update(z)
    for name, of_units in histograms.items():
        for key, array in of_units.to_arrays().items():
            yield f"histograms/{name}/{key}", array
    for k, found in moments.items():
        yield f"moments/{k}/count", np.asarray(found.count)
        yield f"moments/{k}/shift", found.shift
        yield f"moments/{k}/sums", found.sums
        yield f"moments/{k}/products", found.upper


def _samples_of_null(source: ActivationSource, config: StatisticsConfig, indices: Indices, pre: Any) -> Float32:
    """Samples (units, n_samples) of pre-activations at as many positions as the null uses."""
    z, null = source.arrays.to_host(pre), config.null
    n_used = n_null_positions(z.shape[2], "auto", null.draws)
    valid = source.valid(indices, z.shape[2])
    if valid is not None:
        return np.asarray(z.transpose(1, 0, 2)[:, some_of_valid(valid, n_used, config.seed)])
    columns = null_columns(z.shape[2], n_used, config.seed)
    samples = np.ascontiguousarray((z if columns is None else z[:, :, columns]).transpose(1, 0, 2))
    return samples.reshape(len(samples), -1)


def _about_samples(source: ActivationSource, config: StatisticsConfig, indices: Indices, maps: Maps) -> Arrays:
    """Some samples of each comparison with pseudo-nets: ``real``, and ``pre/*`` and ``weights/*`` of its members."""
    seen = set()
    for name, real, pre, n_images, weights in source.null_samples(maps, indices, config):
        if name in seen:
            continue
        seen.add(name)
        per_image = real.shape[1] // n_images
        some = min(n_images, max(1, ABOUT_SAMPLES // per_image))
        if source.joined[name].pooled:
            widest = max(z.shape[1] // n_images for z in pre)
            some = min(some, max(ABOUT_IMAGES, ABOUT_SAMPLES // widest))
        yield f"about/{name}/real", source.arrays.to_host(real[:, : some * per_image])
        for k, (z, of_positions) in enumerate(zip(pre, weights, strict=True)):
            yield f"about/{name}/pre/{k}", source.arrays.to_host(z.reshape(len(z), n_images, -1)[:, :some])
            if of_positions is not None:
                yield f"about/{name}/weights/{k}", of_positions[:some]


def null_about(
    place: h5py.Group, shift: Float64, members: list[PseudoUnits], pooled: bool, draws: int, source: ActivationSource
) -> NullAbout:
    """The points about which pseudo-units are summed: means over the samples in ``about/<comparison>``."""
    real, arrays = hdf5.read_array(place, "real"), source.arrays
    pre = [arrays.from_host(hdf5.read_array(place["pre"], str(k))) for k in range(len(members))]
    weights = [
        hdf5.read_array(place["weights"], str(k)) if f"weights/{k}" in place else None for k in range(len(members))
    ]
    pseudo = arrays.zeros((draws, members[-1].place.stop, real.shape[1]))
    compute_pseudo_units(members, pre, pooled, pseudo, arrays.zeros((*pseudo.shape[:2], 1)), weights)
    return NullAbout.of(real, shift[: len(real)], arrays.to_host(pseudo), members)


class PreActivationMoments(NamedTuple):
    """Mean (C,) and covariance (C, C), with divisor n, of the pre-activations of a layer."""

    mean: Float64
    covariance: Float64


class AddedMoments:
    """Moments about different points, added about the first of them."""

    def __init__(self) -> None:
        self._count, self._shift, self._sums, self._products = 0, np.empty(0), np.empty(0), np.empty((0, 0))

    def add(self, arrays: Mapping[str, Any]) -> None:
        """Add ``count``, ``shift``, ``sums`` and ``products`` (upper triangle) of other samples."""
        count, sums, products = int(arrays["count"]), arrays["sums"], symmetric(arrays["products"])
        if not self._count:
            self._count, self._shift, self._sums, self._products = count, arrays["shift"], sums, products
            return
        moved = arrays["shift"] - self._shift
        products += np.outer(sums + count * moved, moved)
        products += np.outer(moved, sums)
        self._products += products
        self._sums = self._sums + sums + count * moved
        self._count += count

    def finish(self) -> PreActivationMoments:
        """Mean and covariance of all samples."""
        found = covariance(self._count, self._sums, self._products)
        return PreActivationMoments(self._shift + self._sums / self._count, found)
