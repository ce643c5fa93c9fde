"""Results of two members of a comparison, typed; arrays hold one value per active unit unless stated otherwise.

Directions: ``xy`` looks up every unit of x among those of y, or predicts units of y from those of x; ``yx`` the other
way round. Unit indices are those within a layer, -1 means none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from convergence.analysis.layout import ALL_IMAGES, DIRECTIONS, HELD_OUT
from convergence.inference import Estimate
from convergence.results.groups import Clustering, SharedDimensions, SharedNumber, Subspaces
from convergence.results.source import ComparisonSource

Kind = Literal["trained", "untrained", "mixed", "same_init"]
KINDS: tuple[Kind, ...] = ("trained", "untrained", "mixed", "same_init")
"""Kinds of pairs of nets: trained apart, untrained, one of each, trained from the same initial weights."""
TRAINED_OR_NOT: tuple[Kind, ...] = KINDS[:2]
CLUSTERING_NUMBERS = (
    "eigengap", "stability", "stability_halves", "stability_null", "limit", "same_as_spectral",
)  # fmt: skip
DIMENSION_NUMBERS = ("shared_dimensions", "dimensions_beyond_chance", "shared_dimensions_effective")
CODES = ("local", "few", "distributed", "unexplained")
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Rows = Mapping[str, npt.NDArray[Any]]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class PairMatching:
    """One-to-one matching of the active units of x, (n_active_x,) each.

    Attributes
    ----------
    unit_x, unit_y : a unit and its partner, -1 for none
    correlation, standard_error : with the partner, and its error over image groups; 0 without a partner
    held_out : correlation with the partner that the other half of the images gives
    absolute_unit_y : partner by matching of |r|
    """

    unit_x: Indices
    unit_y: Indices
    correlation: Float64
    standard_error: Float64
    held_out: Float64
    absolute_unit_y: Indices


@dataclass(frozen=True, eq=False)
class SemiMatching:
    """The best partner of each active unit, with replacement, (n_active,) each.

    Attributes
    ----------
    unit, partner : a unit and its best partner in the other member
    correlation, standard_error : with the partner, and its error over image groups
    held_out : correlation with the partner that the other half of the images gives
    null, null_sd : best correlation with a unit of the other net in another basis, mean and spread over draws
    p, q : probability that units in another basis reach the correlation, and adjusted for false discoveries
    absolute_partner : best partner by |r|
    mutual : whether the unit is its partner's best partner
    times_chosen : units of the other member whose best partner this unit is
    matched_rank, cycle_rank : position in the order by matched pairs, and in that along the cycles of the matching
    """

    unit: Indices
    partner: Indices
    correlation: Float64
    standard_error: Float64
    held_out: Float64
    null: Float64
    null_sd: Float64
    p: Float64
    q: Float64
    absolute_partner: Indices
    mutual: npt.NDArray[np.bool_]
    times_chosen: Indices
    matched_rank: Indices
    cycle_rank: Indices

    @property
    def matched_order(self) -> Indices:
        """Units in the order that puts matched pairs on the diagonal, strongest first."""
        return self.unit[np.argsort(self.matched_rank)]


@dataclass(frozen=True, eq=False)
class PartialMatching:
    """Mean correlation where only a share of the units has to match, (n_shares,) each."""

    share: Float64
    mean_correlation: Float64
    standard_error: Float64


@dataclass(frozen=True, eq=False)
class MutualInformation:
    """Partners of x's units by mutual information in nats, (n_active_x,) each, with errors over image groups.

    ``best_*`` with replacement; ``matched_*`` one-to-one, with 0 nats for a unit without a partner.
    """

    unit_x: Indices
    best_unit_y: Indices
    best_nats: Float64
    best_error: Float64
    matched_unit_y: Indices
    matched_nats: Float64
    matched_error: Float64


@dataclass(frozen=True, eq=False)
class SparsePath:
    """Means over targets along a LASSO path, (n_alphas,) each; losses are (1 - R²) / 2."""

    alpha: Float64
    paper_lambda: Float64
    loss: Float64
    loss_error: Float64
    refit_loss: Float64
    n_nonzero: Float64
    n_above_001: Float64
    kkt_gap: Float64
    held_out_loss: Float64
    held_out_error: Float64
    held_out_refit_loss: Float64
    held_out_refit_error: Float64


@dataclass(frozen=True, eq=False)
class ForwardSelection:
    """Means over targets by number of units, (n_steps,) each; losses are (1 - R²) / 2."""

    n_units: Indices
    loss: Float64
    standard_error: Float64
    held_out_loss: Float64
    held_out_error: Float64


@dataclass(frozen=True)
class HeldOutCodes:
    """Shares of targets, held out: one unit, a few, or more units reach 90 % of the R² of all; nothing is explained."""

    local: float
    few: float
    distributed: float
    unexplained: float


@dataclass(frozen=True, eq=False)
class SparsePrediction:
    """Units of one member predicted from few units of the other.

    Attributes
    ----------
    path, forward : means over the targets by penalty, and by number of units
    chosen : index of the penalty chosen on held-out images
    rank : of the predictors' correlations
    held_out_codes, held_out_codes_null : share of targets by kind of code, held out; the same with the predictors in
        another basis, None without a null
    target : (n_targets,) unit indices
    dense_loss, held_out_best_loss : (n_targets,) from all units; smallest of all fits on other images
    units_for_90, held_out_units_for_90 : (n_targets,) units that reach 90 % of the R²: -1 none do, 0 unexplained
    losses : (n_targets, n_alphas) along the path
    forward_units, forward_losses : (n_targets, n_steps) unit that a step adds, loss after it
    recipe_units, recipe_weights : (n_targets, n_terms) largest weights at the chosen penalty, -1 for none
    """

    path: SparsePath
    forward: ForwardSelection
    chosen: int
    rank: int
    held_out_codes: HeldOutCodes
    held_out_codes_null: HeldOutCodes | None
    target: Indices
    dense_loss: Float64
    held_out_best_loss: Float64
    units_for_90: Indices
    held_out_units_for_90: Indices
    losses: Float64
    forward_units: Indices
    forward_losses: Float64
    recipe_units: Indices
    recipe_weights: Float64

    @property
    def recipe_loss(self) -> Float64:
        """(n_targets,) loss at the chosen penalty."""
        return self.losses[:, self.chosen]


@dataclass(frozen=True)
class Distributions:
    """Mean Wasserstein-1 distances of units' activation distributions, in standard deviations.

    ``matched`` units, units ``assigned`` by this distance, ``any`` two units of both members, any two ``within_x`` and
    ``within_y``; ``sparsity`` is the distance of the units' shares of zeros.
    """

    matched: float
    assigned: float
    any: float
    within_x: float
    within_y: float
    sparsity: float


@dataclass(frozen=True, eq=False)
class PairResults:
    """Results of a pair of members that has active units; tables are read when they are used.

    Attributes
    ----------
    x, y : members
    kind : of the pair: trained (of different initial weights), same_init (trained from the same), untrained or mixed
    same_init, same_order, same_data : whether the nets have the same initial weights, and were trained on images in
        the same order, and on the same images; False where unknown
    same_partner, same_partner_error : share of matched units of x with the same partner by semi-matching
    same_absolute : share of the units of x with the same best partner by r and by |r|
    mutual_best : pairs of units that are each other's best
    never_chosen : units of y that are the best partner of no unit of x
    significant_xy, significant_yx : share of units with q <= 0.05; NaN without a null
    null_reason_xy, null_reason_yx : why a direction has no null; "" if it has one
    same_halves : share of the units of x with the same best partner on both halves of the images; NaN if unknown
    mean_activations_p : share of deals of the units to two nets whose mean activations are at least as far apart
    """

    x: str
    y: str
    kind: Kind
    same_init: bool
    same_order: bool
    same_data: bool
    same_partner: float
    same_partner_error: float
    same_absolute: float
    mutual_best: int
    never_chosen: int
    significant_xy: float
    significant_yx: float
    null_reason_xy: str
    null_reason_yx: str
    same_halves: float
    mean_activations_p: float
    distributions: Distributions | None
    _source: ComparisonSource

    @property
    def units_x(self) -> Indices:
        """Active units of x."""
        return self.semi_matching("xy").unit

    @property
    def units_y(self) -> Indices:
        """Active units of y."""
        return self.semi_matching("yx").unit

    def measure(self, name: str, direction: str = "xy", evaluation: str = ALL_IMAGES) -> Estimate | None:
        """A number of the pair in one direction; None if there is none."""
        return self._source.estimates.get((self.x, self.y, name, evaluation), {}).get(direction)

    def directions(self, name: str, evaluation: str = ALL_IMAGES) -> list[Estimate]:
        """A number of the pair in every direction that it has: one if it is symmetric, [] without it."""
        return list(self._source.estimates.get((self.x, self.y, name, evaluation), {}).values())

    def need(self, name: str, direction: str = "xy", evaluation: str = ALL_IMAGES) -> Estimate:
        """A number of the pair; KeyError if there is none."""
        return self._source.estimates[self.x, self.y, name, evaluation][direction]

    @cached_property
    def matching(self) -> PairMatching:
        """Partners of x's units by one-to-one matching."""
        return _of(PairMatching, self._rows("matching"))

    def semi_matching(self, direction: str = "xy") -> SemiMatching:
        """Best partners of x's units (xy) or of y's (yx)."""
        return self._semi_matchings[direction]

    @cached_property
    def _semi_matchings(self) -> dict[str, SemiMatching]:
        return {way: _of(SemiMatching, self._rows("semi_matching", way)) for way in DIRECTIONS}

    @cached_property
    def partial_matching(self) -> PartialMatching:
        """Mean correlation by the share of units that has to match."""
        return _of(PartialMatching, self._rows("partial_matching"))

    @cached_property
    def mutual_information(self) -> MutualInformation | None:
        """Partners by mutual information; None if it was not counted."""
        rows = self._rows("mutual_information")
        return _of(MutualInformation, rows) if len(rows["unit_x"]) else None

    def sparse(self, direction: str = "xy") -> SparsePrediction | None:
        """Units of y predicted from x (xy), or of x from y (yx); None if that was not computed."""
        return self._sparse_predictions[direction]

    @property
    def sparse_both(self) -> tuple[SparsePrediction, SparsePrediction] | None:
        """Sparse predictions of both directions; None if they were not computed."""
        forth, back = self.sparse("xy"), self.sparse("yx")
        return None if forth is None or back is None else (forth, back)

    @cached_property
    def _sparse_predictions(self) -> dict[str, SparsePrediction | None]:
        return {way: self._sparse(way) for way in DIRECTIONS}

    def _sparse(self, direction: str) -> SparsePrediction | None:
        (scalars, targets) = (self._rows(name, direction) for name in ("sparse", "sparse_targets"))
        if not len(scalars["chosen"]):
            return None
        path, forward = (self._rows(name, direction) for name in ("sparse_paths", "forward"))
        names = ("sparse_losses", "forward_units", "forward_losses", "recipe_units", "recipe_weights")
        losses, units, step_losses, recipe_units, weights = (
            self._source.matrix_rows(name, "sparse_targets", (self.x, self.y, direction)) for name in names
        )
        null = [float(scalars[f"held_out_{code}_null"][0]) for code in CODES]
        n_steps, n_terms = len(forward["loss"]), int(np.isfinite(weights).all(axis=0).sum())
        return SparsePrediction(
            path=_of(SparsePath, path),
            forward=_of(ForwardSelection, forward),
            chosen=int(scalars["chosen"][0]),
            rank=int(scalars["rank"][0]),
            held_out_codes=HeldOutCodes(*(float(scalars[f"held_out_{code}"][0]) for code in CODES)),
            held_out_codes_null=None if np.isnan(null[0]) else HeldOutCodes(*null),
            target=targets["unit"],
            dense_loss=targets["dense_loss"],
            held_out_best_loss=targets["held_out_best_loss"],
            units_for_90=targets["units_for_90"],
            held_out_units_for_90=targets["held_out_units_for_90"],
            losses=losses[:, : len(path["alpha"])],
            forward_units=units[:, :n_steps],
            forward_losses=step_losses[:, :n_steps],
            recipe_units=recipe_units[:, :n_terms],
            recipe_weights=weights[:, :n_terms],
        )

    @property
    def clusters(self) -> Clustering | None:
        """Spectral clusters; None if clusters were not computed."""
        return self.clustering("spectral")

    def clustering(self, method: str) -> Clustering | None:
        """Clusters by a method; None if they were not computed."""
        scalars = self._rows("clusterings")
        at = np.flatnonzero(scalars["method"] == method)
        if not len(at):
            return None
        clusters, units = self._rows("clusters"), self._rows("cluster_units")
        own = clusters["method"] == method

        def stacked(*names: str) -> npt.NDArray[Any]:
            return np.stack([clusters[name][own] for name in names], axis=1)

        return Clustering(
            method=method,
            n_clusters=int(scalars["n_clusters"][at[0]]),
            labels_x=units[method][units["member"] == self.x],
            labels_y=units[method][units["member"] == self.y],
            sizes=stacked("n_x", "n_y"),
            similarity=stacked("within_x", "within_y", "between"),
            n_pairs=stacked("n_pairs_x", "n_pairs_y", "n_pairs_between"),
            similarity_error=stacked("within_x_error", "within_y_error", "between_error"),
            beyond_chance=bool(scalars["beyond_chance"][at[0]]),
            **{n: float(scalars[n][at[0]]) for n in CLUSTERING_NUMBERS},
        )

    @property
    def eigenvalues(self) -> Float64:
        """Smallest eigenvalues of the normalised Laplacian of the joined units, ascending."""
        return self._rows("eigenvalues")["eigenvalue"]

    @cached_property
    def shared_dimensions(self) -> SharedDimensions | None:
        """Dimensions that both members share; None if they were not counted."""
        rows = self._rows("shared_dimensions")
        if not len(rows["correlation"]):
            return None
        counts = [self.need(name, evaluation=HELD_OUT) for name in DIMENSION_NUMBERS]
        return SharedDimensions(
            rows["correlation"], rows["standard_error"], rows["null"], int(counts[0].value), int(counts[1].value),
            counts[2].value, counts[2].standard_error,
        )  # fmt: skip

    @property
    def subspaces(self) -> Subspaces | None:
        """Spans of clusters with units of both members; None if there is no such cluster."""
        rows = self._rows("subspaces")
        if not len(rows["cluster"]):
            return None

        def number(name: str) -> SharedNumber:
            return SharedNumber(*(rows[f"{name}{ending}"] for ending in ("", "_error", "_chance", "_chance_sd")))

        return Subspaces(
            clusters=rows["cluster"],
            sizes=np.stack([rows["n_x"], rows["n_y"]], axis=1),
            matched_rotated=rows["matched_rotated"],
            matched_rotated_sd=rows["matched_rotated_sd"],
            **{n: number(n) for n in ("mean_correlation", "explained_x", "explained_y", "matched")},
        )

    def _rows(self, table: str, *direction: str) -> Rows:
        return self._source.rows(table, (self.x, self.y, *direction))


def _of(kind: type[T], rows: Rows) -> T:
    return kind(**{field.name: rows[field.name] for field in fields(kind)})  # type: ignore[arg-type]


__all__ = ["ALL_IMAGES", "DIRECTIONS", "HELD_OUT", "KINDS", "TRAINED_OR_NOT", "Kind", "PairResults"]
