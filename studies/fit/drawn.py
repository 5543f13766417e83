"""Quality of a model by its samples alone, where there are no frames of dynamics."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from ...analysis.estimates import Estimate, Verdict, mean_of_independent, percent, plain, tail_reason
from ...analysis.observation import Configurations
from ...analysis.reweighting import clipped_ess_fraction, ess_fraction, log_z, weight_tail


@dataclass(frozen=True)
class SampleEvaluation:
    r"""The quality of a flow q by its weighted samples.

    Samples cannot show what none of them visits: a basin that the model has lost changes no number here.

    Attributes:
        log_z: :math:`\log Z` by importance weights.
        reverse_kl: :math:`\langle \log q / p \rangle_q`.
        ess: Kish's fraction of the samples, raw.
        clipped_ess: The same after the largest weights were lowered.
        force_mse_samples: Mean squared error of the forces over samples, atoms and directions, (kT/nm)^2.
        not_finite: Samples whose reference energy is not finite; they have weight zero.
        verdict: Whether errors hold, and if not, why.
        samples: Observation of the samples.
    """

    log_z: Estimate
    reverse_kl: Estimate
    ess: Estimate
    clipped_ess: Estimate
    force_mse_samples: Estimate
    not_finite: int
    verdict: Verdict
    samples: Configurations = field(repr=False, compare=False)

    @classmethod
    def of(cls, samples: Configurations) -> SampleEvaluation:
        """The numbers from an observation of samples."""
        log_weights = samples.log_weights
        partition, tail = log_z(log_weights), weight_tail(log_weights)
        reverse = mean_of_independent(partition.value - log_weights, steep=True)
        return cls(
            log_z=partition.because(tail.reason),
            reverse_kl=reverse.because(tail_reason(log_weights, "sample", steep=True)),
            ess=ess_fraction(log_weights),
            clipped_ess=clipped_ess_fraction(log_weights),
            force_mse_samples=mean_of_independent(samples.squared_force_error, steep=True),
            not_finite=int((~samples.energy.isfinite()).sum()),
            verdict=Verdict((tail.reason,) if tail.reason else ()),
            samples=samples,
        )

    def to_dict(self) -> dict[str, Any]:
        """All numbers in plain JSON types; null where a number is not finite."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "samples"}

    def rows(self) -> list[tuple[str, str, str]]:
        """The numbers as a table: what, value with error, unit or remark."""
        n = len(self.samples)
        return [
            ("verdict", str(self.verdict), ""),
            ("sampling efficiency (Kish ESS, raw)", percent(self.ess), f"{n} samples"),
            ("sampling efficiency, clipped", percent(self.clipped_ess), "largest 0.1 % of weights lowered"),
            ("reverse KL", str(self.reverse_kl), "kT"),
            ("log Z (importance weights)", str(self.log_z), "samples alone"),
            ("force MSE on samples", str(self.force_mse_samples), "(kT/nm)^2"),
            ("samples without finite energy", str(self.not_finite), f"of {n}"),
        ]
