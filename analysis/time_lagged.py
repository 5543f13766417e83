"""Time-lagged independent components: the directions in which frames of dynamics move slowest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from ..core.errors import ConfigurationError

SMALLEST_VARIANCE = 1e-10
"""Variance, relative to the largest one, below which a direction of the features is left out."""


@dataclass(frozen=True)
class TimeLaggedComponents:
    """The slowest linear combinations of some features, of mean zero and variance one, uncorrelated.

    Attributes:
        mean: Mean of the features.
        directions: Coefficients of each component, the slowest one first.
        autocorrelations: Autocorrelation of each component at the lag.
    """

    mean: Float[ndarray, "features"]
    directions: Float[ndarray, "features components"]
    autocorrelations: Float[ndarray, "components"]

    def __call__(self, features: Float[ndarray, "n features"]) -> Float[ndarray, "n components"]:
        """The components of other configurations, from the same features."""
        components: Float[ndarray, "n components"] = (features - self.mean) @ self.directions
        return components

    def timescales(self, lag: float) -> Float[ndarray, "components"]:
        r"""Implied timescales, :math:`-\tau / \log \lambda_k`, in the unit of the lag; zero without correlation."""
        safe = np.clip(self.autocorrelations, 1e-300, 1 - 1e-16)
        times: Float[ndarray, "components"] = -lag / np.log(safe)
        return times


def time_lagged_components(
    features: Float[ndarray, "n features"],
    lag: int,
    replica: Int[ndarray, "n"] | None = None,
    n_components: int = 2,
) -> TimeLaggedComponents:
    r"""Time-lagged independent component analysis (TICA) of reversible dynamics.

    .. math:: C_\tau v_k = \lambda_k C_0 v_k, \qquad
              C_0 = \tfrac 12 \langle x_t x_t^T + x_{t + \tau} x_{t + \tau}^T \rangle, \qquad
              C_\tau = \tfrac 12 \langle x_t x_{t + \tau}^T + x_{t + \tau} x_t^T \rangle

    with features x about their mean, over all pairs of frames of one walker that are the lag apart.

    Args:
        features: Features of the frames, evenly spaced and in order of time for each walker.
        lag: In frames.
        replica: The walker of each frame; one walker if there is none.
        n_components: How many components; fewer if the features have fewer directions.

    Raises:
        ConfigurationError: If no walker outlasts the lag, or no feature varies.

    Reference: Pérez-Hernández et al., J. Chem. Phys. 139, 015102 (2013); Schwantes, Pande, J. Chem. Theory Comput. 9,
    2000 (2013).
    """
    if lag < 1:
        raise ConfigurationError(f"The lag must be at least one frame; it is {lag}.")
    walker_of = np.zeros(len(features), dtype=int) if replica is None else replica
    walkers = [features[walker_of == walker] for walker in np.unique(walker_of)]
    before = np.concatenate([walker[:-lag] for walker in walkers])
    after = np.concatenate([walker[lag:] for walker in walkers])
    if len(before) == 0:
        raise ConfigurationError(f"No walker has more than {lag} frames, the lag. Shorten the lag.")
    mean = (before.mean(0) + after.mean(0)) / 2
    x, y = before - mean, after - mean
    instantaneous, lagged = (x.T @ x + y.T @ y) / (2 * len(x)), (x.T @ y + y.T @ x) / (2 * len(x))
    variances, axes = np.linalg.eigh(instantaneous)
    kept = variances > SMALLEST_VARIANCE * max(variances[-1], np.finfo(float).tiny)
    if not kept.any():
        raise ConfigurationError("None of the features varies: there are no components.")
    whitened = axes[:, kept] / np.sqrt(variances[kept])
    correlations, rotation = np.linalg.eigh(whitened.T @ lagged @ whitened)
    slowest = np.argsort(-correlations)[:n_components]
    return TimeLaggedComponents(mean, whitened @ rotation[:, slowest], correlations[slowest])
