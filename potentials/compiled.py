"""A potential that was compiled ahead of time, ready to run without a compiler."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import CompilationError, ConfigurationError, FileFormatError, TopologyError
from ..core.external import attach_forces
from ..core.identity import Geometry
from ..core.plugins import PotentialLoader, hookimpl
from ..core.potential import Potential, require_positions, require_vectors, unchecked
from ..core.topology import Topology
from ..core.torch_internals import loaded_function
from .package import read_package

ONE, MANY, CURVATURE = "one", "many", "curvature"
"""The functions in a package: energies and forces of one configuration, of several, and Hessian-vector products."""


def function_name(kind: str, dtype: torch.dtype) -> str:
    """What a function is called inside a package."""
    return f"{kind}-{str(dtype).removeprefix('torch.')}"


class CompiledPotential(Potential):
    """Energies and forces from machine code made by `compile_potential`, on the CPU or on a GPU as it was compiled.

    It computes in float64, or in float32 if the package holds nothing else; `to` changes to the other one. It holds the
    whole package, so that it can be pickled. A package is native code, as any compiled program is: load only those that
    you trust.

    Args:
        header: What the package says of itself.
        content: The package.
        topology: The molecule, if it is one.
    """

    def __init__(self, header: dict[str, Any], content: bytes, topology: Topology | None = None) -> None:
        super().__init__()
        self.header = header
        self.content = content
        self.topology = topology
        self.shape = tuple(int(size) for size in header["shape"])
        self.functions = frozenset(header["functions"])
        self._loaded: dict[str, Any] = {}
        self.dtype = torch.float64 if self.computes_in(torch.float64) else torch.float32
        self.device = torch.device(header.get("device", "cpu"))
        if self.device.type == "cuda":
            self.device = torch.device("cuda", torch.cuda.current_device())
        described = header.get("geometry")
        self._geometry = None if described is None else Geometry.from_list(described)

    @property
    def geometry(self) -> Geometry | None:
        """That of the potential that was compiled."""
        return self._geometry

    def computes_in(self, dtype: torch.dtype) -> bool:
        """Whether energies and forces were compiled for a precision."""
        return {function_name(ONE, dtype), function_name(MANY, dtype)} <= self.functions

    def energy_and_forces(
        self, positions: Float[Tensor, "batch *shape"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch *shape"]]:
        if len(positions) == 0:
            return positions.new_zeros(0), torch.zeros_like(positions)
        name = function_name(ONE if len(positions) == 1 else MANY, positions.dtype)
        energy, forces = self._function(name).run([positions.detach().contiguous()])
        return energy, forces

    def energy(self, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        energy, forces = unchecked(self, "energy_and_forces")(positions)
        known = function_name(CURVATURE, positions.dtype) in self.functions
        return attach_forces(positions, energy, forces, self.hessian_vector_product if known else None)

    def hessian_vector_product(
        self, positions: Float[Tensor, "batch *shape"], vectors: Float[Tensor, "batch *shape"]
    ) -> Float[Tensor, "batch *shape"]:
        r"""The energy's second derivatives at the positions (nm) times vectors, kJ/mol/nm^2 times their unit.

        .. math:: H v = \frac{\partial}{\partial x} \left( v \cdot \frac{\partial U}{\partial x} \right)

        Raises:
            ConfigurationError: If the package has no second derivatives, or the vectors are not like the positions.
        """
        question = require_positions(self, positions)
        vectors = require_vectors(question, positions, vectors)
        positions = question.positions
        # one configuration runs as two: the function was made for several
        n = len(positions)
        x, v = (torch.cat([part.detach()] * 2) if n == 1 else part.detach() for part in (positions, vectors))
        if n == 0:
            return torch.zeros_like(positions)
        product: Tensor
        (product,) = self._function(function_name(CURVATURE, x.dtype)).run([x.contiguous(), v.contiguous()])
        return question.answer(product[:n])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Potential:
        dtype, device = self.dtype, self.device
        super()._apply(fn, recurse)
        moved = self.device
        if moved.type != device.type:
            self.dtype, self.device = dtype, device
            raise ConfigurationError(
                f"The compiled potential runs on {'the CPU' if device.type == 'cpu' else 'a GPU'}, for which it was "
                f'compiled; it cannot be moved to "{moved}". Compile the model again for that device.'
            )
        if moved != device:
            self._loaded = {}
        return self

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
                    self._loaded[name] = loaded_function(path, name, self.device)
                except RuntimeError as error:
                    raise CompilationError(f"The compiled code cannot be loaded: {error}. Compile again.") from error
        return self._loaded[name]

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(_restore, self.dtype), (self.header, self.content, self.topology)


def _restore(
    dtype: torch.dtype, header: dict[str, Any], content: bytes, topology: Topology | None
) -> CompiledPotential:
    return CompiledPotential(header, content, topology).to(dtype)


def read_compiled(path: str | Path) -> CompiledPotential:
    """The potential in a package written by ``smoothflow compile``, in less than a second and without a compiler.

    A package is native code: load only those that you trust.

    Raises:
        FileFormatError: If the file is missing, damaged or not a package.
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
    return {".pt2": read_compiled}
