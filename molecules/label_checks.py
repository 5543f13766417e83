r"""Do energies and forces belong to the positions, as physics demands of every Boltzmann distribution?

Move one atom along one of its bonds, by as much as the bond is longer than its mean: a field v(x) with a known
divergence. For it, as for any field, integration by parts gives

.. math:: \langle w \rangle = kT \langle \nabla \cdot v \rangle, \qquad
   \operatorname{cov}(w, U) = kT \left( \langle w \rangle + \operatorname{cov}(\nabla \cdot v, U) \right), \qquad
   w = -v \cdot F, \quad \nabla \cdot v = 1 + 2 \frac{r - \bar r}{r}

whatever the potential U is. The first identity (a virial theorem, summed over all atoms and their bonds) shows forces
in a wrong unit or of the wrong sign, the second one energies. The virial about the centre of mass would do, but it
fluctuates ten times as much: a stiff bond's force there has a lever of the molecule's size.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from ..core.errors import ConfigurationError, FileFormatError
from ..core.potential import Potential
from ..core.units import thermal_energy
from .frames import BLOCK, Frames

MIN_FRAMES = 20
"""Fewer frames say nothing about averages."""

CORRELATED = 25
"""Frames that may be worth one independent frame: those of one vibration, a femtosecond apart."""

CONSTRAINED = 1e-4
"""Bonds that vary by less than this (nm) are held by constraints: at 10 K one of carbons varies by three times it."""

ERRORS = 3.0
"""Deviations of fewer standard errors do not count."""

FORCE_FACTOR = 1.5
"""Wrong units are off by a larger factor: Bohr for Å is 1.89."""

ENERGY_FACTOR = 2.5
"""Energies fluctuate more slowly than bonds; kcal for kJ is 4.18."""

NOTABLE = 1.15
"""Factor beyond which wrong forces are reported."""

HEAT_CAPACITY = (0.1, 10.0)
"""Variance of energies alone, in units of (3N - 6) (kT)^2 / 2, that leaves their unit possible: kcal for kJ is 0.06."""

FORCE_TOLERANCE = 0.05
"""Largest difference of stored and recomputed forces, in units of their size; three decimals in Å cause 0.01."""

ENERGY_TOLERANCE = 0.5
"""Largest scatter, in kT, of the difference of stored and recomputed energies; three decimals in Å cause 0.1."""

N_COMPARED = 10

FACTORS = {
    "kcal/mol was taken for kJ/mol or the other way around": 4.184,
    "kcal/mol was taken for eV or the other way around": 23.0605,
    "kJ/mol was taken for eV or the other way around": 96.4853,
    "hartree was taken for eV or the other way around": 27.2114,
    "hartree was taken for kcal/mol or the other way around": 627.509,
    "nm was taken for Å or the other way around": 10.0,
    "bohr was taken for Å or the other way around": 1.88973,
    "hartree/bohr was taken for eV/Å or the other way around": 51.4221,
}


class LabelWarning(UserWarning):
    """Frames whose energies, forces or independence are doubtful."""


@dataclass(frozen=True)
class LabelReport:
    """What physics says of the labels of frames; every ratio is 1 where they are right.

    Attributes:
        n_frames: How many frames there are, or Kish's effective number where they have weights.
        forces: Left over right side of the first identity, and the standard error.
        energies: The same of the second.
    """

    n_frames: float
    forces: tuple[float, float] | None
    energies: tuple[float, float] | None


def examine_labels(frames: Frames) -> LabelReport:
    """The two ratios of frames that have forces, and energies."""
    weights = np.full(len(frames), 1 / max(1, len(frames)))
    if frames.log_weights is not None and len(frames) and frames.log_weights.max() > -np.inf:
        weights = np.exp(frames.log_weights - frames.log_weights.max())
        weights /= weights.sum()
    n_frames = 1 / float((weights**2).sum()) if len(frames) else 0.0
    if frames.forces is None or n_frames < MIN_FRAMES - 0.5:
        return LabelReport(n_frames, None, None)
    moved = _moved(frames, weights)
    if len(moved) == 0:
        return LabelReport(n_frames, None, None)
    kT = thermal_energy(frames.temperature)
    virial, divergence = _sums(frames, frames.forces, weights, moved)
    expected = kT * float(weights @ divergence)
    value = float(weights @ virial) / expected
    scatter = math.sqrt(float(weights**2 @ (virial - value * kT * divergence) ** 2)) / expected
    n_independent = n_frames / CORRELATED
    forces = value, max(scatter, abs(value) * math.sqrt(2 / (len(moved) * n_independent)))
    energies = None
    # wrong forces say nothing about energies
    if frames.energies is not None and value > ERRORS * forces[1]:
        energy = frames.energies - float(weights @ frames.energies)
        product = (virial - float(weights @ virial)) * energy
        size = kT * float(weights @ (virial + divergence * energy))
        ratio = float(weights @ product) / size
        scatter = math.sqrt(float(weights**2 @ (product - float(weights @ product)) ** 2)) / abs(size)
        energies = ratio, max(scatter, abs(ratio) / math.sqrt(n_independent))
    return LabelReport(n_frames, forces, energies)


def _moved(frames: Frames, weights: Float[ndarray, "frames"]) -> Int[ndarray, "moved 2"]:
    """Atoms to move and the neighbours to move them from: all whose bonds are not held by constraints."""
    if not frames.topology.bonds:
        return np.zeros((0, 2), dtype=np.int64)
    bonds = np.array(frames.topology.bonds)
    means, squares = np.zeros(len(bonds)), np.zeros(len(bonds))
    for part in _blocks(frames):
        x = frames.positions[part].astype(np.float64)
        r = np.linalg.norm(x[:, bonds[:, 0]] - x[:, bonds[:, 1]], axis=-1)
        means += weights[part] @ r
        squares += weights[part] @ r**2
    held = set(bonds[squares - means**2 < CONSTRAINED**2].reshape(-1).tolist())
    both = np.concatenate([bonds, bonds[:, ::-1]])
    return both[[atom not in held for atom, _ in both.tolist()]]


def _sums(
    frames: Frames,
    forces: Float[ndarray, "frames atoms 3"],
    weights: Float[ndarray, "frames"],
    moved: Int[ndarray, "moved 2"],
) -> tuple[Float[ndarray, "frames"], Float[ndarray, "frames"]]:
    """w in kJ/mol and the divergence, each summed over the atoms that are moved; of each frame."""
    lengths = np.empty((len(frames), len(moved)))
    for part in _blocks(frames):
        x = frames.positions[part].astype(np.float64)
        lengths[part] = np.linalg.norm(x[:, moved[:, 0]] - x[:, moved[:, 1]], axis=-1)
    # the mean of the other frames: a frame's own length in it would make the sum too small
    stretched = (lengths - weights @ lengths) / np.maximum(1 - weights, 1e-3)[:, None]
    virial = np.empty(len(frames))
    for part in _blocks(frames):
        x = frames.positions[part].astype(np.float64)
        pulled = ((x[:, moved[:, 0]] - x[:, moved[:, 1]]) * forces[part][:, moved[:, 0]]).sum(-1) / lengths[part]
        virial[part] = -(stretched[part] * pulled).sum(-1)
    return virial, (1 + 2 * stretched / lengths).sum(-1)


def _blocks(frames: Frames) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, len(frames), BLOCK))


def check_labels(frames: Frames, source: str) -> None:
    """Raise where forces or energies cannot be those of the positions; warn where they are doubtful.

    Args:
        frames: Frames of any number; a few of them say nothing.
        source: Where they come from, for messages.

    Raises:
        FileFormatError: If forces or energies are in a wrong unit, of the wrong sign, or not of the Boltzmann
            distribution at the frames' temperature.
    """
    report = examine_labels(frames)
    if report.forces is not None:
        _judge(
            report.forces,
            FORCE_FACTOR,
            f"The forces of {source} do not belong to their positions at {frames.temperature:g} K: the virial of bonds "
            "over kT is",
            "Correct the unit, the sign or the temperature, recompute the labels (smoothflow convert --reference), or "
            "leave forces out (smoothflow convert --forces-key none). Frames are drawn from the Boltzmann distribution",
        )
    if report.energies is not None:
        _judge(
            report.energies,
            ENERGY_FACTOR,
            f"The energies of {source} do not belong to their forces at {frames.temperature:g} K: their common "
            "fluctuations over (kT)^2 are",
            "Correct the unit or the sign, recompute the labels (smoothflow convert --reference), or leave energies "
            "out (smoothflow convert --energy-key none)",
        )
    if frames.energies is not None and report.n_frames >= MIN_FRAMES:
        _check_fluctuations(frames, frames.energies, source)


def _judge(found: tuple[float, float], factor: float, what: str, remedy: str) -> None:
    value, error = found
    text = f"{what} {value:.3g} +- {error:.2g} where 1 is right"
    relative = error / abs(value) if value else math.inf
    off = abs(math.log(value)) if value > 0 else 0.0
    # factors are as sure as their relative errors; what may vanish is not 1
    is_factor = off > max(math.log(factor), ERRORS * relative)
    is_other = abs(value - 1) > max(factor - 1, ERRORS * error)
    if not (is_factor or is_other):
        if factor == FORCE_FACTOR and off > max(math.log(NOTABLE), ERRORS * relative):
            warnings.warn(f"{text}. {remedy}.", LabelWarning, stacklevel=4)
        return
    hints = ["the sign is wrong"] if value < 0 else []
    size = abs(value)
    hints += [
        hint for hint, factor in FACTORS.items() if size and abs(abs(math.log(size)) / math.log(factor) - 1) < 0.06
    ]
    guess = f" ({'; '.join(hints[:2])}?)" if hints else ""
    raise FileFormatError(f"{text}{guess}. {remedy}.")


def _check_fluctuations(frames: Frames, energies: Float[ndarray, "frames"], source: str) -> None:
    """The variance of energies shows a unit that is far off, a drift, or numbers that are not energies at all."""
    dof = max(1, 3 * len(frames.topology) - 6)
    ratio = float(energies.var()) / (dof / 2 * thermal_energy(frames.temperature) ** 2)
    lowest, highest = HEAT_CAPACITY
    if frames.log_weights is None and not lowest < ratio < highest:
        raise FileFormatError(
            f"The energies of {source} fluctuate {ratio:.3g} times as much as a molecule's at {frames.temperature:g} K "
            "can: their unit or the temperature seems to be wrong. Correct it, recompute them (smoothflow convert "
            "--reference), or leave them out (smoothflow convert --energy-key none)."
        )


def compare_labels(frames: Frames, reference: Potential, source: str) -> None:
    """Raise unless the forces stored with frames are those of a reference.

    Args:
        frames: Frames of the reference's molecule.
        reference: The force field.
        source: Where the frames come from, for messages.

    Raises:
        ConfigurationError: If they differ beyond rounding; says by how much.
    """
    difference = describe_difference(replace(frames, energies=None), reference)
    if difference:
        raise ConfigurationError(
            f"{difference} of {source} are not the reference's. Give the potential that the frames were simulated "
            "with, or recompute them: smoothflow convert OLD.h5 NEW.h5 --reference PROVIDER:ARGUMENT."
        )


def describe_difference(frames: Frames, reference: Potential) -> str:
    """How stored labels differ from a reference's in a few frames, in words; empty where they agree."""
    if len(frames) == 0 or (frames.forces is None and frames.energies is None):
        return ""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(N_COMPARED, len(frames))).astype(int))
    positions = torch.from_numpy(frames.positions[chosen]).to(reference.device, torch.float64)
    energy, force = reference.energy_and_forces(positions)
    energies, forces = energy.detach().double().cpu().numpy(), force.detach().double().cpu().numpy()
    if not (np.isfinite(energies).all() and np.isfinite(forces).all()):
        return ""
    if frames.forces is not None:
        size = math.sqrt(float((forces**2).mean()))
        off = math.sqrt(float(((frames.forces[chosen] - forces) ** 2).mean()))
        if off > FORCE_TOLERANCE * size:
            return f"The forces (by {100 * off / max(size, 1e-12):.3g} % of their size)"
    if frames.energies is not None and len(chosen) > 1:
        scatter = float((frames.energies[chosen] - energies).std()) / thermal_energy(frames.temperature)
        if scatter > ENERGY_TOLERANCE:
            return f"The energies (by {scatter:.3g} kT)"
    return ""


def warn_of_duplicates(frames: Frames, source: str) -> None:
    """Warn of configurations that are there more than once: errors of averages count them as independent."""
    # a Metropolis chain repeats its states as it must, and errors know their correlation
    if "chain" in frames.provenance:
        return
    flat = np.ascontiguousarray(frames.positions).reshape(len(frames), -1)
    n_different = len({row.tobytes() for row in flat})
    if n_different < len(frames):
        share = 1 - n_different / len(frames)
        warnings.warn(
            f"{100 * share:.3g} % of the {len(frames)} frames of {source} repeat others exactly: {n_different} are "
            "different. Errors of averages that count them as independent are too small; leave the copies out, or give "
            "weights.",
            LabelWarning,
            stacklevel=3,
        )
