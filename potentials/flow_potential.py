"""A normalizing flow as a molecular potential."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..coordinates.internal import InternalCoordinates
from ..core.charts import Chart
from ..core.display import html_table
from ..core.errors import CompilationError, ConfigurationError, ManifoldError, TopologyError
from ..core.files import require_free
from ..core.finite import first_not_finite
from ..core.flow import Flow
from ..core.identity import Coordinate, Geometry
from ..core.inversion import generated
from ..core.potential import Potential, takes_positions, unchecked
from ..core.topology import Topology
from ..core.units import thermal_energy
from ..runs.progress import OnProgress, silent
from .temperatures import TemperatureRange, is_same


def _without_topology(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that still takes the topology of version 0.1, third or by its name, with a warning."""

    @functools.wraps(init)
    def constructed(self: FlowPotential, *given: Any, **named: Any) -> None:
        topology = named.pop("topology", None)
        if len(given) > 2 and isinstance(given[2], Topology):
            topology, given = given[2], (*given[:2], *given[3:])
        init(self, *given, **named)
        if topology is not None:
            warnings.warn(
                "The coordinates know the topology: call FlowPotential(flow, coordinates, temperature).",
                DeprecationWarning,
                stacklevel=2,
            )
            if topology != self.topology:
                raise TopologyError(
                    "The topology is not that of the internal coordinates. Leave it out, and make the coordinates of "
                    "the topology that is meant."
                )

    return constructed


class FlowPotential(Potential):
    r"""The potential of which a flow is the Boltzmann distribution.

    .. math:: U(x) = -kT \left[ \log p_{\mathrm{flow}}(q(x)) + \log |\det \partial q / \partial x| \right]

    The density is over Cartesian positions modulo rigid motion, so that U is comparable with a force field's energy
    up to one constant. It depends on internal coordinates alone: net force and net torque vanish.

    Of a flow whose context is the temperature there is such a potential at every temperature of a range, and this is
    the one at ``temperature``: `at_temperature` gives the others.

    Args:
        flow: A flow on the internal coordinates (nm, radians).
        coordinates: Between positions and internal coordinates.
        temperature: K; of the distribution.
        temperature_range: The temperatures that the flow's context stands for, if that is what it stands for. A flow of
            another context is bound to one before (`Flow.at`).

    Raises:
        ManifoldError: If the flow does not live on the coordinates' columns.
        ConfigurationError: If the flow depends on a context that is not bound, or the temperature is out of its range.

    Version 0.1 took the topology before the temperature; the coordinates know it.

    Reference: Köhler, Krämer, Noé, Smooth Normalizing Flows, NeurIPS 2021, section 3, arXiv 2110.00351.
    """

    @_without_topology
    def __init__(
        self,
        flow: Flow,
        coordinates: InternalCoordinates,
        temperature: float,
        temperature_range: TemperatureRange | None = None,
    ) -> None:
        super().__init__()
        if flow.domain != coordinates.codomain:
            raise ManifoldError(
                f"The flow lives on the columns {', '.join(flow.domain.names[:4])}, ..., but the internal coordinates "
                f"are {', '.join(coordinates.codomain.names[:4])}, ...; build both from one topology."
            )
        if temperature_range is not None:
            flow = flow.at([temperature_range.context(temperature)])
        elif flow.n_context > 0 and flow.context is None:
            raise ConfigurationError(
                f"The flow depends on a context of {flow.n_context} features. Bind it to one, flow.at(context), or, if "
                "that is the temperature, say the range of temperatures that it stands for: temperature_range."
            )
        self.flow = flow
        self.coordinates = coordinates
        self.topology = coordinates.topology
        self.temperature = temperature
        self.temperature_range = temperature_range
        self._shares_weights = False
        self.shape = (len(coordinates.topology), 3)
        self._geometry: Geometry | None = None

    def extra_repr(self) -> str:
        return f"{self._temperatures()}, {self.flow!r}"

    def _temperatures(self) -> str:
        """The temperature, for people."""
        of = "" if self.temperature_range is None else f" of {self.temperature_range}"
        return f"{self.temperature:g} K{of}"

    def _repr_html_(self) -> str:
        rows = [*self._rows(), ("temperature", self._temperatures())]
        return html_table(type(self).__name__, rows) + self.flow._repr_html_()

    @property
    def kT(self) -> float:
        """Thermal energy, kJ/mol."""
        return thermal_energy(self.temperature)

    def at_temperature(self, temperature: float) -> FlowPotential:
        """The potential of the same flow at another temperature: with its own energies, samples and kT.

        Weights are shared until one of the two is moved to another precision or device, which copies them: what trains
        the one trains the other.

        Args:
            temperature: K.

        Returns:
            This potential itself if it is of that temperature.

        Raises:
            ConfigurationError: If the temperature is out of the range of the model.
        """
        if is_same(temperature, self.temperature):
            return self
        if self.temperature_range is None:
            raise ConfigurationError(
                f"The model is of {self.temperature:g} K alone, and {temperature:g} K is asked for. Leave the "
                "temperature out, or train a model on frames of several temperatures."
            )
        other = FlowPotential(self.flow, self.coordinates, temperature, self.temperature_range)
        other.training = self.training
        self._shares_weights = other._shares_weights = True
        return other

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Potential:
        probe = torch.empty(0, dtype=self.dtype, device=self.device)
        moved = fn(probe)
        if moved.dtype != probe.dtype or moved.device != probe.device:
            self._keep_weights_apart()
        return super()._apply(fn, recurse)

    def _keep_weights_apart(self) -> None:
        """Have weights of its own, if they are shared: those of others stay where they are."""
        if self._shares_weights:
            self.flow, self.coordinates = copy.deepcopy((self.flow, self.coordinates))
            self._shares_weights = False

    @property
    def geometry(self) -> Geometry | None:
        """The bonds, angles and narrow torsions of the flow's charts; None if it has no chart."""
        if self._geometry is None and self.chart is not None:
            rows = self.coordinates.zmatrix.rows
            atoms = [tuple(row[:size]) for size in (2, 3, 4) for row in rows[size - 1 :]]
            self._geometry = Geometry(
                tuple(
                    Coordinate(four, column.location, column.scale)
                    for four, column in zip(atoms, self.chart.columns, strict=True)
                    if column.kind not in WIDE
                )
            )
        return self._geometry

    @property
    def chart(self) -> Chart | None:
        """The chart of the internal coordinates, with which a flow of a molecule begins."""
        return next((module for module in self.flow.modules() if isinstance(module, Chart)), None)

    @takes_positions
    def log_prob(
        self, positions: Float[Tensor, "batch atoms 3"], context: Float[Tensor, "batch n_context"] | None = None
    ) -> Float[Tensor, "batch"]:
        """Log-density over positions (nm) modulo rigid motion.

        Args:
            positions: nm.
            context: The context of each of them, as for `Flow.log_prob`: in training, configurations of one batch are
                of several temperatures (`TemperatureRange.context`). By default the potential's own.
        """
        q, log_abs_det = self.coordinates.encode(positions)
        return self.flow.log_prob(q, context) + log_abs_det

    def energy(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        log_prob: Tensor = unchecked(self, "log_prob")(positions)
        return -self.kT * log_prob

    def explain(self, positions: Float[Tensor, "1 atoms 3"]) -> str:
        """The internal coordinate that is farthest from the data, where the flow has a chart of them."""
        names = self.coordinates.codomain.names
        with torch.no_grad():
            q, _ = self.coordinates.encode(positions)
        undefined = first_not_finite(q[0])
        if undefined is not None:
            return f'The internal coordinate "{names[undefined[0]]}" is not defined.'
        if self.geometry is None or self.chart is None:
            return ""
        widths = self.geometry.deviations(positions[0].double().cpu().numpy()) / self.geometry.widths
        farthest = int(abs(widths).argmax())
        narrow = [i for i, column in enumerate(self.chart.columns) if column.kind not in WIDE]
        column = narrow[farthest]
        return (
            f'The internal coordinate "{names[column]}" (nm, rad) is farthest from the data: it is '
            f"{float(q[0, column]):.4g}, {abs(widths[farthest]):.3g} widths from "
            f"{self.chart.columns[column].location:.4g}."
        )

    def sample(
        self, n_samples: int, generator: torch.Generator | None = None, *, seed: int | None = None
    ) -> tuple[Float[Tensor, "n_samples atoms 3"], Float[Tensor, "n_samples"]]:
        """Positions drawn without molecular dynamics, and their log-densities.

        Args:
            n_samples: How many to draw.
            generator: Generator of the random numbers; by default a new one.
            seed: Seed of the new generator; without it the numbers are different at every call.

        Returns:
            Positions (nm), and their log-densities as `log_prob` defines them.

        Raises:
            ConfigurationError: If there is both a generator and a seed, or a number is not one that can be used.
        """
        return self.generate(self.flow.latent(n_samples, generator, seed=seed))

    def generate(self, z: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch atoms 3"], Float[Tensor, "batch"]]:
        """The positions (nm) of latent vectors of the flow, and their log-densities as `log_prob` defines them."""
        return generated(self._generate, z)

    def _generate(self, z: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch atoms 3"], Float[Tensor, "batch"]]:
        q, log_prob = self.flow.generate(z)
        positions, log_abs_det = self.coordinates.decode(q)
        return positions, log_prob - log_abs_det

    def compile(  # type: ignore[override]  # torch's own compiles what Module.__call__ does
        self,
        package: str | Path | None = None,
        positions: Float[Tensor, "batch atoms 3"] | None = None,
        on_progress: OnProgress = silent,
    ) -> Potential:
        """The same potential in its own precision, many times faster: compiled, and on a GPU captured.

        On the CPU it is machine code, which pays most for one configuration. On a GPU its work is recorded for each
        batch size and replayed as a CUDA graph; with a package, that of machine code for the GPU.

        Args:
            package: Loaded if it holds this model, compiled for this machine; otherwise compiled, which takes minutes,
                and written there. By default the code is compiled for this process alone; on a GPU, without a package,
                nothing is compiled.
            positions: Configurations in nm at which the code is checked; by default samples of the flow.
            on_progress: Told of functions that are compiled.

        Returns:
            On the CPU, a `CompiledPotential`. On a GPU, a `CapturedFlow`; with a package, a `CapturedPotential` of its
            code. Or, with a warning that says why, this potential itself if it cannot be compiled or captured.

        Raises:
            FileFormatError: If there is a file of that name that is not a package, or it cannot be written.
        """
        # much of it imports what nothing else needs
        from .captured import CapturedFlow, CapturedPotential

        try:
            if self.device.type == "cpu":
                return self._compiled(package, positions, on_progress)
            captured = (
                CapturedFlow(self)
                if package is None
                else CapturedPotential(self._compiled(package, positions, on_progress))
            )
            with torch.no_grad():
                # whether it can be captured is known after the first time
                captured.energy_and_forces(self.sample(1, seed=0)[0])
            return captured
        except CompilationError as error:
            warnings.warn(f"The potential runs uncompiled. {error}", stacklevel=2)
            return self

    def _compiled(
        self, package: str | Path | None, positions: Float[Tensor, "batch atoms 3"] | None, on_progress: OnProgress
    ) -> Potential:
        """The code in a package, which is made if it is not that of this model on this machine."""
        # compiling imports much that nothing else needs
        from .compilation import compile_potential
        from .compiled import read_compiled
        from .package import fingerprint

        if package is not None and Path(package).is_file():
            try:
                compiled = read_compiled(package)
            except CompilationError as error:
                warnings.warn(f"{error} It is compiled anew.", stacklevel=3)
            else:
                same = compiled.header["fingerprint"] == fingerprint(self)
                if same and compiled.computes_in(self.dtype) and compiled.device.type == self.device.type:
                    return compiled.to(self.device, self.dtype)
        if package is not None and (not Path(package).is_file() or Path(package).is_symlink()):
            # before the minutes that compiling takes
            require_free(Path(package))
        if positions is None:
            with torch.no_grad():
                positions, _ = self.sample(N_CHECKED, seed=0)
        with nullcontext(package) if package is not None else TemporaryDirectory() as place:
            path = Path(place) if package is not None else Path(place) / "potential.pt2"
            compile_potential(self, positions, path, [self.dtype], on_progress=on_progress)
            return read_compiled(path).to(self.device, self.dtype)


WIDE = ("circle", "cut")
"""Charts of torsions that reach all around, so that no value of them is far from the data."""

N_CHECKED = 64
"""Samples at which compiled code is checked unless configurations are given."""
