"""The images: counts, classes and shapes of both splits, and a few of them read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from convergence.checks.context import N_IMAGES, CheckContext, user_code
from convergence.checks.findings import Finding
from convergence.config.functional import EXPERIMENT_NAMES
from convergence.data.image_order import subset_size
from convergence.data.images import AbsentImages, ImageSet
from convergence.errors import ConfigError
from convergence.statistics.array_source import ArraySource
from convergence.statistics.sampling import ImageGroups

NAME = "images"
N_READ = 4


def check_images(context: CheckContext) -> Iterator[Finding]:
    """Yield findings about the images of a config; open given activations. Sets ``context.images_usable``."""
    if context.experiment.activations is not None:
        source = ArraySource(context.experiment)
        source.read_masks(context.experiment.statistics)
        context.joined = source.joined
        context.images_usable = True
        return
    if not context.elsewhere:
        context.folder.data.check()  # reads new files once; raises with all files that cannot be used
    with user_code(f"loading the data set {context.experiment.images.name}"):
        train, test = context.splits
    found = [*_check_splits(train, test), *_check_needs(context)]
    yield from found
    context.images_usable = all(finding.level != "fault" for finding in found)
    if context.images_usable:
        yield from _check_counts(context)


def _check_splits(train: ImageSet, test: ImageSet) -> Iterator[Finding]:
    if train.image_shape != test.image_shape:
        yield Finding(
            NAME, "fault", f"training images have the shape {train.image_shape}, held-out images {test.image_shape}",
            remedy="Give both splits the same size and number of channels, with data.crop if the data set has it",
        )  # fmt: skip
    if train.class_names != test.class_names:
        yield Finding(
            NAME, "fault", f"the splits have different classes: {train.n_classes} in training, {test.n_classes} held "
            "out, or in another order", remedy="Give both splits the same folders of classes",
        )  # fmt: skip
    for what, images in (("training", train), ("held-out", test)):
        if not isinstance(images, AbsentImages):
            yield from _check_split(what, images)


def _check_needs(context: CheckContext) -> Iterator[Finding]:
    """Findings about labels and training images that the run needs and the data do not have."""
    experiment, train = context.experiment, context.splits.train
    made_here = [net for net in experiment.all_nets() if net.trained_here]
    trained = bool(made_here)
    if isinstance(train, AbsentImages):
        if trained or experiment.statistics.split == "train":
            needed = "nets are trained" if trained else 'statistics.split = "train"'
            yield Finding(NAME, "fault", f"there are no training images, and {needed}: {train.reason}")
    elif train.labels is None and any(net.spec.trained_for() == "classes" for net in made_here):
        yield Finding(
            NAME, "fault", "nets are trained, and the images have no labels", "a class for each image",
            "Give labels (data.labels, folders of classes, targets of the data set), or compare nets with weights of "
            'their own, or train nets for tokens on the next token: network.task = "next_token"',
        )  # fmt: skip
    enabled = [name for name in EXPERIMENT_NAMES if context.folder.has_experiment(name)]
    of_classes = any(net.spec.trained_for() == "classes" for net in experiment.all_nets() if net.network is not None)
    if enabled and of_classes and context.images.labels is None:
        yield Finding(
            NAME, "fault", f"{', '.join(enabled)} measure accuracy, and the images have no labels",
            "a class for each image", f"Give labels, or set functional.{enabled[0]}.enabled = false",
        )  # fmt: skip


def _check_split(what: str, images: ImageSet) -> Iterator[Finding]:
    n, n_classes = len(images), images.n_classes
    if n < N_IMAGES:
        yield Finding(
            NAME, "fault", f"there are {n} {what} images", f"at least {N_IMAGES}",
            "Check the folder or the files of [data]",
        )  # fmt: skip
        return
    labels = images.labels
    if labels is not None and (labels.min() < 0 or labels.max() >= n_classes):
        yield Finding(
            NAME, "fault", f"labels of {what} images are {labels.min()} to {labels.max()}, with {n_classes} classes",
            f"labels 0 to {n_classes - 1}", "Correct the labels or the names of the classes",
        )  # fmt: skip
        return
    counts = np.ones(0) if labels is None else np.bincount(labels, minlength=n_classes)
    absent = np.flatnonzero(counts == 0)
    if len(absent):
        named = ", ".join(images.class_names[k] for k in absent[:5]) + (", …" if len(absent) > 5 else "")
        yield Finding(
            NAME, "warning", f"{len(absent)} of {n_classes} classes have no {what} image: {named}",
            remedy="Add images of these classes, or remove the classes",
        )  # fmt: skip
    with user_code(f"reading {what} images"):
        chosen = np.linspace(0, n - 1, N_READ).round().astype(np.int64)
        values = images.read(chosen, 0 if what == "training" else None)
    if values.shape[1:] != tuple(images.image_shape) or values.dtype != images.dtype:
        yield Finding(
            NAME, "fault", f"{what} images were read with the shape {values.shape[1:]} and type "
            f"{values.dtype}", f"those of the data set, {tuple(images.image_shape)} and {images.dtype}",
            "Correct the data set",
        )  # fmt: skip
    elif not np.isfinite(values).all():
        yield Finding(
            NAME, "fault", f"{what} images hold values that are not finite",
            remedy="Correct these images or their normalisation",
        )  # fmt: skip


def _check_counts(context: CheckContext) -> Iterator[Finding]:
    config = context.experiment.statistics
    used = min(len(context.images), config.max_images or len(context.images))
    if used < config.groups:
        yield Finding(
            NAME, "fault", f"statistics.groups = {config.groups} groups need as many images, and there are {used} "
            f"evaluation images (statistics.split = \"{config.split}\")",
            remedy=f"Set statistics.groups to at most {used}, better {max(2, used // 4)}, or give more images",
        )  # fmt: skip
    elif used < 2 * config.groups:
        yield Finding(
            NAME, "warning", f"{used} evaluation images in {config.groups} groups are 1 image in some groups, and "
            "intervals from them are wide", remedy="Lower statistics.groups, or give more images",
        )  # fmt: skip
    elif context.images.families is not None:
        try:
            ImageGroups.of(config, len(context.images), context.images.families)
        except ConfigError as error:
            yield Finding(NAME, "fault", str(error), remedy="Lower statistics.groups, or use images of more families")
    training = context.experiment.training
    n, size = subset_size(len(context.splits.train), training.data_share), training.batch_size
    if any(net.trained_here for net in context.nets) and size > n > 0:
        yield Finding(
            NAME, "warning", f"training.batch_size = {size} exceeds the {n} training images: an epoch is one step",
            remedy="Lower training.batch_size",
        )  # fmt: skip
