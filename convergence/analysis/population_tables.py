"""Tables of ``analysis.h5`` about populations of nets: means over pairs with their intervals, and their differences."""

from __future__ import annotations

from convergence.analysis.schema import TableSchema, flags, floats, ints, text

KINDS_OF_PAIRS = (
    "trained (two trained nets of different initialisations), untrained, mixed (a trained and an untrained net), or "
    "same_init (two trained nets of one initialisation)"
)
OVER_IMAGES = floats(
    image_error="standard error over image groups, for these nets",
    image_low="lower end of the 95 % interval over images, for these nets; NaN for shares of units",
    image_high="upper end of the 95 % interval over images, for these nets; NaN for shares of units",
)

CAUSES_TABLE = TableSchema(
    "causes",
    "a number over the pairs of trained nets of one network that share the same causes of similarity; empty where all "
    "pairs share the same ones, or a net takes part more than once",
    (
        *text(
            network="network of the nets; empty if all nets have one network",
            measure="name of the number, as in the table summaries", evaluation="of the number",
            shared="causes that the pairs share (initial weights, image order, training images), out of those in which "
            "pairs differ; else nothing",
        ),
        *flags(
            same_init="whether the pairs have the same initial weights",
            same_order="whether they saw images in the same order",
            same_data="whether they saw the same training images",
        ),
        *ints(n_pairs="pairs with the number", n_initialisations="initialisations of the nets in them"),
        *floats(
            value="mean over the pairs",
            net_error="standard error over nets and images (jackknife over initialisations and over image groups)",
            df="its degrees of freedom (Welch and Satterthwaite)",
            low="lower end of the 95 % interval over nets and images",
            high="upper end of the 95 % interval over nets and images",
        ),
        *text(missing="why there is no interval over nets; empty where there is one"),
        *floats(
            effect="value minus that of the pairs that share nothing; NaN for these",
            effect_error="its standard error over nets and images",
            effect_df="its degrees of freedom",
            effect_low="lower end of the 95 % interval of the effect",
            effect_high="upper end of the 95 % interval of the effect",
            effect_p="two-sided p-value of an effect of 0",
        ),
        *text(effect_missing="why the effect has no interval; empty where it has one, or there is no effect"),
    ),
)  # fmt: skip
POPULATION_TABLES = (
    TableSchema(
        "summaries",
        "a number over all pairs of nets of a kind, both directions of a pair averaged; pairs within one net are left "
        "out where there are others",
        (
            *text(
                kind=KINDS_OF_PAIRS,
                group="layers, epochs or widths of the pairs where these differ, 'a & b' for pairs of two of them; "
                "empty for all pairs of the kind",
                measure="name of the number: of the table measures, or a column of the table pairs (significant: mean "
                "of significant_xy and significant_yx)",
                evaluation="of the number, as in the table measures",
            ),
            *ints(n_pairs="pairs with the number", n_trained="trained nets that take part",
                  n_untrained="untrained nets that take part"),
            *floats(
                value="mean over pairs", lowest="smallest value of a pair", highest="largest value of a pair",
                bias="jackknife estimate of the bias for want of images; 0 where it is not estimated",
            ),
            *OVER_IMAGES,
            *floats(
                net_error="standard error over nets and images (jackknife over initialisations and over image groups)",
                df="its degrees of freedom (Welch and Satterthwaite)",
                low="lower end of the 95 % interval over nets and images",
                high="upper end of the 95 % interval over nets and images",
            ),
            *text(missing="why there is no interval over nets; empty where there is one"),
            *floats(
                null="chance level, mean over pairs and draws; NaN without one",
                null_sd="standard deviation over draws of the chance level's mean over pairs",
            ),
            *ints(null_draws="draws of the chance level that all pairs have; 0 for levels that are no draws"),
            *floats(
                excess="value - null",
                excess_error="its standard error over nets and images, and from the number of draws",
                excess_df="degrees of freedom of excess_error",
                excess_low="lower end of its 95 % interval", excess_high="upper end of its 95 % interval",
                excess_p="two-sided p-value of an excess of 0",
                shifted="mean over pairs where the second net sees the next image; NaN where it was not summed",
                ceiling="mean of the pairs of kind same_init (kind trained, where there are such pairs); else the "
                "mean of the numbers for a net compared with itself; NaN where it is unknown",
            ),
        ),
    ),
    TableSchema(
        "differences",
        "a number of one kind of pairs minus that of another; trained nets that are in both are matched",
        (
            *text(
                measure="name of the number", evaluation="of the number, as in the table measures",
                first="kind of pairs", second="kind of pairs that is subtracted",
            ),
            *floats(difference="mean over the pairs of the first kind minus that of the second"),
            *OVER_IMAGES,
            *floats(
                net_error="standard error over nets and images", df="its degrees of freedom (Welch and Satterthwaite)",
                low="lower end of the 95 % interval over nets and images",
                high="upper end of the 95 % interval over nets and images",
                p="two-sided p-value of a difference of 0",
            ),
            *text(missing="why there is no interval over nets; empty where there is one"),
        ),
    ),
    CAUSES_TABLE,
)  # fmt: skip
