"""Distributions of pairs of torsions, and divergences between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import ConfigurationError
from ..core.manifolds import FULL_TURN, Circle, Product
from .estimates import Estimate

N_BINS = 36
"""Bins per torsion: 10 degrees each."""


def ramachandran_pairs(domain: Product) -> tuple[tuple[int, int], ...]:
    """The columns of each residue's phi and psi: torsions whose names begin so and end alike."""
    columns = {domain.names[i]: i for i in domain.indices(Circle)}
    return tuple(
        (i, columns["psi" + name.removeprefix("phi")])
        for name, i in columns.items()
        if name.startswith("phi") and "psi" + name.removeprefix("phi") in columns
    )


def torsion_histogram(
    first: Float[Tensor, "n"],
    second: Float[Tensor, "n"],
    weights: Float[Tensor, "n"] | None = None,
    n_bins: int = N_BINS,
) -> Float[np.ndarray, "n_bins n_bins"]:
    """Counts, or sums of weights, of pairs of torsions (radians) on a grid over (-pi, pi]; the first one by row."""
    angles = [(x - FULL_TURN * torch.round(x / FULL_TURN)).double().cpu().numpy() for x in (first, second)]
    rows, columns = (np.clip(((x + math.pi) / FULL_TURN * n_bins).astype(int), 0, n_bins - 1) for x in angles)
    given = None if weights is None else weights.double().cpu().numpy()
    counts = np.bincount(rows * n_bins + columns, weights=given, minlength=n_bins**2)
    return counts.astype(np.float64).reshape(n_bins, n_bins)


def histogram_divergence(data: Float[np.ndarray, "..."], model: Float[np.ndarray, "..."]) -> float:
    r"""The forward Kullback-Leibler divergence of two histograms of counts, in units of kT.

    .. math:: \sum_b p_b \log \frac{p_b}{q_b}, \qquad p_b = \frac{n_b}{\sum n},
              \qquad q_b = \frac{m_b + 1/2}{\sum m + B / 2}

    B bins are occupied by either; half a count in each keeps the divergence finite. Noise makes it positive even for
    two samples of one distribution: compare with that.
    """
    if data.sum() == 0 or model.sum() == 0:
        raise ConfigurationError("A divergence needs counts in both histograms; one is empty.")
    occupied = (data > 0) | (model > 0)
    p = data[occupied] / data.sum()
    q = (model[occupied] + 0.5) / (model.sum() + 0.5 * occupied.sum())
    return float(np.sum(p * np.log(np.where(p > 0, p, 1) / q)))


def total_variation(first: Float[np.ndarray, "..."], second: Float[np.ndarray, "..."]) -> float:
    r"""The total variation distance of two histograms of counts: 0 for equal shares, 1 for no bin in common.

    .. math:: \tfrac 12 \sum_b |p_b - q_b|, \qquad p_b = \frac{n_b}{\sum n}, \qquad q_b = \frac{m_b}{\sum m}

    Noise makes it positive even for two samples of one distribution, by :math:`\sum_b \sqrt{p_b / \pi n}` or so for n
    draws of each: compare with that.

    Raises:
        ConfigurationError: If a histogram is empty.
    """
    if first.sum() == 0 or second.sum() == 0:
        raise ConfigurationError("A total variation needs counts in both histograms; one is empty.")
    return float(np.abs(first / first.sum() - second / second.sum()).sum() / 2)


@dataclass(frozen=True)
class TorsionDivergence:
    """How far the samples' distribution of two torsions is from the data's, and how far the data are from themselves.

    Attributes:
        names: Names of the two torsions.
        divergence: Divergence of each half of the data against as many samples, mean of both.
        noise_floor: Noise floor of the halves of the data against each other, mean of both directions.
    """

    names: tuple[str, str]
    divergence: Estimate
    noise_floor: Estimate


def torsion_divergence(
    names: tuple[str, str],
    data: Float[Tensor, "n 2"],
    samples: Float[Tensor, "m 2"],
    n_bins: int = N_BINS,
) -> TorsionDivergence:
    """Divergence of the distributions of two torsions, and its noise floor, all from histograms of equal size."""
    size = min(len(data) // 2, len(samples) // 2)
    if size < 1:
        raise ConfigurationError(
            f"A divergence needs two configurations of each kind; got {len(data)} and {len(samples)}."
        )
    half = len(data) // 2
    first, second, ours, ours_too = (
        torsion_histogram(x[:, 0], x[:, 1], n_bins=n_bins)
        for x in (data[:half][:size], data[half:][:size], samples[:size], samples[size : 2 * size])
    )

    def both(a: float, b: float) -> Estimate:
        return Estimate((a + b) / 2, abs(a - b) / 2, size)

    return TorsionDivergence(
        names,
        both(histogram_divergence(first, ours), histogram_divergence(second, ours_too)),
        both(histogram_divergence(first, second), histogram_divergence(second, first)),
    )
