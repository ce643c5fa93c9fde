"""Means over pairs of nets and their differences, as sentences, tables and figures quote them.

Each has two intervals. That over nets (``low``, ``high``) is for nets trained from other seeds and for other images; it
needs three nets of every population that takes part, and ``missing`` says which are wanting. That over images
(``image_low``, ``image_high``) is for these nets alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from convergence.analysis.file import Columns
from convergence.analysis.layout import SHARES
from convergence.inference import Estimate, NetsNumber, jackknife, nets_interval
from convergence.similarity import MEASURES

Bounds = tuple[float, float]
SHARE: Bounds = (0.0, 1.0)
ANYTHING: Bounds = (-np.inf, np.inf)
BOUNDS: dict[str, Bounds] = {
    **dict.fromkeys(("one_unit_loss", "all_units_loss"), (0.0, 0.5)),
    **dict.fromkeys(("mean_activation_distance",), (0.0, np.inf)),
    **dict.fromkeys(SHARES, SHARE),
}
"""Ranges of the numbers that are no registered measures."""


@dataclass(frozen=True)
class Excess:
    """A number minus its chance level, with the 95 % interval over nets, images and draws.

    ``missing`` says why there is no interval; "" where there is one.
    """

    value: float
    low: float
    high: float
    missing: str


@dataclass(frozen=True)
class Summary:
    """A number over the pairs of nets of a kind.

    Attributes
    ----------
    measure, evaluation, kind, group : which number, and of which pairs; group "" for all pairs of the kind
    value, lowest, highest : mean over pairs, smallest and largest value of a pair
    n_pairs, n_trained, n_untrained : pairs with the number, and nets in them
    net_error, df, low, high : standard error over nets and images with its degrees of freedom, and the 95 % interval;
        NaN where there is none
    missing : why there is no interval over nets; "" where there is one
    bias, image_error, image_low, image_high : bias for want of images, standard error and 95 % interval over images,
        for these nets; the interval is NaN for shares of units
    null, null_sd, null_draws : chance level, its standard deviation over draws as a mean over pairs, number of draws
    excess, excess_error, excess_df, excess_low, excess_high, excess_p : value − null, with its uncertainty over nets,
        images and draws, and the p-value of an excess of 0
    shifted, ceiling : where the second net sees the next image; between nets of one initialisation if there are any,
        else of a net compared with itself
    """

    measure: str
    evaluation: str
    kind: str
    group: str
    value: float
    lowest: float
    highest: float
    n_pairs: int
    n_trained: int
    n_untrained: int
    net_error: float
    df: float
    low: float
    high: float
    missing: str
    bias: float
    image_error: float
    image_low: float
    image_high: float
    null: float
    null_sd: float
    null_draws: int
    excess: float
    excess_error: float
    excess_df: float
    excess_low: float
    excess_high: float
    excess_p: float
    shifted: float
    ceiling: float

    @property
    def n_nets(self) -> int:
        """Nets that take part."""
        return self.n_trained + self.n_untrained

    @property
    def above_chance(self) -> Excess:
        """The number minus its chance level; NaN without one."""
        return Excess(self.excess, self.excess_low, self.excess_high, self.missing)

    @property
    def estimate(self) -> Estimate:
        """The number with its interval over images, for these nets."""
        return Estimate(
            self.value, self.image_error, self.image_low, self.image_high, self.bias, self.null, self.null_sd,
            self.shifted, self.ceiling,
        )  # fmt: skip

    @property
    def calibrated(self) -> Estimate | None:
        """The number scaled so that chance is 0 and the ceiling is 1, with its interval over nets.

        Chance is the null, or else the level for the next image. None without either or without a ceiling.
        """
        known = bool(np.isfinite(self.null))
        chance = self.null if known else self.shifted
        scale = self.ceiling - chance
        if not np.isfinite(scale) or abs(scale) < 1e-9:
            return None
        ends = (self.excess_low, self.excess_high) if known else (self.low - chance, self.high - chance)
        low, high = sorted(end / scale for end in ends) if np.isfinite(ends).all() else ends
        error = self.excess_error if known else self.net_error
        return Estimate((self.value - chance) / scale, error / abs(scale), low, high)

    def within(self, bounds: Bounds) -> Summary:
        """The summary with both intervals of the number clipped to its possible range."""
        low, high, image_low, image_high = (
            float(np.clip(end, *bounds)) for end in (self.low, self.high, self.image_low, self.image_high)
        )
        return replace(self, low=low, high=high, image_low=image_low, image_high=image_high)

    def __str__(self) -> str:
        """Value with the 95 % interval over nets; else the value and, called so, the interval over images alone."""
        return _text(self.value, self)


@dataclass(frozen=True)
class Difference:
    """A number of one kind of pairs of nets minus that of another, or of one run minus that of another.

    Attributes
    ----------
    measure, evaluation, first, second : which number, and the kinds of pairs
    value : the difference
    net_error, df, low, high, p : standard error over nets and images with its degrees of freedom, 95 % interval,
        p-value of a difference of 0; NaN where there is none
    missing : why there is no interval over nets; "" where there is one
    image_error, image_low, image_high : standard error and 95 % interval over images, for these nets
    """

    measure: str
    evaluation: str
    first: str
    second: str
    value: float
    net_error: float
    df: float
    low: float
    high: float
    p: float
    missing: str
    image_error: float
    image_low: float
    image_high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval over nets and it excludes 0."""
        return bool(self.low > 0.0 or self.high < 0.0)

    def __str__(self) -> str:
        """Signed value with the 95 % interval over nets; else the value and the interval over images alone."""
        return _text(self.value, self, "+").replace("-", "−")


def summaries(rows: Columns) -> Iterator[Summary]:
    """The rows of the table ``summaries``; intervals of numbers from all images are clipped to their range."""
    for row in _rows(rows):
        summary = Summary(**{field.name: row[field.name] for field in fields(Summary)})
        yield summary.within(bounds_of(summary.measure, summary.evaluation))


def differences(rows: Columns) -> Iterator[Difference]:
    """The rows of the table ``differences``."""
    for row in _rows(rows):
        row["value"] = row["difference"]
        yield Difference(**{field.name: row[field.name] for field in fields(Difference)})


def difference_of(
    first: NetsNumber, second: NetsNumber, same_images: bool, measure: str, evaluation: str, kinds: tuple[str, str]
) -> Difference:
    """The first number minus the second; what units of equal names and the same images add to both cancels."""
    number = first.minus(second, same_images)
    found = nets_interval(number)
    known = len(number.without_groups) > 1
    images = jackknife(number.value, number.without_groups, number.smooth) if known else None
    shown = images if measure not in SHARES else None
    return Difference(
        measure, evaluation, *kinds, found.value, found.error, found.df, found.low, found.high, found.p, found.missing,
        images.standard_error if images else np.nan, shown.low if shown else np.nan, shown.high if shown else np.nan,
    )  # fmt: skip


def bounds_of(measure: str, evaluation: str) -> Bounds:
    """Possible range of a number from all images; of others none is known."""
    if evaluation.endswith("held_out"):
        return ANYTHING
    return MEASURES.load(measure).bounds if measure in MEASURES else BOUNDS.get(measure, ANYTHING)


def title_of(measure: str) -> str:
    """Title of a registered measure, or of the excess correlation."""
    return MEASURES.load(measure).title if measure in MEASURES else "Excess correlation"


def interval(e: Estimate) -> str:
    """A value with its 95 % interval, as text; the value alone where there is none."""
    return _with(f"{e.value:z.3f}", e.low, e.high)


def _rows(rows: Columns) -> Iterator[dict[str, Any]]:
    columns = [values.tolist() for values in rows.values()]
    return (dict(zip(rows, row, strict=True)) for row in zip(*columns, strict=True))


def _text(value: float, found: Summary | Difference, sign: str = "") -> str:
    words = f"{value:{sign}z.3f}"
    if not found.missing:
        return _with(words, found.low, found.high, sign)
    if not np.isfinite(found.image_low):
        return words
    return f"{words} (images only: [{found.image_low:{sign}z.3f}, {found.image_high:{sign}z.3f}])"


def _with(words: str, low: float, high: float, sign: str = "") -> str:
    return words if not np.isfinite(low) else f"{words} [{low:{sign}z.3f}, {high:{sign}z.3f}]"
