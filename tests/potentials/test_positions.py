"""Positions of every kind, given to every kind of potential: one check says what all of them take."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.calculators.lj import LennardJones
from smoothflow import FlowPotential, Potential
from smoothflow.backends.engines.ase import ASEPotential
from smoothflow.backends.engines.openmm import OpenMMPotential
from smoothflow.core.errors import ConfigurationError, GeometryError, TopologyError
from smoothflow.core.potential import hessian, takes_positions, unchecked
from smoothflow.core.topology import Atom, Topology
from smoothflow.potentials.force_field import ForceField
from smoothflow.potentials.parallel import ParallelPotential
from smoothflow.potentials.shipped import load
from smoothflow.potentials.sums import SumPotential
from smoothflow.potentials.toys import TOYS
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

F32, F64 = torch.float32, torch.float64


class Spring(Potential):
    """As a third party writes it: nothing but a shape and an energy."""

    shape = (3, 3)

    def energy(self, positions: Tensor) -> Tensor:
        assert positions.ndim == 3
        return positions.square().sum((1, 2)) + positions[:, 0, 0] * positions[:, 2, 1]


class Layered(Spring):
    """A subclass of a subclass that asks its parent, with float32 parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(9, 1)

    def energy(self, positions: Tensor) -> Tensor:
        return super().energy(positions) + self.linear(positions.flatten(1)).squeeze(-1)


class WithForces(Spring):
    """A subclass that has forces of its own."""

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        energy, forces = super().energy_and_forces(positions)
        return energy, 1.0 * forces


@pytest.fixture(scope="module")
def flow() -> FlowPotential:
    return load("ala2-affine")


@pytest.fixture(scope="module")
def amber() -> OpenMMPotential:
    from smoothflow.core.plugins import registry
    from smoothflow.molecules.shipped import molecule_path

    found = registry().provider("openmm")("amber99sbildn.xml,amber99_obc.xml", molecule_path("capped-alanine"))
    assert isinstance(found, OpenMMPotential)
    return OpenMMPotential(found.system, found.topology, "Reference")


@pytest.fixture(scope="module")
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


KINDS = [
    "flow",
    "flow-float32",
    "sum",
    "force-field",
    "force-field-float32",
    "openmm",
    "ase",
    "parallel",
    "toy",
    "rings",
]
KINDS += ["spring", "layered", "with-forces"]


@pytest.fixture(params=KINDS)
def potential(
    request: pytest.FixtureRequest, flow: FlowPotential, amber: OpenMMPotential, executor: ThreadPoolExecutor
) -> Potential:
    argon = ase.Atoms("Ar3", [[0, 0, 0], [3.8, 0, 0], [0, 3.9, 0]])
    kinds: dict[str, Callable[[], Potential]] = {
        "flow": lambda: flow,
        "flow-float32": lambda: load("ala2-affine", F32),
        "sum": lambda: SumPotential([flow, amber], [0.5, 0.5]),
        "force-field": lambda: ForceField.from_potential(amber),
        "force-field-float32": lambda: ForceField.from_potential(amber).to(F32),
        "openmm": lambda: amber,
        "ase": lambda: ASEPotential(LennardJones(sigma=3.4, epsilon=0.01, rc=20.0), argon),
        "parallel": lambda: ParallelPotential(ForceField.from_potential(amber), executor),
        "toy": TOYS["ramachandran"],
        "rings": TOYS["rings"],
        "spring": Spring,
        "layered": Layered,
        "with-forces": WithForces,
    }
    return kinds[request.param]()


@pytest.fixture
def x(potential: Potential, flow: FlowPotential) -> Tensor:
    """Three configurations in float64."""
    generator = torch.Generator().manual_seed(0)
    if potential.shape == (22, 3):
        with torch.no_grad():
            return flow.sample(3, generator)[0]
    spread = torch.rand((3, *potential.shape), generator=generator, dtype=F64)
    if potential.shape == (3, 3):
        return 0.05 * spread + 0.4 * torch.eye(3, dtype=F64)
    return spread


METHODS = ["energy", "energy_and_forces"]


def values(potential: Potential, method: str, positions: Any) -> tuple[Tensor, ...]:
    found = getattr(potential, method)(positions)
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("method", METHODS)
def test_one_configuration_gives_results_without_a_batch(potential: Potential, x: Tensor, method: str) -> None:
    batch, single = values(potential, method, x[:1]), values(potential, method, x[0])
    for many, one in zip(batch, single, strict=True):
        assert one.shape == many.shape[1:]
        torch.testing.assert_close(one, many[0], rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_arrays_of_numpy_give_the_tensors_that_tensors_do(potential: Potential, x: Tensor, method: str) -> None:
    expected = values(potential, method, x)
    array = x.numpy().copy()
    read_only = array.copy()
    read_only.flags.writeable = False
    backwards = np.ascontiguousarray(array[::-1])[::-1]
    for given in (array, read_only, backwards, array.astype(">f8"), array.astype(np.longdouble)):
        for found, right in zip(values(potential, method, given), expected, strict=True):
            assert isinstance(found, Tensor)
            torch.testing.assert_close(found.detach(), right.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_another_precision_is_converted_and_answered_in(potential: Potential, x: Tensor, method: str) -> None:
    for dtype in (F32, F64):
        # the same numbers in both precisions
        positions = x.to(F32).to(dtype)
        inside = values(potential, method, positions.to(potential.dtype))
        for found, right in zip(values(potential, method, positions), inside, strict=True):
            assert found.dtype == dtype
            torch.testing.assert_close(found.detach(), right.detach().to(dtype), rtol=0, atol=0)


def test_gradients_flow_through_a_conversion(potential: Potential, x: Tensor) -> None:
    for positions in (x.to(F32), x.to(F64)):
        leaf = positions.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(potential.energy(leaf).sum(), leaf)
        _, forces = potential.energy_and_forces(positions)
        assert gradient.dtype == positions.dtype
        # float32 rounds sums of some hundred terms
        torch.testing.assert_close(gradient, -forces, rtol=1e-3, atol=1e-4 * float(forces.abs().max()))


def test_no_configurations_have_no_energies(potential: Potential, x: Tensor) -> None:
    energy, forces = potential.energy_and_forces(x[:0])
    assert energy.shape == (0,)
    assert forces.shape == x[:0].shape


def wrong(shape: tuple[int, ...], x: Tensor) -> dict[str, tuple[Any, str]]:
    more = torch.cat([x, x[:, :1]], 1)
    return {
        "too many": (more, str(tuple(more.shape))),
        "too few": (x[:, 1:], str(tuple(x[:, 1:].shape))),
        "two batches": (x[None], str(tuple(x[None].shape))),
        "flat": (x.flatten(), r"\(\d+,\)"),
        "NumPy, too many": (more.numpy(), str(tuple(more.shape))),
        "integers": (torch.zeros(2, *shape, dtype=torch.int64), "torch.int64"),
        "NumPy integers": (np.zeros((2, *shape), dtype=int), "ndarray of int64"),
        "half precision": (x.half(), "torch.float16"),
        "NumPy in half precision": (x.numpy().astype(np.float16), "ndarray of float16"),
        "complex": (x.to(torch.complex128), "torch.complex128"),
        "a list": (x.tolist(), "an object of type list"),
        "None": (None, "NoneType"),
    }


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_positions_is_refused_with_what_is_needed(potential: Potential, x: Tensor, method: str) -> None:
    shape = ", ".join(map(str, potential.shape))
    for given, what in wrong(potential.shape, x).values():
        found = what if "\\" in what else what.replace("(", r"\(").replace(")", r"\)")
        message = rf"The positions .*{found}; the potential needs \(batch, {shape}\), or \({shape}\) for one"
        with pytest.raises(ConfigurationError, match=message):
            getattr(potential, method)(given)
    if len(x) > 1 and len(potential.shape) == 2:
        with pytest.raises(ConfigurationError, match="needs"):
            hessian(potential, x[:, 1:])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_positions_that_are_not_finite_are_refused(potential: Potential, x: Tensor, method: str, value: float) -> None:
    bad = x.clone()
    bad[1].view(-1)[4 if x[1].numel() > 4 else 1] = value
    atom = r"position of atom 1" if len(potential.shape) == 2 else "position"
    for given in (bad, bad.to(F32), bad.numpy()):
        with pytest.raises(GeometryError, match=rf"In configuration 1 the {atom}.* is not finite"):
            getattr(potential, method)(given)
    with pytest.raises(GeometryError, match=rf"^The {atom}.* is not finite"):
        getattr(potential, method)(bad[1])


def test_positions_on_another_device_are_refused(potential: Potential, x: Tensor) -> None:
    elsewhere = copy.copy(potential)
    elsewhere.device = "cuda"
    with pytest.raises(ConfigurationError, match=r"The positions are on cpu; .* on cuda"):
        elsewhere.energy(x)


def test_forces_exist_in_inference_mode(potential: Potential, x: Tensor) -> None:
    expected = potential.energy_and_forces(x)
    with torch.inference_mode():
        found = potential.energy_and_forces(x.clone())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_check_is_made_once_around_every_method(potential: Potential, x: Tensor) -> None:
    bare = unchecked(potential, "energy_and_forces")
    inside = x.to(potential.dtype)
    torch.testing.assert_close(bare(inside), potential.energy_and_forces(inside), rtol=0, atol=0)


TRACEABLE = ["flow", "force-field", "toy", "spring", "layered", "with-forces"]


@pytest.mark.parametrize("potential", TRACEABLE, indirect=True)
def test_torch_traces_and_transforms_the_public_energy(potential: Potential, x: Tensor) -> None:
    x = x.to(potential.dtype)
    energy, forces = potential.energy_and_forces(x)
    tolerance = {"rtol": 1e-4, "atol": 1e-3} if potential.dtype == F32 else {"rtol": 1e-9, "atol": 1e-7}
    gradient = torch.func.grad(lambda y: potential.energy(y).sum())
    torch.testing.assert_close(gradient(x), -forces, **tolerance)
    # one configuration after the other, without a batch dimension
    torch.testing.assert_close(torch.func.vmap(potential.energy)(x), energy, **tolerance)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(potential.energy))(x), -forces, **tolerance)
    for mode in ("real", "symbolic"):
        traced = make_fx(lambda y: potential.energy_and_forces(y), tracing_mode=mode, _allow_non_fake_inputs=True)(x)
        torch.testing.assert_close(traced(x.flip(0)), (energy.flip(0), forces.flip(0)), **tolerance)
    program = torch.export.export(copy.deepcopy(potential).requires_grad_(False), (x,))
    torch.testing.assert_close(program.module()(x.flip(0)), energy.flip(0), **tolerance)
    with pytest.warns((torch.jit.TracerWarning, DeprecationWarning)):
        scripted = torch.jit.trace(potential, x, check_trace=False)
    torch.testing.assert_close(scripted(x.flip(0)), energy.flip(0), **tolerance)


@pytest.mark.parametrize("potential", ["spring"], indirect=True)
def test_torch_compile_takes_the_public_energy_whole(potential: Potential, x: Tensor) -> None:
    compiled = torch.compile(potential.energy, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), potential.energy(x), rtol=0, atol=0)


def test_precision_and_device_are_declared_and_follow_the_potential(
    flow: FlowPotential, amber: OpenMMPotential
) -> None:
    declared = {
        Spring(): F64,
        Layered(): F32,
        flow: F64,
        load("ala2-affine", F32): F32,
        amber: F64,
        TOYS["rings"](): F64,
        SumPotential([load("ala2-affine", F32), amber]): F64,
        SumPotential([load("ala2-affine", F32)]): F32,
    }
    for potential, dtype in declared.items():
        assert (potential.dtype, potential.device) == (dtype, torch.device("cpu"))
        moved = copy.deepcopy(potential)
        for change, other in ((moved.float, F32), (moved.double, F64)):
            change()
            assert moved.dtype == other
        assert moved.to(F32).dtype == F32
        assert moved.to("meta").device == torch.device("meta")
    own = Spring()
    own.dtype = F32
    own.device = "meta"
    assert (own.dtype, own.device) == (F32, torch.device("meta"))


def test_a_sum_of_two_orders_of_one_molecule_is_refused(flow: FlowPotential) -> None:
    other = copy.copy(flow)
    other.topology = flow.topology.take([*range(12), 13, 12, *range(14, 22)])
    with pytest.raises(TopologyError, match="Exchange atoms 12 and 13 in potential 1 of the sum"):
        SumPotential([flow, other])


def test_a_decorator_around_an_energy_is_kept() -> None:
    def doubled(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def inner(self: Potential, positions: Tensor) -> Tensor:
            return 2 * method(self, positions)

        inner.__wrapped__ = method  # type: ignore[attr-defined]
        return inner

    class Double(Spring):
        energy = doubled(Spring.energy)

    x = torch.rand(2, 3, 3, dtype=F64)
    for ask in (Double().energy, unchecked(Double(), "energy")):
        torch.testing.assert_close(ask(x), 2 * Spring().energy(x), rtol=0, atol=0)


def test_other_methods_are_checked_where_they_ask_for_it(flow: FlowPotential) -> None:
    class Named(Spring):
        @takes_positions
        def spread(self, positions: Tensor) -> Tensor:
            return positions.var((1, 2))

    assert Named().spread(np.eye(3)).shape == ()
    with torch.no_grad():
        x, log_prob = flow.sample(2, torch.Generator().manual_seed(1))
    torch.testing.assert_close(flow.log_prob(x[0].numpy()), log_prob[0], rtol=1e-9, atol=1e-9)
    with pytest.raises(ConfigurationError, match="needs"):
        flow.log_prob(x[:, 1:])


def test_a_hessian_of_one_configuration_has_no_batch() -> None:
    x = torch.rand(2, 3, 3, dtype=F64)
    whole = hessian(Spring(), x)
    assert whole.shape == (2, 3, 3, 3, 3)
    torch.testing.assert_close(hessian(Spring(), x[1].numpy()), whole[1], rtol=0, atol=0)
    assert hessian(Spring(), x[:0]).shape == (0, 3, 3, 3, 3)


def test_atoms_are_named_where_a_position_is_not_finite() -> None:
    spring = Spring()
    spring.topology = Topology(tuple(Atom("O", f"O{i}", "OZO", 0) for i in range(3)), ())
    x = torch.zeros(3, 3, dtype=F64)
    x[2, 1] = torch.nan
    with pytest.raises(GeometryError, match=r"The position of atom 2 \(OZO1-O2\) is not finite"):
        spring.energy(x)


def test_old_pickles_of_potentials_know_their_precision(tmp_path: Path) -> None:
    layered = Layered().double()
    del layered.__dict__["_dtype"], layered.__dict__["_device"]
    torch.save(layered, tmp_path / "layered.pt")
    assert torch.load(tmp_path / "layered.pt", weights_only=False).dtype == F64


def test_a_potential_without_a_shape_says_that_it_lacks_one() -> None:
    class Shapeless(Potential):
        def energy(self, positions: Tensor) -> Tensor:
            return positions.sum((-1, -2))

    with pytest.raises(ConfigurationError, match="Shapeless does not say which shape"):
        Shapeless().energy(torch.zeros(1, 3, 3))


@pytest.mark.parametrize("name", ["ala2-smooth", "ala2-affine"])
@pytest.mark.parametrize("batch", [1, 3])
def test_positions_in_angstrom_are_refused_at_the_first_call_and_later(name: str, batch: int) -> None:
    model = load(name)
    positions, _ = model.sample(batch, torch.Generator().manual_seed(0))
    for _ in range(2):
        with pytest.raises(GeometryError, match="positions in Å seem to have been taken for nm"):
            model.energy_and_forces(10 * positions)
        with pytest.raises(GeometryError, match="positions in Å seem to have been taken for nm"):
            model.energy(10 * positions[0])
        assert bool(torch.isfinite(model.energy_and_forces(positions)[0]).all())


def test_a_molecule_far_from_the_origin_is_in_the_right_unit() -> None:
    model = load("ala2-affine")
    positions, _ = model.sample(2, torch.Generator().manual_seed(0))
    near, far = model.energy(positions), model.energy(positions + 50.0)
    # moved by 50 nm, float64 keeps 14 digits of a bond
    torch.testing.assert_close(far, near, rtol=1e-9, atol=1e-6)
