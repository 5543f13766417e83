r"""2-Wasserstein distances: how far one set of points must be moved, on average, to become another.

.. math:: W_2(p, q) = \min_\pi \sqrt{\langle d(x, y)^2 \rangle_{(x, y) \sim \pi}}

over all couplings of the two distributions. Between two sets of n points of equal weight an optimal coupling is a
permutation, and exact. A distance between finite sets is never zero and falls only as :math:`n^{-1/d}` or so: compare
it at equal n, with that of two sets of one distribution.

Reference: Villani, Optimal Transport, Springer 2009; Peyré, Cuturi, Computational Optimal Transport, arXiv 1803.00567.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from ..core.errors import ConfigurationError
from ..core.manifolds import FULL_TURN


def wasserstein_on_line(first: Float[ndarray, "n"], second: Float[ndarray, "m"]) -> float:
    r"""The 2-Wasserstein distance of two sets of numbers, exact for any n and m.

    .. math:: W_2^2 = \int_0^1 \left( F^{-1}(s) - G^{-1}(s) \right)^2 ds

    with the quantile functions of both.

    Raises:
        ConfigurationError: If a set is empty, or a number is not finite.
    """
    a, b = (np.sort(_finite(x[:, None])[:, 0]) for x in (first, second))
    n, m = len(a), len(b)
    # the steps of both quantile functions, in units of 1 / nm
    edges = np.union1d(m * np.arange(n + 1), n * np.arange(m + 1))
    widths, at = np.diff(edges) / (n * m), edges[:-1]
    return math.sqrt(float(np.sum(widths * (a[at // m] - b[at // n]) ** 2)))


def wasserstein_on_torus(first: Float[ndarray, "n dim"], second: Float[ndarray, "n dim"]) -> float:
    r"""The 2-Wasserstein distance of two sets of points on a torus, radians; exact.

    .. math:: d(x, y)^2 = \sum_k \min_{z \in \mathbb Z} (x_k - y_k + 2 \pi z)^2

    Args:
        first: Angles, radians.
        second: As many.

    Raises:
        ConfigurationError: If the sets are not of one size, or an angle is not finite.
    """
    a, b = (_finite(x) % FULL_TURN for x in (first, second))
    return _assigned(a, b, FULL_TURN)


def wasserstein_in_space(first: Float[ndarray, "n dim"], second: Float[ndarray, "n dim"]) -> float:
    """The 2-Wasserstein distance of two sets of points by their Euclidean distances; exact.

    Args:
        first: Points.
        second: As many.

    Raises:
        ConfigurationError: If the sets are not of one size, or a coordinate is not finite.
    """
    return _assigned(_finite(first), _finite(second), math.inf)


def _finite(points: Float[ndarray, "n dim"]) -> Float[ndarray, "n dim"]:
    points = np.asarray(points, dtype=np.float64)
    if len(points) == 0 or not np.isfinite(points).all():
        raise ConfigurationError(
            "A Wasserstein distance needs finite points; "
            + ("a set is empty." if len(points) == 0 else "leave out those that are not finite.")
        )
    return points


def _assigned(first: Float[ndarray, "n dim"], second: Float[ndarray, "n dim"], period: float) -> float:
    """The root of the mean squared distance under the permutation that makes it smallest."""
    # takes longer to import than the rest of the package
    from scipy.optimize import linear_sum_assignment

    if first.shape != second.shape:
        raise ConfigurationError(
            f"Exact transport is between sets of one size; got shapes {first.shape} and {second.shape}. Take as many "
            "points of each."
        )
    squares = np.zeros((len(first), len(second)))
    for x, y in zip(first.T, second.T, strict=True):
        apart = np.abs(x[:, None] - y[None, :])
        squares += np.minimum(apart, period - apart) ** 2
    return math.sqrt(float(squares[linear_sum_assignment(squares)].mean()))
