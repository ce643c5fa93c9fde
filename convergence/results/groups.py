"""Typed results about groups of units: clusters, the subspaces of clusters, and the dimensions that nets share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Rows = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Clustering:
    """Clusters of the joined active units by one method.

    Attributes
    ----------
    method : spectral, hierarchical or sparse_weights
    n_clusters : how many
    labels_x, labels_y : (n_active,) cluster of each active unit of x and of y, -1 for none
    sizes : (n_clusters, 2) units of x and of y
    similarity, n_pairs : (n_clusters, 3) mean |r| within x, within y and between, and the pairs of units behind it
    similarity_error : (n_clusters, 3) standard errors over image groups; NaN but for the spectral method
    eigengap, stability : of the spectral method, else NaN
    stability_halves, stability_null : agreement of the clusters of both halves of the images, and of rotated nets
    beyond_chance : whether halves agree and clusters are separate beyond 95 % of rotated nets
    limit : size above which clusters are split (hierarchical), else NaN
    same_as_spectral : adjusted Rand index with the spectral clusters (sparse_weights), else NaN
    """

    method: str
    n_clusters: int
    labels_x: Indices
    labels_y: Indices
    sizes: Indices
    similarity: Float64
    n_pairs: Indices
    similarity_error: Float64
    eigengap: float
    stability: float
    stability_halves: float
    stability_null: float
    beyond_chance: bool
    limit: float
    same_as_spectral: float


@dataclass(frozen=True, eq=False)
class SharedNumber:
    """A number of the two groups of units of each cluster, (n,) each, with its level for random groups."""

    value: Float64
    standard_error: Float64
    chance: Float64
    chance_sd: Float64


@dataclass(frozen=True, eq=False)
class Subspaces:
    """Spans of the clusters with units of both members.

    Attributes
    ----------
    clusters, sizes : (n,) labels, and (n, 2) units of x and of y
    mean_correlation : mean canonical correlation
    explained_x, explained_y : share of the variance of one group that the other explains
    matched : mean |r| of matched units, with ``matched_rotated`` and ``matched_rotated_sd`` (n,) in rotated bases
    """

    clusters: Indices
    sizes: Indices
    mean_correlation: SharedNumber
    explained_x: SharedNumber
    explained_y: SharedNumber
    matched: SharedNumber
    matched_rotated: Float64
    matched_rotated_sd: Float64


@dataclass(frozen=True, eq=False)
class SharedDimensions:
    """Dimensions that two nets share, or all nets of a kind, on images that did not fit them.

    Attributes
    ----------
    correlation, standard_error : (n_dimensions,) held-out correlation by dimension, not increasing, and its error over
        image groups
    null : (n_dimensions,) correlation that a dimension reaches with probability .05 if it is not shared
    shared : leading dimensions above the null and of a correlation of at least 0.5
    beyond_chance : leading dimensions above the null
    effective, effective_error : sum of squared held-out correlations, and its error over image groups
    """

    correlation: Float64
    standard_error: Float64
    null: Float64
    shared: int
    beyond_chance: int
    effective: float
    effective_error: float

    @property
    def n_dimensions(self) -> int:
        """Dimensions that could be shared: the least rank of a net."""
        return len(self.correlation)


def dimensions_of_all(scalars: Rows, spectrum: Rows) -> SharedDimensions:
    """Dimensions that all nets of a kind share, from its row of ``consensus`` and its rows of the spectrum."""
    return SharedDimensions(
        correlation=spectrum["correlation"],
        standard_error=spectrum["standard_error"],
        null=spectrum["null"],
        shared=int(scalars["shared_dimensions"][0]),
        beyond_chance=int(scalars["dimensions_beyond_chance"][0]),
        effective=float(scalars["shared_dimensions_effective"][0]),
        effective_error=float(scalars["shared_dimensions_effective_error"][0]),
    )
