"""The layout of ``analysis.h5``: every table and matrix of a comparison, each column with its unit and meaning.

The writer, the reader and the documentation use this declaration; :func:`document` renders it for docs/files.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

from convergence.analysis.pair_tables import ESTIMATE, PAIR, PAIR_TABLES, REPLICATES, SPECTRUM
from convergence.analysis.population_tables import POPULATION_TABLES
from convergence.analysis.schema import MatrixSchema, TableSchema, document, flags, floats, ints, text
from convergence.provenance import ANALYSIS_SCHEMA_VERSION

SCHEMA = "convergence-analysis"
VERSION = ANALYSIS_SCHEMA_VERSION
MADE_BY = "convergence analyze CONFIG"
DIRECTIONS = ("xy", "yx")
ALL_IMAGES, HELD_OUT = "all_images", "held_out"
WITHIN_CLASS, WITHIN_CLASS_HELD_OUT = "within_class", "within_class_held_out"
"""Evaluations of a number."""
CODE_SHARES = frozenset({"code_local", "code_few", "code_distributed", "code_unexplained"})
"""Shares of units by the size of their code. They depend on the number of images more than on the nets: of simulated
layers of 24 units, .11, .26 and .34 have a local code with 400, 2,000 and all images. Intervals of them cover 0 to 38 %
of samples, so they have none; their differences from a chance level of as many images do."""
COUNTS = frozenset({"shared_dimensions", "dimensions_beyond_chance"})
"""Counts. Where all nets of a kind have the same count, the spread over nets is unknown, and there is no interval."""
SHARES = CODE_SHARES | {
    *("below_half", "same_partner_semi_matching", "same_partner_matching", "present", "cycle_consistency"),
    *("same_partner", "same_absolute", "same_halves", "significant"),
}
"""Shares of units. They change in steps, and the replicates of one pair of nets may all be equal: 95 % intervals over
images cover 2 to 100 % of samples, by the share and the nets. They have replicates, but no interval over images."""


TABLES = (
    TableSchema(
        "members",
        "a member of the comparison: a layer of a net with the weights of one epoch",
        (
            *text(
                member="name of the member, as in the columns x and y", net="name of its net",
                layer="layer as the config names it", source="node of the net's graph that was read",
            ),
            *ints(epoch="epoch of the weights; -1 for the final weights"),
            *flags(trained="whether the net is trained"),
            *text(initialisation="equal texts are equal initial weights"),
            *ints(
                order_seed="seed of the image order in training; -1 if unknown",
                subset_seed="seed of the training images that the net saw; -2 for all, -1 if unknown",
            ),
            *ints(n_units="units of the layer, inactive units included"),
            *flags(
                rectified="whether the node is an activation function",
                privileged="whether the basis of the units is privileged; not if linear maps write the layer, and only "
                "linear maps and norms read it",
            ),
            *text(
                null_kind="how the layer gets another basis for chance levels: pre-activations (a random basis before "
                "the activation function), sums (a layer without one; exact), or empty",
                null_reason="why there is no chance level of this kind; empty if there is one",
            ),
        ),
    ),
    TableSchema(
        "units",
        "a unit of a member, in the order of the axes of correlation",
        (
            *text(member="name of the member"),
            *ints(unit="index of the unit within its layer"),
            *floats(
                "activation", mean="mean activation", mean_error="standard error of the mean over image groups",
                standard_deviation="standard deviation of the activation",
            ),
            *floats(zero_fraction="share of samples with activation 0; NaN without histograms"),
            *floats(
                "activation", median="median activation; NaN without histograms",
                percentile_90="90th percentile; NaN without histograms",
                percentile_99="99th percentile; NaN without histograms",
            ),
            *flags(active="whether the unit enters the results"),
            *text(inactive_reason="why the unit does not enter the results; empty for active units"),
            *flags(
                rare="whether an active unit is constant in some image groups that error bars use: its errors are large"
            ),
        ),
    ),
    TableSchema(
        "pairs",
        "a pair of members, in the order of the members",
        (
            *PAIR,
            *text(
                kind="trained (of different initial weights), same_init (trained from the same initial weights), "
                "untrained, or mixed",
            ),
            *flags(
                same_init="whether both nets have the same initial weights",
                same_order="whether both nets saw images in the same order, known for both",
                same_data="whether both nets saw the same training images, known for both",
            ),
            *ints(
                n_x="units of x, inactive units included", n_y="units of y, inactive units included",
                active_x="active units of x", active_y="active units of y",
            ),
            *text(skip_reason="why the pair has no results; empty for pairs with results"),
            *floats(
                same_partner="share of the matched units of x with the same partner by semi-matching and matching",
                same_partner_error="standard error of same_partner over image groups",
                same_absolute="share of the units of x with the same best partner by r and by |r|",
            ),
            *ints(
                mutual_best="pairs of units that are each other's best partner",
                never_chosen="units of y that are the best partner of no unit of x",
            ),
            *floats(
                significant_xy="share of the units of x with q <= 0.05 for their best partner; NaN without a null",
                significant_yx="share of the units of y with q <= 0.05 for their best partner; NaN without a null",
                same_halves="share of the units of x with the same best partner by r on both halves of the images; "
                "NaN without mutual information",
            ),
            *text(
                null_reason_xy="why there are no p-values of x's units (y in another basis); empty where there are",
                null_reason_yx="why there are no p-values of y's units (x in another basis); empty where there are",
            ),
            *floats(
                "standard deviations",
                distribution_matched="distance of the activation distributions of matched units, mean",
                distribution_assigned="distance of the distributions, units assigned by this distance, mean",
                distribution_any="distance of the distributions of any unit of x and any of y, mean",
                distribution_within_x="distance of the distributions of any two units of x, mean",
                distribution_within_y="distance of the distributions of any two units of y, mean",
            ),
            *floats(
                sparsity="Wasserstein distance of the units' shares of zeros",
                mean_activations_p="share of the deals of the units to two nets whose mean activations are at least "
                "as far apart, the pair itself among them",
            ),
        ),
    ),
    *PAIR_TABLES,
    *POPULATION_TABLES,
    TableSchema(
        "consensus",
        "a kind of nets that are aligned together: three or more of the same state of training, layer and epoch, the "
        "first of each initialisation",
        (
            *text(
                kind="trained or untrained, with layer and epoch where these differ",
                signed="r, or |r| for layers whose units have no preferred sign: members then have signs",
                null_reason="why no unit is said to be present; empty where the null gives a threshold",
            ),
            *ints(n_nets="nets of the kind"),
            *floats(
                threshold="strength that 5 % of the units of a net in another basis exceed; NaN without a null",
                cycle_chance="cycle consistency of random matchings",
                held_out_mean_correlation="mean correlation of members on images that did not align them",
            ),
            *ints(
                cycle_paths="paths through three nets",
                n_dimensions="dimensions that the nets could share: the least rank of a net, at most 2048 / nets",
                shared_dimensions="leading dimensions of consensus_dimensions with a correlation above the null and of "
                "at least 0.5",
                dimensions_beyond_chance="leading dimensions with a correlation above the null",
            ),
            *floats(
                shared_dimensions_effective="sum of squared correlations of all dimensions, held out",
                shared_dimensions_effective_error="its standard error over image groups",
            ),
        ),
    ),
    TableSchema(
        "consensus_measures",
        "a number of a kind of nets; the rows of consensus_measures_without are its jackknife replicates",
        (
            *text(kind="kind of nets",
                   measure="mean_correlation (of members), present (share of units), or cycle_consistency"),
            *ints(n_nets="least number of nets that a unit is present in (present); 0 for other numbers"),
            *ESTIMATE,
            *REPLICATES,
        ),
    ),
    TableSchema(
        "consensus_dimensions",
        "a dimension that all nets of a kind may share; generalised canonical correlation analysis (MAXVAR) fitted on "
        "half of the image groups and scored on the other half, mean of both ways",
        (*text(kind="kind of nets"), *SPECTRUM),
    ),
    TableSchema(
        "consensus_units",
        "a consensus unit: at most one unit of each net, aligned over all nets of a kind",
        (
            *text(kind="kind of nets"),
            *ints(consensus_unit="index"),
            *floats(mean_correlation="mean correlation of its members", standard_error="over image groups"),
            *ints(n_nets="nets in which the unit is present: its member is stronger than the threshold; -1 without a "
                  "threshold"),
        ),
    ),
    TableSchema(
        "consensus_members",
        "a net's member of a consensus unit",
        (
            *text(kind="kind of nets"),
            *ints(consensus_unit="index"),
            *text(member="the net's member of the comparison"),
            *ints(unit="index within its layer; -1 for none", sign="1 or -1; 0 for none"),
            *floats(strength="correlation with the mean of the other members"),
            *flags(present="whether the strength exceeds the threshold"),
        ),
    ),
    TableSchema(
        "unit_cycles",
        "an active unit of a net of a kind",
        (
            *text(kind="kind of nets", member="the net's member of the comparison"),
            *ints(unit="index of the unit within its layer"),
            *floats(share="share of the paths through three nets from the unit that return to it"),
        ),
    ),
    TableSchema(
        "map",
        "a member as a point of a plane; distances of points approximate those of map_distances",
        (
            *text(member="name of the member"),
            *floats("rad", first="coordinate on the first axis", second="coordinate on the second axis"),
            *floats(explained="share of the squared distances that the plane keeps, the same in every row"),
        ),
    ),
    TableSchema(
        "over_time",
        "a mean over units at an epoch, of a net or of a pair of nets (comparisons over epochs)",
        (
            *text(
                layer="layer",
                measure="own: correlation of units with themselves at the last epoch; matched: correlation of matched "
                "units; final_partner: correlation with the partner of the last epoch; same_partner: share of units "
                "with that partner, the partner of the last epoch from one half of the image groups and that of the "
                "epoch from the other half",
                x="first net", y="second net; empty for own",
            ),
            *ints(epoch="epoch of the weights"),
            *floats(value="the mean", standard_error="standard error over image groups"),
        ),
    ),
    TableSchema(
        "best_layers",
        "a layer of net x and a layer of net y, in comparisons that join several layers of every net; numbers are "
        "means over the units of x's layer",
        (
            *text(
                x="net whose units look for partners", y="net of the partners", layer_x="layer of x",
                layer_y="layer of y",
            ),
            *ints(n_units="active units of x's layer"),
            *floats(
                correlation="correlation with the best partner in y's layer",
                correlation_error="its standard error over image groups",
                null="correlation with the best partner in y's layer in another basis; NaN without a null",
                share="share of the units whose best partner in all layers of y is in this layer",
                share_null="the share where every layer of y is in another basis; NaN without a null",
                best="correlation with the best partner in all layers of y, the same for every layer of y",
                best_error="its standard error over image groups",
                best_null="best where every layer of y is in another basis; NaN without a null",
                best_null_sd="its standard deviation over draws", excess="best - best_null",
            ),
            *ints(null_draws="draws of the null"),
        ),
    ),
    TableSchema(
        "over_time_units",
        "a unit of x with its partner in y at the last epoch (comparisons over epochs)",
        (
            *text(layer="layer", x="first net", y="second net"),
            *ints(unit="unit of x", partner="its partner at the last epoch; -1 for none",
                   first_matched="epoch from which on it is matched with that partner; -1 without a partner"),
        ),
    ),
)  # fmt: skip

MATRICES = (
    MatrixSchema(
        "correlation", "correlation over all images; 0 for inactive units", ("units", "units"), empty=0.0
    ),
    MatrixSchema("measures_without", "value without an image group (or block of groups)", ("measures", "replicate")),
    MatrixSchema(
        "measures_draws", "value in a draw of the null; a draw has the same basis of a net in every pair",
        ("measures", "draw"),
    ),
    MatrixSchema(
        "sparse_losses", "loss of a target along the LASSO path", ("sparse_targets", "penalty"), unit="(1 - R²) / 2"
    ),
    MatrixSchema(
        "forward_units", "unit that a step of forward selection adds; -1 beyond the last step",
        ("sparse_targets", "step"), kind="int", empty=-1,
    ),
    MatrixSchema("forward_losses", "loss after a step", ("sparse_targets", "step"), unit="(1 - R²) / 2"),
    MatrixSchema(
        "recipe_units", "units with the largest weights at the chosen penalty, largest first; -1 for none",
        ("sparse_targets", "rank"), kind="int", empty=-1,
    ),
    MatrixSchema("recipe_weights", "weights of these units, all standardised", ("sparse_targets", "rank")),
    MatrixSchema(
        "stability_without", "adjusted Rand index with the clusters without an image group",
        ("clusterings", "image group"),
    ),
    MatrixSchema(
        "sweep_labels", "cluster of the unit for each number of clusters in cluster_sweep; -1 without edges, -2 where "
        "a pair has fewer numbers", ("cluster_units", "number of clusters"), kind="int", empty=-2,
    ),
    MatrixSchema(
        "consensus_measures_without", "value without an image group", ("consensus_measures", "image group")
    ),
    MatrixSchema("map_distances", "shape distance of two members", ("map", "map"), unit="rad"),
)  # fmt: skip

TABLE_BY_NAME: dict[str, TableSchema] = {table.name: table for table in TABLES}
MATRIX_BY_NAME: dict[str, MatrixSchema] = {matrix.name: matrix for matrix in MATRICES}


def document_layout() -> str:
    """The layout as Markdown, for docs/files.md."""
    return _INTRODUCTION + document(TABLES, MATRICES)


_INTRODUCTION = f"""\
The file has the schema `{SCHEMA}`, version {VERSION}, and the attributes `digest`, `statistics_digest` and
`provenance`. Each group `comparisons/<name>` holds {len(TABLES)} tables and {len(MATRICES)} matrices, whatever the
number of pairs. A table is one compound dataset: h5py and pandas read it in one line.

```python
pandas.DataFrame(h5py.File("analysis.h5")["comparisons/conv1/measures"][:])
```

Texts are UTF-8 bytes of fixed length. The attribute `about` says what a row is, and `columns` (JSON) gives the unit and
the meaning of each column. Where a column does not apply, floats are NaN, integers -1 and texts empty. Units are
counted
from 0 within their layer.

"""


def main() -> None:
    """Write the layout into the Markdown file named on the command line, between its markers."""
    path = Path(sys.argv[1])
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    path.write_text(f"{before}{BEGIN}{document_layout()}{END}{rest.split(END, 1)[1]}", encoding="utf-8")


BEGIN, END = "<!-- analysis.h5: generated -->\n", "<!-- end -->\n"

if __name__ == "__main__":
    main()
