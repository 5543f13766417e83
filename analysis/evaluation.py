"""How good a flow is: every number raw, with its error and the number of configurations behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ..core.potential import Potential
from ..potentials.flow_potential import FlowPotential
from ..training.frames import Frames
from .estimates import Estimate, fraction_of, mean_of_independent, mean_of_series, percent, plain
from .observation import Configurations, OnProgress, observe_frames, observe_samples
from .reweighting import clipped_ess_fraction, ess_fraction, log_z, log_z_bar, weighted_mean
from .structure import (
    TorsionDivergence,
    handedness,
    ramachandran_pairs,
    tetrahedral_centres,
    torsion_divergence,
)

HIGH_ENERGY = 100.0
"""Samples this far, in kT, above the mean energy of the frames count as of high energy."""


@dataclass(frozen=True)
class Population:
    """The fraction of configurations with a positive torsion: in the data, in the samples, and reweighted."""

    name: str
    data: Estimate
    samples: Estimate
    reweighted: Estimate


@dataclass(frozen=True)
class Evaluation:
    r"""The quality of a flow q as a sampler and as a potential, against the Boltzmann distribution p of a force field.

    Energies u are in units of kT, densities over positions in nm modulo rigid motion; p = exp(-u) / Z.

    Attributes:
        temperature: In K.
        nll: Negative log-likelihood of held-out frames, :math:`-\langle \log q \rangle_p`.
        mean_energy: Of the frames, :math:`\langle u \rangle_p`.
        log_z: :math:`\log Z` from frames and samples together, by Bennett's acceptance ratio.
        log_z_importance: :math:`\log Z` from the samples alone, by importance weights.
        nll_floor: The entropy of p, :math:`\langle u \rangle_p + \log Z`: no density can have a smaller likelihood.
        forward_kl: The gap of the likelihood to its floor, :math:`\langle \log p / q \rangle_p`.
        reverse_kl: :math:`\langle \log q / p \rangle_q`.
        ess: Kish's fraction of the samples, raw: the sampling efficiency.
        clipped_ess: The same after the largest weights were lowered.
        force_mse_data: Mean squared error of the forces over frames, atoms and directions, (kT/nm)^2.
        force_mse_samples: The same over samples.
        force_ms_data: Mean square of the reference's forces on the frames, (kT/nm)^2: the scale of the errors.
        sample_energy_excess: Mean energy of the samples above that of the frames.
        sample_energy_max: Largest energy of a sample above the mean energy of the frames.
        high_energy_fraction: Fraction of samples more than 100 kT above the mean energy of the frames.
        not_finite: Number of samples whose reference energy is not finite; they have weight zero.
        wrong_handedness: Fraction of samples with at least one tetrahedral centre arranged as in no majority of frames.
        handedness_by_atom: The same for each centre.
        divergences: Of the distributions of phi and psi, residue by residue.
        populations: Of positive phi, residue by residue.
        frames: What was observed on the frames, for figures.
        samples: What was observed on the samples, for figures.
    """

    temperature: float
    nll: Estimate
    mean_energy: Estimate
    log_z: Estimate
    log_z_importance: Estimate
    nll_floor: Estimate
    forward_kl: Estimate
    reverse_kl: Estimate
    ess: Estimate
    clipped_ess: Estimate
    force_mse_data: Estimate
    force_mse_samples: Estimate
    force_ms_data: Estimate
    sample_energy_excess: Estimate
    sample_energy_max: float
    high_energy_fraction: Estimate
    not_finite: int
    wrong_handedness: Estimate
    handedness_by_atom: Mapping[str, Estimate]
    divergences: tuple[TorsionDivergence, ...]
    populations: tuple[Population, ...]
    frames: Configurations = field(repr=False, compare=False)
    samples: Configurations = field(repr=False, compare=False)

    @property
    def force_rmse_data(self) -> Estimate:
        """Root mean squared error of the forces on the frames, kT/nm."""
        return square_root(self.force_mse_data)

    @property
    def force_rmse_samples(self) -> Estimate:
        """Root mean squared error of the forces on the samples, kT/nm."""
        return square_root(self.force_mse_samples)

    def to_dict(self) -> dict[str, Any]:
        """All numbers in plain JSON types; null where a number is not finite."""
        numbers = [f.name for f in fields(self) if f.name not in ("frames", "samples")]
        return {name: plain(getattr(self, name)) for name in numbers}

    def rows(self) -> list[tuple[str, str, str]]:
        """The numbers as a table: what, value with error, unit or remark."""
        n_frames, n_samples = len(self.frames), len(self.samples)
        rows = [
            ("NLL of held-out frames", str(self.nll), f"kT, {n_frames} frames"),
            ("NLL floor", str(self.nll_floor), "kT, <U>/kT + log Z"),
            ("NLL gap (forward KL)", str(self.forward_kl), "kT"),
            ("reverse KL", str(self.reverse_kl), "kT"),
            ("log Z (BAR)", str(self.log_z), "frames and samples"),
            ("log Z (importance weights)", str(self.log_z_importance), "samples alone"),
            ("sampling efficiency (Kish ESS, raw)", percent(self.ess), f"{n_samples} samples"),
            ("sampling efficiency, clipped", percent(self.clipped_ess), "largest 0.1 % of weights lowered"),
            ("force MSE on frames", str(self.force_mse_data), f"(kT/nm)^2; mean square {self.force_ms_data.value:.4g}"),
            ("force MSE on samples", str(self.force_mse_samples), "(kT/nm)^2"),
            ("force RMSE on frames", str(self.force_rmse_data), "kT/nm"),
            ("mean energy of samples", str(self.sample_energy_excess), "kT above the frames'"),
            ("largest energy of a sample", f"{self.sample_energy_max:.4g}", "kT above the frames' mean"),
            ("samples above 100 kT", percent(self.high_energy_fraction), "above the frames' mean"),
            ("samples without finite energy", str(self.not_finite), f"of {n_samples}"),
            ("samples of wrong handedness", percent(self.wrong_handedness), "any tetrahedral centre"),
        ]
        for item in self.divergences:
            floor = f"kT; noise floor {item.noise_floor}"
            rows.append((f"divergence of {' and '.join(item.names)}", str(item.divergence), floor))
        for population in self.populations:
            shown = f"frames {percent(population.data)}, samples {percent(population.samples)}"
            rows.append((f"{population.name} > 0, reweighted", percent(population.reweighted), shown))
        return rows


def evaluate(
    potential: FlowPotential,
    frames: Frames,
    reference: Potential,
    n_samples: int,
    generator: torch.Generator,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Compare a flow with the force field whose Boltzmann distribution it was trained on.

    Args:
        potential: The flow.
        frames: Held-out frames of the force field at the flow's temperature, in order of time.
        reference: The force field.
        n_samples: How many samples to draw from the flow.
        generator: Of the samples.
        on_progress: Called with the number of configurations done and the number of all.

    Raises:
        TopologyError: If the molecules differ.
        ConfigurationError: If the frames do not belong to the reference or have another temperature.
    """
    total = len(frames) + n_samples

    def after(offset: int) -> OnProgress | None:
        return on_progress and (lambda done, _: on_progress(offset + done, total))

    observed = observe_frames(potential, frames, reference, after(0))
    samples = observe_samples(potential, n_samples, generator, reference, after(len(frames)))
    return summarize(potential, observed, samples)


def summarize(potential: FlowPotential, frames: Configurations, samples: Configurations) -> Evaluation:
    """The numbers of an `Evaluation` from what was observed."""
    partition = log_z_bar(samples.log_weights, frames.log_weights)
    energy = mean_of_series(frames.energy)
    gap = mean_of_series(frames.log_weights)
    floor = energy.value + partition.value
    drawn = mean_of_independent(samples.log_weights)
    excess = samples.energy - energy.value
    sampled = mean_of_independent(samples.energy)
    centres, wrong = _wrong_handedness(potential, frames, samples)
    pairs = ramachandran_pairs(potential.coordinates.codomain)
    names = potential.coordinates.codomain.names
    return Evaluation(
        temperature=potential.temperature,
        nll=mean_of_series(-frames.log_prob),
        mean_energy=energy,
        log_z=partition,
        log_z_importance=log_z(samples.log_weights),
        nll_floor=Estimate(floor, math.hypot(energy.error, partition.error), energy.n),
        forward_kl=Estimate(gap.value - partition.value, math.hypot(gap.error, partition.error), gap.n),
        reverse_kl=Estimate(partition.value - drawn.value, math.hypot(drawn.error, partition.error), drawn.n),
        ess=ess_fraction(samples.log_weights),
        clipped_ess=clipped_ess_fraction(samples.log_weights),
        force_mse_data=mean_of_series(frames.squared_force_error),
        force_mse_samples=mean_of_independent(samples.squared_force_error),
        force_ms_data=mean_of_series((frames.forces**2).mean(dim=(1, 2))),
        sample_energy_excess=Estimate(sampled.value - energy.value, math.hypot(sampled.error, energy.error), sampled.n),
        sample_energy_max=float(excess.max()),
        high_energy_fraction=fraction_of(excess > HIGH_ENERGY),
        not_finite=int((~samples.energy.isfinite()).sum()),
        wrong_handedness=fraction_of(wrong.any(dim=1)),
        handedness_by_atom={centre: fraction_of(wrong[:, i]) for i, centre in enumerate(centres)},
        divergences=tuple(
            torsion_divergence((names[i], names[j]), frames.internal[:, [i, j]], samples.internal[:, [i, j]])
            for i, j in pairs
        ),
        populations=tuple(_population(names[i], i, frames, samples) for i, _ in pairs),
        frames=frames,
        samples=samples,
    )


def square_root(square: Estimate) -> Estimate:
    r"""The root of an estimated square: :math:`\sqrt x \pm \delta x / 2 \sqrt x`."""
    root = math.sqrt(square.value)
    return Estimate(root, square.error / (2 * root) if root > 0 else square.error, square.n)


def _wrong_handedness(
    potential: FlowPotential, frames: Configurations, samples: Configurations
) -> tuple[list[str], Bool[Tensor, "samples centres"]]:
    """The names of the tetrahedral centres, and where samples have another arrangement than most frames."""
    topology = potential.topology
    if topology is None:
        return [], torch.zeros(len(samples), 0, dtype=torch.bool)
    usual = handedness(frames.positions, topology).sum(0).sign()
    wrong = handedness(samples.positions, topology) != usual
    return [f"{topology.atoms[i]} ({i})" for i in tetrahedral_centres(topology)], wrong


def _population(name: str, column: int, frames: Configurations, samples: Configurations) -> Population:
    data, drawn = ((x.internal[:, column].sin() > 0).double() for x in (frames, samples))
    return Population(name, mean_of_series(data), mean_of_independent(drawn), weighted_mean(drawn, samples.log_weights))
