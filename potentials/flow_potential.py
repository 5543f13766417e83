"""A normalizing flow as a molecular potential."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ..coordinates.internal import InternalCoordinates
from ..core.charts import Chart
from ..core.errors import CompilationError, ManifoldError
from ..core.files import require_free
from ..core.flow import Flow
from ..core.manifolds import Arc, Line
from ..core.potential import Potential
from ..core.topology import Topology
from ..core.units import thermal_energy


class FlowPotential(Potential):
    r"""The potential of which a flow is the Boltzmann distribution.

    .. math:: U(x) = -kT \left[ \log p_{\mathrm{flow}}(q(x)) + \log |\det \partial q / \partial x| \right]

    The density is over Cartesian positions modulo rigid motion, so that U is comparable with a force field's energy
    up to one constant. It depends on internal coordinates alone: net force and net torque vanish.

    Args:
        flow: A flow on the internal coordinates (nm, radians).
        coordinates: Between positions and internal coordinates.
        topology: The molecule.
        temperature: K; of the distribution.

    Raises:
        ManifoldError: If the flow does not live on the coordinates' columns.

    Reference: Köhler, Krämer, Noé, Smooth Normalizing Flows, NeurIPS 2021, section 3, arXiv 2110.00351.
    """

    def __init__(self, flow: Flow, coordinates: InternalCoordinates, topology: Topology, temperature: float) -> None:
        super().__init__()
        if flow.domain != coordinates.codomain:
            raise ManifoldError(
                f"The flow lives on the columns {', '.join(flow.domain.names[:4])}, ..., but the internal coordinates "
                f"are {', '.join(coordinates.codomain.names[:4])}, ...; build both from one topology."
            )
        self.flow = flow
        self.coordinates = coordinates
        self.topology = topology
        self.temperature = temperature
        self.shape = (len(topology), 3)

    @property
    def kT(self) -> float:
        """Thermal energy, kJ/mol."""
        return thermal_energy(self.temperature)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the flow's weights."""
        return next(self.flow.parameters()).dtype

    def log_prob(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        """Log-density over positions (nm) modulo rigid motion."""
        q, log_abs_det = self.coordinates.encode(positions)
        return self.flow.log_prob(q) + log_abs_det

    def energy(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        return -self.kT * self.log_prob(positions)

    def explain(self, positions: Float[Tensor, "1 atoms 3"]) -> str:
        """The internal coordinate that is farthest from the data, where the flow has a chart of them."""
        names = self.coordinates.codomain.names
        with torch.no_grad():
            q, _ = self.coordinates.encode(positions)
            undefined = (~q[0].isfinite()).nonzero()
            if len(undefined):
                return f'The internal coordinate "{names[int(undefined[0])]}" is not defined.'
            for chart in self.flow.modules():
                if isinstance(chart, Chart):
                    scaled = chart.codomain.indices(Line) + chart.codomain.indices(Arc)
                    widths = chart.encode(q)[0][0, scaled].abs()
                    i = scaled[int(widths.argmax())]
                    return (
                        f'The internal coordinate "{names[i]}" (nm, rad) is farthest from the data: it is '
                        f"{float(q[0, i]):.4g}, {float(widths.max()):.3g} widths from {chart.columns[i].location:.4g}."
                    )
        return ""

    def sample(
        self, n_samples: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n_samples atoms 3"], Float[Tensor, "n_samples"]]:
        """Positions (nm) drawn without molecular dynamics, and their log-densities as `log_prob` defines them."""
        q, log_prob = self.flow.sample(n_samples, generator)
        positions, log_abs_det = self.coordinates.decode(q)
        return positions, log_prob - log_abs_det

    def compile(  # type: ignore[override]  # torch's own compiles what Module.__call__ does
        self,
        package: str | Path,
        positions: Float[Tensor, "batch atoms 3"] | None = None,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> Potential:
        """The same potential as machine code in its own precision, many times faster for one configuration; on the CPU.

        Args:
            package: Loaded if it holds this model, compiled for this machine; otherwise compiled, which takes minutes,
                and written there.
            positions: Configurations in nm at which the code is checked; by default samples of the flow.
            on_progress: Told of the functions that are compiled.

        Returns:
            A `CompiledPotential`; or, with a warning that says why, this potential itself if it cannot be compiled.

        Raises:
            FileFormatError: If there is a file of that name that is no package, or it cannot be written.
        """
        # compiling imports much that nothing else needs
        from .compilation import compile_potential
        from .compiled import load_compiled
        from .package import fingerprint

        try:
            if Path(package).is_file():
                try:
                    compiled = load_compiled(package)
                except CompilationError as error:
                    warnings.warn(f"{error} It is compiled anew.", stacklevel=2)
                else:
                    if compiled.header["fingerprint"] == fingerprint(self) and compiled.computes_in(self.dtype):
                        return compiled.to(self.dtype)
            if not Path(package).is_file() or Path(package).is_symlink():
                # before the minutes that compiling takes
                require_free(Path(package))
            if positions is None:
                with torch.no_grad():
                    positions, _ = self.sample(N_CHECKED, torch.Generator().manual_seed(0))
            compile_potential(self, positions, package, [self.dtype], on_progress=on_progress)
            return load_compiled(package).to(self.dtype)
        except CompilationError as error:
            warnings.warn(f"The potential runs uncompiled. {error}", stacklevel=2)
            return self


N_CHECKED = 64
"""Samples at which compiled code is checked unless configurations are given."""
