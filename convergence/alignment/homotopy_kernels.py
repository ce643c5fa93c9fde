"""The LASSO path by homotopy, compiled.

Between two changes of the support the gradient of a target is a straight line c(α) = p + α a in the penalty α (Osborne,
Presnell and Turlach 2000; Efron et al. 2004). With R_SS = L L' of the support S, its signs s and the correlations r of
the target,

    z = L⁻¹ r_S,  y = L⁻¹ s,  Q = L⁻¹ R_S:      p = r - Q'z,  a = Q'y,  L'w(α) = z - α y

so a unit that joins the support adds a row to Q, z and y and a multiple of that row to p and a. A unit that leaves the
support is rotated into the last row, which is then removed. Columns of Q are needed for the **candidates** only: units
whose gradient exceeded the penalty. At each penalty

1. candidates whose gradient exceeds the penalty join, in the order in which their gradient reached it;
2. the weights are solved for; if some have the wrong sign, the one that changed its sign first leaves, and step 1
   is repeated;
3. the **gradient of all units** is recomputed from the weights; units beyond the penalty become candidates.

The problem is convex, so weights that pass step 3 are a solution, whatever the path to them. Dependent units, cycling
ties and problems without a minimum may stop the path early; the kernel returns the number of solved penalties.

The **table** holds row k of Q from column k on, with an inverted diagonal. Its columns are the candidates; the support
comes first, in order of joining. ``lines`` holds further rows of that width, named below.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.kernels.jit import njit
from convergence.kernels.lanes import dot

# No fastmath: the order of every sum is in the source, see convergence.kernels.lanes. Loops that do not start at zero
# vectorise with unsigned counters only. ``np.int64(0)`` is an integer; a bare 0 would be a constant, for which numba
# compiles every function again.
_jit = njit(nogil=True, error_model="numpy")
Array = Any  # a numpy array here, numba's array type in compiled code

# A unit depends on the support if its residual variance given the support is below this share of its variance.
DEPENDENT = 1e-10
# A gradient that exceeds the penalty by less than this exceeds it by rounding only.
ROUNDING = 1e-13
# Largest violation of optimality; worse weights are left to sparse_kernels.
GOAL = 1e-12
# Distant penalties are reached in stages, each at this share of the penalty before.
STAGE = 0.65
# Maximum number of support changes per candidate in a stage; more changes mean a cycle.
CHANGES = 4
# Number of candidates for which the table is read once.
TOGETHER = 8

# Rows of ``lines``: a and p; 1 for units that depend on the support; s, y, z and w of the support; scratch.
PULL, REST, BARRED, SIGN, Y, Z, WEIGHT, SCRATCH = range(8)
N_LINES = 8


@_jit
def substitute(table: Array, size: int, x: Array, width: int) -> None:
    """Solve L x = x in place for the first ``width`` rows of x."""
    end = np.uint64(size)
    k = 0
    while k + 4 <= size:  # four rows at once: a quarter of the loads and stores
        for c in range(width):
            v0 = x[c, k] * table[k, k]
            v1 = (x[c, k + 1] - v0 * table[k, k + 1]) * table[k + 1, k + 1]
            v2 = (x[c, k + 2] - v0 * table[k, k + 2] - v1 * table[k + 1, k + 2]) * table[k + 2, k + 2]
            v3 = x[c, k + 3] - v0 * table[k, k + 3] - v1 * table[k + 1, k + 3] - v2 * table[k + 2, k + 3]
            v3 *= table[k + 3, k + 3]
            x[c, k], x[c, k + 1], x[c, k + 2], x[c, k + 3] = v0, v1, v2, v3
            for t in range(np.uint64(k + 4), end):
                x[c, t] -= v0 * table[k, t] + v1 * table[k + 1, t] + v2 * table[k + 2, t] + v3 * table[k + 3, t]
        k += 4
    while k < size:
        for c in range(width):
            x[c, k] *= table[k, k]
            for t in range(np.uint64(k + 1), end):
                x[c, t] -= x[c, k] * table[k, t]
        k += 1


@_jit
def enter(
    gram: Array, target: Array, units: Array, table: Array, lines: Array, x: Array, size: int, begin: int, count: int
) -> None:
    """Fill the columns ``begin`` to ``count`` of new candidates."""
    for column in range(begin, count, TOGETHER):
        width = min(count - column, TOGETHER)
        for c in range(width):
            for b in range(size):
                x[c, b] = gram[units[column + c], units[b]]
        substitute(table, size, x, width)
        for c in range(width):
            lines[REST, column + c] = target[units[column + c]] - dot(x[c], lines[Z], 0, size)
            lines[PULL, column + c] = dot(x[c], lines[Y], 0, size)
            lines[BARRED, column + c] = 0.0
        for k in range(size):
            for c in range(width):
                table[k, column + c] = x[c, k]


@_jit
def exchange(units: Array, table: Array, lines: Array, size: int, i: int, j: int) -> None:
    """Exchange columns i and j of two candidates outside the support."""
    units[i], units[j] = units[j], units[i]
    for k in range(size):
        table[k, i], table[k, j] = table[k, j], table[k, i]
    for k in range(BARRED + 1):
        lines[k, i], lines[k, j] = lines[k, j], lines[k, i]


@_jit
def join(
    gram: Array, units: Array, table: Array, lines: Array, size: int, count: int, column: int, sign: float
) -> bool:
    """Add the candidate of ``column`` to the support; False if it depends on it, and is now column ``size``."""
    exchange(units, table, lines, size, size, column)
    unit = units[size]
    left = gram[unit, unit]
    for k in range(size):
        left -= table[k, size] * table[k, size]
    if not left > DEPENDENT * gram[unit, unit]:
        return False
    scale = 1.0 / np.sqrt(left)
    begin, end = np.uint64(size + 1), np.uint64(count)
    for t in range(begin, end):
        table[size, t] = gram[unit, units[t]]
    k = 0
    while k + 4 <= size:  # four rows at once: a quarter of the loads and stores
        f0, f1, f2, f3 = table[k, size], table[k + 1, size], table[k + 2, size], table[k + 3, size]
        for t in range(begin, end):
            table[size, t] -= f0 * table[k, t] + f1 * table[k + 1, t] + f2 * table[k + 2, t] + f3 * table[k + 3, t]
        k += 4
    while k < size:
        f0 = table[k, size]
        for t in range(begin, end):
            table[size, t] -= f0 * table[k, t]
        k += 1
    z = lines[REST, size] * scale
    y = (sign - lines[PULL, size]) * scale
    table[size, size] = scale
    for t in range(begin, end):
        table[size, t] *= scale
        lines[REST, t] -= z * table[size, t]
        lines[PULL, t] += y * table[size, t]
    lines[Z, size] = z
    lines[Y, size] = y
    lines[SIGN, size] = sign
    return True


@_jit
def shift(table: Array, row: int, begin: int, last: int) -> None:
    """Move columns begin + 1 to last of a row one to the left."""
    for t in range(np.uint64(begin), np.uint64(last)):
        table[row, t] = table[row, t + np.uint64(1)]


@_jit
def leave(units: Array, table: Array, lines: Array, size: int, count: int, column: int) -> None:
    """Remove ``column`` from the support by Givens rotations; it becomes the first column after the support."""
    last = size - 1
    unit = units[column]
    sign = lines[SIGN, column]
    for t in range(column, last):
        units[t] = units[t + 1]
        lines[SIGN, t] = lines[SIGN, t + 1]
    units[last] = unit
    for k in range(column + 1):
        value = table[k, column] if k < column else 1.0 / table[k, k]
        shift(table, k, column, last)
        table[k, last] = value
    for k in range(column, last):
        # Without ``column``, row k + 1 has its diagonal in column k.
        above, below = table[k, k], 1.0 / table[k + 1, k + 1]
        shift(table, k + 1, k + 1, last)
        table[k + 1, last] = 0.0
        root = np.sqrt(above * above + below * below)
        c, s = above / root, below / root
        table[k, k] = 1.0 / root
        for t in range(np.uint64(k + 1), np.uint64(count)):
            one, two = table[k, t], table[k + 1, t]
            table[k, t] = c * one + s * two
            table[k + 1, t] = c * two - s * one
        for line in (Y, Z):
            one, two = lines[line, k], lines[line, k + 1]
            lines[line, k] = c * one + s * two
            lines[line, k + 1] = c * two - s * one
    lines[REST, last] = 0.0
    lines[PULL, last] = sign
    lines[BARRED, last] = 0.0
    z, y = lines[Z, last], lines[Y, last]
    for t in range(np.uint64(last), np.uint64(count)):
        lines[REST, t] += z * table[last, t]
        lines[PULL, t] -= y * table[last, t]


@_jit
def meetings(lines: Array, size: int, count: int, alpha: float) -> None:
    """Write to the scratch line the penalty at which the gradient met it, for candidates beyond ``alpha``; else 0."""
    for t in range(np.uint64(size), np.uint64(count)):
        slope = lines[REST, t] + alpha * lines[PULL, t]
        rest = lines[REST, t] if slope > 0.0 else -lines[REST, t]
        fall = 1.0 - (lines[PULL, t] if slope > 0.0 else -lines[PULL, t])
        meeting = rest / fall
        meeting = meeting if fall > 0.0 else np.inf
        lines[SCRATCH, t] = meeting if abs(slope) > alpha + ROUNDING and lines[BARRED, t] == 0.0 else 0.0


@_jit
def back_substitute(table: Array, size: int, x: Array) -> None:
    """Solve L'x = x in place."""
    k = size - 1
    while k >= 3:
        v0, v1 = dot(table[k], x, k + 1, size), dot(table[k - 1], x, k + 1, size)
        v2, v3 = dot(table[k - 2], x, k + 1, size), dot(table[k - 3], x, k + 1, size)
        v0 = (x[k] - v0) * table[k, k]
        v1 = (x[k - 1] - v1 - table[k - 1, k] * v0) * table[k - 1, k - 1]
        v2 = (x[k - 2] - v2 - table[k - 2, k] * v0 - table[k - 2, k - 1] * v1) * table[k - 2, k - 2]
        v3 = x[k - 3] - v3 - table[k - 3, k] * v0 - table[k - 3, k - 1] * v1 - table[k - 3, k - 2] * v2
        x[k] = v0
        x[k - 1] = v1
        x[k - 2] = v2
        x[k - 3] = v3 * table[k - 3, k - 3]
        k -= 4
    while k >= 0:
        x[k] = (x[k] - dot(table[k], x, k + 1, size)) * table[k, k]
        k -= 1


@_jit
def solve(units: Array, table: Array, lines: Array, size: int, alpha: float) -> int:
    """Solve for the weights at ``alpha``; return the column whose weight changed its sign first, or -1."""
    for b in range(size):
        lines[WEIGHT, b] = lines[Z, b] - alpha * lines[Y, b]
    back_substitute(table, size, lines[WEIGHT])
    wrong = False
    for b in range(size):
        wrong |= lines[WEIGHT, b] * lines[SIGN, b] <= 0.0
    if not wrong:
        return -1
    for b in range(size):
        lines[SCRATCH, b] = lines[Y, b]
    back_substitute(table, size, lines[SCRATCH])
    first = -1
    longest = -1.0
    for b in range(size):
        if lines[WEIGHT, b] * lines[SIGN, b] <= 0.0:
            gain = -lines[SCRATCH, b] * lines[SIGN, b]
            way = -lines[WEIGHT, b] * lines[SIGN, b] / gain if gain > 0.0 else np.inf
            if way > longest or (way == longest and units[b] < units[first]):
                longest = way
                first = b
    return first


@_jit
def walk(gram: Array, units: Array, table: Array, lines: Array, size: int, count: int, alpha: float) -> int:
    """Find the weights that are optimal at ``alpha`` among the candidates; return the support size, or -1."""
    for _ in range(CHANGES * count + 16):
        meetings(lines, size, count, alpha)
        first: Any = np.int64(-1)
        reach = 0.0
        for t in range(size, count):
            value = lines[SCRATCH, t]
            if value > reach or (value == reach and first >= 0 and units[t] < units[first]):
                reach = value
                first = t
        if first >= 0:
            sign = 1.0 if lines[REST, first] + alpha * lines[PULL, first] > 0.0 else -1.0
            if join(gram, units, table, lines, size, count, first, sign):
                size += 1
            else:
                lines[BARRED, size] = 1.0
            continue
        first = solve(units, table, lines, size, alpha)
        if first < 0:
            return size
        leave(units, table, lines, size, count, first)
        size -= 1
    return -1


@_jit
def gradient(gram: Array, target: Array, units: Array, lines: Array, size: int, out: Array) -> None:
    """Recompute the gradient r - R w of all units, so that rounding errors do not accumulate."""
    zero, end = np.uint64(0), np.uint64(target.size)
    for i in range(zero, end):
        out[i] = target[i]
    b = 0
    while b + 4 <= size:
        j0, j1, j2, j3 = units[b], units[b + 1], units[b + 2], units[b + 3]
        w0, w1, w2, w3 = lines[WEIGHT, b], lines[WEIGHT, b + 1], lines[WEIGHT, b + 2], lines[WEIGHT, b + 3]
        for i in range(zero, end):
            out[i] -= w0 * gram[j0, i] + w1 * gram[j1, i] + w2 * gram[j2, i] + w3 * gram[j3, i]
        b += 4
    while b < size:
        j0 = units[b]
        w0 = lines[WEIGHT, b]
        for i in range(zero, end):
            out[i] -= w0 * gram[j0, i]
        b += 1


@_jit
def optimality_gap(slope: Array, units: Array, lines: Array, size: int, alpha: float) -> float:
    """Compute the largest violation of the optimality (KKT) conditions, in units of correlation."""
    # |slope| - α is at most |slope - α sign|, so all units are first treated as if they had no weight.
    worst = alpha
    for i in range(slope.size):
        worst = max(worst, abs(slope[i]))
    worst -= alpha
    for b in range(size):
        worst = max(worst, abs(slope[units[b]] - alpha * lines[SIGN, b]))
    return worst


@_jit
def homotopy_kernel(
    gram: Array,
    targets: Array,
    alphas: Array,
    large: float,
    weights: Array,
    gaps: Array,
    losses: Array,
    counts: Array,
    solved: Array,
) -> None:
    """Compute the LASSO paths of ``targets`` (n_targets, n) for descending ``alphas``, as far as homotopy succeeds.

    Fills ``solved`` (n_targets,), the number of solved penalties, and for these penalties ``weights``
    (n_alphas, n_targets, n), which must be zero before; ``gaps`` and ``losses`` (n_alphas, n_targets); and ``counts``
    (2, n_alphas, n_targets), the numbers of nonzero weights and of weights above ``large``.
    """
    n = gram.shape[0]
    units = np.empty(n, np.int64)
    chosen = np.zeros(n, np.bool_)
    # Row lengths that are powers of two would map to few cache lines.
    table = np.empty((n, n + 8))
    lines = np.zeros((N_LINES, n + 8))
    x = np.empty((TOGETHER, n + 8))
    slope = np.empty(n)
    for t in range(targets.shape[0]):
        target = targets[t]
        before = 0.0
        for i in range(n):
            slope[i] = target[i]
            before = max(before, abs(target[i]))
            chosen[i] = False
        size: Any = np.int64(0)
        count: Any = np.int64(0)
        l = 0
        while l < alphas.size:
            alpha = max(alphas[l], STAGE * before)
            for c in range(count):
                lines[BARRED, c] = 0.0
            gap = np.inf
            again = False
            while not gap <= GOAL:
                begin = count
                for i in range(n):
                    if abs(slope[i]) > alpha and not chosen[i] and gram[i, i] > 0.0:
                        units[count] = i
                        chosen[i] = True
                        count += 1
                if again and count == begin:
                    break
                again = True
                enter(gram, target, units, table, lines, x, size, begin, count)
                size = walk(gram, units, table, lines, size, count, alpha)
                if size < 0:
                    break
                gradient(gram, target, units, lines, size, slope)
                gap = optimality_gap(slope, units, lines, size, alpha)
            if not gap <= GOAL:
                break
            before = alpha
            if alpha > alphas[l]:
                continue
            explained = 0.0
            n_above = 0
            for b in range(size):
                weight = lines[WEIGHT, b]
                weights[l, t, units[b]] = weight
                explained += weight * (target[units[b]] + slope[units[b]])
                n_above += abs(weight) > large
            gaps[l, t] = gap
            losses[l, t] = 0.5 * (1.0 - explained)
            counts[0, l, t] = size
            counts[1, l, t] = n_above
            l += 1
        solved[t] = l
