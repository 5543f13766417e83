"""How good a flow is: every number raw, with its error and the number of configurations behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ..core.potential import Potential
from ..molecules.frames import Frames
from ..molecules.geometry import handedness, tetrahedral_centres
from ..molecules.sketch import Origin, SharedFrames, shared_frames
from ..potentials.flow_potential import FlowPotential
from ..runs.progress import OnProgress, silent
from .correlation import Mixing, mixing
from .distances import TRANSPORT_POINTS, Distance, distances
from .estimates import (
    MOST_ERRORS,
    Blocks,
    Estimate,
    Verdict,
    differing,
    fraction_of,
    fraction_of_series,
    largest_share,
    mean_of_independent,
    mean_of_series,
    percent,
    plain,
    tail_reason,
)
from .found_basins import FoundBasin, found_basins
from .observation import Configurations, observe_frames, observe_samples
from .reweighting import (
    Partition,
    WeightTail,
    bennett,
    clipped_ess_fraction,
    error_of_both,
    ess_fraction,
    importance,
    weight_tail,
    weighted_fraction,
)
from .structure import TorsionDivergence, ramachandran_pairs, torsion_divergence

HIGH_ENERGY = 100.0
"""Height above the mean energy of the frames, in kT, from which samples count as high in energy."""


@dataclass(frozen=True)
class Population:
    """The fraction of configurations with a positive torsion: in the data, in the samples, and reweighted."""

    name: str
    data: Estimate
    samples: Estimate
    reweighted: Estimate

    def disagreement(self) -> list[str]:
        """Whether frames and reweighted samples differ by more than their errors."""
        return differing(f"{self.name} > 0", {"frames": self.data, "reweighted samples": self.reweighted})


@dataclass(frozen=True)
class Evaluation:
    r"""The quality of a flow q as a sampler and as a potential, against the Boltzmann distribution p of a force field.

    Energies u are in units of kT, densities over positions in nm modulo rigid motion; p = exp(-u) / Z.

    Attributes:
        temperature: In K.
        nll: Negative log-likelihood of held-out frames, :math:`-\langle \log q \rangle_p`.
        mean_energy: Mean energy of the frames, :math:`\langle u \rangle_p`.
        log_z: :math:`\log Z` from frames and samples together, by Bennett's acceptance ratio.
        log_z_importance: :math:`\log Z` from the samples alone, by importance weights.
        nll_floor: The entropy of p, :math:`\langle u \rangle_p + \log Z`: no density has a smaller negative
            log-likelihood.
        nll_without_reference_atoms: The NLL as programs report it that count no volume of the three reference atoms.
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
        wrong_handedness: Fraction of samples with at least one tetrahedral centre arranged unlike most frames.
        handedness_by_atom: The same for each centre.
        divergences: Divergences of the distributions of phi and psi, residue by residue.
        populations: Populations of positive phi, residue by residue.
        basins: Populations of the basins that frames and samples show.
        verdict: Whether errors hold, and if not, why.
        frames_are: Whether the frames are held-out ones.
        trained_share: Share of the frames that the flow was trained on; nan if it is not known.
        largest_weight_share: Share of all weight of the samples that the largest one has.
        pareto_k: Shape of the tail of the samples' weights: errors by weights have no basis above 0.7.
        overlap: Overlap of frames and samples, between 0 and 1: no number by both has a basis below 0.03.
        mixing: How well the walkers of the frames sample the slow torsions.
        force_median_data: Median over frames of the squared error of the forces, (kT/nm)^2.
        force_median_samples: The same over samples.
        force_largest_data: Share of the sum of squared errors on frames that the worst frame has.
        force_largest_samples: The same over samples.
        frames: What was observed on the frames, for figures.
        samples: What was observed on the samples, for figures.
        distances: Distances of the samples from the frames as the field reports them, with their floors.
    """

    temperature: float
    nll: Estimate
    mean_energy: Estimate
    log_z: Estimate
    log_z_importance: Estimate
    nll_floor: Estimate
    nll_without_reference_atoms: Estimate
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
    basins: tuple[FoundBasin, ...]
    verdict: Verdict
    frames_are: Origin
    trained_share: float
    largest_weight_share: float
    pareto_k: float
    overlap: float
    mixing: Mixing
    force_median_data: float
    force_median_samples: float
    force_largest_data: float
    force_largest_samples: float
    frames: Configurations = field(repr=False, compare=False)
    samples: Configurations = field(repr=False, compare=False)
    distances: tuple[Distance, ...] = ()

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
        others = {
            "basins": [basin.to_dict() for basin in self.basins],
            "frames_are": self.frames_are.value,
            "mixing": self.mixing.to_dict(),
        }
        numbers = [f.name for f in fields(self) if f.name not in ("frames", "samples", *others)]
        return {**{name: plain(getattr(self, name)) for name in numbers}, **others}

    def rows(self) -> list[tuple[str, str, str]]:
        """The numbers as a table: what, value with error, unit or remark."""
        n_frames, n_samples = len(self.frames), len(self.samples)
        rows = [
            ("verdict", str(self.verdict), ""),
            (f"NLL of {self.frames_are.value}", str(self.nll), f"kT, {n_frames} frames"),
            ("NLL floor", str(self.nll_floor), "kT, <U>/kT + log Z"),
            ("NLL gap (forward KL)", str(self.forward_kl), "kT"),
            (
                "NLL without the reference atoms' volume",
                str(self.nll_without_reference_atoms),
                "kT, as other programs report it; "
                f"floor {self.nll_floor.value + self.nll_without_reference_atoms.value - self.nll.value:.5g}",
            ),
            ("reverse KL", str(self.reverse_kl), "kT"),
            ("log Z (BAR)", str(self.log_z), f"frames and samples; overlap {self.overlap:.2g}"),
            ("log Z (importance weights)", str(self.log_z_importance), "samples alone"),
            (
                "largest weight",
                f"{100 * self.largest_weight_share:.3g} %",
                f"of all weight; Pareto k {self.pareto_k:.2f}",
            ),
            ("sampling efficiency (Kish ESS, raw)", percent(self.ess), f"{n_samples} samples"),
            ("sampling efficiency, clipped", percent(self.clipped_ess), "largest 0.1 % of weights lowered"),
            ("force MSE on frames", str(self.force_mse_data), f"(kT/nm)^2; mean square {self.force_ms_data.value:.4g}"),
            ("force MSE on samples", str(self.force_mse_samples), "(kT/nm)^2"),
            (
                "median squared force error",
                f"frames {self.force_median_data:.4g}, samples {self.force_median_samples:.4g}",
                "(kT/nm)^2; the worst one's share of the sum: "
                f"{100 * self.force_largest_data:.3g} %, {100 * self.force_largest_samples:.3g} %",
            ),
            ("force RMSE on frames", str(self.force_rmse_data), "kT/nm"),
            ("mean energy of samples", str(self.sample_energy_excess), "kT above the frames'"),
            ("largest energy of a sample", f"{self.sample_energy_max:.4g}", "kT above the frames' mean"),
            ("samples above 100 kT", percent(self.high_energy_fraction), "above the frames' mean"),
            ("samples without finite energy", str(self.not_finite), f"of {n_samples}"),
            ("samples of wrong handedness", percent(self.wrong_handedness), "any tetrahedral centre"),
        ]
        rows += [distance.row() for distance in self.distances]
        for item in self.divergences:
            floor = f"kT; noise floor {item.noise_floor}"
            rows.append((f"divergence of {' and '.join(item.names)}", str(item.divergence), floor))
        for population in self.populations:
            shown = f"frames {percent(population.data)}, samples {percent(population.samples)}"
            rows.append((f"{population.name} > 0, reweighted", percent(population.reweighted), shown))
        rows += [(name, shown, "") for name, shown in self.mixing.rows()]
        return rows


def evaluate(
    potential: FlowPotential,
    frames: Frames,
    reference: Potential,
    n_samples: int,
    generator: torch.Generator,
    on_progress: OnProgress = silent,
    provenance: Mapping[str, Any] | None = None,
    transport_points: int = TRANSPORT_POINTS,
) -> Evaluation:
    """Compare a flow with the force field whose Boltzmann distribution it was trained on.

    Args:
        potential: The flow.
        frames: Frames of the force field at the flow's temperature, in order of time for each walker.
        reference: The force field.
        n_samples: How many samples to draw from the flow.
        generator: Generator of the samples.
        on_progress: Told of configurations.
        provenance: Provenance of the flow, as its file's header holds it: says whether it was trained on the frames.
        transport_points: Configurations of each kind in one exact transport, see `distances`.

    Raises:
        TopologyError: If the molecules differ.
        ConfigurationError: If the frames do not belong to the reference or have another temperature.
    """
    total = len(frames) + n_samples

    def after(offset: int) -> OnProgress:
        return lambda part: on_progress(replace(part, done=offset + part.done, total=total))

    observed = observe_frames(potential, frames, reference, after(0))
    samples = observe_samples(potential, n_samples, generator, reference, after(len(frames)))
    found = summarize(potential, observed, samples, shared_frames(frames, provenance or {}))
    domain = potential.coordinates.codomain
    return replace(found, distances=distances(domain, observed, samples, found.mixing.blocks, transport_points))


def summarize(
    potential: FlowPotential, frames: Configurations, samples: Configurations, shared: SharedFrames
) -> Evaluation:
    """The numbers of an `Evaluation` from what was observed, all but distances."""
    domain = potential.coordinates.codomain
    names, pairs = domain.names, ramachandran_pairs(domain)
    mixed = mixing(frames.internal, domain, frames.replica, (frames.energy, frames.log_weights))
    blocks, tail = mixed.blocks, weight_tail(samples.log_weights)
    by_both = bennett(samples.log_weights, frames.log_weights, blocks)
    by_weights = importance(samples.log_weights, len(frames))
    # frames that do not reach, or whose walkers do not tell an error, leave the samples
    partition = by_both if by_both.log_z.reliable else by_weights
    energy = mean_of_series(frames.energy, blocks)
    excess = samples.energy - float(frames.energy.mean())
    sampled = mean_of_independent(samples.energy, steep=True)
    centres, wrong = _wrong_handedness(potential, frames, samples)
    populations = tuple(_population(names[i], i, frames, samples, blocks) for i, _ in pairs)

    def combined(value: float, drawn: Tensor, seen: Tensor, n: int) -> Estimate:
        """A statistic of both kinds of configurations, from their influences."""
        reason = (blocks.reason or tail_reason(seen, "frame")) if bool((seen != 0).any()) else ""
        found = Estimate(value, error_of_both(drawn, seen, blocks) if not reason else math.nan, n)
        return found.because(partition.log_z.reason or reason or tail_reason(drawn, "sample"))

    entropy, gap = float(frames.energy.mean()), float(frames.log_weights.mean())
    drawn, log_z_value = float(samples.log_weights.mean()), partition.log_z.value
    weighed = by_weights.log_z.because(tail.reason)
    disagreements = [
        *_disagreement(by_both, by_weights, blocks, tail),
        *(reason for population in populations for reason in population.disagreement()),
    ]
    squared_frames, squared_samples = frames.squared_force_error, samples.squared_force_error
    return Evaluation(
        temperature=potential.temperature,
        nll=mean_of_series(-frames.log_prob, blocks),
        mean_energy=energy,
        log_z=by_both.log_z,
        log_z_importance=weighed,
        nll_floor=combined(
            entropy + log_z_value, partition.samples, frames.energy - entropy + partition.frames, len(frames)
        ),
        nll_without_reference_atoms=mean_of_series(
            -frames.log_prob - potential.coordinates.log_volume_of_reference_atoms(frames.internal), blocks
        ),
        forward_kl=combined(
            gap - log_z_value, -partition.samples, frames.log_weights - gap - partition.frames, len(frames)
        ),
        reverse_kl=combined(
            log_z_value - drawn, partition.samples - samples.log_weights + drawn, partition.frames, len(samples)
        ).because(tail_reason(samples.log_weights, "sample", steep=True)),
        ess=ess_fraction(samples.log_weights),
        clipped_ess=clipped_ess_fraction(samples.log_weights),
        force_mse_data=mean_of_series(squared_frames, blocks, steep=True),
        force_mse_samples=mean_of_independent(squared_samples, steep=True),
        force_ms_data=mean_of_series((frames.forces**2).mean(dim=(1, 2)), blocks),
        sample_energy_excess=Estimate(
            sampled.value - energy.value, math.hypot(sampled.error, energy.error), sampled.n
        ).because(sampled.reason or energy.reason),
        sample_energy_max=float(excess.max()),
        high_energy_fraction=fraction_of(excess > HIGH_ENERGY),
        not_finite=int((~samples.energy.isfinite()).sum()),
        wrong_handedness=fraction_of(wrong.any(dim=1)),
        handedness_by_atom={centre: fraction_of(wrong[:, i]) for i, centre in enumerate(centres)},
        divergences=tuple(
            torsion_divergence((names[i], names[j]), frames.internal[:, [i, j]], samples.internal[:, [i, j]])
            for i, j in pairs
        ),
        populations=populations,
        basins=tuple(found_basins(domain, samples, frames, blocks)),
        verdict=Verdict(
            (
                *((_trained(shared.share),) if shared.origin is Origin.TRAINING else ()),
                *((tail.reason,) if tail.reason else ()),
                *mixed.reasons,
                *((by_both.log_z.reason,) if math.isnan(by_both.log_z.value) else ()),
                *disagreements,
            )
        ),
        frames_are=shared.origin,
        trained_share=shared.share,
        largest_weight_share=tail.largest_share,
        pareto_k=tail.pareto_k,
        overlap=by_both.overlap,
        mixing=mixed,
        force_median_data=float(squared_frames.median()),
        force_median_samples=float(squared_samples.median()),
        force_largest_data=largest_share(squared_frames),
        force_largest_samples=largest_share(squared_samples),
        frames=frames,
        samples=samples,
    )


def _trained(share: float) -> str:
    return f"the model was trained on {100 * share:.3g} % of these frames"


def _disagreement(by_both: Partition, by_weights: Partition, blocks: Blocks, tail: WeightTail) -> list[str]:
    """Whether log Z by Bennett's method and by weights differ by more than their errors."""
    if tail.reason or not (by_both.log_z.reliable and by_weights.log_z.reliable):
        return []
    apart = by_both.log_z.value - by_weights.log_z.value
    # both use the samples
    error = error_of_both(by_both.samples - by_weights.samples, by_both.frames, blocks)
    if abs(apart) <= MOST_ERRORS * error:
        return []
    return [f"log Z of frames and samples and log Z by weights differ by {abs(apart) / error:.1f} errors"]


def square_root(square: Estimate) -> Estimate:
    r"""The root of an estimated square: :math:`\sqrt x \pm \delta x / 2 \sqrt x`."""
    root = math.sqrt(square.value)
    return Estimate(root, square.error / (2 * root) if root > 0 else square.error, square.n, square.reason)


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


def _population(name: str, column: int, frames: Configurations, samples: Configurations, blocks: Blocks) -> Population:
    seen, drawn = (x.internal[:, column].sin() > 0 for x in (frames, samples))
    return Population(
        name, fraction_of_series(seen, blocks), fraction_of(drawn), weighted_fraction(drawn, samples.log_weights)
    )
