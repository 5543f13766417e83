"""Averages over a target from draws of a sampler and of the target together."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .estimates import Estimate, mean_of_independent, mean_of_series
from .reweighting import log_z_bar


class BothEnsembles:
    r"""Draws of a sampler q and of its target p, weighted by the multistate Bennett acceptance ratio (MBAR).

    For two ensembles of which one is normalized, its equations are Bennett's for :math:`\log Z`, and every draw has the
    weight

    .. math:: W(x) = \sigma \left( \log w(x) + \log \tfrac mn - \log Z \right) = \frac{m\,p(x)}{n\,q(x) + m\,p(x)}

    which is what it counts among the m draws of the target. Errors are those of the delta method, that of
    :math:`\log Z` included.

    Args:
        log_weights: :math:`\log w` of n independent draws of the sampler.
        target_log_weights: Of m draws of the target, in order of time; their part of each error is that of
            `mean_of_series`.

    Reference: Shirts, Chodera, J. Chem. Phys. 129, 124105 (2008), arXiv 0801.1426.
    """

    def __init__(self, log_weights: Float[Tensor, "n"], target_log_weights: Float[Tensor, "m"]) -> None:
        self.log_z = log_z_bar(log_weights, target_log_weights)
        self._n, self._m = len(log_weights), len(target_log_weights)
        both = torch.cat([log_weights, target_log_weights]).double() + math.log(self._m / self._n) - self.log_z.value
        self.weights = torch.sigmoid(both)
        # how little a weight moves with log Z, and how much each draw moves log Z
        self._stiffness = self.weights * (1 - self.weights)
        balance = torch.cat([self.weights[: self._n], self.weights[self._n :] - 1])
        self._log_z_influence = balance / self._stiffness.sum()

    def mean(self, values: Float[Tensor, "n_plus_m"]) -> Estimate:
        r"""The average of an observable over the target, :math:`\sum_i W_i f(x_i) / \sum_i W_i`.

        Args:
            values: On the draws of the sampler, then on those of the target; where the weight is zero, anything.
        """
        values = torch.where(self.weights > 0, values.double(), 0.0)
        total = self.weights.sum()
        mean = (self.weights * values).sum() / total
        deviations = (values - mean) / total
        slope = -(self._stiffness * deviations).sum()
        return self._estimate(float(mean), self.weights * deviations + slope * self._log_z_influence)

    def free_energy_difference(
        self, in_first: Bool[Tensor, "n_plus_m"], in_second: Bool[Tensor, "n_plus_m"]
    ) -> Estimate:
        r"""The free energy of a first region less that of a second one, in kT.

        .. math:: \Delta F / kT = -\log \frac{\sum_{i \in A} W_i}{\sum_{i \in B} W_i}

        It is infinite where a region has no weight.
        """
        first, second = (self.weights * inside for inside in (in_first, in_second))
        value = float(second.sum().log() - first.sum().log())
        if not math.isfinite(value):
            return Estimate(value, math.nan, self._n + self._m)
        shares = in_second / second.sum() - in_first / first.sum()
        slope = -(self._stiffness * shares).sum()
        return self._estimate(value, self.weights * shares + slope * self._log_z_influence)

    def _estimate(self, value: float, influence: Float[Tensor, "n_plus_m"]) -> Estimate:
        ours, theirs = mean_of_independent(influence[: self._n]), mean_of_series(influence[self._n :])
        return Estimate(value, math.hypot(self._n * ours.error, self._m * theirs.error), self._n + self._m)
