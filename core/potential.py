"""The contract of a potential energy."""

from __future__ import annotations

import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from .display import described, html_table
from .errors import ConfigurationError, GeometryError
from .finite import first_not_finite
from .identity import Geometry
from .topology import Topology, atom_name

Method = TypeVar("Method", bound=Callable[..., Any])

TAKE_POSITIONS = ("energy", "energy_and_forces")
"""The methods of every `Potential` whose positions are checked, whoever wrote them."""


def takes_positions(method: Method) -> Method:
    """A method of a `Potential`, behind the check of its first argument (`require_positions`).

    What it returns, a tensor or a tuple of them that begin with the batch, is given in the precision of the positions,
    and without the batch dimension if they were a single configuration.
    """

    @functools.wraps(method)
    def checked(self: Potential, positions: Any, *args: Any, **kwargs: Any) -> Any:
        question = require_positions(self, positions)
        found = method(self, question.positions, *args, **kwargs)
        return question.answer(found) if isinstance(found, Tensor) else tuple(map(question.answer, found))

    # itself: a decorator around it copies its attributes, and is not the check
    checked.takes_positions = checked  # type: ignore[attr-defined]
    return checked  # type: ignore[return-value]


def unchecked(potential: Potential, name: str) -> Callable[..., Any]:
    """A potential's method without its check, for inner loops and compilers whose positions are known to be right."""
    method = getattr(potential, name)
    function: Any = getattr(method, "__func__", None)
    return functools.partial(function.__wrapped__, potential) if _is_checked(function) else method


def next_forces(
    potential: Potential, positions: Float[Tensor, "batch *shape"]
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch *shape"]]:
    """What `Potential.energy_and_forces` gives, for an integrator's next positions.

    The start of a run was checked, and a step keeps its shape; positions that are not finite have energies or forces
    that are not, which the run looks for.
    """
    if positions.dtype == potential.dtype and positions.device == potential.device:
        return unchecked(potential, "energy_and_forces")(positions)  # type: ignore[no-any-return]
    return potential.energy_and_forces(positions)


def _is_checked(function: Any) -> bool:
    return function is not None and getattr(function, "takes_positions", None) is function


class Potential(nn.Module, ABC):
    r"""Energies and forces of a batch of configurations.

    .. math:: U : \mathbb R^{n \times 3} \to \mathbb R, \qquad F = -\partial U / \partial x

    A flow, a force field, an ASE calculator and a toy target are all potentials, so any of them can be a training
    target, run molecular dynamics, or serve as the reference of a comparison. Subclasses give `shape` and `energy`,
    which is called with a batch in the potential's own precision on its own device, whatever it was asked with:

    - one configuration without a batch dimension is a batch of one, and the results have no batch dimension either;
    - NumPy arrays are converted, and the results are tensors;
    - float32 and float64 are converted, and the results are in the precision of the positions;
    - anything else (another number of atoms or dimensions, integers, another device, positions that are not finite)
      is an error that says what was given and what is expected.
    """

    shape: tuple[int, ...]
    """Shape of one configuration: ``(atoms, 3)``, or ``(dim,)`` for a target that is not a molecule."""

    topology: Topology | None = None
    """The molecule, where there is one; engines check their atoms against it."""

    _size_of_positions: float | None = None
    _dtype: torch.dtype | None = None
    _device: torch.device | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in TAKE_POSITIONS:
            method = vars(cls).get(name)
            if callable(method) and not _is_checked(method):
                setattr(cls, name, takes_positions(method))

    def __repr__(self) -> str:
        rows = self._rows()
        return described(self, *(value for _, value in rows), self.extra_repr())

    def _repr_html_(self) -> str:
        rows = [*self._rows(), ("", self.extra_repr())]
        return html_table(type(self).__name__, [row for row in rows if row[1]])

    def _rows(self) -> list[tuple[str, str]]:
        """What the potential describes and where it computes, by name."""
        shape = getattr(self, "shape", None)
        what = f"shape {shape}" if self.topology is None else self.topology.summary
        return [("system", what), ("computes", f"{str(self.dtype).removeprefix('torch.')} on {self.device}")]

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which energies are computed; `to` changes it.

        A subclass declares it by assigning it when it is made. Otherwise it is the common one of its parameters, or of
        its buffers if it has none, and float64 where there is nothing to tell.
        """
        if self._dtype is None:
            self._dtype = _common_dtype(self)
        return self._dtype

    @dtype.setter
    def dtype(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    @property
    def device(self) -> torch.device:
        """The device on which energies are computed; `to` changes it, and `dtype` says how it is declared."""
        if self._device is None:
            tensor = next(itertools.chain(self.parameters(), self.buffers()), None)
            self._device = torch.device("cpu") if tensor is None else tensor.device
        return self._device

    @device.setter
    def device(self, device: torch.device | str) -> None:
        self._device = torch.device(device)

    @property
    def recorded(self) -> Potential | None:
        """The potential whose work this one records and replays, if it does: loops around it, like the steps of
        molecular dynamics, may record it with their own work."""
        return None

    @property
    def geometry(self) -> Geometry | None:
        """What the molecule's configurations look like, where the potential knows; starts are checked against it."""
        return None

    @abstractmethod
    def energy(self, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        """Energies in kJ/mol of positions in nm, differentiable with respect to the positions.

        Raises:
            ConfigurationError: If the positions have another shape, type or device.
            GeometryError: If a position is not finite.
        """

    @takes_positions
    def energy_and_forces(
        self, positions: Float[Tensor, "batch *shape"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch *shape"]]:
        """Energies in kJ/mol and forces in kJ/mol/nm, neither attached to a graph; raises as `energy` does."""
        if torch.is_inference_mode_enabled():
            # tensors made in this mode have no gradient: copies made outside of it have
            with torch.inference_mode(False):
                return self.energy_and_forces(positions.clone())
        with torch.enable_grad():
            positions = positions.detach().requires_grad_(True)
            energy = unchecked(self, "energy")(positions)
            (gradient,) = torch.autograd.grad(energy.sum(), positions)
        return energy.detach(), -gradient

    def require_configuration(self, positions: Float[np.ndarray, "atoms 3"]) -> None:
        """Raise a `GeometryError` unless positions (nm) are a configuration of the molecule, as far as it is known.

        They are not if they are in a wrong unit, in another order, torn by a periodic boundary, or those of another
        stereoisomer; the message says what to do. Engines ask at the first configuration of everything new to them.
        """
        if self.topology is not None:
            self.topology.require_unit(positions)
            if self.geometry is not None:
                self.geometry.require(positions, self.topology)
            self.topology.require_bond_lengths(positions)

    def explain(self, positions: Float[Tensor, "1 *shape"]) -> str:
        """What is extraordinary about a configuration whose energy is not finite, as a sentence; empty if unknown."""
        return ""

    def forward(self, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        return self.energy(positions)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Potential:
        # all of nn.Module's ways to another precision or device come through here
        dtype, device = self.dtype, self.device
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved = fn(torch.empty(0, dtype=dtype, device=device))
        self._dtype, self._device = moved.dtype, moved.device
        return self


def _common_dtype(module: nn.Module) -> torch.dtype:
    for tensors in (module.parameters(), module.buffers()):
        found = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
        if found:
            return functools.reduce(torch.promote_types, found)
    return torch.float64


class Question(NamedTuple):
    """Positions as a potential computes with them, and how the answer is to be given.

    Attributes:
        positions: A batch in the precision of the potential, nm.
        single: Whether they were a single configuration without a batch dimension.
        dtype: The precision that they had.
    """

    positions: Float[Tensor, "batch *shape"]
    single: bool
    dtype: torch.dtype

    def answer(self, found: Float[Tensor, "batch *any"]) -> Float[Tensor, "*any"]:
        """A result for each configuration, as it was asked for."""
        if found.dtype != self.dtype:
            found = found.to(self.dtype)
        return found[0] if self.single else found


def require_positions(potential: Potential, positions: Any) -> Question:
    """Positions as a potential needs them.

    Args:
        potential: Says what it needs.
        positions: nm; a tensor or an array, of one configuration or of a batch.

    Raises:
        ConfigurationError: If they are of another shape or type, or on another device.
        GeometryError: If a position is not finite.
    """
    declared = getattr(potential, "shape", None)
    if declared is None:
        raise ConfigurationError(
            f"{type(potential).__name__} does not say which shape a configuration has. Set its attribute shape, "
            "(atoms, 3) for a molecule."
        )
    shape = tuple(declared)
    tensor = positions
    if isinstance(positions, np.ndarray) and positions.dtype.kind == "f" and positions.dtype.itemsize >= 4:
        array = positions.astype(np.float64 if positions.dtype.itemsize > 4 else np.float32)
        tensor = torch.from_numpy(array).to(potential.device)
    if not isinstance(tensor, Tensor):
        kind = f" of {positions.dtype}" if isinstance(positions, np.ndarray) else ""
        raise _refused(potential, f"are an object of type {type(positions).__name__}{kind}")
    given = tuple(tensor.shape)
    single = given == shape
    if not single and (len(given) != len(shape) + 1 or given[1:] != shape):
        raise _refused(potential, f"have shape {given}")
    if tensor.dtype not in (torch.float64, torch.float32):
        raise _refused(potential, f"are in {tensor.dtype}")
    if tensor.device != potential.device and not tensor.is_meta:
        raise _refused(potential, f"are on {tensor.device}")
    _require_finite(potential, tensor, single)
    batch = tensor.unsqueeze(0) if single else tensor
    return Question(batch if tensor.dtype == potential.dtype else batch.to(potential.dtype), single, tensor.dtype)


def require_vectors(question: Question, positions: Tensor, vectors: Tensor) -> Float[Tensor, "batch *shape"]:
    """Vectors at positions, such as directions of derivatives, as a potential computes with them.

    Args:
        question: What `require_positions` made of the positions.
        positions: As they were given.
        vectors: One for each position.

    Raises:
        ConfigurationError: If the vectors are not like the positions.
    """
    if vectors.shape != positions.shape or vectors.dtype != positions.dtype:
        raise ConfigurationError(
            f"The vectors have shape {tuple(vectors.shape)} and dtype {vectors.dtype}; the positions have "
            f"{tuple(positions.shape)} and {positions.dtype}. Give vectors like the positions."
        )
    return vectors.to(question.positions).reshape(question.positions.shape)


def _refused(potential: Potential, given: str) -> ConfigurationError:
    shape = ", ".join(map(str, potential.shape))
    return ConfigurationError(
        f"The positions {given}; the potential needs (batch, {shape}), or ({shape}) for one configuration, in float64 "
        f"or float32 on {potential.device}."
    )


def _require_finite(potential: Potential, positions: Tensor, single: bool) -> None:
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if torch.compiler.is_compiling() or tracing or positions.is_meta:
        return
    if positions.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    try:
        # one number: cheap at every call, and the norm of finite numbers of physical size is finite
        norm = float(torch.linalg.vector_norm(positions.detach()))
        if math.isfinite(norm):
            _require_unit(potential, positions, norm, single)
            return
        bad = first_not_finite(positions.detach())
    except RuntimeError:
        return  # torch traces, or maps over a batch: there are no values to look at
    if bad is None:
        return
    where = f"In configuration {bad[0]} the" if not single and len(positions) > 1 else "The"
    what = f"position of {atom_name(potential.topology, bad[-2])}" if len(potential.shape) == 2 else "position"
    raise GeometryError(f"{where} {what} is not finite. Leave such configurations out.")


GROWN = 3.0
"""Factor of the size of configurations at which their unit is looked at again: 10 where Å are given for nm."""


def _require_unit(potential: Potential, positions: Tensor, norm: float, single: bool) -> None:
    """Refuse positions in Å: forces of an engine's first step show it later, and single energies never."""
    if potential.topology is None or positions.numel() == 0:
        return
    size, known = (norm if single else norm / math.sqrt(len(positions))), potential._size_of_positions
    if known is None or not known / GROWN <= size <= known * GROWN:
        first = positions.detach() if single else positions.detach()[0]
        potential.topology.require_unit(first.cpu().double().numpy())
        potential._size_of_positions = size


def hessian_vector_product(
    potential: Potential, positions: Float[Tensor, "batch *shape"], vectors: Float[Tensor, "batch *shape"]
) -> Float[Tensor, "batch *shape"]:
    r"""The energy's second derivatives at positions (nm) times vectors, kJ/mol/nm^2 times their unit.

    .. math:: H v = \frac{\partial}{\partial x} \left( v \cdot \frac{\partial U}{\partial x} \right)

    Reverse over reverse: compilers have been seen to give wrong forward-over-reverse derivatives. Nothing is checked.
    """
    with torch.enable_grad():
        positions = positions.detach().requires_grad_(True)
        energy = unchecked(potential, "energy")(positions)
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        (product,) = torch.autograd.grad((gradient * vectors).sum(), positions)
    return product


COPIES = 64
"""Rows of a Hessian that `hessian` computes at once."""


def hessian(potential: Potential, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape *shape"]:
    r"""Second derivatives of the energy, by differentiating the gradient backwards.

    .. math:: H_{ij} = \partial^2 U / \partial x_i \partial x_j

    A batch of copies of each configuration gives one row per copy.

    Args:
        potential: Any potential that can be differentiated twice.
        positions: nm; as `Potential.energy` takes them.

    Returns:
        kJ/mol/nm^2, without a graph; symmetric up to rounding; without the batch dimension of a single configuration.

    Raises:
        ConfigurationError: If the potential can be differentiated only once, or the positions are not what it needs.
        GeometryError: If a position is not finite.
    """
    question = require_positions(potential, positions)
    positions = question.positions
    energy = unchecked(potential, "energy")
    shape = tuple(potential.shape)
    directions = torch.eye(math.prod(shape), dtype=positions.dtype, device=positions.device)
    rows = []
    with torch.enable_grad():
        for configuration in positions.detach():
            for direction in torch.split(directions.reshape(-1, *shape), COPIES):
                copies = configuration.expand(direction.shape).clone().requires_grad_(True)
                (gradient,) = torch.autograd.grad(energy(copies).sum(), copies, create_graph=True)
                if not gradient.requires_grad:
                    raise ConfigurationError(
                        f"{type(potential).__name__} gives forces that cannot be differentiated, and so no Hessian. "
                        "Use finite differences of its forces."
                    )
                rows += torch.autograd.grad((gradient * direction).sum(), copies)
    return question.answer(torch.cat([directions.new_empty(0, *shape), *rows]).reshape(len(positions), *shape, *shape))
