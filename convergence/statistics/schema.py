"""The layout of statistics.h5: every attribute and dataset, with its axes, type, unit of measure and meaning.

The writer, the reader and the section of docs/files.md between the markers use these tables.
``python -m convergence.statistics.schema docs/files.md`` renews the section.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from convergence.provenance import STATISTICS_SCHEMA_VERSION

if TYPE_CHECKING:
    from convergence.config.stages import StatisticsConfig
    from convergence.statistics.activation_source import JoinedUnits

SCHEMA = "convergence-statistics"
VERSION = STATISTICS_SCHEMA_VERSION
MADE_BY = "convergence statistics CONFIG"
UNKNOWN, ALL_TRAINING_IMAGES = -1, -2
"""Instead of a seed: of the image order or the training subset where it is unknown, of a subset that is the whole."""
MARKERS = ("<!-- statistics.h5: generated -->", "<!-- end -->")


class Attribute(NamedTuple):
    """An attribute of a group: its axes, () for a single value, its type, and its meaning."""

    name: str
    axes: tuple[str, ...]
    dtype: str
    about: str


class Dataset(NamedTuple):
    """A dataset.

    Attributes
    ----------
    path : name within its group
    axes : labels of the axes, see ``AXES``
    dtype : numpy's name of the type; "text"; "counts" for the smallest unsigned type that can hold the values
    about : its meaning, in one sentence
    unit : unit of measure; "" for none or that of the activations
    needs : the setting without which the dataset is absent
    is_matrix : written in blocks of rows, with a checksum of the blocks' checksums
    all_groups : defined over all image groups together only, so absent in a file of some groups
    """

    path: str
    axes: tuple[str, ...]
    dtype: str
    about: str
    unit: str = ""
    needs: str = ""
    is_matrix: bool = False
    all_groups: bool = False


AXES = {
    "image": "images of the split, in the order of the data set",
    "group": "image groups",
    "block": "consecutive blocks of image groups (`numpy.array_split`)",
    "sample": "images whose mean activations are stored",
    "stored": "the same images",
    "class": "classes of the data set, in the order of the labels",
    "net": "members of the comparison; in `nets/`, the nets",
    "unit": "units of all members side by side",
    "rank": "top images of a unit, largest value first",
    "half": "halves of the image groups: those of even and of odd numbers",
    "draw": "draws of pseudo-nets",
    "own": "units of the unit's member; 0 beyond its width",
    "edge": "lower edges of bins 1, 2, …",
    "bucket": "occupied buckets of the float32 bit pattern",
    "side": "height and width, or tokens; 0 for an axis that a layer does not have",
    "grid": "axes of the grid of sampled positions",
}
"""Meaning of the axis labels."""

FILE = (
    Attribute("schema", (), "text", f"`{SCHEMA}`"),
    Attribute("schema_version", (), "int64", f"{VERSION}; files of other versions are refused"),
    Attribute("digest", (), "text", "SHA-256 of the settings and inputs that determine the content"),
    Attribute("config", (), "text", "the experiment's configuration, JSON"),
    Attribute("provenance", (), "text", "versions of the packages and the commit, JSON"),
    Attribute("about", (), "text", "a sentence about the file"),
    Attribute("selection", (), "text", "what `convergence subset` selected, JSON; absent in a whole file"),
)
IMAGES = (
    Attribute("n_images", (), "int64", "number of images that were read"),
    Attribute("n_groups", (), "int64", "number of image groups"),
    Attribute("n_pilot", (), "int64", "images of the pilot: `statistics.pilot` or more, at most all"),
    Attribute("manifest_sha256", (), "text", "SHA-256 of the images and labels"),
)
IMAGE_DATASETS = (
    Dataset(
        "family_of_image", ("image",), "int64", "Family of every image: images of a family are not independent and in "
        "one group.",
    ),
    Dataset("group_of_image", ("image",), "int32", "Image group of every image; −1 for images that were not read."),
    Dataset(
        "subset", ("sample",), "int64", "Images whose mean activations are stored, ascending; drawn by seed, equally "
        "many of each group ± 1.", needs="subset",
    ),
    Dataset("subset_group", ("sample",), "int32", "Image group of each of these images.", needs="subset"),
)  # fmt: skip
NET_DATASETS = (
    Dataset("name", ("net",), "text", "Name of the net."),
    Dataset("label", ("net",), "text", "Label of the group of nets in the config."),
    Dataset("seed", ("net",), "int64", "Seed of the initialisation; −1 if unknown."),
    Dataset(
        "initialisation",
        ("net",),
        "text",
        "Equal texts are equal initial weights: network, SHA-256 of its settings, "
        "and seed; the name of a net whose initial weights are unknown.",
    ),
    Dataset("order_seed", ("net",), "int64", "Seed of the image order in training; −1 if unknown, or not trained."),
    Dataset(
        "subset_seed",
        ("net",),
        "int64",
        "Seed of the training images that the net saw; −2 for all training images, −1 if unknown, or not trained.",
    ),
    Dataset("trained", ("net",), "bool", "Whether the net is trained."),
    Dataset("held_out_accuracy", ("net",), "float64", "Accuracy on held-out images; NaN if unknown.", "share"),
    Dataset("weights_sha256", ("net",), "text", "SHA-256 of the file of the final weights; empty if unknown."),
)
MEMBERS = (
    Attribute("nets", ("net",), "text", "name of the member"),
    Attribute("of_net", ("net",), "text", "the member's net, as in `nets/name`"),
    Attribute("epochs", ("net",), "int64", "epoch of the weights; −1: the final weights"),
    Attribute("layers", ("net",), "text", "layer asked for"),
    Attribute("sources", ("net",), "text", "graph node, or array, that is read"),
    Attribute("rectified", ("net",), "bool", "whether that node is an activation function"),
    Attribute(
        "privileged",
        ("net",),
        "bool",
        "whether the basis of the units is privileged; not if linear maps write the layer, and only linear maps and "
        "norms read it",
    ),
    Attribute(
        "null_kind",
        ("net",),
        "text",
        "chance level that keeps marginals: `pre-activations` (the `null_…` datasets "
        "have pseudo-nets of the member), `sums` (a linear layer, whose sums may be rotated), or empty",
    ),
    Attribute("null_reason", ("net",), "text", "why `null_kind` is empty"),
    Attribute("widths", ("net",), "int64", "number of units"),
    Attribute("map_shapes", ("net", "side"), "int64", "size of the layer's maps"),
    Attribute("pooled", (), "bool", "whether a sample is the mean over the positions of an image"),
    Attribute("map_shape", ("grid",), "int64", "grid of the positions that are samples; empty if pooled"),
    Attribute("positions", (), "text", "sampled positions per image: `all` or a number"),
    Attribute("precision", (), "text", "type of the products, `float32` or `float64`; sums are float64"),
    Attribute(
        "bin_error",
        (),
        "float64",
        "largest relative difference of a bin's number of values from equal numbers, over the units with continuous "
        "values; the zeros of a rectified unit are not counted. NaN without bins or without such units",
    ),
)
DATASETS = (
    Dataset("unit_net", ("unit",), "int32", "Member of the unit, an index into the attribute `nets`."),
    Dataset("unit_index", ("unit",), "int32", "Index of the unit within its layer."),
    Dataset("shift", ("unit",), "float64", "s, the point about which units are summed."),
    Dataset("group_count", ("group",), "int64", "n, the number of samples (images × positions)."),
    Dataset("group_sums", ("group", "unit"), "float64", "Σ (x − s) over samples."),
    Dataset("class_count", ("group", "class"), "int64", "Number of samples of each class.", needs="class_sums"),
    Dataset(
        "class_sums", ("group", "class", "unit"), "float64", "Σ (x − s) over the samples of each class.",
        needs="class_sums", is_matrix=True,
    ),
    Dataset(
        "image_gram", ("net", "sample", "stored"), "float64", "Inner products of the flattened maps of the images of "
        "`images/subset`, all units at all positions.", needs="image_gram", is_matrix=True,
    ),
    Dataset(
        "subset_samples", ("sample", "unit"), "float32", "Mean of the unit over all positions, for each image of "
        "`images/subset`.", needs="subset",
    ),
    Dataset(
        "top_value", ("unit", "rank"), "float32", "Largest value over all positions of an image; NaN without an image.",
        needs="top_images", all_groups=True,
    ),
    Dataset(
        "top_image", ("unit", "rank"), "int64", "Index of that image; −1 without an image.",
        needs="top_images", all_groups=True,
    ),
    Dataset(
        "top_position", ("unit", "rank"), "int64", "Index of the position in the flattened map of the unit's layer; "
        "−1 without an image.", needs="top_images", all_groups=True,
    ),
    Dataset(
        "group_products", ("group", "unit", "unit"), "float64", "Σ (x − s)(x − s)ᵀ over samples.", is_matrix=True
    ),
    Dataset(
        "group_shifted_products", ("group", "unit", "unit"), "float64", "Σ (x_t − s)(x_{t+1} − s)ᵀ over the images t "
        "of the group in a ring: rows of an image, columns of the next one.", needs="shifted_null", is_matrix=True,
    ),
    Dataset("null_count", ("half",), "int64", "Number of samples that the chance level uses.", needs="null",
            all_groups=True),
    Dataset("null_real_sums", ("half", "unit"), "float64", "Σ (x − s) over these samples.", needs="null",
            all_groups=True),
    Dataset("null_real_squares", ("half", "unit"), "float64", "Σ (x − s)² over these samples.", needs="null",
            all_groups=True),
    Dataset("null_real_exponent", ("unit",), "int64", "k: the products below are of units divided by 2^k.",
            needs="null", all_groups=True),
    Dataset("null_exponent", ("draw", "unit"), "int64", "The same of pseudo-units.", needs="null", all_groups=True),
    Dataset("null_shift", ("draw", "unit"), "float64", "t, the point about which pseudo-units are summed.",
            needs="null", all_groups=True),
    Dataset("null_sums", ("half", "draw", "unit"), "float64", "Σ (p − t) over samples of the pseudo-unit p in the "
            "place of the unit; 0 for members without pseudo-nets.", needs="null", all_groups=True),
    Dataset("null_products", ("half", "draw", "unit", "unit"), "float32", "Σ (x − s)(p − t)ᵀ over samples: rows real "
            "units, columns pseudo-units.", needs="null", is_matrix=True, all_groups=True),
    Dataset("null_own", ("half", "draw", "unit", "own"), "float32", "Σ (p − t)(p − t)ᵀ over samples, of the "
            "pseudo-units of one member.", needs="null", is_matrix=True, all_groups=True),
    Dataset(
        "mutual_information", ("unit", "unit"), "float64", "Mutual information of binned units, corrected for counting "
        "bias; the diagonal is not information between two units.", "nat", "mutual_information", True, True,
    ),
    Dataset(
        "mutual_information_without", ("block", "unit", "unit"), "float64", "The same without each block of image "
        "groups, for the jackknife.", "nat", "mutual_information", True, True,
    ),
    Dataset("histogram/zero", ("unit",), "int64", "Number of exact zeros.", all_groups=True),
    Dataset("histogram/nonfinite", ("unit",), "int64", "Number of NaN and infinite values.", all_groups=True),
    Dataset("histogram/positive", ("unit", "bucket"), "counts", "Counts of positive values.", all_groups=True),
    Dataset("histogram/positive_first", (), "int64", "Bucket of the first column of `positive`.", all_groups=True),
    Dataset("histogram/negative", ("unit", "bucket"), "counts", "Counts of magnitudes of negative values.",
            all_groups=True),
    Dataset("histogram/negative_first", (), "int64", "Bucket of the first column of `negative`.", all_groups=True),
    Dataset(
        "bin_edges", ("unit", "edge"), "float32", "Lower edges of bins 1, 2, …, among the edges of the fine bins of "
        "the pilot; +∞ where a unit has fewer bins.",
        needs="mutual_information", all_groups=True,
    ),
    Dataset(
        "effective_bins", ("unit",), "int64", "Number of bins with any sample.", needs="mutual_information",
        all_groups=True,
    ),
)  # fmt: skip
"""Datasets of a comparison."""
SETTINGS = {
    "subset": "`statistics.subset` > 0",
    "top_images": "`statistics.top_images` > 0 and the comparison is not pooled",
    "class_sums": "`statistics.class_sums` and the images have labels",
    "image_gram": "`statistics.image_gram` and `statistics.subset` > 0",
    "shifted_null": "`statistics.shifted_null`",
    "null": "`statistics.null.draws` > 0 and a member has pre-activations",
    "mutual_information": "`statistics.mutual_information.enabled`",
}
"""When a dataset that needs a setting is present."""


def is_present(dataset: Dataset, config: StatisticsConfig, joined: JoinedUnits, n_classes: int) -> bool:
    """Whether a comparison's dataset is in a file made with these settings; ``n_classes`` is 0 without labels."""
    return {
        "": True,
        "subset": config.subset > 0,
        "class_sums": config.class_sums and n_classes > 0,
        "image_gram": config.image_gram and config.subset > 0,
        "top_images": config.top_images > 0 and not joined.pooled,
        "shifted_null": config.shifted_null,
        "null": joined.n_pseudo > 0,
        "mutual_information": config.mutual_information.enabled,
    }[dataset.needs]


def _sizes(joined: JoinedUnits, config: StatisticsConfig, n_classes: int, n_subset: int) -> dict[str, int]:
    """Lengths of the axes of matrices."""
    return {
        "unit": joined.n_units, "net": len(joined.nets), "class": n_classes, "sample": n_subset, "stored": n_subset,
        "group": config.groups, "block": min(config.mutual_information.blocks, config.groups), "half": 2,
        "draw": config.null.draws, "own": max(joined.widths),
    }  # fmt: skip


def matrix_shapes(
    joined: JoinedUnits, config: StatisticsConfig, n_classes: int, n_subset: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of the matrices of a comparison with these settings; ``n_subset`` images are stored."""
    sizes = _sizes(joined, config, n_classes, n_subset)
    return {
        dataset.path: tuple(sizes[axis] for axis in dataset.axes)
        for dataset in DATASETS
        if dataset.is_matrix and is_present(dataset, config, joined, n_classes)
    }


def stored_bytes(joined: JoinedUnits, config: StatisticsConfig, n_subset: int, n_classes: int) -> int:
    """Bytes of a comparison in the file, without its histograms; ``n_subset`` images have stored activations."""
    sizes = _sizes(joined, config, n_classes, n_subset) | {
        "rank": config.top_images, "edge": config.mutual_information.bins - 1
    }  # fmt: skip
    return sum(
        np.dtype(dataset.dtype).itemsize * math.prod(sizes[axis] for axis in dataset.axes)
        for dataset in DATASETS
        if not dataset.path.startswith("histogram/") and is_present(dataset, config, joined, n_classes)
    )


def documentation() -> str:
    """The section of docs/files.md between the markers."""
    lines = [
        f"## statistics.h5 (schema `{SCHEMA}`, version {VERSION})",
        "",
        "Attributes:",
        "",
        "| where | attribute | axes | type | meaning |",
        "|---|---|---|---|---|",
    ]
    for where, attributes in (("file", FILE), ("`images/`", IMAGES), ("`comparisons/<c>/`", MEMBERS)):
        lines += [
            f"| {where} | `{name}` | {_axes(axes)} | {dtype} | {about} |" for name, axes, dtype, about in attributes
        ]
    lines += ["", "Datasets:", "", "| dataset | axes | type | meaning |", "|---|---|---|---|"]
    for prefix, datasets in (("images/", IMAGE_DATASETS), ("nets/", NET_DATASETS), ("comparisons/<c>/", DATASETS)):
        lines += [_row(prefix, dataset) for dataset in datasets]
    lines += ["", "Axes:", "", "| axis | entries |", "|---|---|"]
    lines += [f"| {axis} | {about} |" for axis, about in AXES.items()]
    return "\n".join(lines)


def _row(prefix: str, dataset: Dataset) -> str:
    unit = f" Unit: {dataset.unit}." if dataset.unit else ""
    needs = f" Present if {SETTINGS[dataset.needs]}." if dataset.needs else ""
    dtype = "smallest unsigned type" if dataset.dtype == "counts" else dataset.dtype
    return f"| `{prefix}{dataset.path}` | {_axes(dataset.axes)} | {dtype} | {dataset.about}{unit}{needs} |"


def _axes(axes: Sequence[str]) -> str:
    return f"({', '.join(axes)})" if axes else ""


def renew_documentation(text: str) -> str:
    """A text with the part between the markers replaced by :func:`documentation`."""
    before, rest = text.split(MARKERS[0], 1)
    after = rest.split(MARKERS[1], 1)[1]
    return f"{before}{MARKERS[0]}\n{documentation()}\n{MARKERS[1]}{after}"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(renew_documentation(path.read_text(encoding="utf-8")), encoding="utf-8")
