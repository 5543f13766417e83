"""Averages over a force field from samples of a flow, from frames of molecular dynamics, and from both together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..core.errors import ConfigurationError, FileFormatError, UnknownNameError
from ..core.manifolds import Circle, Product
from ..core.potential import Potential
from ..molecules.frames import BLOCK, Frames
from ..molecules.frames_file import FramesReader
from ..potentials.flow_potential import FlowPotential
from .basins import Basin
from .correlation import Mixing, mixing
from .estimates import Estimate, Verdict, differing, fraction_of_series, mean_of_series, percent, plain
from .mbar import BothEnsembles
from .observation import N_CHECKED, like, require_frames
from .reweighting import ess_fraction, free_energy_difference, log_z, weight_tail, weighted_fraction, weighted_mean
from .structure import ramachandran_pairs


@dataclass(frozen=True)
class Draws:
    """What reweighting needs of configurations.

    Attributes:
        energy: The force field's, kJ/mol; infinite where it is not finite.
        log_weights: Log weights of the force field's Boltzmann distribution over the flow's.
        torsions: By name, radians.
        n_evaluations: How many of the energies were computed, and not read.
        mixing: How well the walkers mix, of frames.
    """

    energy: Float[Tensor, "n"]
    log_weights: Float[Tensor, "n"]
    torsions: Mapping[str, Float[Tensor, "n"]]
    n_evaluations: int
    mixing: Mixing | None = None

    def __len__(self) -> int:
        return len(self.energy)


@dataclass(frozen=True)
class Averages:
    """Averages over the force field from one kind of draws.

    Attributes:
        mean_energy: kJ/mol.
        populations: Populations of positive phi, residue by residue, and of each basin.
        free_energies: Free energies of each basin but the first, above the first; kT.
        log_z: log Z of the force field, over positions in nm modulo rigid motion; frames alone do not tell.
    """

    mean_energy: Estimate
    populations: Mapping[str, Estimate]
    free_energies: Mapping[str, Estimate]
    log_z: Estimate | None

    def because(self, reason: str) -> Averages:
        """The same without errors, for a reason; itself if there is none."""
        return Averages(
            self.mean_energy.because(reason),
            {name: estimate.because(reason) for name, estimate in self.populations.items()},
            {name: estimate.because(reason) for name, estimate in self.free_energies.items()},
            None if self.log_z is None else self.log_z.because(reason),
        )

    def disagreements(self, frames: Averages) -> list[str]:
        """Where frames disagree by more than both errors."""
        pairs = {"mean energy": (self.mean_energy, frames.mean_energy)}
        pairs |= {f"population of {n}": (e, frames.populations[n]) for n, e in self.populations.items()}
        pairs |= {n: (e, frames.free_energies[n]) for n, e in self.free_energies.items()}
        return [
            text for n, (ours, theirs) in pairs.items() for text in differing(n, {"samples": ours, "frames": theirs})
        ]


@dataclass(frozen=True)
class Reweighting:
    """Averages over a force field, and what they cost.

    Attributes:
        n_samples: Number of samples of the flow.
        not_finite: Number of samples without a finite energy; their weight is zero.
        n_evaluations: Energies of the force field that were computed: for samples, and for frames that held none.
        ess: Kish's fraction of the samples, raw.
        verdict: Whether errors hold, and if not, why.
        largest_weight_share: Share of all weight of the samples that the largest one has.
        pareto_k: Shape of the tail of the weights: errors by weights have no basis above 0.7.
        samples: By importance weights.
        frames: By counting frames, if there are some.
        both: By MBAR of both.
        overlap: Overlap of samples and frames, between 0 and 1: MBAR has no basis below 0.03; nan without frames.
        mixing: How well the walkers of the frames sample the slow torsions.
    """

    n_samples: int
    not_finite: int
    n_evaluations: int
    ess: Estimate
    verdict: Verdict
    largest_weight_share: float
    pareto_k: float
    samples: Averages
    frames: Averages | None = None
    both: Averages | None = None
    overlap: float = math.nan
    mixing: Mixing | None = None

    def to_dict(self) -> dict[str, Any]:
        """All numbers in plain JSON types; null where a number is not finite."""
        found = {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "mixing"}
        return {**found, "mixing": None if self.mixing is None else self.mixing.to_dict()}

    def columns(self) -> list[str]:
        """Titles of the columns of `rows`."""
        return ["quantity", "samples", *([] if self.frames is None else ["frames", "both"])]

    def rows(self) -> list[list[str]]:
        """The numbers as a table."""
        sources = [source for source in (self.samples, self.frames, self.both) if source is not None]
        blank = [""] * (len(sources) - 1)
        rows = [
            ["verdict", str(self.verdict), *blank],
            ["samples", str(self.n_samples), *blank],
            ["without finite energy", str(self.not_finite), *blank],
            ["energy evaluations", str(self.n_evaluations), *blank],
            ["Kish ESS, raw", percent(self.ess), *blank],
            ["largest weight", f"{100 * self.largest_weight_share:.3g} %", *blank],
            ["Pareto k of the weights", f"{self.pareto_k:.2f}", *blank],
            ["configurations averaged over", *(str(a.mean_energy.n) for a in sources)],
            ["log Z", *("" if a.log_z is None else str(a.log_z) for a in sources)],
            ["mean energy, kJ/mol", *(str(a.mean_energy) for a in sources)],
        ]
        for name in self.samples.populations:
            rows.append([f"population of {name}", *(percent(a.populations[name]) for a in sources)])
        for name in self.samples.free_energies:
            rows.append([f"{name}, kT", *(str(a.free_energies[name]) for a in sources)])
        if self.mixing is not None:
            rows += [[name, "", shown, ""] for name, shown in self.mixing.rows()]
        return rows


def average(
    potential: FlowPotential,
    samples: Path,
    basins: Sequence[Basin] = (),
    seen: Draws | None = None,
) -> Reweighting:
    """Averages over the force field that samples of a flow are weighted to.

    Args:
        potential: The flow.
        samples: File of samples with log-weights.
        basins: Regions whose populations, and free energies above the first one, are asked for.
        seen: Frames of molecular dynamics with the force field, as `observe_targets` gives them.

    Raises:
        FileFormatError: If the file cannot be read.
        UnknownNameError: If a basin is one of other torsions than the molecule's.
        ConfigurationError: If no sample has a weight.
    """
    drawn = observe_weights(potential, samples, require_torsions(potential, basins))
    weights = drawn.log_weights
    tail = weight_tail(weights)
    result = Reweighting(
        verdict=Verdict((tail.reason,) if tail.reason else ()),
        largest_weight_share=tail.largest_share,
        pareto_k=tail.pareto_k,
        n_samples=len(drawn),
        not_finite=int((~drawn.energy.isfinite()).sum()),
        n_evaluations=drawn.n_evaluations,
        ess=ess_fraction(weights),
        samples=weighted_averages(drawn, basins),
    )
    if seen is None or seen.mixing is None:
        return result
    mixed, blocks = seen.mixing, seen.mixing.blocks
    both = BothEnsembles(weights, seen.log_weights, blocks)
    pooled = Draws(
        torch.cat([drawn.energy, seen.energy]),
        torch.cat([drawn.log_weights, seen.log_weights]),
        {name: torch.cat([drawn.torsions[name], seen.torsions[name]]) for name in drawn.torsions},
        drawn.n_evaluations + seen.n_evaluations,
    )
    frames = _averages(
        seen,
        basins,
        lambda values: mean_of_series(values, blocks),
        lambda flags: fraction_of_series(flags, blocks),
        lambda first, second: free_energy_difference(first, second, blocks=blocks),
        None,
    )
    pooled_averages = _averages(pooled, basins, both.mean, both.fraction, both.free_energy_difference, both.log_z)
    missed = (both.log_z.reason,) if math.isnan(both.log_z.value) else ()
    apart = result.samples.disagreements(frames)
    if both.log_z.reliable and result.samples.log_z is not None and result.samples.log_z.reliable:
        apart += differing("log Z", {"samples": result.samples.log_z, "samples with frames": both.log_z})
    return replace(
        result,
        verdict=Verdict((*result.verdict.reasons, *mixed.reasons, *missed, *apart)),
        n_evaluations=pooled.n_evaluations,
        frames=frames,
        both=pooled_averages,
        overlap=both.partition.overlap,
        mixing=mixed,
    )


def weighted_averages(drawn: Draws, basins: Sequence[Basin] = ()) -> Averages:
    """Averages over a force field by the weights of independent draws; without errors where a few weights decide."""
    weights = drawn.log_weights
    return _averages(
        drawn,
        basins,
        lambda values: weighted_mean(values, weights),
        lambda flags: weighted_fraction(flags, weights),
        lambda first, second: free_energy_difference(first, second, weights),
        log_z(weights),
    ).because(weight_tail(weights).reason)


def torsions_of(
    potential: FlowPotential, positions: Float[Tensor, "n atoms 3"], names: Sequence[str]
) -> dict[str, Float[Tensor, "n"]]:
    """Torsions of configurations (nm) by name, radians."""
    columns = [potential.coordinates.codomain.index(name) for name in names]
    with torch.no_grad():
        parts = [
            potential.coordinates.encode(part.to(potential.device, potential.dtype))[0][:, columns].double().cpu()
            for part in torch.split(positions, BLOCK)
        ]
    angles = torch.cat(parts)
    return {name: angles[:, i] for i, name in enumerate(names)}


def require_torsions(potential: FlowPotential, basins: Sequence[Basin]) -> list[str]:
    """The torsions that averages look at: phi and psi of each residue, and those of the basins.

    Raises:
        UnknownNameError: If a basin is one of other torsions than the molecule's.
        ConfigurationError: If two basins have one name.
    """
    titles = [basin.name for basin in basins]
    for title in titles:
        if titles.count(title) > 1:
            raise ConfigurationError(f'Two basins are called "{title}". Give each a name of its own.')
    domain = potential.coordinates.codomain
    known = [domain.names[i] for i in domain.indices(Circle)]
    asked = [name for basin in basins for name in basin.ranges]
    for name in asked:
        if name not in known:
            raise UnknownNameError("torsion", name, known)
    return list(dict.fromkeys([domain.names[i] for pair in ramachandran_pairs(domain) for i in pair] + asked))


def observe_weights(potential: FlowPotential, samples: Path, names: Sequence[str]) -> Draws:
    """Energies, weights and torsions of a file of samples, which is read block by block."""

    def blocks(reader: FramesReader) -> Iterable[tuple[Frames, Tensor, Tensor]]:
        for block in reader.blocks():
            if block.energies is None or block.log_weights is None:
                raise FileFormatError(
                    f'"{samples}" holds no log-weights. Draw the samples with smoothflow sample --reference.'
                )
            log_weights = torch.from_numpy(block.log_weights)
            # log w = -u - log q, and the file's energies are -kT log q
            yield block, torch.from_numpy(block.energies) - potential.kT * log_weights, log_weights

    with FramesReader(samples) as reader:
        return _gather(potential, blocks(reader), names, len(reader))


def observe_targets(potential: FlowPotential, frames: Frames, reference: Potential, names: Sequence[str]) -> Draws:
    """Energies, weights and torsions of frames of the reference, in order of time.

    Energies that the frames hold are used as they are, once a few of them agree with the reference.

    Raises:
        TopologyError: If the frames are of another molecule.
        ConfigurationError: If they have another temperature, are weighted, or are not the reference's.
    """
    frames = require_frames(potential, frames, reference)

    def blocks() -> Iterable[tuple[Frames, Tensor, Tensor]]:
        for start in range(0, len(frames), BLOCK):
            block = frames[start : start + BLOCK]
            positions = torch.from_numpy(block.positions).to(reference.device, torch.float64)
            energy = reference.energy(positions) if block.energies is None else torch.from_numpy(block.energies)
            log_prob = potential.log_prob(like(potential, block.positions)).double().cpu()
            yield block, energy, -energy.double().cpu() / potential.kT - log_prob

    n_evaluations = len(frames) if frames.energies is None else min(N_CHECKED, len(frames))
    domain = potential.coordinates.codomain
    torsions = [domain.names[i] for i in domain.indices(Circle)]
    found = _gather(potential, blocks(), list(dict.fromkeys([*names, *torsions])), n_evaluations)
    angles = torch.stack([found.torsions[name] for name in torsions], 1)
    mixed = mixing(
        angles, Product.of(Circle(), torsions), frames.replica, (found.energy.double().cpu(), found.log_weights)
    )
    return replace(found, torsions={name: found.torsions[name] for name in names}, mixing=mixed)


def _gather(
    potential: FlowPotential,
    blocks: Iterable[tuple[Frames, Tensor, Tensor]],
    names: Sequence[str],
    n_evaluations: int,
) -> Draws:
    energy, log_weights, torsions = [], [], []
    columns = [potential.coordinates.codomain.index(name) for name in names]
    with torch.no_grad():
        for block, block_energy, block_log_weights in blocks:
            q, _ = potential.coordinates.encode(like(potential, block.positions))
            energy.append(block_energy)
            log_weights.append(block_log_weights)
            torsions.append(q[:, columns].double().cpu())
    angles = torch.cat(torsions)
    by_name = {name: angles[:, i] for i, name in enumerate(names)}
    return Draws(torch.cat(energy), torch.cat(log_weights), by_name, n_evaluations)


def _averages(
    draws: Draws,
    basins: Sequence[Basin],
    mean: Callable[[Float[Tensor, "n"]], Estimate],
    fraction: Callable[[Bool[Tensor, "n"]], Estimate],
    difference: Callable[[Bool[Tensor, "n"], Bool[Tensor, "n"]], Estimate],
    partition: Estimate | None,
) -> Averages:
    positive = {f"{name} > 0": angle.sin() > 0 for name, angle in draws.torsions.items() if name.startswith("phi")}
    inside = {basin.name: basin.contains(draws.torsions) for basin in basins}
    first = next(iter(inside), None)
    return Averages(
        mean_energy=mean(draws.energy),
        populations={name: fraction(flags) for name, flags in {**positive, **inside}.items()},
        free_energies={
            f"{name} above {first}": difference(flags, inside[first])
            for name, flags in inside.items()
            if first is not None and name != first
        },
        log_z=partition,
    )
