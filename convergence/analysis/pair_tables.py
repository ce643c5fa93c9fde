"""Tables of ``analysis.h5`` with the results of pairs: measures, partners, sparse predictions, clusters."""

from __future__ import annotations

from collections.abc import Iterator

from convergence.analysis.schema import ColumnSchema, TableSchema, flags, floats, ints, text

PAIR = text(x="first member of the pair", y="second member of the pair")
DIRECTED = (*PAIR, *text(direction="xy: from x to y; yx: from y to x"))
PREDICTED = (*PAIR, *text(direction="xy: units of y are predicted from those of x; yx: units of x from those of y"))
ESTIMATE = floats(
    value="value from all images",
    standard_error="standard error over image groups (delete-one jackknife)",
    low="lower end of the 95 % interval over images; NaN for shares of units",
    high="upper end of the 95 % interval over images; NaN for shares of units",
    bias="jackknife estimate of the bias for want of images; 0 where it is not estimated",
    null="mean of the number over draws of the null: y has its span in another basis, or the units are dealt at random "
    "to two nets (family activation); NaN where another basis changes nothing or there is no null",
    null_sd="standard deviation of the number over draws of the null",
    shifted="the number where y sees the next image; NaN where it was not summed",
    ceiling="best value of all nets with the same covariances within the layers; NaN where it is unknown",
) + ints(null_draws="draws of the null; the draws are in the row of measures_draws")
SPECTRUM = (
    *ints(index="position of the dimension in the fit, strongest first"),
    *floats(
        correlation="held-out correlation of the nets' variates, mean over pairs of nets and not increasing",
        standard_error="standard error over image groups, the fit included",
        null="correlation that a dimension reaches with probability .05 if it is not shared",
    ),
)
REPLICATES = ints(n_replicates="number of jackknife replicates in the row of the matrix of replicates")
METHODS = "spectral, hierarchical, or sparse_weights (agglomerative clusters of the LASSO weights)"
SUBSPACE_NUMBERS = {
    "mean_correlation": "mean canonical correlation of the two groups of units",
    "explained_x": "share of the variance of x's units that y's units explain",
    "explained_y": "share of the variance of y's units that x's units explain",
    "matched": "mean |r| of the matched units",
}


def _subspace_columns() -> Iterator[ColumnSchema]:
    for name, about in SUBSPACE_NUMBERS.items():
        yield from floats(
            **{
                name: about,
                f"{name}_error": f"standard error of {name} over image groups",
                f"{name}_chance": f"mean of {name} over random groups of the same sizes",
                f"{name}_chance_sd": f"standard deviation of {name} over random groups of the same sizes",
            }
        )


PAIR_TABLES = (
    TableSchema(
        "measures",
        "a number of a pair with its error; the rows of measures_without are its jackknife replicates",
        (
            *PAIR,
            *text(
                measure="name of the number",
                family="similarity, matching, mutual_information, prediction, code, subspace (numbers of dimensions), "
                "or activation",
                direction="xy or yx; xy alone for numbers that are symmetric",
                evaluation="all_images; held_out: fitted on half of the image groups, scored on the other half; "
                "within_class, within_class_held_out: the same of the covariances within classes",
            ),
            *ESTIMATE,
            *REPLICATES,
        ),
    ),
    TableSchema(
        "shared_dimensions",
        "a dimension that two members may share: canonical directions fitted on half of the image groups and scored on "
        "the other half, mean of both ways",
        (*PAIR, *SPECTRUM),
    ),
    TableSchema(
        "unavailable",
        "a measure that a pair does not have",
        (*PAIR, *text(measure="name of the measure", reason="why it could not be computed")),
    ),
    TableSchema(
        "matching",
        "an active unit of x with its partner by one-to-one matching (largest total correlation)",
        (
            *PAIR,
            *ints(unit_x="unit of x", unit_y="its partner; -1 for none"),
            *floats(
                correlation="correlation with the partner; 0 without one",
                standard_error="standard error of the correlation over image groups",
                held_out="correlation with the partner that the other half of the images gives, mean of both halves",
            ),
            *ints(absolute_unit_y="partner by one-to-one matching of |r|; -1 for none"),
        ),
    ),
    TableSchema(
        "semi_matching",
        "an active unit with its best partner in the other member, with replacement",
        (
            *DIRECTED,
            *ints(unit="unit of x (xy) or of y (yx)", partner="its best partner in the other member"),
            *floats(
                correlation="correlation with the partner",
                standard_error="standard error of the correlation over image groups",
                held_out="correlation with the partner that the other half of the images gives, mean of both halves",
                null="best correlation with a unit of y in another basis (xy), mean over draws; |r| for layers without "
                "activation function; NaN without a null",
                null_sd="its standard deviation over draws",
                p="probability that units in another basis reach the correlation (|r| without activation function)",
                q="p adjusted for false discoveries (Benjamini and Hochberg)",
            ),
            *ints(absolute_partner="best partner by |r|"),
            *flags(mutual="whether the unit is its partner's best partner, too"),
            *ints(
                times_chosen="units of the other member whose best partner this unit is",
                matched_rank="position in the order that puts matched pairs on the diagonal, strongest first",
                cycle_rank="position in the order along the cycles of the matching (Li et al. 2016, figure 1d)",
            ),
        ),
    ),
    TableSchema(
        "partial_matching",
        "a share of the units that partial soft matching has to match",
        (
            *PAIR,
            *floats(
                share="share of the units", mean_correlation="mean correlation of the matched share",
                standard_error="standard error of the mean over image groups",
            ),
        ),
    ),
    TableSchema(
        "mutual_information",
        "an active unit of x with its partners by mutual information",
        (
            *PAIR,
            *ints(unit_x="unit of x", best_unit_y="best partner, with replacement"),
            *floats(
                "nats", best_nats="mutual information with it, less its jackknife bias",
                best_error="its standard error over image groups",
            ),
            *ints(matched_unit_y="partner by one-to-one matching; -1 for none"),
            *floats(
                "nats", matched_nats="mutual information with it, less its jackknife bias; 0 without one",
                matched_error="its standard error over image groups",
            ),
        ),
    ),
    TableSchema(
        "sparse",
        "a direction of predicting units of one member from few units of the other",
        (
            *PREDICTED,
            *ints(chosen="row along the path of the largest penalty within one error of the smallest held-out loss",
                   rank="rank of the correlations of the predictors"),
            *floats(
                held_out_local="share of targets, held out, for which one unit reaches 90 % of the best R²",
                held_out_few="share for which a few units do", held_out_distributed="share for which more are needed",
                held_out_unexplained="share of targets of which less than 5 % of the variance is explained",
                held_out_local_null="held_out_local with the predictors in another basis, mean over draws; NaN without "
                "a null", held_out_few_null="the same of held_out_few",
                held_out_distributed_null="the same of held_out_distributed",
                held_out_unexplained_null="the same of held_out_unexplained",
            ),
        ),
    ),
    TableSchema(
        "sparse_paths",
        "a penalty of a LASSO path; numbers are means over the targets",
        (
            *PREDICTED,
            *floats(
                alpha="penalty of a target's weights", paper_lambda="penalty in the units of Li et al. 2016: alpha / "
                "number of targets", loss="loss (1 - R²) / 2", loss_error="its standard error over blocks of groups",
                refit_loss="loss of a least-squares refit of the selected units",
                n_nonzero="units with a weight", n_above_001="units with a weight above 0.01",
                kkt_gap="largest violation of the optimality conditions over the targets",
                held_out_loss="loss on the half of the image groups that was not fitted",
                held_out_error="its standard error over blocks of groups, left out of fit and score",
                held_out_refit_loss="loss of the refit on that half",
                held_out_refit_error="its standard error over blocks of scored groups, the refit unchanged",
            ),
        ),
    ),
    TableSchema(
        "forward",
        "a number of units that forward selection uses; numbers are means over the targets",
        (
            *PREDICTED,
            *ints(n_units="units used"),
            *floats(
                loss="loss (1 - R²) / 2", standard_error="its standard error over image groups",
                held_out_loss="loss on the half of the image groups that was not fitted",
                held_out_error="its standard error",
            ),
        ),
    ),
    TableSchema(
        "sparse_targets",
        "a unit that is predicted; the rows of sparse_losses, forward_* and recipe_* belong to it",
        (
            *PREDICTED,
            *ints(unit="index of the target within its layer"),
            *floats(dense_loss="loss (1 - R²) / 2 of predicting it from all units"),
            *ints(units_for_90="units that reach 90 % of the R² of all units; -1 if none of the steps does, 0 where "
                   "all explain less than 5 %"),
            *floats(held_out_best_loss="smallest held-out loss of the path, forward selection and all units"),
            *ints(held_out_units_for_90="as units_for_90, held out, beside the best R²"),
        ),
    ),
    TableSchema(
        "clusterings",
        "a clustering of the joined active units of a pair; the rows of stability_without belong to it",
        (
            *PAIR,
            *text(method=METHODS),
            *ints(n_clusters="number of clusters"),
            *floats(
                eigengap="gap after the eigenvalue of that number (spectral)",
                stability="mean adjusted Rand index with the clusters without each image group (spectral)",
                stability_halves="adjusted Rand index of the clusters of both halves of the image groups, times the "
                "share of units that are not alone in their cluster (spectral, if the number is chosen by stability)",
                stability_null="the same where the units of each net are rotated at random, mean over rotations",
                same_as_spectral="adjusted Rand index with the spectral clusters (sparse_weights)",
            ),
            *flags(
                beyond_chance="whether clusters of halves agree and are separate beyond 95 % of rotated nets "
                "(spectral, if the number is chosen by stability)"
            ),
            *floats("units", limit="size above which clusters are split (hierarchical)"),
        ),
    ),
    TableSchema(
        "clusters",
        "a cluster of a clustering; similarities are means of |r|, 0 where there is no pair of units",
        (
            *PAIR,
            *text(method=METHODS),
            *ints(cluster="label", n_x="units of x", n_y="units of y"),
            *floats(
                within_x="similarity within x", within_y="similarity within y", between="similarity between x and y",
                within_x_error="standard error over image groups (spectral)",
                within_y_error="standard error over image groups (spectral)",
                between_error="standard error over image groups (spectral)",
            ),
            *ints(n_pairs_x="pairs of units within x", n_pairs_y="pairs within y", n_pairs_between="pairs between"),
            *flags(too_large="whether the cluster is above the limit and has no parts (hierarchical)"),
        ),
    ),
    TableSchema(
        "cluster_units",
        "an active unit of a pair with its clusters; the rows of sweep_labels belong to it",
        (
            *PAIR,
            *text(member="member of the unit"),
            *ints(
                unit="index of the unit within its layer", spectral="spectral cluster; -1 for a unit without edges",
                hierarchical="hierarchical cluster; -1 for a unit without edges",
                sparse_weights="cluster by the LASSO weights; -1 for a unit without weights",
                leaf_rank="position among the leaves of the linkage; -1 for a unit outside it",
            ),
        ),
    ),
    TableSchema(
        "cluster_sweep",
        "a number of clusters of the same graph",
        (
            *PAIR,
            *ints(n_clusters="number of clusters asked for"),
            *floats(eigengap="gap after the eigenvalue of that number",
                     normalised_cut="mean of cut / volume over the clusters"),
        ),
    ),
    TableSchema(
        "eigenvalues",
        "one of the smallest eigenvalues of the normalised Laplacian of a pair's graph",
        (*PAIR, *ints(index="position, ascending"), *floats(eigenvalue="the eigenvalue")),
    ),
    TableSchema(
        "hierarchy",
        "a set of units that was a cluster at some time of the hierarchical clustering",
        (
            *PAIR,
            *ints(node="index of the node", parent="node that was split; -1 for the root", n_units="units",
                   cluster="final cluster; -1 for a node that was split"),
        ),
    ),
    TableSchema(
        "linkage",
        "a merge of the clustering by LASSO weights, as SciPy counts nodes: leaves are the units with a leaf_rank >= 0 "
        "in their order in cluster_units",
        (
            *PAIR,
            *floats(first="node that is merged", second="node that is merged", distance="distance of the two",
                     n_units="units of the merged node"),
        ),
    ),
    TableSchema(
        "subspaces",
        "a spectral cluster with units of both members",
        (
            *PAIR,
            *ints(cluster="label", n_x="units of x", n_y="units of y"),
            *_subspace_columns(),
            *floats(matched_rotated="mean of matched over random bases of y's units",
                     matched_rotated_sd="its standard deviation"),
        ),
    ),
)  # fmt: skip
