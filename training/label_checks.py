r"""Do energies and forces belong to the positions, as physics demands of every Boltzmann distribution?

For a molecule in free space with potential U and any origin, integration by parts gives the virial theorem and, with
the fluctuations of U, a second identity:

.. math:: \langle w \rangle = (3N - 3) kT, \qquad \operatorname{cov}(w, U) = kT \langle w \rangle,
   \qquad w = -\sum_i x_i \cdot F_i

The first one shows forces in a wrong unit or of the wrong sign, the second one energies, whatever the molecule is.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from ..core.errors import ConfigurationError, FileFormatError
from ..core.potential import Potential
from ..core.units import thermal_energy
from .frames import BLOCK, Frames

MIN_FRAMES = 10
"""Fewer frames say nothing about averages."""

MIN_ENERGIES = 30
"""Fluctuations need more frames than averages do."""

ERRORS = 5.0
"""Only deviations of more than so many standard errors count."""

TOLERANCE = 0.35
"""Wrong units are off by more than this: Bohr for Å is 0.53, or 1.89."""

NOTABLE = 0.1
"""Deviations of this size are said."""

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
        forces: Virial over (3N - 3) kT, and its standard error.
        energies: Covariance of virial and energy over kT times the virial, and its standard error.
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
    if frames.forces is None or n_frames < MIN_FRAMES:
        return LabelReport(n_frames, None, None)
    kT, dof = thermal_energy(frames.temperature), 3 * len(frames.topology) - 3
    virial = _virial(frames, frames.forces)
    mean = float(weights @ virial)
    scatter = math.sqrt(float(weights**2 @ (virial - mean) ** 2))
    # repeated frames scatter too little
    least = dof * kT * math.sqrt(2 / (dof * n_frames))
    forces = mean / (dof * kT), max(scatter, least) / (dof * kT)
    energies = None
    if frames.energies is not None and n_frames >= MIN_ENERGIES and abs(forces[0]) > ERRORS * forces[1]:
        product = (virial - mean) * (frames.energies - float(weights @ frames.energies)) / (kT * mean)
        ratio = float(weights @ product)
        energies = ratio, math.sqrt(float(weights**2 @ (product - ratio) ** 2))
    return LabelReport(n_frames, forces, energies)


def check_labels(frames: Frames, source: str) -> None:
    """Raise where forces or energies cannot be those of the positions; warn where they are doubtful.

    Args:
        frames: Frames of any number; of few of them nothing is said.
        source: Where they come from, for messages.

    Raises:
        FileFormatError: If forces or energies are in a wrong unit, of the wrong sign, or not of the Boltzmann
            distribution at the frames' temperature.
    """
    report = examine_labels(frames)
    if report.forces is not None:
        _judge(
            report.forces,
            f"The forces of {source} do not belong to their positions at {frames.temperature:g} K: the virial "
            "-<sum x.F> / ((3N - 3) kT) is",
            "Correct the unit, the sign or the temperature, recompute the labels (smoothflow convert --reference), or "
            "leave forces out (smoothflow convert --forces-key none). Frames are drawn from the Boltzmann distribution",
        )
    if report.energies is not None:
        _judge(
            report.energies,
            f"The energies of {source} do not belong to their forces at {frames.temperature:g} K: the covariance of "
            "energy and virial over kT <virial> is",
            "Correct the unit or the sign, recompute the labels (smoothflow convert --reference), or leave energies "
            "out (smoothflow convert --energy-key none)",
        )
    if frames.forces is None and frames.energies is not None and report.n_frames >= MIN_ENERGIES:
        _check_fluctuations(frames, frames.energies, source)


def _judge(found: tuple[float, float], what: str, remedy: str) -> None:
    value, error = found
    off = abs(value - 1)
    if off <= ERRORS * error or off <= NOTABLE:
        return
    text = f"{what} {value:.3g} +- {error:.2g} where 1 is right"
    if off <= TOLERANCE:
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
    """Energies without forces: their variance shows a unit that is far off."""
    dof = max(1, 3 * len(frames.topology) - 6)
    ratio = float(energies.var()) / (dof / 2 * thermal_energy(frames.temperature) ** 2)
    lowest, highest = HEAT_CAPACITY
    if frames.log_weights is None and not lowest < ratio < highest:
        raise FileFormatError(
            f"The energies of {source} fluctuate {ratio:.3g} times as much as a molecule's at {frames.temperature:g} K "
            "can: their unit or the temperature seems to be wrong. Correct it, recompute them (smoothflow convert "
            "--reference), or leave them out (smoothflow convert --energy-key none)."
        )


def _virial(frames: Frames, forces: Float[ndarray, "frames atoms 3"]) -> Float[ndarray, "frames"]:
    """-sum x.F about the centre of each configuration, kJ/mol."""
    values = np.empty(len(frames))
    for start in range(0, len(frames), BLOCK):
        part = slice(start, start + BLOCK)
        x = frames.positions[part].astype(np.float64)
        x -= x.mean(1, keepdims=True)
        values[part] = -(x * forces[part]).sum((1, 2))
    return values


def compare_labels(frames: Frames, reference: Potential, source: str) -> None:
    """Raise unless the forces and energies stored with frames are those of a reference, but for a constant energy.

    Args:
        frames: Of the reference's molecule.
        reference: The force field.
        source: Where the frames come from, for messages.

    Raises:
        ConfigurationError: If they differ beyond rounding; says by how much.
    """
    difference = describe_difference(frames, reference)
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
    energy, force = reference.energy_and_forces(torch.from_numpy(frames.positions[chosen]).double())
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
