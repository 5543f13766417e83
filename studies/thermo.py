"""Thermochemistry of a molecule: anharmonic by samples of a flow, beside the harmonic one at a minimum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..analysis.basins import Basin
from ..analysis.estimates import Estimate, Verdict, percent, plain
from ..analysis.observation import CHECK_TOLERANCE, N_CHECKED
from ..analysis.reweighted import observe_weights, torsions_of
from ..analysis.reweighting import FEWEST_HITS, ess_fraction, kish, weight_tail
from ..analysis.thermodynamics import (
    StandardState,
    StateFunctions,
    Vibrations,
    anharmonic,
    internal_directions,
    vibrations,
)
from ..coordinates.internal import InternalCoordinates
from ..core.differences import numerical_hessian
from ..core.errors import ConfigurationError, GeometryError, UnknownNameError
from ..core.manifolds import Circle
from ..core.potential import Potential, hessian
from ..core.units import thermal_energy
from ..molecules.elements import masses as masses_of
from ..molecules.frames_file import FramesReader
from ..potentials.flow_potential import FlowPotential
from ..runs.progress import OnProgress, Progress, silent
from ..runs.randomness import generator
from .physics.widths import widths_of
from .transfer import MANY_FAILED

CHUNK = 500
"""Samples that are drawn and evaluated together."""

N_EVALUATIONS = 2000
"""Energies that the search for a minimum takes at most."""

N_NEWTON = 30
CONVERGED = 1e-7
"""Largest displacement of an atom in the last of Newton's steps to a minimum, nm."""

LONGEST_STEP = 0.005
"""Largest displacement of an atom in one of Newton's steps, nm."""

DIFFERENCE = 1e-3
"""Step of finite differences of forces, nm, where there are no second derivatives: programs iterate to energies, and
forces that are not quite theirs would be divided by a smaller one."""

UNSEEN = math.log(100)
"""By how much the log-weight of the minimum may exceed the largest one of the samples: an order of magnitude is what
chance leaves out, another well is many."""


@dataclass(frozen=True)
class ThermoSettings:
    """What is asked for.

    Attributes:
        n_samples: Samples of the flow.
        seed: Seed of the samples.
        standard: Room of each molecule.
        symmetry_number: Permutations of equal atoms between which the samples pass, by rotation of the molecule and of
            its parts: 3 for each methyl group, times those of the rigid molecule.
        rigid_symmetry_number: Those of the rigid molecule, for the harmonic columns; None for the same.
        basin: Region that is one species, with the minimum inside; None for all that the samples show.
    """

    n_samples: int = 10_000
    seed: int = 0
    standard: StandardState = field(default_factory=StandardState)
    symmetry_number: int = 1
    rigid_symmetry_number: int | None = None
    basin: Basin | None = None

    def __post_init__(self) -> None:
        if self.n_samples < 2:
            raise ConfigurationError(f"State functions need at least two samples; {self.n_samples} were asked for.")
        if self.seed < 0:
            raise ConfigurationError(f"The seed must not be negative; it is {self.seed}.")
        for number in (self.symmetry_number, self.rigid_symmetry_number):
            if number is not None and number < 1:
                raise ConfigurationError(f"A symmetry number is 1 or more; it is {number}.")

    @property
    def rigid(self) -> int:
        """The symmetry number of the harmonic columns."""
        return self.symmetry_number if self.rigid_symmetry_number is None else self.rigid_symmetry_number


@dataclass(frozen=True)
class Thermochemistry:
    """State functions of a molecule in three ways.

    Attributes:
        temperature: K.
        standard: Room of each molecule.
        symmetry_number: Symmetry number for the anharmonic column.
        rigid_symmetry_number: Symmetry number for the harmonic columns.
        n_samples: Samples of the flow.
        n_failed: Samples without a finite energy; their weight is zero.
        ess: Kish's fraction of the samples, raw; None where the energy is the flow's own, and nothing is weighted.
        largest_weight_share: Share of all weight that the largest one has; None as well.
        pareto_k: Shape of the tail of the weights; None as well.
        verdict: Whether errors hold, and if not, why.
        minimum_energy: At the minimum, kJ/mol.
        zero_point_energy: kJ/mol.
        wavenumbers: Wavenumbers of the harmonic vibrations, 1/cm.
        positions: Positions of the minimum, nm.
        anharmonic: By samples; nuclei are classical.
        harmonic: State functions of the harmonic minimum with classical nuclei.
        quantum: The same with quantized vibrations and the zero-point energy.
    """

    temperature: float
    standard: StandardState
    symmetry_number: int
    rigid_symmetry_number: int
    n_samples: int
    n_failed: int
    ess: Estimate | None
    largest_weight_share: float | None
    pareto_k: float | None
    verdict: Verdict
    minimum_energy: float
    zero_point_energy: float
    wavenumbers: tuple[float, ...]
    positions: Float[Tensor, "atoms 3"]
    anharmonic: StateFunctions
    harmonic: StateFunctions
    quantum: StateFunctions

    def to_dict(self) -> dict[str, Any]:
        """All numbers in plain JSON types; null where a number is not finite."""
        found = {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "positions"}
        return {**found, "positions": self.positions.tolist()}

    def rows(self) -> list[list[str]]:
        """The numbers as a table: anharmonic, harmonic, and harmonic with quantized vibrations."""
        columns = (self.anharmonic, self.harmonic, self.quantum)
        lowest = ", ".join(f"{value:.0f}" for value in self.wavenumbers[:N_SHOWN])
        return [
            ["verdict", str(self.verdict), "", ""],
            ["temperature", f"{self.temperature:g} K", "", ""],
            ["standard state", str(self.standard), "", ""],
            ["symmetry number", str(self.symmetry_number), *[str(self.rigid_symmetry_number)] * 2],
            ["samples", str(self.n_samples), "", ""],
            ["without finite energy", str(self.n_failed), "", ""],
            *self._of_weights(),
            ["lowest, 1/cm", "", lowest, lowest],
            ["minimum, kJ/mol", "", *[f"{self.minimum_energy:.2f}"] * 2],
            ["zero point, kJ/mol", "", "", f"{self.zero_point_energy:.2f}"],
            *([title, *(_shown(getattr(each, name)) for each in columns)] for name, title in TITLES.items()),
        ]

    def _of_weights(self) -> list[list[str]]:
        if self.ess is None:
            return []
        return [
            ["Kish ESS, raw", percent(self.ess), "", ""],
            ["largest weight", f"{100 * (self.largest_weight_share or 0):.3g} %", "", ""],
            ["Pareto k of the weights", f"{self.pareto_k:.2f}", "", ""],
        ]


COLUMNS = ("quantity", "anharmonic", "harmonic", "quantum harmonic")

TITLES = {
    "helmholtz_energy": "A, kJ/mol",
    "gibbs_energy": "G, kJ/mol",
    "internal_energy": "U, kJ/mol",
    "entropy": "S, J/mol/K",
    "heat_capacity": "C_V, J/mol/K",
}

N_SHOWN = 4
"""Vibrations in the table."""


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.2f}" if estimate.error == 0 else str(estimate)


def thermochemistry(
    flow: FlowPotential,
    start: Float[Tensor, "atoms 3"],
    settings: ThermoSettings | None = None,
    reference: Potential | None = None,
    on_progress: OnProgress = silent,
    samples: Path | None = None,
) -> Thermochemistry:
    """State functions of a molecule as an ideal gas at the flow's temperature, relative to the zero of the energy.

    The energy is the reference's, to which samples of the flow are weighted, or else the flow's own, whose partition
    function is 1.

    Args:
        flow: The flow, in float64.
        start: A configuration, nm; the harmonic columns are of the minimum that it leads to.
        settings: What is asked for.
        reference: The potential whose state functions are wanted.
        on_progress: Told of samples.
        samples: File of samples of the flow that were weighted to the reference, as `draw_samples` writes it; all of
            them are taken in place of new ones, and none is evaluated again but a few, to check.

    Raises:
        FileFormatError: If the file cannot be read.
        TopologyError: If the reference is of another molecule.
        GeometryError: If the configuration is not one of the molecule, or leads to no minimum.
        UnknownNameError: If the basin is one of other torsions than the molecule's.
        ConfigurationError: If no sample, or not the minimum, is in the basin, a potential is not in float64, or the
            samples of the file are weighted to another reference.
    """
    settings = ThermoSettings() if settings is None else settings
    topology, temperature = flow.coordinates.topology, flow.temperature
    potential: Potential = flow if reference is None else reference
    if reference is not None and reference.topology is not None:
        topology.require_same(reference.topology, "the model", "the reference")
    for each in (flow, potential):
        if each.dtype != torch.float64:
            raise ConfigurationError(
                f"State functions need second derivatives in float64; the {type(each).__name__} computes in "
                f"{each.dtype}. Move it with .double()."
            )
    flow.require_configuration(start.double().cpu().numpy())
    masses = masses_of(topology)
    _require_torsions(flow, settings.basin)
    least, positions = _harmonic(potential, flow.coordinates, start, masses, temperature)
    if settings.basin is not None and not bool(_inside(flow, positions[None], settings.basin).all()):
        raise ConfigurationError(
            f'The minimum that the structure leads to is not in the basin "{settings.basin.name}". Give a structure in '
            "it, or another basin."
        )
    if samples is None:
        energy, weights, inside = _draw(flow, reference, settings, on_progress)
    else:
        energy, weights, inside = _read(flow, reference, settings, samples)
    reasons = _reasons(flow, weights, least, positions) if reference is not None else []
    failed = int((~energy.isfinite()).sum())
    if failed > MANY_FAILED * len(energy):
        reasons.append(f"{failed} of {len(energy)} samples have no energy, and count as impossible")
    counted = torch.where(inside, weights, -math.inf)
    worth = kish((counted - weights.max()).exp())
    if worth == 0:
        raise ConfigurationError(
            f'None of {len(energy)} samples counts in "{settings.basin.name if settings.basin else "all"}". Draw more, '
            "or ask for another basin."
        )
    if worth < FEWEST_HITS:
        reasons.insert(0, f"no overlap: {len(energy)} samples are worth {worth:.1f}")
    tail = None if reference is None else weight_tail(weights)
    found = anharmonic(energy, counted, masses, temperature, settings.standard, settings.symmetry_number)
    return Thermochemistry(
        temperature=temperature,
        standard=settings.standard,
        symmetry_number=settings.symmetry_number,
        rigid_symmetry_number=settings.rigid,
        n_samples=len(energy),
        n_failed=failed,
        ess=None if tail is None else ess_fraction(weights),
        largest_weight_share=None if tail is None else tail.largest_share,
        pareto_k=None if tail is None else tail.pareto_k,
        verdict=Verdict(tuple(reasons)),
        minimum_energy=least.energy,
        zero_point_energy=least.zero_point_energy,
        wavenumbers=tuple(least.wavenumbers.tolist()),
        positions=positions,
        anharmonic=found.because(reasons[0] if reasons else ""),
        harmonic=least.classical(temperature, settings.standard, settings.rigid),
        quantum=least.quantum(temperature, settings.standard, settings.rigid),
    )


def _reasons(
    flow: FlowPotential, weights: Float[Tensor, "n"], least: Vibrations, positions: Float[Tensor, "atoms 3"]
) -> list[str]:
    """Why errors by weights do not hold: their tail, or a minimum that the flow hardly knows."""
    tail = weight_tail(weights)
    reasons = [tail.reason] if tail.reason else []
    with torch.no_grad():
        log_density = float(flow.log_prob(positions.to(flow.device, flow.dtype)))
    above = -least.energy / flow.kT - log_density - float(weights.max())
    if above > UNSEEN:
        reasons.insert(
            0,
            f"the minimum of the structure weighs e^{above:.0f} times as much as any sample: the model lacks its well",
        )
    return reasons


def _draw(
    flow: FlowPotential, reference: Potential | None, settings: ThermoSettings, on_progress: OnProgress
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"], Tensor]:
    """Energies of samples in kT, their log-weights, and which of them are in the basin."""
    energies, weights, inside = [], [], []
    for index, first in enumerate(range(0, settings.n_samples, CHUNK)):
        size = min(CHUNK, settings.n_samples - first)
        stream = generator(settings.seed, index, device=flow.device)
        with torch.no_grad():
            # always a whole chunk, so that more samples begin with the same ones
            positions, log_prob = (x[:size].double().cpu() for x in flow.sample(CHUNK, stream))
            energy = -log_prob
            if reference is not None:
                energy = reference.energy(positions.to(reference.device)).double().cpu() / flow.kT
        energies.append(torch.where(energy.isfinite(), energy, math.inf))
        # the flow's own partition function is 1
        weights.append(torch.zeros(size, dtype=torch.float64) if reference is None else -energies[-1] - log_prob)
        inside.append(_inside(flow, positions, settings.basin))
        on_progress(Progress("samples", first + size, settings.n_samples))
    return torch.cat(energies), torch.cat(weights), torch.cat(inside)


def _read(
    flow: FlowPotential, reference: Potential | None, settings: ThermoSettings, path: Path
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"], Tensor]:
    """The same of samples in a file."""
    if reference is None:
        raise ConfigurationError(f'The samples in "{path}" are weighted to a reference. Say which.')
    names = [] if settings.basin is None else list(settings.basin.ranges)
    drawn = observe_weights(flow, path, names)
    with FramesReader(path) as reader:
        first = reader.read(0, N_CHECKED)
    first.require_potential(flow, "the model")
    positions = torch.from_numpy(first.positions).double()
    log_prob = flow.log_prob(positions.to(flow.device)).double().cpu()
    energy = reference.energy(positions.to(reference.device)).double().cpu() / flow.kT
    for name, found, kept in (
        ("density of the model", -log_prob, (drawn.energy / flow.kT + drawn.log_weights)[: len(first)]),
        ("energy of the reference", energy, drawn.energy[: len(first)] / flow.kT),
    ):
        apart = (found - kept).abs()
        largest = float(apart[kept.isfinite()].max()) if bool(kept.isfinite().any()) else 0.0
        if not largest <= CHECK_TOLERANCE:
            raise ConfigurationError(
                f'The {name} at samples in "{path}" is another than the file says, by up to {largest:.3g} kT. Give the '
                "model and the reference that the samples are of."
            )
    inside = torch.ones(len(drawn), dtype=torch.bool)
    if settings.basin is not None:
        inside = settings.basin.contains(drawn.torsions)
    return drawn.energy / flow.kT, drawn.log_weights, inside


def _require_torsions(flow: FlowPotential, basin: Basin | None) -> None:
    domain = flow.coordinates.codomain
    known = [domain.names[i] for i in domain.indices(Circle)]
    for name in () if basin is None else basin.ranges:
        if name not in known:
            raise UnknownNameError("torsion", name, known)


def _inside(flow: FlowPotential, positions: Float[Tensor, "n atoms 3"], basin: Basin | None) -> Tensor:
    if basin is None:
        return torch.ones(len(positions), dtype=torch.bool)
    return basin.contains(torsions_of(flow, positions, list(basin.ranges)))


def _harmonic(
    potential: Potential,
    coordinates: InternalCoordinates,
    start: Float[Tensor, "atoms 3"],
    masses: Float[Tensor, "atoms"],
    temperature: float,
) -> tuple[Vibrations, Float[Tensor, "atoms 3"]]:
    """Vibrations at the minimum that a configuration leads to, and its positions.

    Quasi-Newton steps in internal coordinates, in units of their usual widths, so that no step is far; then Newton's.
    """
    second = _second_derivatives(potential)
    x = _descended(potential, coordinates, start, thermal_energy(temperature))
    inner = torch.eye(x.numel(), dtype=x.dtype)
    for _ in range(N_NEWTON):
        _, forces = potential.energy_and_forces(x.to(potential.device))
        inner = internal_directions(x, torch.ones_like(masses))
        curvature = inner.T @ second(x) @ inner
        if not float(torch.linalg.eigvalsh(curvature)[0]) > 0:
            break
        step = (inner @ torch.linalg.solve(curvature, inner.T @ forces.double().cpu().flatten())).reshape(x.shape)
        longest = float(step.abs().max())
        x = x + step * min(1.0, LONGEST_STEP / longest)
        if longest < CONVERGED:
            break
    energy = float(potential.energy_and_forces(x.to(potential.device))[0])
    if not math.isfinite(energy):
        raise GeometryError("The energy is not finite where the structure leads to. Give another structure.")
    return vibrations(x, masses, second(x), energy), x


def _descended(
    potential: Potential, coordinates: InternalCoordinates, start: Float[Tensor, "atoms 3"], kT: float
) -> Float[Tensor, "atoms 3"]:
    coordinates = InternalCoordinates(coordinates.topology, coordinates.zmatrix)
    widths = torch.tensor(widths_of(coordinates.codomain.names), dtype=torch.float64)
    u = (coordinates.encode(start.double().cpu()[None])[0] / widths).detach().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [u],
        max_iter=N_EVALUATIONS,
        max_eval=N_EVALUATIONS,
        tolerance_grad=1e-6,
        tolerance_change=1e-12,
        history_size=30,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        placed = coordinates.decode(u * widths)[0].to(potential.device)
        energy: Tensor = potential.energy(placed).sum().cpu() / kT
        energy.backward()  # type: ignore[no-untyped-call]
        return energy

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return coordinates.decode(u * widths)[0][0]


def _second_derivatives(potential: Potential) -> Callable[[Float[Tensor, "atoms 3"]], Float[Tensor, "dim dim"]]:
    """The Hessian by automatic differentiation, or by finite differences of forces where there is none."""

    def by_program(x: Float[Tensor, "atoms 3"]) -> Float[Tensor, "dim dim"]:
        found = numerical_hessian(potential, x.to(potential.device), DIFFERENCE).double().cpu()
        return 0.5 * (found + found.T)

    def by_torch(x: Float[Tensor, "atoms 3"]) -> Float[Tensor, "dim dim"]:
        return hessian(potential, x.to(potential.device)).double().cpu().reshape(x.numel(), x.numel())

    def second(x: Float[Tensor, "atoms 3"]) -> Float[Tensor, "dim dim"]:
        try:
            return by_torch(x)
        except ConfigurationError:
            return by_program(x)

    return second
