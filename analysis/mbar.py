"""Averages over a target from draws of a sampler and of the target together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .estimates import Blocks, Estimate, wilson
from .reweighting import FEWEST_HITS, bennett, error_of_both, kish


def mixture_log_weights(
    energy: Float[Tensor, "n"], log_densities: Float[Tensor, "samplers n"], counts: Sequence[int]
) -> Float[Tensor, "n"]:
    r"""Log-weights of draws of several samplers together, as if all were draws of the mixture of these.

    .. math:: \log w(x) = -u(x) - \log \sum_k \frac{n_k}{n} q_k(x)

    For normalized densities it is what the multistate Bennett acceptance ratio (MBAR) gives: their free energies are
    known. A draw weighs little wherever any sampler is dense, so that a bad early sampler cannot spoil what a better
    later one has found. Errors that take the draws as those of the mixture are on the safe side: how many there are of
    each sampler is not left to chance.

    Args:
        energy: u, kT; infinite where there is none.
        log_densities: Log-density of every sampler at every draw.
        counts: How many draws are of each sampler.

    References: Shirts, Chodera, J. Chem. Phys. 129, 124105 (2008), arXiv 0801.1426; Veach, Guibas, SIGGRAPH 1995, who
    call it the balance heuristic.
    """
    shares = torch.tensor(counts, dtype=torch.float64)
    mixture = torch.logsumexp(log_densities.double() + (shares / shares.sum()).log()[:, None], 0)
    return torch.where(energy.isfinite(), -energy.double() - mixture, -math.inf)


class BothEnsembles:
    r"""Draws of a sampler q and of its target p, weighted by the multistate Bennett acceptance ratio (MBAR).

    For two ensembles of which one is normalized, its equations are Bennett's for :math:`\log Z`. With m frames that are
    worth :math:`m_e` independent ones, samples and frames have the weights

    .. math:: W(x) = \frac{m_e\,p(x)}{n\,q(x) + m_e\,p(x)}, \qquad \frac{m_e}{m} W(x)

    Errors are those of the delta method, that of :math:`\log Z` included.

    Args:
        log_weights: :math:`\log w` of n independent draws of the sampler.
        target_log_weights: Target log weights of m draws of the target, in order of time.
        blocks: Blocks of the draws of the target, for their error and their number.

    Reference: Shirts, Chodera, J. Chem. Phys. 129, 124105 (2008), arXiv 0801.1426.
    """

    def __init__(self, log_weights: Float[Tensor, "n"], target_log_weights: Float[Tensor, "m"], blocks: Blocks) -> None:
        self.partition = bennett(log_weights, target_log_weights, blocks)
        self.log_z = self.partition.log_z
        self._blocks = blocks
        self._n, self._m = len(log_weights), len(target_log_weights)
        worth = min(blocks.n_effective, self._m)
        both = torch.cat([log_weights, target_log_weights]).double() + math.log(worth / self._n) - self.log_z.value
        share = torch.ones_like(both)
        share[self._n :] = worth / self._m
        accepted = torch.sigmoid(both)
        self.weights = share * accepted
        # how little a weight moves with log Z
        self._stiffness = self.weights * (1 - accepted)

    def mean(self, values: Float[Tensor, "n_plus_m"]) -> Estimate:
        r"""The average of an observable over the target, :math:`\sum_i W_i f(x_i) / \sum_i W_i`.

        Args:
            values: On the draws of the sampler, then on those of the target; of any value where the weight is zero.
        """
        if math.isnan(self.log_z.value):
            return self._nothing()
        values = torch.where(self.weights > 0, values.double(), 0.0)
        total = self.weights.sum()
        mean = (self.weights * values).sum() / total
        deviations = (values - mean) / total
        slope = -(self._stiffness * deviations).sum()
        return self._estimate(float(mean), self.weights * deviations, float(slope))

    def fraction(self, flags: Bool[Tensor, "n_plus_m"]) -> Estimate:
        """The share of the target in a region; its interval is `wilson`'s."""
        if math.isnan(self.log_z.value):
            return self._nothing()
        found = self.mean(flags.double())
        hits = min(kish(self.weights[flags]), kish(self.weights[~flags]))
        if hits == 0:
            return found.withheld("none of the configurations: not known")
        if hits < FEWEST_HITS:
            return found.because(f"no error: seen by {hits:.1f} effective configurations")
        if not found.reliable or found.error == 0:
            return found
        p = found.value
        return replace(found, interval=wilson(p, p * (1 - p) / found.error**2))

    def free_energy_difference(
        self, in_first: Bool[Tensor, "n_plus_m"], in_second: Bool[Tensor, "n_plus_m"]
    ) -> Estimate:
        r"""The free energy of a first region less that of a second one, in kT.

        .. math:: \Delta F / kT = -\log \frac{\sum_{i \in A} W_i}{\sum_{i \in B} W_i}

        Where a region has no weight, there is no number.
        """
        if math.isnan(self.log_z.value):
            return self._nothing()
        first, second = (self.weights * inside for inside in (in_first, in_second))
        value = float(second.sum().log() - first.sum().log())
        if not math.isfinite(value):
            return Estimate(value, math.nan, self._n + self._m).withheld("no configuration is in one of the regions")
        shares = in_second / second.sum() - in_first / first.sum()
        slope = -(self._stiffness * shares).sum()
        return self._estimate(value, self.weights * shares, float(slope))

    def _nothing(self) -> Estimate:
        return Estimate(math.nan, math.nan, self._n + self._m).withheld(self.log_z.reason)

    def _estimate(self, value: float, direct: Float[Tensor, "n_plus_m"], slope: float) -> Estimate:
        """A statistic, from the contribution of each draw and from how it moves with log Z."""
        ours = self._n * direct[: self._n] + slope * self.partition.samples
        theirs = self._m * direct[self._n :] + slope * self.partition.frames
        return Estimate(value, error_of_both(ours, theirs, self._blocks), self._n + self._m).because(
            self._blocks.reason
        )
