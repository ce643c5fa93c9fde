"""``convergence.compare``: nets of a notebook, over images of a notebook, to the results of a run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from convergence.analysis.active_units import NOT_FINITE
from convergence.analysis.standalone import ENDINGS, STATISTICS, analyze_file, run_task
from convergence.config.load import validated
from convergence.config.stages import StatisticsConfig
from convergence.errors import ConfigError, UserError, listed
from convergence.io.files import LastingScratch, create_for_owner, scratch_folder
from convergence.networks.common_origin import common_origins, sample_of
from convergence.notebook.inputs import GivenImages, read_images
from convergence.notebook.nets import Copies, GivenNets, LiveExperiment
from convergence.notebook.stage import compute_statistics, statistics_task, torch_settings_restored
from convergence.progress import bars
from convergence.registry import load_object
from convergence.results.run import Run
from convergence.results.run import open as open_run
from convergence.runs.run_lock import Claim
from convergence.statistics.activation_source import ActivationSource
from convergence.statistics.file import open_statistics

logger = logging.getLogger(__name__)
GROUPS = 20
"""Image groups if the number is not given and there are enough images."""
PROBE_IMAGES = 2
NAME = "comparison"


def compare(
    nets: Any,
    data: Any = None,
    layers: Any = None,
    *,
    untrained: Sequence[str] = (),
    initialisations: Mapping[str, str] | None = None,
    labels: Any = None,
    families: Any = None,
    mask: Any = None,
    pre: Mapping[str, Mapping[str, Any]] | None = None,
    nonlinearity: str | Mapping[str, str] | None = None,
    pool: bool = False,
    groups: int | None = None,
    positions: int | str | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    statistics: Mapping[str, Any] | None = None,
    analysis: Mapping[str, Any] | None = None,
    file: str | Path | None = None,
    workers: int | None = 1,
    progress: bool = True,
) -> Run:
    """Compare the units of nets over images, and return the results as those of a run.

    Activations are not stored: sums are taken batch by batch, as by ``convergence statistics``, with the same numbers.
    The nets are copied and stay unchanged.

    Parameters
    ----------
    nets
        A dict of modules by name, a list of modules (named net1, net2, …), or a dict of dicts ``{layer: array}`` of
        activations (n_images, units), (n_images, units, height, width) or (n_images, tokens, units).
    data
        The images: an array or a tensor (n_images, …), a map-style data set, or a DataLoader whose batches are tensors
        or (images, labels). A loader is read once. None for arrays of activations.
    layers
        Names of layers of all nets, or a dict of a list for each net, aligned by position. Default: for modules four
        convolutions or linear layers that all nets have, from the first to the last before the answer; for arrays all.
    untrained
        Names of the nets that are an untrained baseline.
    initialisations
        By net, a name of its initial weights: nets with one name were trained, or fine-tuned, from the same weights.
        Their pairs are of the kind ``same_init``, and no evidence about nets trained apart. Default: all nets differ.
    labels, families
        (n_images,) class and family of each image. Images of a family (frames of a film, crops of a photograph) are
        not independent. Labels default to those of the loader.
    mask
        (n_images, positions) booleans, False for padding, for layers with one axis of positions (tokens). Default for
        rows of integers: tokens that are not negative.
    pre, nonlinearity
        For arrays: pre-activations ``{net: {layer: array}}`` and the function that gives the activations, as in
        ``[activations]`` of a config. They give chance levels.
    pool
        Average every unit over positions, which makes layers of any shape comparable.
    groups, positions, batch_size, seed, device
        As in ``[statistics]`` of a config. ``groups`` is 20, or half the number of images if they are fewer than 40.
    statistics, analysis
        Any other settings of ``[statistics]`` and ``[analysis]``: ``statistics={"precision": "float64"}``.
    file
        Folder, or path of a .h5 file, for the statistics and the analysis; a later call with the same nets, data and
        settings reads them. None keeps them in a folder for temporary files as long as the results are in use.
    workers
        Processes of the analysis; None for as many as work, cores and memory make sensible.
    progress
        Whether to show progress bars.

    Raises
    ------
    UserError
        for nets, data, layers and settings that do not fit each other.
    """
    given = GivenNets(nets, pre)
    folder = LastingScratch() if file is None else None
    kept = folder.path if folder is not None else Path(str(file))
    target = kept if kept.suffix.lower() in ENDINGS else kept / STATISTICS
    if not target.parent.exists():
        create_for_owner(target.parent)
    chosen = {"positions": positions, "device": device, "batch_size": batch_size, "seed": seed}
    settings = {key: value for key, value in chosen.items() if value is not None} | dict(statistics or {})
    notes: list[str] = []

    def note(text: str) -> None:
        if text:
            notes.append(text)
            logger.info("compare: %s", text)
            if progress:
                print(text, file=sys.stderr)

    comparisons, of_layers = given.comparisons(layers, pool)
    note(of_layers)
    note(_of_one_origin(given, untrained, initialisations or {}))
    with scratch_folder() as scratch, bars(progress):
        batch = settings.get("batch_size", StatisticsConfig.model_fields["batch_size"].default)
        images = _images(given, data, labels, families, mask, batch, scratch)
        settings.setdefault("groups", groups or _groups(images, settings.get("max_images"), note))
        settings.setdefault("threads", _threads(given))
        settings.setdefault("loader_workers", 0)
        values = {
            "name": NAME, "statistics": settings | {"comparisons": comparisons}, "analysis": dict(analysis or {}),
        }  # fmt: skip
        values |= given.experiment_values(images, untrained, initialisations or {}, nonlinearity)
        experiment = validated(LiveExperiment, values, "compare")
        sha256 = _content(given, images)
        task = statistics_task(target, experiment, sha256)
        claim = Claim(target.parent, (task,), remedy="Choose another place with file=")
        with torch_settings_restored() if given.modules else nullcontext():
            run_task(
                claim,
                _digest,
                False,
                lambda: compute_statistics(experiment, _source(experiment, given, images), task, sha256),
            )
        start = load_object("hpc.dask_executor:executors")(load_object("hpc.dask_executor:Workers")(workers))
        analyze_file(target, executors=start)
    run = open_run(target)
    run.keep(folder, notes)
    _report_missing(run)
    return run


def _images(
    given: GivenNets, data: Any, labels: Any, families: Any, mask: Any, batch_size: int, scratch: Path
) -> GivenImages:  # fmt: skip
    if given.modules:
        if data is None:
            raise ConfigError("data is missing: modules need images; give an array, a tensor, a data set or a loader.")
        return read_images(data, labels, families, mask, batch_size, scratch)
    if data is not None:
        raise ConfigError("data: activations are given, so no images are read; remove data.")
    counts = {f"{net}.{layer}": len(array) for net, own in given.arrays.items() for layer, array in own.items()}
    if len(set(counts.values())) > 1:
        raise ConfigError(
            "nets: activations are not of the same images: "
            + listed(f"{name}: {n:,}" for name, n in counts.items())
            + ". Image k has to be the same in all arrays."
        )
    return GivenImages(next(iter(counts.values())), None, labels, families, mask)


def _of_one_origin(given: GivenNets, untrained: Sequence[str], initialisations: Mapping[str, str]) -> str:
    """What to say of trained modules that come from the same weights and have no common name; "" without any."""
    trained = {name: net for name, net in given.modules.items() if name not in untrained}
    for pair in common_origins({name: sample_of(net.state_dict()) for name, net in trained.items()}):
        one, other = (initialisations.get(name) for name in (pair.first, pair.second))
        if one is None or one != other:
            return (
                f"{pair}. If they were trained or fine-tuned from the same weights, they are no nets trained apart: "
                f'initialisations={{"{pair.first}": "base", "{pair.second}": "base"}}.'
            )
    return ""


def _groups(images: GivenImages, most: int | None, note: Callable[[str], None]) -> int:
    """The number of image groups where it is not given."""
    n, what = min(len(images), most or len(images)), "images"
    if images.families is not None:
        n, what = min(n, len(set(images.families.tolist()))), "families of images"
    if n < 4:
        raise ConfigError(f"data: {n} {what}; errors need at least 2 image groups of 2, that is 4 {what}.")
    if n < 2 * GROUPS:
        note(f"{n} {what} make {n // 2} image groups instead of {GROUPS}; errors are the less certain.")
    return min(GROUPS, n // 2)


def _threads(given: GivenNets) -> int:
    if given.modules:
        import torch

        return torch.get_num_threads()
    return int(load_object("hpc.dask_executor:usable_cores")())


def _content(given: GivenNets, images: GivenImages) -> str:
    """SHA-256 of the inputs, labels and families; of given activations with these."""
    import hashlib

    from convergence.notebook.inputs import add_array

    if given.modules:
        return images.manifest_hash()
    digest = hashlib.sha256(images.manifest_hash().encode())
    for of in (given.arrays, given.pre):
        for net, layers in of.items():
            for layer, array in layers.items():
                digest.update(repr((net, layer)).encode())
                add_array(digest, array)
    return digest.hexdigest()


def _source(experiment: LiveExperiment, given: GivenNets, images: GivenImages) -> Callable[[], ActivationSource]:
    """A function that opens the source of activations."""

    def arrays() -> ActivationSource:
        from convergence.statistics.array_source import ArraysInMemory, ArraySource

        return ArraySource(experiment, ArraysInMemory(given.arrays, given.pre, images))

    def modules() -> ActivationSource:
        import numpy as np
        import torch

        from convergence.networks.devices import devices_of_process, reproducible_arithmetic
        from convergence.statistics.torch_source import NetSource

        reproducible_arithmetic(experiment.statistics.threads)
        copies = Copies(given.modules, torch.from_numpy(images.read(np.arange(min(PROBE_IMAGES, len(images))))))
        try:
            return NetSource(experiment, copies, images, devices_of_process(experiment.statistics.device))
        except ConfigError as error:
            raise ConfigError(f'nets: "{copies.last}": {error}') from error

    return modules if given.modules else arrays


def _digest(path: Path) -> str:
    with open_statistics(path) as file:
        return file.digest


def _report_missing(run: Run) -> None:
    """Raise UserError if a layer of a net is not finite, and note single units that are not."""
    for layer in run:
        for net in layer.nets:
            reasons = layer.results.units(net).inactive_reason
            bad = int((reasons == NOT_FINITE).sum())
            if bad == len(reasons):
                raise UserError(
                    f'nets: all units of "{net}" in {layer.name} have values that are not finite (NaN or infinity). '
                    "Check the weights of the net and the range of the inputs."
                )
            if bad:
                run.notes.append(f"{net}, {layer.name}: {bad} of {len(reasons)} units are not finite and left out.")
