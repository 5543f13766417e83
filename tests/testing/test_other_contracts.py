"""Layers, potentials and integrators: sound ones pass, broken ones fail on the clause that is about it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from closed_forms import Springs
from smoothflow.core.architecture import FlowSettings
from smoothflow.core.conditioners import Conditioner, MLPConditioner
from smoothflow.core.errors import ConfigurationError, ConformanceError
from smoothflow.core.integrator import Integrator, State
from smoothflow.core.layers import Coupling, Layer
from smoothflow.core.manifolds import Circle, Column, Interval, Line, Product
from smoothflow.core.potential import Potential
from smoothflow.core.topology import Atom, Topology
from smoothflow.integrators.langevin import Langevin
from smoothflow.integrators.velocity_verlet import VelocityVerlet
from smoothflow.testing import (
    INTEGRATOR_CLAUSES,
    LAYER_CLAUSES,
    check_integrator,
    check_layer,
    check_potential,
    engines,
    examine_integrator,
    examine_potential,
    integrators,
    layers,
    potentials,
    transforms,
)
from torch import Tensor

DOMAIN = Product(
    (
        Column("a", Circle()),
        Column("b", Circle()),
        Column("c", Interval()),
        Column("d", Interval()),
        Column("e", Line()),
    )
)


def coupling() -> Coupling:
    """One coupling: columns b, d and e given a and c."""
    settings = FlowSettings({"circle": "smooth", "interval": "spline", "line": "affine"}, hidden=6, n_hidden_layers=1)
    transforms = settings.make_transforms()
    initial = Coupling.initial_outputs(DOMAIN, [1, 3, 4], transforms)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        conditioner = MLPConditioner(DOMAIN.select([0, 2]), initial, 6, 1, 2)
    return Coupling(DOMAIN, [1, 3, 4], [0, 2], transforms, conditioner)


class BrokenLayer(Layer):
    """A coupling with one direction replaced."""

    def __init__(
        self,
        encode: Callable[[Coupling, Tensor], tuple[Tensor, Tensor]] = Coupling.encode,
        decode: Callable[[Coupling, Tensor], tuple[Tensor, Tensor]] = Coupling.decode,
    ) -> None:
        super().__init__()
        self.domain = self.codomain = DOMAIN
        self.inner = coupling()
        self.replaced = (encode, decode)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.replaced[0](self.inner, x)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.replaced[1](self.inner, z)


class Detached(Conditioner):
    def __init__(self, inner: Conditioner) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.inner(x.detach())
        return outputs


def detached(layer: Coupling) -> Coupling:
    layer.conditioner = Detached(layer.conditioner)
    return layer


def negative_log_det(layer: Coupling, x: Tensor) -> tuple[Tensor, Tensor]:
    value, log_abs_det = Coupling.encode(layer, x)
    return value, -log_abs_det


def slightly_off(layer: Coupling, z: Tensor) -> tuple[Tensor, Tensor]:
    value, log_abs_det = Coupling.decode(layer, z)
    return value + 1e-8, log_abs_det


def outside(layer: Coupling, x: Tensor) -> tuple[Tensor, Tensor]:
    value, log_abs_det = Coupling.encode(layer, x)
    return value + 2, log_abs_det


def seamed(layer: Coupling, x: Tensor) -> tuple[Tensor, Tensor]:
    value, log_abs_det = Coupling.encode(layer, x)
    shift = torch.zeros_like(value)
    shift[:, 4] = 1
    # adds a multiple of a circle's raw value to the line: the Jacobian determinant stays
    return value + 0.1 * x[:, :1] * shift, log_abs_det


def unseamed(layer: Coupling, z: Tensor) -> tuple[Tensor, Tensor]:
    shift = torch.zeros_like(z)
    shift[:, 4] = 1
    return Coupling.decode(layer, z - 0.1 * z[:, :1] * shift)


def flattened(layer: Coupling, x: Tensor) -> tuple[Tensor, Tensor]:
    value, log_abs_det = Coupling.encode(layer, x)
    return value, log_abs_det.sum()


def mixing(layer: Coupling, x: Tensor) -> tuple[Tensor, Tensor]:
    value, log_abs_det = Coupling.encode(layer, x)
    return value + 1e-6 * x[:1].detach(), log_abs_det


class Unpicklable(BrokenLayer):
    def __init__(self) -> None:
        super().__init__()
        self.secret = lambda: None


def bent_graph(layer: Coupling, x: Tensor) -> tuple[Tensor, Tensor]:
    """Values and first derivatives are right, second ones are not."""
    value, log_abs_det = Coupling.encode(layer, x)
    return value + (x - x.detach()) ** 2, log_abs_det


def otherwise_compiled(layer: Coupling, x: Tensor) -> tuple[Tensor, Tensor]:
    value, log_abs_det = Coupling.encode(layer, x)
    return value, log_abs_det + 1e-6 if torch.compiler.is_compiling() else log_abs_det


@pytest.mark.parametrize("clause", LAYER_CLAUSES)
def test_a_coupling_keeps_the_contract(clause: str) -> None:
    check_layer(coupling(), clauses=[clause])


@pytest.mark.parametrize(
    ("layer", "clause"),
    [
        (BrokenLayer(encode=flattened), "kept"),
        (BrokenLayer(encode=outside), "image"),
        (BrokenLayer(encode=mixing), "determinism"),
        (BrokenLayer(encode=negative_log_det), "log-det"),
        (BrokenLayer(decode=slightly_off), "round-trip"),
        (BrokenLayer(encode=seamed, decode=unseamed), "seam"),
        (Unpicklable(), "pickling"),
        (detached(coupling()), "gradients"),
        (BrokenLayer(encode=bent_graph), "second-gradients"),
        (BrokenLayer(encode=otherwise_compiled), "compilation"),
    ],
    ids=["flattened", "outside", "mixing", "sign", "off", "seam", "lambda", "detached", "bent", "compiled"],
)
def test_a_broken_layer_fails_on_the_right_clause(layer: Layer, clause: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_layer(layer, clauses=LAYER_CLAUSES[: LAYER_CLAUSES.index(clause) + 1])
    assert caught.value.clause == clause, str(caught.value)


def test_a_layer_on_a_half_line_needs_points() -> None:
    layer = coupling()
    layer.domain = Product((Column("bond", Interval(0.0, float("inf"))), *DOMAIN.columns[1:]))
    with pytest.raises(ConfigurationError, match=r'"bond".*pass points'):
        check_layer(layer)


TRIATOMIC = Topology(tuple(Atom(e, e, "MOL", 0) for e in ("O", "H", "H")), ((0, 1), (0, 2)))


class Molecule(Springs):
    """Three springs; the subclasses break it."""

    def __init__(self) -> None:
        super().__init__([(0, 1), (1, 2), (0, 2)], 0.1, 1000.0, TRIATOMIC)


class Doubled(Molecule):
    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        energy, forces = super().energy_and_forces(positions)
        return energy, 2 * forces


class Rotational(torch.autograd.Function):
    """Zero energy with a force that is not a gradient."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, positions: Tensor) -> Tensor:
        ctx.save_for_backward(positions)
        return positions.new_zeros(len(positions))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradient: Tensor) -> Tensor:
        (positions,) = ctx.saved_tensors  # type: ignore[attr-defined]
        swirl = 300 * torch.stack([-positions[..., 1], positions[..., 0], 0 * positions[..., 2]], dim=-1)
        return gradient[0][:, None, None] * swirl


class Swirling(Molecule):
    def energy(self, positions: Tensor) -> Tensor:
        return super().energy(positions) + Rotational.apply(positions)  # type: ignore[no-untyped-call, no-any-return]


class Held(Molecule):
    def energy(self, positions: Tensor) -> Tensor:
        return super().energy(positions) + positions.square().sum((1, 2))


class Pushed(Molecule):
    """A wrong sum of right pairs: the oxygen's share of one force is lost."""

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        energy, forces = super().energy_and_forces(positions)
        return energy, forces * torch.tensor([0.9, 1.0, 1.0])[:, None].to(forces)


class Cornered(Molecule):
    """The force jumps where a bond has its length."""

    def energy(self, positions: Tensor) -> Tensor:
        return super().energy(positions) + 10 * (self.distances(positions) - 0.1).abs().sum(1)


class Kinked(Molecule):
    """Springs twice as stiff when stretched: the force is continuous, its gradient jumps."""

    def energy(self, positions: Tensor) -> Tensor:
        return super().energy(positions) + 500 * (self.distances(positions) - 0.1).clamp(min=0).square().sum(1)


class Averaged(Molecule):
    def energy(self, positions: Tensor) -> Tensor:
        energy = super().energy(positions)
        return energy + energy[0].detach()


class Attached(Molecule):
    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        positions = positions.detach().requires_grad_(True)
        energy = self.energy(positions)
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        return energy, -gradient


class Silent(Molecule):
    """Goes around the check that every method of a class has, by a function of the object alone."""

    def __init__(self) -> None:
        super().__init__()
        self.energy_and_forces = lambda x: Molecule.energy_and_forces(self, x.nan_to_num())  # type: ignore[method-assign]


def water(n: int = 4) -> Tensor:
    noise = torch.randn((n, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.05]], dtype=torch.float64) + 0.01 * noise


def test_a_potential_keeps_the_contract_and_its_stiffness_is_reported() -> None:
    report = check_potential(Molecule(), water())
    numbers = {result.clause: result.numbers for result in report.results}
    expected = max(
        float(torch.linalg.eigvalsh(torch.func.hessian(lambda q: Molecule().energy(q[None])[0])(x).reshape(9, 9))[-1])
        for x in water()[:2]
    )
    # finite differences with a step of 1e-4 nm
    assert numbers["curvature"]["largest force gradient"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("potential", "clause"),
    [
        (Attached(), "kept"),
        (Doubled(), "consistency"),
        (Averaged(), "determinism"),
        (Swirling(), "forces"),
        (Held(), "invariance"),
        (Silent(), "bad-values"),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_a_broken_potential_fails_on_the_right_clause(potential: Potential, clause: str) -> None:
    report = examine_potential(potential, water())
    broken = [result.clause for result in report.results if result.error is not None]
    assert broken[0] == clause, str(report)


def test_a_force_that_is_not_a_gradient_has_an_asymmetric_jacobian() -> None:
    report = examine_potential(Swirling(), water(), clauses=["curvature"])
    assert report.results[0].error is not None
    assert "not symmetric" in str(report.results[0].error)


def test_a_net_force_is_found_by_its_clause() -> None:
    report = examine_potential(Pushed(), water(), clauses=["net-force"])
    assert "net force on a molecule is not zero" in str(report.results[0].error)


@pytest.mark.parametrize(("potential", "what"), [(Cornered(), "forces"), (Kinked(), "force gradients")])
def test_a_claim_of_smoothness_is_checked(potential: Potential, what: str) -> None:
    # bonds at their lengths, within half of a path
    positions = 0.1 * torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0.5, 0.75**0.5, 0]]] * 2, dtype=torch.float64) + 1e-4
    report = examine_potential(potential, positions, clauses=["continuity"], smooth=True)
    assert f"the {what} jump along a straight path" in str(report.results[0].error)
    # who claims nothing breaks nothing
    assert examine_potential(potential, positions, clauses=["continuity"]).results == ()
    assert check_potential(Molecule(), water(), smooth=True).passed


class Stale(VelocityVerlet):
    def step(self, potential: Potential, state: State) -> State:
        return replace(super().step(potential, state), forces=state.forces)


class FirstOrder(VelocityVerlet):
    """Explicit Euler."""

    def step(self, potential: Potential, state: State) -> State:
        positions = state.positions + self.timestep * state.velocities
        velocities = state.velocities + self.timestep * state.forces / state.masses[:, None]
        energy, forces = potential.energy_and_forces(positions)
        time = state.time + self.timestep
        return replace(
            state, positions=positions, velocities=velocities, forces=forces, potential_energy=energy, time=time
        )


class Timeless(VelocityVerlet):
    def step(self, potential: Potential, state: State) -> State:
        return replace(super().step(potential, state), time=state.time)


class Pushing(VelocityVerlet):
    """Second order in a well, but the mean force on the molecule is not left at zero."""

    def step(self, potential: Potential, state: State) -> State:
        after = super().step(potential, state)
        push = 1e-6 * (state.positions.abs().amax((1, 2)) > 0.05)[:, None, None]
        return replace(
            after, velocities=after.velocities + push * (potential.energy(state.positions) > 0)[:, None, None]
        )


class Forgetful(VelocityVerlet):
    """Treats every second step differently, and does not save which one is next."""

    odd = False

    def step(self, potential: Potential, state: State) -> State:
        self.odd = not self.odd
        after = super().step(potential, state)
        return replace(after, velocities=after.velocities * (1 + 1e-12 * self.odd))


def thermostat(temperature: float, seeded: bool = True) -> Callable[[float], Integrator]:
    shared = torch.Generator().manual_seed(2)

    def make(timestep: float) -> Integrator:
        return Langevin(timestep, temperature, 1.0, torch.Generator().manual_seed(2) if seeded else shared)

    return make


class Rescaling(VelocityVerlet):
    """Velocities are rescaled to the temperature at each step: the mean is right, the ensemble is not canonical."""

    def step(self, potential: Potential, state: State) -> State:
        after = super().step(potential, state)
        factor = (1 + 0.02 * (300.0 / after.temperature - 1)).sqrt()
        return replace(after, velocities=after.velocities * factor[:, None, None])


def test_velocity_verlet_and_langevin_keep_the_contract() -> None:
    report = check_integrator(VelocityVerlet)
    numbers = {result.clause: result.numbers for result in report.results}
    assert "temperature" not in numbers
    # the closed form of a harmonic well is approached to second order
    assert numbers["accuracy"]["order"] == pytest.approx(2, abs=0.05)
    assert check_integrator(thermostat(300.0), temperature=300.0).passed


@pytest.mark.parametrize(
    ("integrator", "temperature", "clause"),
    [
        (Timeless, None, "kept"),
        (Stale, None, "current"),
        (thermostat(300.0, seeded=False), 300.0, "determinism"),
        (Forgetful, None, "restart"),
        (FirstOrder, None, "accuracy"),
        (Pushing, None, "conservation"),
        (thermostat(309.0), 300.0, "temperature"),
        (thermostat(291.0), 300.0, "temperature"),
        (Rescaling, 300.0, "temperature"),
    ],
    ids=["Timeless", "Stale", "unseeded", "Forgetful", "FirstOrder", "Pushing", "too hot", "too cold", "rescaling"],
)
def test_a_broken_integrator_fails_on_the_right_clause(
    integrator: Callable[[float], Integrator], temperature: float | None, clause: str
) -> None:
    clauses = INTEGRATOR_CLAUSES[: INTEGRATOR_CLAUSES.index(clause) + 1]
    report = examine_integrator(integrator, temperature, clauses)
    broken = [result.clause for result in report.results if result.error is not None]
    assert broken[:1] == [clause], str(report)


def test_each_clause_says_what_a_break_does_and_where_to_look() -> None:
    contracts = (transforms._CLAUSES, layers._CLAUSES, potentials._CLAUSES, integrators._CLAUSES, engines._CLAUSES)
    for clause in (clause for contract in contracts for clause in contract):
        sentences = clause.advice.split(". ")
        assert len(sentences) >= 2, clause.name
    report = examine_integrator(Timeless, clauses=["kept"])
    assert str(report.results[0].error).endswith("and add the time step to the time.")
