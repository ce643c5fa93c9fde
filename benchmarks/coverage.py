"""How often 95 % intervals hold the truth: simulated nets of which everything is known, many times over.

    python -m benchmarks.coverage [--simulations 200] [--images 600] [--scenario shared]

Units are rectified Gaussians with known correlations, so covariances of all images are known in closed form (Cho and
Saul 2009, arc-cosine kernel of order 1). Positions of an image depend on each other. Each simulation draws images, sums
them in groups, and forms the intervals as the analysis does; the truth is the same number of the true covariances.

Scenarios: ``shared`` (layers that have causes in common), ``independent`` (none: calibrated values should be 0) and
``same`` (one layer twice, permuted: calibrated values should be 1).
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from convergence.alignment.sparse import dense_fit, forward_selection, lasso_path
from convergence.analysis.group_pairs import hsic_plain
from convergence.inference import Estimate, jackknife, null_level
from convergence.linalg import random_rotation
from convergence.similarity import MEASURES
from convergence.similarity.pair import PairMoments

N_X, N_Y, CAUSES, POSITIONS, DEPENDENCE, GROUPS, KEPT, MANY = 24, 20, 8, 4, 0.6, 16, 256, 3000
ROTATIONS = 20
CALIBRATED = ("semi_matching", "matching", "soft_matching")
WITHOUT_TRUTH = ("mutual_knn",)
"""Depends on how many images there are to choose neighbours from, so that all images have no value of it."""


class Nets:
    """Two layers with known covariances of all images."""

    def __init__(self, scenario: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((N_X, CAUSES)) * (rng.random((N_X, CAUSES)) < 0.5)
        y = rng.standard_normal((N_Y, CAUSES)) * (rng.random((N_Y, CAUSES)) < 0.5)
        own_x, own_y = 0.7 * np.eye(N_X), 0.7 * np.eye(N_Y)
        nothing = np.zeros((N_X, CAUSES))
        if scenario == "same":
            mixing = np.concatenate([np.hstack([x, own_x])] * 2)[np.r_[0:N_X, N_X + rng.permutation(N_X)]]
        elif scenario == "independent":
            mixing = np.block(
                [[x, nothing, own_x, np.zeros((N_X, N_Y))], [np.zeros((N_Y, CAUSES)), y, np.zeros((N_Y, N_X)), own_y]]
            )
        else:
            mixing = np.block([[x, own_x, np.zeros((N_X, N_Y))], [y, np.zeros((N_Y, N_X)), own_y]])
        self.mixing = mixing / np.linalg.norm(mixing, axis=1, keepdims=True)
        self.covariance = rectified_covariance(self.mixing @ self.mixing.T)

    def draw(self, n_images: int, rng: np.random.Generator) -> np.ndarray:
        """Samples (n_images, positions, units)."""
        of_image = rng.standard_normal((n_images, 1, self.mixing.shape[1]))
        of_position = rng.standard_normal((n_images, POSITIONS, self.mixing.shape[1]))
        causes = np.sqrt(DEPENDENCE) * of_image + np.sqrt(1 - DEPENDENCE) * of_position
        return np.maximum(causes @ self.mixing.T, 0.0)

    def truth(self) -> PairMoments:
        """Of all images; without bias, the HSIC is that of the covariances."""
        c = self.covariance
        parts = (c[:N_X, :N_X], c[:N_X, N_X:], c[N_X:, N_X:])
        pair = PairMoments.of(np.inf, *parts)
        squares = {"xx": pair.corr_xx, "xy": pair.corr_xy, "yy": pair.corr_yy}
        return PairMoments.of(np.inf, *parts, hsic=lambda part: float(np.sum(squares[part] ** 2)))


def rectified_covariance(r: np.ndarray) -> np.ndarray:
    """Covariances of rectified standard normal variables with correlations r."""
    r = np.clip(r, -1.0, 1.0)
    angle = np.arccos(r)
    return (np.sin(angle) + (np.pi - angle) * r) / (2 * np.pi) - 1 / (2 * np.pi)


def moments(samples: np.ndarray, stored: np.ndarray, group: np.ndarray, kept: np.ndarray | None = None) -> PairMoments:
    """Of samples (n_images, positions, units) in groups; activations of single images are ``stored``, some kept."""
    flat = samples.reshape(-1, samples.shape[-1])
    centred = flat - flat.mean(axis=0)
    n = len(flat)
    cov = centred.T @ centred / n
    pooled = stored.mean(axis=1)
    scaled = samples / centred.std(axis=0)
    by_group = [scaled[group == g].reshape(-1, samples.shape[-1]).T for g in np.unique(group)]
    layers = {"x": [part[:N_X] for part in by_group], "y": [part[N_X:] for part in by_group]}
    return PairMoments.of(
        float(n), cov[:N_X, :N_X], cov[:N_X, N_X:], cov[N_X:, N_X:], False,
        lambda part: hsic_plain(layers[part[0]], layers[part[1]]), (pooled[:, :N_X], pooled[:, N_X:]), kept=kept,
    )  # fmt: skip


def numbers(pair: PairMoments) -> dict[str, float]:
    """Everything that gets an interval."""
    found = {
        name: MEASURES.load(name)(pair)
        for name in MEASURES
        if name not in WITHOUT_TRUTH and not MEASURES.load(name).unavailable(pair)
    }
    found["LASSO loss, alpha 0.05"] = float(lasso_path(pair.corr_xx, pair.corr_xy, [0.05]).loss.mean())
    found["loss from 3 units"] = float(forward_selection(pair.corr_xx, pair.corr_xy, 3)[1][:, 2].mean())
    found["loss from all units"] = float(dense_fit(pair.corr_xx, pair.corr_xy)[1].mean())
    return found


def simulate(nets: Nets, n_images: int, rng: np.random.Generator) -> tuple[dict[str, Estimate], PairMoments]:
    """Estimates from one draw of images."""
    samples = nets.draw(n_images, rng)
    group = rng.permutation(np.arange(n_images) % GROUPS)
    stored = samples[:KEPT]
    pooled = moments(samples, stored, group)
    value = numbers(pooled)
    replicates = [
        numbers(moments(samples[group != g], stored, group[group != g], group[: len(stored)] != g))
        for g in range(GROUPS)
    ]
    return {name: jackknife(value[name], [r[name] for r in replicates]) for name in value}, pooled


def against_rotations(estimate: Estimate, name: str, pair: PairMoments) -> Estimate:
    """The estimate beside its level in random rotations of y's basis."""
    measure = MEASURES.load(name)
    draw = lambda generator: measure(pair.in_basis(random_rotation(len(pair.cov_yy), generator)))  # noqa: E731
    return estimate.against(null_level(draw, ROTATIONS, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--scenario", choices=("shared", "independent", "same"), default="shared")
    options = parser.parse_args()
    nets = Nets(options.scenario, 0)
    truth = numbers(nets.truth())
    many = nets.draw(MANY, np.random.default_rng(1))
    for name in ("rsa", "rsa_cosine"):
        truth[name] = MEASURES.load(name)(moments(many, many, np.arange(len(many)) % GROUPS))
    found: dict[str, list[Estimate]] = {}
    calibrated: dict[str, list[Estimate]] = {name: [] for name in CALIBRATED}
    for k in range(options.simulations):
        estimates, pair = simulate(nets, options.images, np.random.default_rng([2, k]))
        for name, estimate in estimates.items():
            found.setdefault(name, []).append(estimate)
        for name in CALIBRATED:
            calibrated[name].append(replace(against_rotations(estimates[name], name, pair), ceiling=1.0))
    print(f"{options.simulations} simulations of {options.images} images x {POSITIONS} positions, {GROUPS} groups")
    print(f"{'':26} {'truth':>8} {'mean':>8} {'corrected':>9} {'spread':>8} {'error':>8} {'covers':>7} {'plain':>7}")
    for name, estimates in found.items():
        values = np.array([e.value for e in estimates])
        corrected = np.array([e.value - e.bias for e in estimates])
        error = np.mean([e.standard_error for e in estimates])
        covers = np.mean([e.low <= truth[name] <= e.high for e in estimates])
        reach = [(e.high - e.low - abs(e.bias)) / 2 for e in estimates]
        plain = np.mean([abs(v - truth[name]) <= r for v, r in zip(values, reach, strict=True)])
        print(
            f"{name:26} {truth[name]:8.4f} {values.mean():8.4f} {corrected.mean():9.4f} {values.std():8.4f} "
            f"{error:8.4f} {100 * covers:6.1f}% {100 * plain:6.1f}%"
        )
    for name in CALIBRATED:
        found_here = [estimate.calibrated() for estimate in calibrated[name]]
        values = np.array([e.value for e in found_here if e])
        wanted = {"independent": 0.0, "same": 1.0}.get(options.scenario)
        said = f"mean {values.mean():+.4f}, spread {values.std():.4f}"
        if wanted is not None:
            holds = np.mean([e.low <= wanted <= e.high for e in found_here if e])
            said += f", interval holds {wanted:g}: {100 * holds:.1f}%"
        print(f"calibrated {name}: {said}")


if __name__ == "__main__":
    main()
