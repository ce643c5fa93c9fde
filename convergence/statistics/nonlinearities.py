"""Nonlinearities of given activations: functions of single values, as PyTorch defines them, in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

Values = npt.NDArray[Any]


def relu(x: Values) -> Values:
    """max(x, 0)."""
    return np.maximum(x, x.dtype.type(0))


def gelu(x: Values) -> Values:
    """X Φ(x), with the normal distribution function Φ."""
    return np.asarray(x * special.ndtr(x))


def gelu_tanh(x: Values) -> Values:
    """The approximation of :func:`gelu` by tanh."""
    kind = x.dtype.type
    inner = kind(math.sqrt(2 / math.pi)) * (x + kind(0.044715) * x * x * x)
    return np.asarray(kind(0.5) * x * (kind(1) + np.tanh(inner)))


def silu(x: Values) -> Values:
    """X / (1 + exp(−x))."""
    return np.asarray(x * special.expit(x))


def leaky_relu(x: Values) -> Values:
    """x, or 0.01 x where x is negative."""
    return np.where(x > 0, x, x.dtype.type(0.01) * x)


def elu(x: Values) -> Values:
    """x, or exp(x) − 1 where x is negative."""
    return np.where(x > 0, x, np.expm1(np.minimum(x, x.dtype.type(0))))


def softplus(x: Values) -> Values:
    """log(1 + exp(x))."""
    return np.asarray(np.logaddexp(x.dtype.type(0), x))


NONLINEARITIES: dict[str, Callable[[Values], Values]] = {
    "relu": relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "softplus": softplus,
}
"""By the names of ``activations.nonlinearity``."""
