"""Checks of an experiment that concern several sections, for faults that would otherwise show after the training.

Each check raises a ``ValueError`` for what the config alone can tell; what needs the images or torch is checked by the
stages.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from convergence.data.image_order import subset_size
from convergence.errors import did_you_mean, shown

if TYPE_CHECKING:
    from convergence.config.schema import Experiment

MAX_NETS, MAX_MEMBERS = 10_000, 100_000
"""Nets of an experiment, and layers of nets that all comparisons join."""
_UNSAFE = re.compile(r"[/\x00-\x1f\x7f]")


def check_layer_names(where: str, names: Iterable[str]) -> None:
    """Reject names of layers that HDF5 files cannot hold, and names that differ by their Unicode form only."""
    seen: dict[str, str] = {}
    for name in names:
        found = _UNSAFE.search(name)
        if found:
            raise ValueError(f"{where}: {_quoted(name)} contains {_quoted(found[0])}, which names cannot contain")
        if not name or len(name) > 255 or not name.strip("."):
            raise ValueError(f"{where}: {_quoted(name)} is no name of a layer; names have 1 to 255 characters")
        other = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise ValueError(f"{where}: {_quoted(name)} is listed in two Unicode forms; list each layer once")


def check_size(experiment: Experiment) -> None:
    """Reject numbers of nets and comparisons that no analysis can read."""
    n_nets = sum(group.n_nets for group in experiment.nets)
    if n_nets > MAX_NETS:
        raise ValueError(f"nets: {n_nets:,} nets; an experiment has at most {MAX_NETS:,}")


def check_subsets(experiment: Experiment) -> None:
    """Reject seeds of training subsets where every net sees all training images."""
    for group in experiment.nets:
        if group.subset_seeds is not None and experiment.training.data_share >= 1:
            raise ValueError(
                f"nets: {group.label} has subset_seeds, but every net sees all training images (training.data_share = "
                "1), so they change nothing; lower training.data_share or remove them"
            )


def check_members(experiment: Experiment) -> None:
    """Reject more members of comparisons than :data:`MAX_MEMBERS`."""
    n_members = sum(len(experiment.layer_refs_of(comparison)) for comparison in experiment.statistics.comparisons)
    if n_members > MAX_MEMBERS:
        raise ValueError(f"statistics.comparisons join {n_members:,} layers of nets; at most {MAX_MEMBERS:,} are valid")


def check_layer_configs(experiment: Experiment) -> None:
    """Reject settings of layers that nothing reads."""
    check_layer_names("layers", experiment.layers)
    if experiment.layers and experiment.activations is not None:
        raise ValueError("layers: [layers] applies to nets, and the config gives activations; remove [layers]")
    compared = [ref.layer for ref in experiment.all_layer_refs()]
    read = dict.fromkeys([*compared, *(layer for _, layers in experiment.pictured() for layer in layers)])
    for name in experiment.layers:
        if name not in read:
            raise ValueError(
                f"layers: no comparison or picture has the layer {_quoted(name)}; {did_you_mean(name, read)}"
            )


def check_layers(experiment: Experiment) -> None:
    """Reject layers that a built-in network does not have."""
    for group in experiment.nets:
        known = group.network.known_layers()
        if known is None:
            continue
        wanted = [
            (f'statistics.comparisons: "{comparison.name}"', layer)
            for comparison in experiment.statistics.comparisons
            for layer in comparison.layers_of(group.label)
        ]
        pictured = {net.label for net, _ in experiment.pictured()}
        if group.label in pictured:
            wanted += [("pictures.layers", layer) for layer in experiment.pictures.layers]
        for where, name in wanted:
            layer = experiment.layer_configs([name])[name].module or name
            if layer.partition("#")[0] not in known:
                raise ValueError(
                    f"{where}: the network {group.network.name} of {group.label} has no layer {_quoted(layer)}; "
                    f"{did_you_mean(layer, known)}"
                )


def check_images(experiment: Experiment) -> None:
    """Reject networks, groups and batches that do not fit the images, where the settings tell their shape or number."""
    data, config = experiment.images, experiment.statistics
    if not reads_training_images(experiment):
        data.without_train()
    shape, sizes = data.known_shape(), data.known_sizes()
    if shape is not None:
        for group in experiment.nets:
            group.network.check_images(shape)
    available = None
    if sizes is not None:
        n_train, n_test = sizes
        available = n_train if config.split == "train" else n_test
        batch, share = experiment.training.batch_size, experiment.training.data_share
        seen = subset_size(n_train, share)
        if batch > seen and any(group.trained_here for group in experiment.nets):
            of = f" of a net (training.data_share = {share:g})" if share < 1 else ""
            raise ValueError(f"training.batch_size = {batch:,} is more than the {seen:,} training images{of}; lower it")
    _check_groups(experiment, available)


def reads_training_images(experiment: Experiment) -> bool:
    """Whether a run needs training images: to train a net here, for the statistics, or for an enabled experiment."""
    trained = any(group.trained_here for group in experiment.nets)
    functional = experiment.functional
    fitted = functional.merge.enabled or functional.compress.enabled or functional.average.enabled
    return trained or fitted or experiment.statistics.split == "train"


def check_groups(experiment: Experiment) -> None:
    """Reject more image groups than pairs of images, where the config states the number of images."""
    _check_groups(experiment, None)


def _check_groups(experiment: Experiment, available: int | None) -> None:
    config = experiment.statistics
    counts = [n for n in (available, config.max_images) if n is not None]
    if counts and min(counts) < 2 * config.groups:
        raise ValueError(
            f"statistics.groups = {config.groups} needs at least {2 * config.groups:,} images, and there are "
            f"{min(counts):,}: choose at most {max(min(counts) // 2, 1)} groups"
        )


def check_functional_names(experiment: Experiment) -> None:
    """Reject nets and comparisons of the functional experiments that the config does not have."""
    config = experiment.functional
    nets = {
        "functional.stitch.pairs": [name for pair in config.stitch.pairs for name in pair],
        "functional.compress.nets": config.compress.nets,
        "functional.ensemble.members": config.ensemble.members,
        "functional.ensemble.trunks": config.ensemble.trunks,
    }
    trained = {
        "functional.merge.nets": config.merge.nets,
    }
    trained_here = {"functional.average.net": [config.average.net] if config.average.net else []}
    comparisons = {
        "functional.stitch.comparisons": config.stitch.comparisons,
        "functional.ensemble.comparisons": config.ensemble.comparisons,
        "functional.ensemble.dissimilarity": [config.ensemble.dissimilarity] if config.ensemble.dissimilarity else [],
    }
    _check_known("net", nets, {net.name: None for net in experiment.all_nets()})
    _check_known("trained net", trained, {net.name: None for net in experiment.all_nets() if net.trained})
    _check_known(
        "net that is trained here", trained_here, {net.name: None for net in experiment.all_nets() if net.trained_here}
    )
    _check_known("comparison", comparisons, {item.name: None for item in experiment.statistics.comparisons})


def _check_known(kind: str, settings: Mapping[str, Iterable[str]], known: Collection[str]) -> None:
    for setting, names in settings.items():
        for name in names:
            if name not in known:
                raise ValueError(f"{setting}: there is no {kind} {_quoted(name)}; {did_you_mean(name, known)}")


def _quoted(name: str) -> str:
    """A name in double quotes, with characters that terminals do not print escaped."""
    return f'"{shown(name)[1:-1]}"'
