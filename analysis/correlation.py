"""How many independent configurations a series of frames is worth."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Complex
from numpy import ndarray

from ..coordinates.internal import InternalCoordinates
from ..core.manifolds import Circle
from ..training.frames import Frames


def statistical_inefficiency(series: Complex[ndarray, "n"]) -> float:
    r"""How many successive values are worth one independent value.

    .. math:: g = 1 + 2 \sum_{t \ge 1} \left(1 - \tfrac tn\right) \rho(t)

    with the normalized autocorrelation :math:`\rho`, summed until pairs of its values stop being positive.

    Args:
        series: Values in order of time; complex numbers :math:`e^{i \phi}` for an angle.

    Reference: Geyer, Practical Markov Chain Monte Carlo, Statistical Science 7, 473 (1992), section 3.3.
    """
    n = len(series)
    deviations = series - series.mean()
    variance = float(np.mean(np.abs(deviations) ** 2))
    if variance == 0.0:
        return float(n)
    spectrum = np.fft.fft(deviations, 2 * n)
    correlation = np.fft.ifft(np.abs(spectrum) ** 2)[:n].real / (n * variance)
    inefficiency = -1.0
    # correlation holds the factor 1 - t/n already
    for t in range(0, n - 1, 2):
        pair = float(correlation[t] + correlation[t + 1])
        if pair <= 0:
            break
        inefficiency += 2 * pair
    return max(1.0, inefficiency)


def independent_frames(frames: Frames) -> dict[str, float]:
    """For each wide torsion, the number of independent frames that all frames are worth, walker by walker.

    A torsion is wide if the data turn it further than 120 degrees away from their mean; others are quick.

    Args:
        frames: In order of time for each replica.
    """
    coordinates = InternalCoordinates(frames.topology)
    replica = np.zeros(len(frames), dtype=int) if frames.replica is None else frames.replica
    q = coordinates.encode(torch.from_numpy(frames.positions).double())[0].numpy()
    found = {}
    for i, column in enumerate(coordinates.codomain):
        if not isinstance(column.manifold, Circle):
            continue
        turned = np.exp(1j * q[:, i])
        mean = turned.mean()
        furthest = np.abs(np.angle(turned * np.conj(mean))).max() if abs(mean) > 0 else math.pi
        if furthest > 2 * math.pi / 3:
            walkers = [turned[replica == walker] for walker in np.unique(replica)]
            found[column.name] = sum(len(series) / statistical_inefficiency(series) for series in walkers)
    return found
