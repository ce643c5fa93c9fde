"""Compiled loops of :mod:`convergence.alignment.sparse`, from correlations, one target after the other.

The LASSO kernel continues where :mod:`~convergence.alignment.homotopy_kernels` stops: at dependent units, cycling ties
and problems without a minimum. It solves the penalties in descending order with warm starts. At each penalty

1. the **strong rule** selects candidates: units whose gradient could reach the penalty;
2. **coordinate descent** on the Gram matrix of the candidates finds the support and its signs;
3. the **finish** solves the normal equations of that support for those signs. If a weight would change its sign, the
   step ends at zero and the unit leaves the support. The objective never rises, so the iteration terminates;
4. the **gradient of all units** is recomputed from the weights; units that violate optimality become candidates.

Coordinate descent finds the support quickly but converges slowly; the finish is exact but needs a support. The Cholesky
factor is kept along the path, because the support changes little between penalties.

Arrays are float64 and C-contiguous, so each kernel is compiled once. Besides ``convergence.kernels``, a kernel calls
functions of this file only, because numba's cache detects changes of the kernel's file, not of files that it calls.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.kernels.jit import njit
from convergence.kernels.lanes import dot

# No fastmath: the order of every sum is in the source, see convergence.kernels.lanes.
_jit = njit(nogil=True)
Array = Any  # a numpy array here, numba's array type in compiled code

# A unit depends on earlier units if its residual variance given them is below this share of its variance.
DEPENDENT = 1e-10
# Ratio below which two gains are equal: copies of a unit differ by rounding.
EQUAL = 1.0 + 1e-12
# Sweeps of coordinate descent between two finishes: few at first, more if the support does not settle.
FIRST_SWEEPS = 6
MORE_SWEEPS = 30
ROUNDS = 2000
IMPOSSIBLE = 3.0


@_jit
def join(gram: Array, support: Array, factor: Array, size: int, unit: int) -> float:
    """Compute row ``size`` of the factor for a unit that may join ``support[:size]``; return its residual variance.

    The factor is lower triangular (factor factor' = Gram matrix of the support). All loops run along rows.
    """
    row = factor[size]
    rest = gram[unit, unit]
    for b in range(size):
        other = factor[b]
        value = (gram[unit, support[b]] - dot(other, row, 0, b)) / other[b]
        row[b] = value
        rest -= value * value
    return rest


@_jit
def leave(support: Array, factor: Array, size: int, place: int) -> int:
    """Remove ``support[place]`` from the factor by Givens rotations; return the new size."""
    last = size - 1
    for r in range(place, last):
        support[r] = support[r + 1]
        above = factor[r]
        row = factor[r + 1]
        for k in range(place):
            above[k] = row[k]
        # Row r + 1 has one column too many. Earlier rotations, stored in two rows past the end, reduce its columns from
        # ``place`` on by one.
        carry = row[place]
        for k in range(place, r):
            c = factor[size, k]
            s = factor[size + 1, k]
            above[k] = c * carry + s * row[k + 1]
            carry = c * row[k + 1] - s * carry
        root = np.hypot(carry, row[r + 1])
        factor[size, r] = carry / root
        factor[size + 1, r] = row[r + 1] / root
        above[r] = root
    return last


@_jit
def back_substitute(factor: Array, size: int, x: Array) -> None:
    """Solve L'z = x in place."""
    for b in range(size - 1, -1, -1):
        row = factor[b]
        x[b] /= row[b]
        for k in range(b):
            x[k] -= row[k] * x[b]


@_jit
def solve_normal_equations(factor: Array, size: int, x: Array) -> None:
    """Solve L L'z = x in place."""
    for b in range(size):
        row = factor[b]
        x[b] = (x[b] - dot(row, x, 0, b)) / row[b]
    back_substitute(factor, size, x)


@_jit
def step_to_zero(weights: Array, units: Array, direction: Array, size: int, longest: float) -> bool:
    """Move weights along ``direction`` by ``longest`` or until one reaches zero; return whether one did."""
    step = longest
    first = -1
    for b in range(size):
        weight = weights[units[b]]
        if weight * direction[b] < 0.0:
            reach = -weight / direction[b]
            if reach <= step:
                step = reach
                first = b
    if first < 0 and step == np.inf:
        return False
    for b in range(size):
        weights[units[b]] += step * direction[b]
    if first >= 0:
        weights[units[first]] = 0.0
    return first >= 0


@_jit
def finish(
    gram: Array,
    target: Array,
    alpha: float,
    weights: Array,
    support: Array,
    listed: Array,
    size: int,
    factor: Array,
    direction: Array,
) -> int:
    """Minimise over the nonzero weights with fixed signs; return the size of the remaining support.

    ``support[:size]``, ``listed`` (mask of the support) and ``factor`` come from the last call and are updated.
    """
    n = weights.size
    while True:
        for b in range(size - 1, -1, -1):
            if weights[support[b]] == 0.0:
                listed[support[b]] = False
                size = leave(support, factor, size, b)
        stuck = False
        for j in range(n):
            while weights[j] != 0.0 and not listed[j] and not stuck:
                rest = join(gram, support, factor, size, j)
                support[size] = j
                if rest > DEPENDENT * gram[j, j]:
                    factor[size, size] = np.sqrt(rest)
                    listed[j] = True
                    size += 1
                    break
                # The unit is a linear combination of earlier units. Shift weight along that combination, which changes
                # no prediction, in the direction that does not raise the objective, until one weight is zero.
                for b in range(size):
                    direction[b] = -factor[size, b]
                back_substitute(factor, size, direction)
                direction[size] = 1.0
                slope = 0.0
                for b in range(size + 1):
                    i = support[b]
                    slope += direction[b] * ((alpha if weights[i] > 0.0 else -alpha) - target[i])
                if slope > 0.0:
                    for b in range(size + 1):
                        direction[b] = -direction[b]
                stuck = not step_to_zero(weights, support, direction, size + 1, np.inf)
                for b in range(size - 1, -1, -1):
                    if weights[support[b]] == 0.0:
                        listed[support[b]] = False
                        size = leave(support, factor, size, b)
        if stuck:  # only if the matrix is no covariance matrix; coordinate descent continues
            return size
        for b in range(size):
            j = support[b]
            direction[b] = target[j] - (alpha if weights[j] > 0.0 else -alpha)
        solve_normal_equations(factor, size, direction)
        for b in range(size):
            direction[b] -= weights[support[b]]
        if not step_to_zero(weights, support, direction, size, 1.0):
            return size


@_jit
def sweep(local: Array, units: Array, size: int, alpha: float, weights: Array, slope: Array, sweeps: int) -> None:
    """Run coordinate descent over the candidates until a sweep changes no sign, at most ``sweeps`` times.

    ``slope`` is the gradient r - R w of the candidates and is updated; ``local`` is their Gram matrix.
    """
    for count in range(sweeps):
        settled = count > 0
        for a in range(size):
            j = units[a]
            old = weights[j]
            scale = local[a, a]
            reach = slope[a] + scale * old
            new = 0.0
            if reach > alpha:
                new = (reach - alpha) / scale
            elif reach < -alpha:
                new = (reach + alpha) / scale
            change = new - old
            if change != 0.0:
                row = local[a]
                for b in range(size):
                    slope[b] -= change * row[b]
                weights[j] = new
                if (new > 0.0) != (old > 0.0) or (new < 0.0) != (old < 0.0):
                    settled = False
        if settled:
            return


@_jit
def gradient(gram: Array, target: Array, weights: Array, out: Array) -> None:
    """Recompute the gradient r - R w of all units, so that rounding errors do not accumulate."""
    n = target.size
    for i in range(n):
        out[i] = target[i]
    for j in range(n):
        weight = weights[j]
        if weight != 0.0:
            row = gram[j]
            for i in range(n):
                out[i] -= weight * row[i]


@_jit
def explained_variance(weights: Array, target: Array, slope: Array) -> float:
    """Compute the explained share of the variance, 2 w'r - w'Rw, from r and the gradient r - R w."""
    return dot(weights, target, 0, weights.size) + dot(weights, slope, 0, weights.size)


@_jit
def optimality_gap(slope: Array, weights: Array, alpha: float) -> float:
    """Compute the largest violation of the optimality (KKT) conditions, in units of correlation."""
    worst = 0.0
    for j in range(slope.size):
        if weights[j] > 0.0:
            gap = abs(slope[j] - alpha)
        elif weights[j] < 0.0:
            gap = abs(slope[j] + alpha)
        else:
            gap = abs(slope[j]) - alpha
        worst = max(worst, gap)
    return worst


@_jit
def lasso_kernel(
    gram: Array,
    targets: Array,
    alphas: Array,
    large: float,
    goal: float,
    out: Array,
    gaps: Array,
    losses: Array,
    counts: Array,
    solved: Array,
) -> None:
    """Continue the LASSO paths of ``targets`` (n_targets, n) for descending ``alphas`` from index ``solved``.

    ``out`` (n_alphas, n_targets, n) holds the weights of the solved penalties and zeros after them. Fills the remaining
    weights, ``gaps`` and ``losses`` (n_alphas, n_targets), and ``counts`` (2, n_alphas, n_targets), the numbers of
    nonzero weights and of weights above ``large``.
    """
    n = gram.shape[0]
    units = np.empty(n, np.int64)
    chosen = np.zeros(n, np.bool_)
    support = np.empty(n + 1, np.int64)
    listed = np.empty(n, np.bool_)
    local = np.empty((n, n))
    factor = np.empty((n + 2, n))  # two rows of scratch
    direction = np.empty(n)
    slope = np.empty(n)
    local_slope = np.empty(n)
    weights = np.empty(n)
    for t in range(targets.shape[0]):
        target = targets[t]
        start = solved[t]
        if start == alphas.size:
            continue
        before = np.abs(target).max()
        weights[:] = 0.0
        if start > 0:
            before = alphas[start - 1]
            weights[:] = out[start - 1, t]
        gradient(gram, target, weights, slope)
        chosen[:] = False
        listed[:] = False
        n_units = 0
        filled = 0
        size = 0
        for j in range(n):
            if weights[j] != 0.0:
                units[n_units] = j
                chosen[j] = True
                n_units += 1
        for l in range(start, alphas.size):
            alpha = alphas[l]
            threshold = max(2.0 * alpha - before, 0.9 * alpha)
            explained = 0.0
            for r in range(ROUNDS):
                for i in range(n):
                    if abs(slope[i]) > threshold and not chosen[i] and gram[i, i] > 0.0:
                        units[n_units] = i
                        chosen[i] = True
                        n_units += 1
                threshold = alpha
                for a in range(filled, n_units):
                    for b in range(a + 1):
                        local[a, b] = gram[units[a], units[b]]
                        local[b, a] = local[a, b]
                filled = n_units
                for a in range(n_units):
                    local_slope[a] = slope[units[a]]
                sweep(local, units, n_units, alpha, weights, local_slope, FIRST_SWEEPS if r < 5 else MORE_SWEEPS)
                size = finish(gram, target, alpha, weights, support, listed, size, factor, direction)
                gradient(gram, target, weights, slope)
                gaps[l, t] = optimality_gap(slope, weights, alpha)
                explained = explained_variance(weights, target, slope)
                # More than all of the variance is explained: the matrix is no correlation matrix, there is no minimum.
                if gaps[l, t] <= goal or explained > IMPOSSIBLE:
                    break
            losses[l, t] = 0.5 * (1.0 - explained)
            used = 0
            n_above = 0
            for j in range(n):
                out[l, t, j] = weights[j]
                used += weights[j] != 0.0
                n_above += abs(weights[j]) > large
            counts[0, l, t] = used
            counts[1, l, t] = n_above
            before = alpha
            if n_units > 2 * used + 32:  # limit the number of candidates
                n_units = 0
                chosen[:] = False
                for j in range(n):
                    if weights[j] != 0.0:
                        units[n_units] = j
                        chosen[j] = True
                        n_units += 1
                filled = 0


@_jit
def refit_kernel(gram: Array, targets: Array, weights: Array, out: Array, losses: Array) -> None:
    """Fit least squares on the support of each row; a unit that depends on earlier units keeps weight zero."""
    n = gram.shape[0]
    support = np.empty(n + 1, np.int64)
    factor = np.empty((n + 2, n))  # two rows of scratch
    solution = np.empty(n)
    for row in range(weights.shape[0]):
        target = targets[row % targets.shape[0]]
        size = 0
        for j in range(n):
            if weights[row, j] != 0.0:
                rest = join(gram, support, factor, size, j)
                if rest > DEPENDENT * gram[j, j]:
                    factor[size, size] = np.sqrt(rest)
                    support[size] = j
                    size += 1
        for b in range(size):
            solution[b] = target[support[b]]
        solve_normal_equations(factor, size, solution)
        explained = 0.0
        for b in range(size):
            out[row, support[b]] = solution[b]
            explained += solution[b] * target[support[b]]
        losses[row] = 0.5 * max(1.0 - explained, 0.0)


@_jit
def forward_kernel(gram: Array, targets: Array, order: Array, losses: Array, least: float) -> None:
    """Select units by a pivoted Cholesky factorisation whose pivot is the best remaining unit."""
    n = gram.shape[0]
    max_units = order.shape[1]
    columns = np.empty((max_units, n))
    left = np.empty(n)
    slope = np.empty(n)
    for t in range(targets.shape[0]):
        for i in range(n):
            left[i] = gram[i, i]
            slope[i] = targets[t, i]
        unexplained = 1.0
        done = False
        for m in range(max_units):
            best = -1
            gain = least
            if not done:
                for i in range(n):
                    if left[i] > DEPENDENT * gram[i, i] and slope[i] * slope[i] > gain * EQUAL * left[i]:
                        gain = slope[i] * slope[i] / left[i]
                        best = i
            order[t, m] = best
            if best < 0:
                done = True
                losses[t, m] = 0.5 * unexplained
                continue
            column = columns[m]
            for i in range(n):
                column[i] = gram[best, i]
            for k in range(m):
                share = columns[k, best]
                for i in range(n):
                    column[i] -= share * columns[k, i]
            root = np.sqrt(left[best])
            part = slope[best] / root
            for i in range(n):
                column[i] /= root
                slope[i] -= part * column[i]
                left[i] -= column[i] * column[i]
            left[best] = 0.0
            unexplained = max(unexplained - part * part, 0.0)
            losses[t, m] = 0.5 * unexplained


@_jit
def loss_kernel(gram: Array, targets: Array, weights: Array, losses: Array) -> None:
    """Compute the losses of rows of sparse weights (n_rows, n); row k belongs to target k mod n_targets."""
    n = gram.shape[0]
    used = np.empty(n, np.int64)
    for row in range(weights.shape[0]):
        target = targets[row % targets.shape[0]]
        size = 0
        for j in range(n):
            if weights[row, j] != 0.0:
                used[size] = j
                size += 1
        explained = 0.0
        for a in range(size):
            i = used[a]
            value = target[i] - 0.5 * gram[i, i] * weights[row, i]
            for b in range(a):
                value -= gram[i, used[b]] * weights[row, used[b]]
            explained += 2.0 * weights[row, i] * value
        losses[row] = 0.5 * (1.0 - explained)
