"""Activations that nets compute, and sums of them on the device of the nets: the only module here that needs torch.

On a device, samples are never moved to the host: only finished sums are. The sums follow the rules of
:mod:`convergence.statistics.group_sums`: centred products of a bounded number of samples in float32 or float64,
everything else in float64, integer histograms. TF32 is off (:mod:`convergence.networks.devices`).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from convergence.config.schema import Experiment
from convergence.data.images import ImageSet
from convergence.networks.activation_functions import AppliedCall, Nonlinearity
from convergence.networks.devices import devices_of_process, keep_freed_memory, reproducible_arithmetic
from convergence.networks.layer_reader import N_PROBES, LayerReader
from convergence.networks.weights import load_net
from convergence.statistics.activation_source import ActivationSource, HostArrays, LayerShape, Maps, joined_units
from convergence.statistics.group_sums import FinishedSums, GroupSums, NewMatrix
from convergence.statistics.histograms import FIRST_BUCKET, N_BUCKETS, PATTERN_SHIFT, UnitHistograms
from convergence.statistics.moments import BAND, ORDINARY, PRODUCT_SAMPLES
from convergence.statistics.nonlinearities import relu
from convergence.statistics.null_group_sums import NullAbout, NullGroupSums
from convergence.statistics.pseudo_nets import PseudoMaps, PseudoUnits, read_maps
from convergence.statistics.sampling import Float32, Indices

Float64 = npt.NDArray[np.float64]


class NetSource(ActivationSource):
    """The activations of nets.

    Parameters
    ----------
    modules : the nets, by the name of their weights (:attr:`convergence.config.layer_refs.Member.weights`)
    images : the evaluation images
    devices : the nets are divided among them; sums are on the first. "meta" to know shapes without computing
    """

    def __init__(
        self,
        experiment: Experiment,
        modules: Mapping[str, torch.nn.Module],
        images: ImageSet,
        devices: Sequence[torch.device | str],
    ) -> None:
        super().__init__(experiment)
        self.images = images
        self.devices = [torch.device(device) for device in devices]
        self.device = self.devices[0]
        draws = experiment.statistics.null.draws
        chosen = np.linspace(0, len(images) - 1, N_PROBES).round().astype(np.int64)
        probes = torch.from_numpy(images.read(chosen))
        self._device_of = dict(zip(self.layers, itertools.cycle(self.devices)))
        self.readers = {
            weights: LayerReader(
                modules[weights].to(self._device_of[weights]),
                experiment.layer_configs(layers),
                probes.to(self._device_of[weights]),
                pre_activations=draws > 0,
            )
            for weights, layers in self.layers.items()
        }
        shapes = {
            (weights, layer): layer_shape(reader, layer, draws)
            for weights, reader in self.readers.items()
            for layer in self.layers[weights]
        }
        self.joined = joined_units(experiment, shapes)
        sums = experiment.statistics.sums
        if sums == "device" or (sums == "auto" and self.device.type == "cuda"):
            self.arrays = DeviceArrays(self.device)
        for weights, reader in self.readers.items():
            for layer, function in reader.nonlinearities.items():
                of_arrays = function if isinstance(self.arrays, DeviceArrays) else _of_numpy(function)
                self.nonlinearities[weights, layer] = of_arrays

    @classmethod
    def load(
        cls, experiment: Experiment, folders: Mapping[str, Path], local_rank: int = 0, local_size: int = 1
    ) -> NetSource:
        """Load the evaluation images, and all weights that take part from the nets' folders.

        The processes of a machine, of which this is number ``local_rank``, divide its GPUs among them.
        """
        config = experiment.statistics
        reproducible_arithmetic(config.threads)
        keep_freed_memory()
        splits = experiment.images.load()
        images = splits.test if config.split == "test" else splits.train
        specs = {net.name: net.spec for net in experiment.all_nets()}
        modules = {
            weights: load_net(folders[net], specs[net], images.image_shape, images.n_classes, kept)
            for weights, net, kept in dict.fromkeys((m.weights, m.net, m.kept) for m in experiment.all_layer_refs())
        }
        return cls(experiment, modules, images, devices_of_process(config.device, local_rank, local_size))

    def maps(self, images: npt.NDArray[np.float32], indices: Indices) -> Maps:
        batch = torch.from_numpy(images)
        on = {device: batch.to(device) for device in self.devices}
        found: Maps = {
            (name, layer): out
            for name, reader in self.readers.items()
            for layer, out in reader(on[self._device_of[name]]).items()
        }
        if isinstance(self.arrays, DeviceArrays):
            return {key: out.to(self.device) for key, out in found.items()}
        return {key: out.cpu().numpy() for key, out in found.items()}


def layer_shape(reader: LayerReader, layer: str, draws: int) -> LayerShape:
    """The shape of a layer, and its kind of chance level for ``statistics.null.draws``."""
    layout = reader.layouts[layer]
    return LayerShape(
        layout.n_units, layout.map_shape, reader.sources[layer], reader.rectified[layer],
        *reader.null_kind(layer, draws), reader.privileged[layer],
    )  # fmt: skip


class DeviceArrays(HostArrays):
    """Operations on activations and samples that are torch tensors on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mean_over_positions(self, maps: Any) -> Any:
        return maps.mean(dim=2, keepdim=True, dtype=torch.float64).float()

    def join(self, parts: Sequence[Any], positions: Sequence[Indices | None]) -> Any:
        taken = []
        for part, where in zip(parts, positions, strict=True):
            if where is None:
                taken.append(part)
                continue
            index = torch.from_numpy(where).to(self.device)
            if index.ndim == 1:
                taken.append(part[:, :, index])
            else:
                taken.append(part.gather(2, index[:, None, :].expand(-1, part.shape[1], -1)))
        return torch.cat([part.transpose(0, 1) for part in taken]).flatten(1).float()

    def group_sums(self, shift: Any, precision: str, shifted: bool, n_classes: int, new_matrix: NewMatrix) -> GroupSums:
        return DeviceGroupSums(shift, precision, shifted, n_classes, self.device)

    def null_group_sums(
        self, members: Sequence[PseudoUnits], about: NullAbout, pooled: bool, precision: str, new_matrix: NewMatrix
    ) -> NullGroupSums:
        return DeviceNullGroupSums(members, about, pooled, precision, self.device)

    def pseudo_maps(self, arrays: Mapping[str, Any]) -> PseudoMaps:
        return DevicePseudoMaps(read_maps(arrays), self.device)

    def zeros(self, shape: tuple[int, ...]) -> Any:
        return torch.zeros(shape, dtype=torch.float32, device=self.device)

    def encode(self, samples: Any, edges: Float32) -> npt.NDArray[np.uint8]:
        bounds = torch.from_numpy(np.ascontiguousarray(edges)).to(samples.device)
        codes = torch.searchsorted(bounds, samples.contiguous(), right=True)
        codes = torch.where(samples.isnan(), torch.zeros_like(codes), codes)
        return np.asarray(codes.to(torch.uint8).cpu().numpy())

    def from_host(self, values: npt.NDArray[Any]) -> Any:
        return torch.from_numpy(values).to(self.device)

    def to_host(self, values: Any) -> npt.NDArray[Any]:
        return np.asarray(values.cpu().numpy())


class DeviceGroupSums(GroupSums):
    """Sums of tensors on a device; matrices stay in its memory."""

    def __init__(self, shift: Float64, precision: str, shifted: bool, n_classes: int, device: torch.device) -> None:
        super().__init__(shift, precision, shifted, n_classes)
        units = len(shift)
        self._type = torch.float64 if precision == "float64" else torch.float32
        self._about = torch.from_numpy(np.asarray(shift, np.float32).astype(np.float64)).to(device)
        self._buffer = torch.empty((units, PRODUCT_SAMPLES), dtype=torch.float32, device=device)
        self._n_buffered = 0
        self._count = 0
        self._sums = torch.zeros(units, dtype=torch.float64, device=device)
        self._products = torch.zeros((units, units), dtype=torch.float64, device=device)
        self._zero = torch.zeros(units, dtype=torch.int64, device=device)
        self._nonfinite = torch.zeros_like(self._zero)
        self._buckets: dict[bool, torch.Tensor] = {}
        self._shifted = torch.zeros((units, units), dtype=torch.float64, device=device) if shifted else None
        self._by_class = torch.zeros((n_classes, units), dtype=torch.float64, device=device)
        self._first: torch.Tensor | None = None
        self._last: torch.Tensor | None = None

    def update(
        self, samples: torch.Tensor, n_images: int, classes: Indices | None = None, later: torch.Tensor | None = None
    ) -> None:
        per_image = samples.shape[1] // n_images
        self._count_values(samples)
        if self._shifted is not None:
            self._add_shifted(samples, per_image, samples if later is None else later)
        if len(self._class_count) and classes is not None:
            self._count_classes(classes, per_image)
            self._add_by_class(samples, per_image, classes)
        start = 0
        while start < samples.shape[1]:
            n = min(samples.shape[1] - start, PRODUCT_SAMPLES - self._n_buffered)
            self._buffer[:, self._n_buffered : self._n_buffered + n] = samples[:, start : start + n]
            self._n_buffered += n
            start += n
            if self._n_buffered == PRODUCT_SAMPLES:
                self._add_buffered()

    def finish(self) -> FinishedSums:
        self._add_buffered()
        if self._shifted is not None and self._first is not None and self._last is not None:
            self._shifted += self._last @ self._first.T
            self._first = None
        histograms = UnitHistograms.zeros(len(self._zero))
        histograms.zero += self._zero.cpu().numpy()
        histograms.n_nonfinite += self._nonfinite.cpu().numpy()
        for negative, counts in self._buckets.items():
            histograms.add_buckets(counts.reshape(-1, N_BUCKETS).cpu().numpy(), negative)
        shifted = None if self._shifted is None else DeviceMatrix(self._shifted)
        sums = np.asarray(self._sums.cpu().numpy())
        by_class = np.asarray(self._by_class.cpu().numpy()) if len(self._class_count) else None
        return FinishedSums(self._count, sums, DeviceMatrix(self._products), shifted, histograms, by_class)

    def _add_buffered(self) -> None:
        n = self._n_buffered
        if not n:
            return
        x = self._buffer[:, :n].double()
        mean = x.mean(dim=1)
        variance = (x - mean[:, None]).square().mean(dim=1)
        centre = torch.where(mean * mean <= variance, torch.zeros_like(mean), mean).float().double()
        offset = centre - self._about
        scale = self._scale(variance + (mean - centre).square())
        centred = ((x - centre[:, None]) / scale[:, None]).to(self._type)
        residual = centred.double().sum(dim=1) * scale
        moved = residual + n * offset
        for start in range(0, len(x), BAND):
            rows = slice(start, start + BAND)
            product = (centred[rows] @ centred.T).double() * scale[rows, None] * scale
            self._products[rows] += product + torch.outer(moved[rows], offset) + torch.outer(offset[rows], residual)
        self._sums += moved
        self._count += n
        self._n_buffered = 0

    def _count_values(self, samples: torch.Tensor) -> None:
        pattern = samples.contiguous().view(torch.int32)
        magnitude = pattern & 0x7FFFFFFF
        self._zero += (magnitude == 0).sum(dim=1)
        finite = magnitude < 0x7F800000
        self._nonfinite += (~finite).sum(dim=1)
        unit = torch.arange(len(samples), device=samples.device)[:, None] * N_BUCKETS
        bucket = ((magnitude >> PATTERN_SHIFT) - FIRST_BUCKET).clamp_(0, N_BUCKETS - 1) + unit
        for negative, chosen in ((False, pattern > 0), (True, (pattern < 0) & (magnitude > 0))):
            places = bucket[chosen & finite]
            if len(places):
                counts = torch.bincount(places, minlength=len(samples) * N_BUCKETS)
                self._buckets[negative] = self._buckets[negative] + counts if negative in self._buckets else counts

    def _scale(self, mean_squares: torch.Tensor) -> torch.Tensor:
        """Powers of two, see :func:`convergence.statistics.moments.exponents`."""
        unlike = (mean_squares > 0) & ((mean_squares < ORDINARY[0]) | (mean_squares > ORDINARY[1]))
        unlike &= mean_squares.isfinite() & (self._type == torch.float32)
        exponent = torch.div(torch.frexp(mean_squares).exponent, 2, rounding_mode="floor").long()
        return ((torch.where(unlike, exponent, 0) + 1023) << 52).view(torch.float64)  # the bits of 2^exponent

    def _add_by_class(self, samples: torch.Tensor, per_image: int, classes: Indices) -> None:
        """Add sums by a product with indicators of the classes, whose order of additions is fixed."""
        of_images = samples.unflatten(1, (-1, per_image)).sum(dim=2, dtype=torch.float64)
        of_images -= per_image * self._about[:, None]
        indicators = torch.zeros((len(self._by_class), len(classes)), dtype=torch.float64, device=samples.device)
        indicators[torch.from_numpy(classes), torch.arange(len(classes))] = 1.0
        self._by_class += indicators @ of_images.T

    def _add_shifted(self, samples: torch.Tensor, per_image: int, later: torch.Tensor) -> None:
        assert self._shifted is not None
        x, after = (part.double() - self._about[:, None] for part in (samples, later))
        if self._last is None:
            self._first = after[:, :per_image].clone()
            self._shifted += x[:, :-per_image] @ after[:, per_image:].T
        else:
            self._shifted += torch.cat([self._last, x[:, :-per_image]], dim=1) @ after.T
        self._last = x[:, -per_image:].clone()


class DeviceNullGroupSums(NullGroupSums):
    """Sums of pseudo-nets of tensors on a device; matrices stay in its memory."""

    def __init__(
        self, members: Sequence[PseudoUnits], about: NullAbout, pooled: bool, precision: str, device: torch.device
    ) -> None:
        self._device = device
        super().__init__(members, about, pooled, precision)

    def update(
        self, real: Any, pre: Sequence[Any], n_images: int, weights: Sequence[Float32 | None] | None = None
    ) -> None:
        with torch.no_grad():
            super().update(real, pre, n_images, weights)

    def _matrix(self, new_matrix: NewMatrix, name: str, shape: tuple[int, int]) -> Any:
        return self._zeros(shape)

    def _zeros(self, shape: tuple[int, ...]) -> Any:
        return torch.zeros(shape, dtype=torch.float64, device=self._device)

    def _empty(self, shape: tuple[int, ...]) -> Any:
        return torch.empty(shape, dtype=torch.float32, device=self._device)

    def _float32(self, values: Float64) -> Any:
        return torch.from_numpy(values.astype(np.float32)).to(self._device)

    def _wide(self, values: Any) -> Any:
        return values.double()

    def _scaled(self, values: Any, exponent: Indices) -> Any:
        return torch.ldexp(values, torch.from_numpy(-exponent[:, None]).to(values.device)) if exponent.any() else values

    def _on_host(self, values: Any) -> Any:
        return np.asarray(values.cpu().numpy())


class DevicePseudoMaps(PseudoMaps):
    """Maps of tensors on a device."""

    def __init__(self, maps: PseudoMaps, device: torch.device) -> None:
        arrays = {key: torch.from_numpy(np.asarray(array)).to(device) for key, array in maps.arrays().items()}
        super().__init__(**arrays)

    @property
    def host_scale(self) -> Float32:
        return np.asarray(self.scale.cpu())

    def _finite(self, standard: Any) -> Any:
        return standard.nan_to_num_(0.0, 0.0, 0.0)

    def _like(self, draws: int, z: Any) -> Any:
        return z.new_empty((draws, *z.shape))


def _of_numpy(function: Nonlinearity) -> Callable[[Any], Any]:
    """A function of tensors as a function of arrays; a module with parameters is moved to the host."""
    if isinstance(function, AppliedCall) and function.name == "relu":
        return relu
    on_host = copy.deepcopy(function).cpu() if isinstance(function, torch.nn.Module) else function

    def of_numpy(values: Any) -> Any:
        with torch.no_grad():
            return on_host(torch.from_numpy(values)).numpy()

    return of_numpy


class DeviceMatrix:
    """A matrix on a device; indexing it copies rows to the host."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self._matrix = matrix
        self.shape = tuple(matrix.shape)

    def __getitem__(self, index: Any) -> Float64:
        return np.asarray(self._matrix[index].cpu().numpy())
