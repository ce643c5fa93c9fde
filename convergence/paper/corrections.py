"""Corrections of the paper, a paragraph each, with the published reading and the corrected one by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from convergence.paper.published import CONV1, CONV2, RECOVERED
from convergence.paper.readings import LayerReading, Prediction
from convergence.paper.tables import power

EVEN = 5e-5
"""Losses are compared to four decimals."""


def corrections(readings: Sequence[LayerReading]) -> list[str]:
    """The paragraphs, each with a line a layer."""
    paragraphs = []
    for number, (title, about, lines) in enumerate(
        (
            ("Convergence of the LASSO.", _ABOUT_LASSO, _lasso(readings)),
            ("Chance level.", _ABOUT_CHANCE, _chance(readings)),
            ("Error bars.", _ABOUT_ERRORS, _errors(readings)),
            ("Bias of mutual information.", _ABOUT_BIAS, _bias(readings)),
            ("Laplacian of spectral clustering.", _ABOUT_LAPLACIAN, _laplacians(readings)),
        ),
        start=1,
    ):
        found = list(lines)
        if found:
            paragraphs.append("\n".join([f"{number}. {title} {about}", *(f"   {line}" for line in found)]))
    return paragraphs


_CONV1 = RECOVERED["conv1"]
assert CONV2.last_500 is not None
assert CONV1.last_500 is not None
_ABOUT_LASSO = (
    "At the optimum of a convex problem no penalty can lower the loss. Published losses fall: "
    f"conv1 {CONV1.last_500.by_lambda[0.0]:.3f} to {min(CONV1.last_500.by_lambda.values()):.3f}, "
    f"conv2 {CONV2.last_500.by_lambda[0.0]:.3f} to {min(CONV2.last_500.by_lambda.values()):.3f} (N). "
    f"Exact on the recovered conv1: {_CONV1.loss.by_lambda[0.0]:.3f} without penalty, "
    f"{_CONV1.loss.by_lambda[1e-4]:.3f} at 1e-4, {_CONV1.loss.by_lambda[1e-3]:.3f} at 1e-3 (D)."
)
_ABOUT_CHANCE = (
    "The paper gives mean matched correlations without a chance level. After a random rotation of one net's basis the "
    f"recovered conv1 gives {_CONV1.semi_matching_null.value:.3f} of {CONV1.semi_matching.value:.3f} (semi-matching) "
    f"and {_CONV1.matching_null.value:.3f} of {CONV1.matching.value:.3f} (matching) (D, N)."
)
_ABOUT_ERRORS = (
    "The paper has none. Here they are over image groups, since positions of one image depend on each other."
)
_ABOUT_BIAS = (
    "The paper took K² / (2N ln 2) off, which is in bits and counts K² cells; free are (K − 1)², in nats. For "
    "independent units at N = 1000 it gets -0.028 nats, and (K − 1)² / 2N gives +0.004."
)
_ABOUT_LAPLACIAN = (
    "With signed correlations D − C is no Laplacian: its eigenvalues reach "
    f"{_CONV1.smallest_signed_eigenvalue:.2f} on the recovered conv1 (D). The normalised one of |r| has "
    "eigenvalues in 0 … 2."
)


def falls(prediction: Prediction, losses: np.ndarray) -> tuple[float, float] | None:
    """Loss and penalty of the lowest point, if that is below the loss without penalty; None if none is."""
    lowest = int(np.argmin(losses))
    return (float(losses[lowest]), float(prediction.lambdas[lowest])) if losses[0] - losses[lowest] > EVEN else None


def _lasso(readings: Sequence[LayerReading]) -> Iterator[str]:
    for reading in readings:
        p = reading.prediction
        if p is None:
            continue
        said = []
        for steps, losses in ((p.short_steps, p.short), (p.long_steps, p.long)):
            least = falls(p, losses)
            course = (
                f"falls by {100 * (1 - least[0] / losses[0]):.1f} % to {least[0]:.4f} at λ = {power(least[1])}"
                if least
                else "does not fall"
            )
            said.append(f"SGD of {steps} steps begins at {losses[0]:.4f} and {course}")
        excess = 100 * (p.short[0] / p.exact[0] - 1) if p.exact[0] > 0 else float("inf")
        error = f" ± {p.exact_error[0]:.4f}" if np.isfinite(p.exact_error[0]) else ""
        yield (
            f"{reading.name}: {'; '.join(said)}. The exact loss begins at {p.exact[0]:.4f}{error}, the short training "
            f"{excess:.1f} % above it, and {'falls' if falls(p, p.exact) else 'does not fall'}."
        )


def _chance(readings: Sequence[LayerReading]) -> Iterator[str]:
    for reading in readings:
        a = reading.alignment
        known = [(word, n) for word, n in (("semi-matching", a.semi_matching), ("matching", a.matching))
                 if np.isfinite(n.null)]  # fmt: skip
        if known:
            said = "; ".join(f"{word} {n.value:.3f}, rotated {n.null:.3f} ± {n.null_sd:.3f}" for word, n in known)
            yield f"{reading.name}: {said}."


def _errors(readings: Sequence[LayerReading]) -> Iterator[str]:
    for reading in readings:
        a = reading.alignment
        known = [(word, n) for word, n in (("semi-matching", a.semi_matching), ("matching", a.matching))
                 if np.isfinite(n.error)]  # fmt: skip
        if known:
            said = ", ".join(f"{word} {n.value:.4f} ± {n.error:.4f}" for word, n in known)
            spread = ""
            if len(reading.others) > 1:
                values = [other.semi_matching.value for other in reading.others]
                spread = f"; semi-matching over {len(values)} trained pairs {min(values):.3f} … {max(values):.3f}"
            yield f"{reading.name}: {said}{spread}."


def _bias(readings: Sequence[LayerReading]) -> Iterator[str]:
    for reading in readings:
        found = reading.information
        if found is not None:
            yield (
                f"{reading.name}: K = {found.bins}, N = {found.n_samples:,}: the paper's {found.paper_correction:.2g} "
                f"against {found.correction:.2g} nats; best and worst pair {found.nats[0]:.3f} and "
                f"{found.nats[-1]:.3f} nats."
            )


def _laplacians(readings: Sequence[LayerReading]) -> Iterator[str]:
    for reading in readings:
        found = reading.laplacian
        yield (
            f"{reading.name}: smallest eigenvalue of D − C {found.signed_smallest:.2f}; of the normalised one of |r| "
            f"{abs(found.normalised_smallest):.2f}, largest {found.normalised_largest:.2f}."
        )
