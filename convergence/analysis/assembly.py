"""Tables of a comparison from the results of its pairs and of all of its nets.

Results of a task are nested groups in the private format of :mod:`convergence.analysis.worker`; here they become rows
of the tables of :mod:`convergence.analysis.layout`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from convergence.analysis.active_units import ActiveUnits, describe_units
from convergence.analysis.cause_rows import cause_rows
from convergence.analysis.file import TableRows
from convergence.analysis.kinds import PairKinds
from convergence.analysis.layout import (
    ALL_IMAGES,
    DIRECTIONS,
    HELD_OUT,
    SHARES,
    WITHIN_CLASS,
    WITHIN_CLASS_HELD_OUT,
)
from convergence.analysis.pair_tables import SUBSPACE_NUMBERS
from convergence.analysis.summaries import PopulationNumbers, difference_rows, summary_rows
from convergence.statistics.file import ComparisonSums

Tree = dict[str, Any]
LEVELS = ("value", "standard_error", "low", "high", "bias", "null", "null_sd", "shifted", "ceiling")
INFORMATION_NUMBERS = {
    "mean_semi": "mean_information_semi_matching",
    "mean_matching": "mean_information_matching",
    "same_semi": "same_partner_semi_matching",
    "same_matching": "same_partner_matching",
}
GROUPS_OF_MEASURES = {
    "measures": ALL_IMAGES,
    "held_out": HELD_OUT,
    "within_class": WITHIN_CLASS,
    "within_class_held_out": WITHIN_CLASS_HELD_OUT,
}
DIMENSION_NUMBERS = (
    "shared_dimensions", "dimensions_beyond_chance", "shared_dimensions_effective", "shared_dimensions_effective_error",
)  # fmt: skip
DISTRIBUTIONS = ("matched", "assigned", "any", "within_x", "within_y")


class ComparisonRows(TableRows):
    """The rows of one comparison."""

    def __init__(self, sums: ComparisonSums, active: ActiveUnits) -> None:
        super().__init__()
        self._pairs = PairKinds(sums)
        widths = np.bincount(sums.unit_net, minlength=len(sums.nets))
        self.add(
            "members", len(sums.nets), member=sums.nets, net=sums.of_net, layer=sums.layers, source=sums.sources,
            epoch=sums.epochs, trained=sums.trained, n_units=widths, initialisation=sums.initialisations,
            order_seed=sums.order_seeds, subset_seed=sums.subset_seeds,
            rectified=sums.rectified or False, privileged=sums.privileged,
            null_kind=sums.null_kind, null_reason=sums.null_reason,
        )  # fmt: skip
        self.add(
            "units",
            len(sums.unit_net),
            member=np.repeat(sums.nets, widths),
            unit=np.concatenate([np.arange(width) for width in widths]),
            **describe_units(sums, active),
        )

    def add_pair(self, x: str, y: str, tree: Tree) -> None:
        """Append the results of a pair of members."""
        pair = {"x": x, "y": y}
        row: Tree = {
            "kind": self._pairs.kind(x, y),
            **self._pairs.shared(x, y),
            "n_x": tree["n_x"],
            "n_y": tree["n_y"],
            "active_x": len(tree["units_x"]),
            "active_y": len(tree["units_y"]),
        }
        if "skip_reason" in tree:
            self.add("pairs", **pair, **row, skip_reason=tree["skip_reason"])
            return
        alignment = tree["alignment"]
        row |= {
            "same_partner": alignment["same_assignment"],
            "same_partner_error": alignment["same_assignment_error"],
            **{k: alignment[k] for k in ("same_absolute", "mutual_best", "never_chosen")},
            **{f"{k}_{way}": alignment[f"{k}_{way}"] for k in ("significant", "null_reason") for way in DIRECTIONS},
        }
        row["mean_activations_p"] = tree["mean_activations"]["p"]
        if "information" in tree:
            row["same_halves"] = tree["information"]["same_halves"]
        if "distributions" in tree:
            row |= {f"distribution_{name}": tree["distributions"][name] for name in DISTRIBUTIONS}
            row["sparsity"] = tree["distributions"]["sparsity"]
        self.add("pairs", **pair, **row)
        self._add_measures(pair, tree)
        self._add_alignment(pair, tree)
        for direction in DIRECTIONS:
            if f"sparse_{direction}" in tree:
                self._add_sparse(pair, direction, tree)
        if "clusters" in tree:
            self._add_clusters(pair, tree)
        if "shared_dimensions" in tree:
            self._add_spectrum("shared_dimensions", pair, tree["shared_dimensions"])

    def add_nets(self, tree: Tree) -> None:
        """Append the results of all nets of the comparison."""
        for kind, found in tree.get("kinds", {}).items():
            self._add_kind(kind, found)
        if "map" in tree:
            found = tree["map"]
            self.add(
                "map", len(found["nets"]), member=_texts(found["nets"]), first=found["points"][:, 0],
                second=found["points"][:, 1], explained=found["explained"],
            )  # fmt: skip
            self.add_matrix("map_distances", found["distances"])
        for layer, found in tree.get("over_time", {}).items():
            self._add_over_time(layer, found)
        for _, both in sorted(tree.get("best_layers", {}).items(), key=lambda item: int(item[0])):
            for direction in DIRECTIONS:
                self._add_best_layers(both[direction])

    def add_summaries(self) -> None:
        """Append means over pairs of nets, their differences and causes, of all pairs that were appended."""
        members, pairs, measures = (self.table(name) for name in ("members", "pairs", "measures"))
        without, draws = (self.matrix(f"measures_{rows}") for rows in ("without", "draws"))
        numbers = PopulationNumbers(members, pairs, measures, without, draws)
        tables = {
            "summaries": summary_rows(numbers),
            "differences": difference_rows(numbers),
            "causes": cause_rows(numbers, members),
        }
        for table, rows in tables.items():
            for row in rows:
                self.add(table, **row)

    def _estimate(self, table: str, keys: Mapping[str, Any], estimate: Tree) -> None:
        without, draws = np.asarray(estimate["without"]), np.asarray(estimate["draws"])
        levels = {name: estimate[name] for name in LEVELS}
        if keys["measure"] in SHARES:
            levels |= {"low": np.nan, "high": np.nan}
        self.add(table, **keys, **levels, null_draws=len(draws), n_replicates=len(without))
        self.add_matrix(f"{table}_without", without)
        if table == "measures":
            self.add_matrix("measures_draws", draws)

    def _add_measures(self, pair: Mapping[str, str], tree: Tree) -> None:
        def add(measure: str, family: str, direction: str, estimate: Tree, evaluation: str = ALL_IMAGES) -> None:
            keys = {"measure": measure, "family": family, "direction": direction, "evaluation": evaluation}
            self._estimate("measures", {**pair, **keys}, estimate)

        for group, evaluation in GROUPS_OF_MEASURES.items():
            for name, directions in tree.get(group, {}).items():
                for direction, estimate in directions.items():
                    add(name, "similarity", direction, estimate, evaluation)
        for direction, estimate in tree["excess"].items():
            add("excess_correlation", "similarity", direction, estimate)
        add("mean_activation_distance", "activation", "xy", tree["mean_activations"])
        for direction in DIRECTIONS:
            add("below_half", "matching", direction, tree["alignment"][f"below_half_{direction}"])
        for name, estimate in tree.get("shared_dimensions", {}).get("numbers", {}).items():
            add(name, "subspace", "xy", estimate, HELD_OUT)
        for name, measure in INFORMATION_NUMBERS.items() if "information" in tree else ():
            add(measure, "mutual_information", "xy", tree["information"][name])
        for direction in DIRECTIONS:
            sparse = tree.get(f"sparse_{direction}")
            if sparse is None:
                continue
            add("one_unit_loss", "prediction", direction, sparse["one_unit"])
            add("all_units_loss", "prediction", direction, sparse["dense"])
            add("all_units_loss", "prediction", direction, sparse["held_out_dense"], HELD_OUT)
            for name, estimate in sparse["code"].items():
                add(f"code_{name}", "code", direction, estimate)
            for name, estimate in sparse["held_out_code"].items():
                add(f"code_{name}", "code", direction, estimate, HELD_OUT)
        reasons = tree["unavailable"]
        self.add("unavailable", len(reasons), **pair, measure=[*reasons], reason=[*reasons.values()])

    def _add_alignment(self, pair: Mapping[str, str], tree: Tree) -> None:
        found, units = tree["alignment"], {"x": tree["units_x"], "y": tree["units_y"]}
        self.add(
            "matching", len(units["x"]), **pair, unit_x=units["x"], unit_y=found["matching"],
            correlation=found["matching_correlation"], standard_error=found["matching_error"],
            held_out=found["matching_held_out"], absolute_unit_y=found["absolute_matching"],
        )  # fmt: skip
        chosen = {"y": found["in_degree"], "x": _counts(found["semi_yx"], units["x"])}
        for direction in DIRECTIONS:
            own, key = direction[0], f"semi_{direction}"
            self.add(
                "semi_matching", len(units[own]), **pair, direction=direction, unit=units[own], partner=found[key],
                correlation=found[f"{key}_correlation"], standard_error=found[f"{key}_error"],
                held_out=found[f"{key}_held_out"], null=found[f"{key}_null"], null_sd=found[f"{key}_null_sd"],
                p=found[f"{key}_p"], q=found[f"{key}_q"], absolute_partner=found[f"absolute_{key}"],
                mutual=np.isin(units[own], found[f"mutual_{own}"]), times_chosen=chosen[own],
                matched_rank=_ranks(found[f"order_{own}"], units[own]),
                cycle_rank=_ranks(found[f"cycle_{own}"], units[own]),
            )  # fmt: skip
        self.add(
            "partial_matching", len(found["partial_mass"]), **pair, share=found["partial_mass"],
            mean_correlation=found["partial_mean"], standard_error=found["partial_error"],
        )  # fmt: skip
        if "information" in tree:
            nats = tree["information"]
            self.add(
                "mutual_information", len(units["x"]), **pair, unit_x=units["x"], best_unit_y=nats["semi_xy"],
                best_nats=nats["semi_xy_nats"], best_error=nats["semi_xy_error"], matched_unit_y=nats["matching"],
                matched_nats=nats["matching_nats"], matched_error=nats["matching_error"],
            )  # fmt: skip

    def _add_sparse(self, pair: Mapping[str, str], direction: str, tree: Tree) -> None:
        found, keys = tree[f"sparse_{direction}"], {**pair, "direction": direction}
        held_out = {
            f"held_out_{name}{ending}": estimate[key]
            for name, estimate in found["held_out_code"].items()
            for ending, key in (("", "value"), ("_null", "null"))
        }
        self.add("sparse", **keys, chosen=found["chosen"], rank=found["rank"], **held_out)
        self.add(
            "sparse_paths", len(found["alphas"]), **keys, alpha=found["alphas"], n_above_001=found["n_above_0.01"],
            **{name: found[name] for name in (
                "paper_lambda", "loss", "loss_error", "refit_loss", "n_nonzero", "kkt_gap", "held_out_loss",
                "held_out_error", "held_out_refit_loss", "held_out_refit_error",
            )},
        )  # fmt: skip
        self.add(
            "forward", len(found["forward_loss"]), **keys, n_units=np.arange(1, len(found["forward_loss"]) + 1),
            loss=found["forward_loss"], standard_error=found["forward_error"],
            held_out_loss=found["held_out_forward_loss"], held_out_error=found["held_out_forward_error"],
        )  # fmt: skip
        targets = tree["units_y" if direction == "xy" else "units_x"]
        self.add(
            "sparse_targets", len(targets), **keys, unit=targets, dense_loss=found["dense_unit_loss"],
            units_for_90=found["units_for_90"], held_out_best_loss=found["held_out_best_unit_loss"],
            held_out_units_for_90=found["held_out_units_for_90"],
        )  # fmt: skip
        self.add_matrix("sparse_losses", found["unit_loss"].T)
        self.add_matrix("forward_units", found["forward_units"])
        self.add_matrix("forward_losses", found["forward_unit_loss"])
        self.add_matrix("recipe_units", found["recipe_units"])
        self.add_matrix("recipe_weights", found["recipe_weights"])

    def _add_clusters(self, pair: Mapping[str, str], tree: Tree) -> None:
        found, n_x, n_y = tree["clusters"], len(tree["units_x"]), len(tree["units_y"])
        split, by_weights, swept = found["hierarchical"], found.get("of_weights"), found["sweep"]
        self.add(
            "clusterings", **pair, method="spectral", n_clusters=found["n_clusters"], eigengap=found["eigengap"],
            stability=found["stability"],
            **{name: found[name] for name in ("stability_halves", "stability_null", "beyond_chance")},
        )  # fmt: skip
        self.add_matrix("stability_without", found["stability_without"])
        self.add(
            "clusterings", **pair, method="hierarchical", n_clusters=split["n_clusters"], limit=split["limit"]
        )  # fmt: skip
        self.add_matrix("stability_without", np.zeros((1, 0)))
        self._add_clusters_of(pair, "spectral", found)
        self._add_clusters_of(pair, "hierarchical", split)
        labels: Tree = {
            name: np.concatenate([one["labels_x"], one["labels_y"]])
            for name, one in (("spectral", found), ("hierarchical", split))
        }
        if by_weights is not None:
            same = by_weights["same_as_spectral"]
            self.add(
                "clusterings", **pair, method="sparse_weights", n_clusters=by_weights["n_clusters"],
                same_as_spectral=same,
            )  # fmt: skip
            self.add_matrix("stability_without", np.zeros((1, 0)))
            self._add_clusters_of(pair, "sparse_weights", by_weights)
            first, second, distance, size = by_weights["linkage"].T
            self.add("linkage", len(first), **pair, first=first, second=second, distance=distance, n_units=size)
            labels["sparse_weights"] = np.concatenate([by_weights["labels_x"], by_weights["labels_y"]])
            labels["leaf_rank"] = np.full(n_x + n_y, -1)
            labels["leaf_rank"][by_weights["order"]] = np.arange(len(by_weights["order"]))
        self.add(
            "cluster_units", n_x + n_y, **pair, member=np.repeat([pair["x"], pair["y"]], [n_x, n_y]),
            unit=np.concatenate([tree["units_x"], tree["units_y"]]), **labels,
        )  # fmt: skip
        if swept:
            self.add(
                "cluster_sweep", len(swept["ks"]), **pair, n_clusters=swept["ks"], eigengap=swept["eigengaps"],
                normalised_cut=swept["normalised_cuts"],
            )  # fmt: skip
            self.add_matrix("sweep_labels", np.concatenate([swept["labels_x"], swept["labels_y"]], axis=1).T)
        else:
            self.add_matrix("sweep_labels", np.zeros((n_x + n_y, 0)))
        values = found["eigenvalues"]
        self.add("eigenvalues", len(values), **pair, index=np.arange(len(values)), eigenvalue=values)
        n_nodes = len(split["tree_parent"])
        self.add(
            "hierarchy", n_nodes, **pair, node=np.arange(n_nodes), parent=split["tree_parent"],
            n_units=split["tree_size"], cluster=split["tree_label"],
        )  # fmt: skip
        self._add_subspaces(pair, found["subspaces"])

    def _add_clusters_of(self, pair: Mapping[str, str], method: str, found: Tree) -> None:
        columns: Tree = {}
        for k, (name, count) in enumerate(
            (("within_x", "n_pairs_x"), ("within_y", "n_pairs_y"), ("between", "n_pairs_between"))
        ):
            columns |= {name: found["mean_similarity"][:, k], count: found["n_pairs"][:, k]}
            if "mean_similarity_error" in found:
                columns[f"{name}_error"] = found["mean_similarity_error"][:, k]
        labels = np.arange(len(found["sizes"]))
        if "too_large" in found:
            columns["too_large"] = np.isin(labels, found["too_large"])
        self.add(
            "clusters", len(labels), **pair, method=method, cluster=labels, n_x=found["sizes"][:, 0],
            n_y=found["sizes"][:, 1], **columns,
        )  # fmt: skip

    def _add_subspaces(self, pair: Mapping[str, str], found: Tree) -> None:
        columns: Tree = {
            "matched_rotated": found["matched"]["rotated"], "matched_rotated_sd": found["matched"]["rotated_sd"]
        }  # fmt: skip
        endings = {"": "value", "_error": "standard_error", "_chance": "chance", "_chance_sd": "chance_sd"}
        for name in SUBSPACE_NUMBERS:
            columns |= {f"{name}{ending}": found[name][key] for ending, key in endings.items()}
        self.add(
            "subspaces", len(found["clusters"]), **pair, cluster=found["clusters"], n_x=found["sizes"][:, 0],
            n_y=found["sizes"][:, 1], **columns,
        )  # fmt: skip

    def _add_spectrum(self, table: str, keys: Mapping[str, str], found: Tree) -> None:
        columns = {name: found[name] for name in ("correlation", "standard_error", "null")}
        n = len(found["correlation"])
        self.add(table, n, **keys, index=np.arange(n), **columns)

    def _add_kind(self, kind: str, found: Tree) -> None:
        nets, n_units, dimensions = _texts(found["nets"]), len(found["strength"]), found["dimensions"]
        self._add_spectrum("consensus_dimensions", {"kind": kind}, dimensions)
        self.add(
            "consensus", kind=kind, n_nets=len(nets),
            **{name: found[name] for name in ("signed", "threshold", "null_reason", "cycle_chance", "cycle_paths",
                                              "held_out_mean_correlation")},
            n_dimensions=len(dimensions["correlation"]),
            **{name: dimensions[name] for name in DIMENSION_NUMBERS},
        )  # fmt: skip
        for measure in ("mean_correlation", "cycle_consistency"):
            self._estimate("consensus_measures", {"kind": kind, "measure": measure, "n_nets": 0}, found[measure])
        for n in range(2, len(nets) + 1) if found["shared"] else ():
            keys = {"kind": kind, "measure": "present", "n_nets": n}
            self._estimate("consensus_measures", keys, found["shared"][f"in {n}"])
        index = np.arange(n_units)
        self.add(
            "consensus_units", n_units, kind=kind, consensus_unit=index, n_nets=found["n_nets"],
            mean_correlation=found["unit_correlation"], standard_error=found["unit_correlation_error"],
        )  # fmt: skip
        self.add(
            "consensus_members", n_units * len(nets), kind=kind, consensus_unit=np.repeat(index, len(nets)),
            member=np.tile(nets, n_units), unit=found["members"].ravel(), sign=found["signs"].ravel(),
            strength=found["strength"].ravel(), present=found["stays"].ravel(),
        )  # fmt: skip
        for net in nets.tolist():
            self.add(
                "unit_cycles", len(found["unit_cycles"][net]), kind=kind, member=net, unit=found["active_units"][net],
                share=found["unit_cycles"][net],
            )  # fmt: skip

    def _add_over_time(self, layer: str, found: Tree) -> None:
        epochs, nets = found["epochs"], _texts(found["nets"]).tolist()

        def add(measure: str, x: str, y: str, numbers: Tree) -> None:
            self.add("over_time", len(epochs), layer=layer, measure=measure, x=x, y=y, epoch=epochs, **numbers)

        for net in nets:
            add("own", net, "", found["own"][net])
        for x, y in combinations(nets, 2):
            pair = found["pairs"][f"{x}|{y}"]
            for measure in ("matched", "final_partner", "same_partner"):
                add(measure, x, y, pair[measure])
            self.add(
                "over_time_units", len(pair["partner"]), layer=layer, x=x, y=y, unit=np.arange(len(pair["partner"])),
                partner=pair["partner"], first_matched=pair["first_matched"],
            )  # fmt: skip

    def _add_best_layers(self, found: Tree) -> None:
        """Rows of a net's units in another net: a row a layer of either."""
        layers, others = _texts(found["layers_x"]), _texts(found["layers_y"])
        n = len(others)
        of_pair = ("correlation", "correlation_error", "null", "share", "share_null")
        of_layer = ("n_units", "best", "best_error", "best_null", "best_null_sd")
        self.add(
            "best_layers", len(layers) * n, x=found["x"], y=found["y"], layer_x=np.repeat(layers, n),
            layer_y=np.tile(others, len(layers)), null_draws=found["null_draws"],
            excess=np.repeat(found["best"] - found["best_null"], n),
            **{name: found[name].ravel() for name in of_pair}, **{name: np.repeat(found[name], n) for name in of_layer},
        )  # fmt: skip


def _texts(values: Any) -> Any:
    return np.array([str(value) for value in values], dtype=np.str_)


def _ranks(order: Any, units: Any) -> Any:
    """Position in an order of each unit."""
    rank = np.full(int(units.max(initial=-1)) + 1, -1)
    rank[order] = np.arange(len(order))
    return rank[units]


def _counts(chosen: Any, units: Any) -> Any:
    """How often each unit is among those chosen."""
    return np.bincount(chosen, minlength=int(units.max(initial=-1)) + 1)[units]
