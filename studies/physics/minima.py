"""Minima of a potential, even far from the configurations that it was made for, compared with a reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...coordinates.internal import InternalCoordinates, slow_torsions
from ...core.errors import GeometryError
from ...core.potential import Potential
from ...core.topology import Topology
from ...core.units import thermal_energy
from ...runs.progress import OnProgress, Progress, silent
from .paths import find_paths
from .report import Finding, single
from .widths import energy_and_gradient, widths_of

N_GRID = 12
"""Cells along each of two neighbouring slow torsions."""

N_OVER_GRIDS = 1500
"""Starts spread over the cells of all grids: of those in its cell, a narrow hole attracts one in ten, depending on the
methyl groups."""

N_RANDOM = 50
"""Starts whose slow torsions are all drawn uniformly."""

N_GIVEN = 50
"""Largest number of given configurations that are minimized."""

N_TURNS = 300
"""Random turns of the methyl groups that are tried at each minimum away from the given configurations."""

N_AGAIN = 12
"""Number of these, with the lowest energies, that are minimized again."""

N_ROUNDS = 3
"""Rounds of turns and minimizations."""

N_STEPS = 500
LARGEST_STEP = 0.5
CONVERGED = 0.1
"""Largest component of the gradient at a minimum, kT per width of a coordinate."""

SAME = math.radians(30)
"""Minima whose slow torsions all differ by less are the same."""

CROSSED, ALONG_PATHS = 8.0, 2.0
"""Paths with barriers up to the first are crossed in simulations, and the reference is met there to the second, kT."""

DEEPEST = 10.0
"""How far a minimum may lie below the reference, kT: a good model errs by less where it has data."""


@dataclass(frozen=True)
class Minimum:
    """A minimum of a potential.

    Attributes:
        torsions: Slow torsions by name, degrees.
        energy: Above the lowest minimum of the given configurations, kJ/mol.
        reference: The same by the reference, at the same two configurations; nan without one.
        is_given: Whether a minimization from one of the given configurations ended in it.
        n_starts: How many minimizations ended in it.
        contact: Its closest pair of atoms that are three or more bonds apart.
        distance: Distance of these, nm.
        positions: nm.
    """

    torsions: dict[str, float]
    energy: float
    reference: float
    is_given: bool
    n_starts: int
    contact: str
    distance: float
    positions: Float[Tensor, "atoms 3"]

    def __str__(self) -> str:
        place = ", ".join(f"{name} {value:.0f}" for name, value in self.torsions.items())
        beside = "" if math.isnan(self.reference) else f", {self.reference:.1f} in the reference"
        return (
            f"{place or 'the minimum'}: {self.energy:.1f} kJ/mol{beside}, reached from {self.n_starts} starts, "
            f"{self.contact} {self.distance:.3f} nm apart"
        )


def find_minima(
    potential: Potential,
    positions: Float[Tensor, "n atoms 3"],
    topology: Topology,
    temperature: float,
    seed: int = 0,
    reference: Potential | None = None,
    on_progress: OnProgress = silent,
) -> list[Minimum]:
    r"""Minimize from the given configurations, all over grids of two neighbouring slow torsions each, and at random.

    The minimizations run together, in internal coordinates in units of their usual widths :math:`\sigma`, by the fast
    inertial relaxation engine:

    .. math:: \dot v = f = -\partial (U / kT) / \partial u, \qquad v \leftarrow (1 - \alpha) v + \alpha |v| f / |f|,
              \qquad u = q / \sigma

    Args:
        potential: Any potential of a molecule.
        positions: Configurations that it was made for, nm.
        topology: The molecule.
        temperature: K; the unit of energy.
        seed: Seed of the random starts.
        reference: Another potential of the molecule; its energies are taken at the minima found.
        on_progress: Told of steps.

    Returns:
        The minima, the lowest first.

    Raises:
        GeometryError: If no minimization from a given configuration converges.

    Reference: Bitzek et al., Structural Relaxation Made Simple, Physical Review Letters 97, 170201 (2006).
    """
    coordinates = InternalCoordinates(topology)
    q, _ = coordinates.encode(positions[:N_GIVEN])
    names = coordinates.codomain.names
    slow = [names.index(name) for name in slow_torsions(topology)]
    methyls = [i for i, name in enumerate(names) if name.startswith("methyl")]
    widths = q.new_tensor(widths_of(names))
    kT = thermal_energy(temperature)
    stream = torch.Generator().manual_seed(seed)
    away = torch.cat([*_grids(q, slow, stream), _turned(q, slow, N_RANDOM if slow else 0, stream)])
    starts = torch.cat([q, _turned(away, methyls, None, stream)])
    n_rounds = N_ROUNDS if methyls else 0
    total = N_STEPS * (1 + n_rounds)

    def relaxed(starts: Float[Tensor, "starts dim"], n_done: int) -> tuple[Tensor, Tensor, Tensor]:
        def tell(part: Progress) -> None:
            on_progress(Progress("minima", n_done + part.done, total))

        return _relaxed(potential, coordinates, starts, widths, kT, tell)

    ends, energies, converged = relaxed(starts, 0)
    n_given = len(q)
    if not bool(converged[:n_given].any()):
        raise GeometryError("No minimization from the given configurations ended in a minimum.")
    clusters = _clusters(ends, energies, converged, slow)
    for k in range(n_rounds):
        # a hole far from the data may lie where quick torsions are unusual, too
        elsewhere = [cluster[0] for cluster in clusters if min(cluster) >= n_given]
        if not elsewhere:
            break
        again = []
        for i in elsewhere:
            turned = _turned(ends[i].repeat(N_TURNS, 1), methyls, None, stream)
            with torch.no_grad():
                heights = potential.energy(coordinates.decode(turned)[0]).nan_to_num(math.inf)
            again.append(turned[heights.argsort()[:N_AGAIN]])
        more = relaxed(torch.cat(again), N_STEPS * (k + 1))
        ends, energies, converged = (torch.cat(pair) for pair in zip((ends, energies, converged), more, strict=True))
        clusters = _clusters(ends, energies, converged, slow)
    on_progress(Progress("minima", total, total))
    is_given = torch.arange(len(ends)) < n_given
    order = [i for i in energies.argsort().tolist() if converged[i]]
    lowest = next(i for i in order if is_given[i])
    with torch.no_grad():
        placed, _ = coordinates.decode(ends[[cluster[0] for cluster in clusters] + [lowest]])
        beside = torch.full((len(placed),), math.nan)
        if reference is not None:
            beside = reference.energy(placed.to(reference.device, torch.float64)).cpu()
    found = []
    for k, cluster in enumerate(clusters):
        contact, distance = _closest(placed[k], topology)
        found.append(
            Minimum(
                torsions={names[i]: math.degrees(_wrapped(float(ends[cluster[0], i]))) for i in slow},
                energy=float(energies[cluster[0]] - energies[lowest]) * kT,
                reference=float(beside[k] - beside[-1]),
                is_given=any(bool(is_given[i]) for i in cluster),
                n_starts=len(cluster),
                contact=contact,
                distance=distance,
                positions=placed[k],
            )
        )
    return found


def examine_minima(
    potential: Potential,
    positions: Float[Tensor, "n atoms 3"],
    topology: Topology,
    temperature: float,
    seed: int,
    reference: Potential | None,
    on_progress: OnProgress,
) -> list[Finding]:
    """Whether a minimum elsewhere is deeper than those of the given configurations, or than the reference's."""
    minima = find_minima(potential, positions, topology, temperature, seed, reference, on_progress)
    kT = thermal_energy(temperature)
    findings = []
    others = [minimum for minimum in minima if not minimum.is_given]
    if others:
        worst = min(others, key=lambda minimum: minimum.energy)
        quantity = "lowest minimum away from the start, above the lowest one at it, kT"
        findings.append(Finding("minima", quantity, single(worst.energy / kT), low=0.0, note=str(worst)))
    else:
        findings.append(Finding("minima", "number of minima", single(len(minima)), low=1))
    if reference is not None:
        worst = max(minima, key=lambda minimum: minimum.reference - minimum.energy)
        depth = (worst.reference - worst.energy) / kT
        findings.append(
            Finding("minima", "deepest minimum below the reference, kT", single(depth), high=DEEPEST, note=str(worst))
        )
        given = [minimum for minimum in minima if minimum.is_given]
        if len(given) > 1:
            findings.append(_along_paths(potential, given, topology, kT, reference, on_progress))
    return findings


def _along_paths(
    potential: Potential,
    minima: list[Minimum],
    topology: Topology,
    kT: float,
    reference: Potential,
    on_progress: OnProgress,
) -> Finding:
    """How far energies along paths between the minima of the given configurations are from the reference's."""
    places = torch.stack([minimum.positions for minimum in minima])
    paths = find_paths(potential, places, InternalCoordinates(topology), kT, reference, on_progress)
    quantity = f"largest error of the energy along paths with barriers up to {CROSSED:g} kT, kT"
    crossed = [path for path in paths if path.barrier <= CROSSED]
    if not crossed:
        lowest = min(path.barrier for path in paths)
        return Finding("minima", quantity, single(0.0), high=ALONG_PATHS, note=f"the lowest barrier is {lowest:.1f} kT")
    worst = max(crossed, key=lambda path: path.largest_difference)
    ends = " to ".join(
        ", ".join(f"{name} {value:.0f}" for name, value in minima[k].torsions.items()) for k in (worst.start, worst.end)
    )
    note = f"{len(crossed)} of {len(paths)} paths; {ends}, barrier {worst.barrier:.1f} kT"
    return Finding("minima", quantity, single(worst.largest_difference), high=ALONG_PATHS, note=note)


def _grids(q: Float[Tensor, "n dim"], slow: list[int], stream: torch.Generator) -> list[Float[Tensor, "starts dim"]]:
    """For each pair of neighbouring slow torsions, values drawn in all cells of a grid; the rest as given."""
    width = 2 * math.pi / N_GRID
    edges = torch.arange(N_GRID, dtype=q.dtype) * width - math.pi
    together = list(pairwise(slow)) if len(slow) > 1 else [(i,) for i in slow]
    grids = []
    for torsions in together:
        cells = torch.cartesian_prod(*[edges] * len(torsions)).reshape(-1, len(torsions))
        cells = cells.repeat(max(N_OVER_GRIDS // (len(together) * len(cells)), 1) if len(torsions) > 1 else 1, 1)
        grid = q[torch.randint(len(q), (len(cells),), generator=stream)]
        grid[:, list(torsions)] = cells + width * torch.rand(cells.shape, generator=stream, dtype=q.dtype)
        grids.append(grid)
    return grids


def _turned(
    q: Float[Tensor, "n dim"], torsions: list[int], n_starts: int | None, stream: torch.Generator
) -> Float[Tensor, "starts dim"]:
    """A number of the configurations, or each of them once, with some torsions drawn uniformly."""
    starts = q.clone() if n_starts is None else q[torch.randint(len(q), (n_starts,), generator=stream)]
    starts[:, torsions] = (2 * torch.rand(len(starts), len(torsions), generator=stream, dtype=q.dtype) - 1) * math.pi
    return starts


def _clusters(
    ends: Float[Tensor, "starts dim"],
    energies: Float[Tensor, "starts"],
    converged: Bool[Tensor, "starts"],
    slow: list[int],
) -> list[list[int]]:
    """Minima in order of energy, each as the ends that agree in all slow torsions, in order of energy."""
    clusters: list[list[int]] = []
    for i in energies.argsort().tolist():
        if not converged[i]:
            continue
        home = next((cluster for cluster in clusters if _turn(ends[cluster[0]] - ends[i], slow) < SAME), None)
        if home is None:
            clusters.append([i])
        else:
            home.append(i)
    return clusters


def _relaxed(
    potential: Potential,
    coordinates: InternalCoordinates,
    starts: Float[Tensor, "starts dim"],
    widths: Float[Tensor, "dim"],
    kT: float,
    on_progress: OnProgress,
) -> tuple[Float[Tensor, "starts dim"], Float[Tensor, "starts"], Bool[Tensor, "starts"]]:
    """Ends of the minimizations, their energies in kT, and whether they are minima."""

    def energy_and_force(u: Tensor) -> tuple[Tensor, Tensor]:
        energy, gradient = energy_and_gradient(potential, coordinates, u, widths, kT)
        return energy, -gradient

    end = starts / widths
    energy, force = energy_and_force(end)
    ends_energy, ends_force = energy.clone(), force.clone()
    left = torch.arange(len(end))
    u, v = end.clone(), torch.zeros_like(end)
    step = u.new_full((len(u), 1), 0.1)
    mixing = torch.full_like(step, 0.1)
    downhill = torch.zeros_like(step)
    for i in range(N_STEPS):
        end[left], ends_energy[left], ends_force[left] = u, energy, force
        # what has converged, or is undefined, stays where it is
        moving = force.isfinite().all(-1) & energy.isfinite() & (force.abs().amax(-1) > CONVERGED / 2)
        left, u, v, force = left[moving], u[moving], v[moving], force[moving]
        step, mixing, downhill = step[moving], mixing[moving], downhill[moving]
        if not len(left):
            break
        power = (force * v).sum(-1, keepdim=True)
        goes_down = power > 0
        downhill = torch.where(goes_down, downhill + 1, 0.0)
        direction = force / force.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        v = torch.where(goes_down, (1 - mixing) * v + mixing * v.norm(dim=-1, keepdim=True) * direction, 0.0)
        faster = goes_down & (downhill > 5)
        step = torch.where(faster, (1.1 * step).clamp(max=0.5), torch.where(goes_down, step, 0.5 * step)).clamp(
            min=1e-3
        )
        mixing = torch.where(faster, 0.99 * mixing, torch.where(goes_down, mixing, 0.1))
        v = v + step * force
        move = step * v
        longest = move.abs().amax(-1, keepdim=True).clamp(min=1e-30)
        u = u + move * (LARGEST_STEP / longest).clamp(max=1.0)
        energy, force = energy_and_force(u)
        on_progress(Progress("relaxation", i + 1, N_STEPS))
    on_progress(Progress("relaxation", N_STEPS, N_STEPS))
    converged = ends_energy.isfinite() & (ends_force.abs().amax(-1) < CONVERGED)
    return end * widths, ends_energy, converged


def _wrapped(angle: float) -> float:
    return math.remainder(angle, 2 * math.pi)


def _turn(difference: Float[Tensor, "dim"], slow: list[int]) -> float:
    """The largest difference of a slow torsion, radians."""
    return max((abs(_wrapped(float(difference[i]))) for i in slow), default=0.0)


def _closest(positions: Float[Tensor, "atoms 3"], topology: Topology) -> tuple[str, float]:
    """The closest two atoms that are three or more bonds apart, and their distance."""
    neighbours = topology.neighbours()
    best = ("", math.inf)
    for i in range(len(topology)):
        near = {i, *neighbours[i], *(k for j in neighbours[i] for k in neighbours[j])}
        for j in range(i):
            distance = float((positions[i] - positions[j]).norm())
            if j not in near and distance < best[1]:
                best = (f"{topology.atoms[j]} and {topology.atoms[i]}", distance)
    return best
