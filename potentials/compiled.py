"""A potential that was compiled ahead of time, ready to run without a compiler."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import CompilationError, ConfigurationError, FileFormatError, TopologyError
from ..core.external import attach_forces
from ..core.plugins import PotentialLoader, hookimpl
from ..core.potential import Potential
from ..core.topology import Topology
from .package import read_package

ONE, MANY, CURVATURE = "one", "many", "curvature"
"""The functions in a package: energies and forces of one configuration, of several, and Hessian-vector products."""


def function_name(kind: str, dtype: torch.dtype) -> str:
    """What a function is called inside a package."""
    return f"{kind}-{str(dtype).removeprefix('torch.')}"


class CompiledPotential(Potential):
    """Energies and forces from machine code made by `compile_potential`.

    It computes in the precision of the positions, float32 or float64, whichever the package contains; engines use the
    one of `to`, float64 at first. It holds the whole package, so that it can be pickled. A package is native code, as
    any compiled program is: load only those that you trust.

    Args:
        header: What the package says of itself.
        content: The package.
        topology: The molecule, if it is one.
    """

    working_type: Tensor

    def __init__(self, header: dict[str, Any], content: bytes, topology: Topology | None = None) -> None:
        super().__init__()
        self.header = header
        self.content = content
        self.topology = topology
        self.shape = tuple(int(size) for size in header["shape"])
        self.functions = frozenset(header["functions"])
        self._loaded: dict[str, Any] = {}
        dtype = torch.float64 if self.computes_in(torch.float64) else torch.float32
        # engines look here for the precision to work in
        self.register_buffer("working_type", torch.zeros((), dtype=dtype), persistent=False)

    def computes_in(self, dtype: torch.dtype) -> bool:
        """Whether energies and forces were compiled for a precision."""
        return {function_name(ONE, dtype), function_name(MANY, dtype)} <= self.functions

    def energy_and_forces(
        self, positions: Float[Tensor, "batch *shape"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch *shape"]]:
        self._require_positions(positions)
        if len(positions) == 0:
            return positions.new_zeros(0), torch.zeros_like(positions)
        name = function_name(ONE if len(positions) == 1 else MANY, positions.dtype)
        energy, forces = self._function(name).run([positions.detach().contiguous()])
        return energy, forces

    def energy(self, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        energy, forces = self.energy_and_forces(positions)
        known = function_name(CURVATURE, positions.dtype) in self.functions
        return attach_forces(positions, energy, forces, self.hessian_vector_product if known else None)

    def hessian_vector_product(
        self, positions: Float[Tensor, "batch *shape"], vectors: Float[Tensor, "batch *shape"]
    ) -> Float[Tensor, "batch *shape"]:
        r"""The energy's second derivatives at the positions (nm) times vectors, kJ/mol/nm^2 times their unit.

        .. math:: H v = \frac{\partial}{\partial x} \left( v \cdot \frac{\partial U}{\partial x} \right)

        Raises:
            ConfigurationError: If the package has no second derivatives.
        """
        self._require_positions(positions)
        if vectors.shape != positions.shape or vectors.dtype != positions.dtype:
            raise ConfigurationError(
                f"The vectors have shape {tuple(vectors.shape)} and dtype {vectors.dtype}; the positions have "
                f"{tuple(positions.shape)} and {positions.dtype}. Give vectors like the positions."
            )
        # one configuration runs as two: the function was made for several
        n = len(positions)
        x, v = (torch.cat([part.detach()] * 2) if n == 1 else part.detach() for part in (positions, vectors))
        if n == 0:
            return torch.zeros_like(positions)
        product: Tensor
        (product,) = self._function(function_name(CURVATURE, x.dtype)).run([x.contiguous(), v.contiguous()])
        return product[:n]

    def _require_positions(self, positions: Tensor) -> None:
        # compiled code reads whatever is in memory there
        if positions.shape[1:] != self.shape or positions.device.type != "cpu":
            raise ConfigurationError(
                f"The positions have shape {tuple(positions.shape)} on {positions.device}; the compiled potential "
                f"needs (batch, {', '.join(map(str, self.shape))}) on the CPU."
            )

    def _function(self, name: str) -> Any:
        if name not in self._loaded:
            if name not in self.functions:
                raise ConfigurationError(
                    f'The package has no function "{name}"; it has {", ".join(sorted(self.functions))}. '
                    "Compile the model again with what you need."
                )
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "package.pt2"
                path.write_bytes(self.content)
                try:
                    self._loaded[name] = torch._C._aoti.AOTIModelPackageLoader(str(path), name, False, 1, -1)
                except RuntimeError as error:
                    raise CompilationError(f"The compiled code cannot be loaded: {error}. Compile again.") from error
        return self._loaded[name]

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(_restore, self.working_type.dtype), (self.header, self.content, self.topology)


def _restore(
    dtype: torch.dtype, header: dict[str, Any], content: bytes, topology: Topology | None
) -> CompiledPotential:
    return CompiledPotential(header, content, topology).to(dtype)


def load_compiled(path: str | Path) -> CompiledPotential:
    """The potential in a package written by ``smoothflow compile``, in less than a second and without a compiler.

    A package is native code: load only those that you trust.

    Raises:
        FileFormatError: If the file is missing, damaged or no package.
        CompilationError: If it was made for another version of torch or another machine.
    """
    header, content = read_package(path)
    try:
        topology = None if header["topology"] is None else Topology.from_dict(header["topology"])
        return CompiledPotential(header, content, topology)
    except (KeyError, TypeError, ValueError, OverflowError, TopologyError) as error:
        raise FileFormatError(
            f'The header of "{path}" is damaged ({type(error).__name__}: {error}). Compile again.'
        ) from error


@hookimpl
def smoothflow_loaders() -> Mapping[str, PotentialLoader]:
    return {".pt2": load_compiled}
