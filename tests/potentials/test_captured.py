"""Captured potentials: the numbers of the potential itself at configurations other than those that were recorded.

On the CPU traced graphs stand for CUDA graphs: that the work can be traced says that no step of it depends on values.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from closed_forms import QuarticChain
from smoothflow import CapturedPotential, FlowPotential
from smoothflow.core import capture
from smoothflow.core.errors import CompilationError, ConfigurationError, InversionError
from smoothflow.core.integrator import State
from smoothflow.core.inversion import completed, without_waiting
from smoothflow.core.potential import hessian, hessian_vector_product, unchecked
from smoothflow.core.solvers import SafeguardedNewton
from smoothflow.core.torch_internals import traced
from smoothflow.core.transforms import Transform
from smoothflow.integrators.langevin import Langevin
from smoothflow.integrators.velocity_verlet import VelocityVerlet
from smoothflow.potentials.captured import CapturedFlow
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

MakePotential = Callable[[str], FlowPotential]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


class Asking(QuarticChain):
    def energy(self, positions: Tensor) -> Tensor:
        return super().energy(positions) if float(positions.detach().sum()) < 1e9 else positions.sum((1, 2))


def chains(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn((n, 3, 3), generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    """Fewer steps of the root finder are traced sooner; at these configurations they are enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transform, "solver", SafeguardedNewton(queued_steps=9))
        yield


@pytest.fixture(scope="module")
def flow(make_potential: MakePotential) -> FlowPotential:
    return make_potential("smooth").requires_grad_(False)


@pytest.fixture(scope="module")
def captured_flow(flow: FlowPotential) -> CapturedFlow:
    captured = CapturedFlow(flow)
    # records are made at these
    x, _ = flow.sample(3, seed=100)
    captured.energy_and_forces(x)
    return captured


def test_energies_forces_and_likelihoods_are_those_of_the_flow(
    flow: FlowPotential, captured_flow: CapturedFlow
) -> None:
    x, log_prob = flow.sample(3, seed=0)
    energy, forces = flow.energy_and_forces(x)
    found = captured_flow.energy_and_forces(x)
    torch.testing.assert_close(found, (energy, forces), rtol=1e-13, atol=1e-10)
    torch.testing.assert_close(captured_flow.energy(x), energy, rtol=1e-13, atol=1e-10)
    torch.testing.assert_close(captured_flow.log_prob(x), log_prob, rtol=0, atol=1e-8)
    torch.testing.assert_close(captured_flow.log_prob(x[0]), log_prob[0], rtol=0, atol=1e-8)
    assert captured_flow.kT == flow.kT
    assert captured_flow.geometry == flow.geometry


@pytest.mark.parametrize("device", DEVICES)
def test_derivatives_of_a_captured_energy_are_those_of_the_potential(device: str) -> None:
    potential = QuarticChain()
    # by its number: positions are not on "cuda" but on "cuda:0"
    potential = potential.to(device)
    captured = CapturedPotential(potential)
    captured.energy_and_forces(chains(4, seed=1).to(device))
    x = chains(4).to(device).requires_grad_(True)
    (gradient,) = torch.autograd.grad(captured.energy(x).sum(), x, create_graph=True)
    torch.testing.assert_close(-gradient.detach(), potential.energy_and_forces(x.detach())[1], rtol=1e-13, atol=1e-12)
    vectors = chains(4, seed=2).to(device)
    (product,) = torch.autograd.grad((gradient * vectors).sum(), x)
    expected = torch.einsum("nijkl,nkl->nij", hessian(potential, x.detach()), vectors)
    torch.testing.assert_close(product, expected, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(captured.hessian_vector_product(x.detach(), vectors), expected, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(
        hessian(captured, x[0].detach()), hessian(potential, x[0].detach()), rtol=1e-12, atol=1e-10
    )


def test_samples_are_those_of_the_flow(flow: FlowPotential, captured_flow: CapturedFlow) -> None:
    with torch.no_grad():
        for seed in (0, 1):
            found, expected = captured_flow.sample(2, seed=seed), flow.sample(2, seed=seed)
            # the same operations; roots of the loop that asks have as many steps as they need
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-9)


def test_samples_with_derivatives_are_the_flow_s_own(make_potential: MakePotential) -> None:
    samples, _ = CapturedFlow(make_potential("affine")).sample(2, seed=0)
    assert samples.requires_grad


def test_samples_and_their_densities_depend_on_no_value_and_make_no_tensor_of_numbers(flow: FlowPotential) -> None:
    with without_waiting():
        graph = traced(flow.generate, [flow.flow.latent(1, seed=0)], symbolic=False)
    # traced at some latent vectors, right at others; what is made of Python's numbers cannot be recorded
    z = flow.flow.latent(1, seed=1)
    torch.testing.assert_close(graph(z), flow.generate(z), rtol=1e-12, atol=1e-9)
    assert not [node for node in graph.graph.nodes if "lift_fresh" in str(node.target)]


def test_energies_and_forces_make_no_tensor_of_numbers(flow: FlowPotential) -> None:
    x, _ = flow.sample(2, seed=0)
    graph = traced(unchecked(flow, "energy_and_forces"), [x.detach()], symbolic=False)
    assert not [node for node in graph.graph.nodes if "lift_fresh" in str(node.target)]


def test_samples_whose_roots_take_longer_are_made_again(
    make_potential: MakePotential, monkeypatch: pytest.MonkeyPatch
) -> None:
    potential = make_potential("smooth").requires_grad_(False)
    expected = potential.sample(20, seed=0)
    # of so few steps many roots are not found
    monkeypatch.setattr(Transform, "solver", SafeguardedNewton(queued_steps=6))
    z = potential.flow.latent(20, seed=0)
    with without_waiting():
        samples, log_prob = potential.generate(z)
    assert 0 < int(log_prob.isnan().sum()) < 20
    found = completed(potential.generate, z, samples, log_prob)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-9)


def test_a_root_that_does_not_exist_is_still_an_error_that_names_it(captured_flow: CapturedFlow) -> None:
    z = captured_flow.flow.latent(2, seed=0)
    z[1, -1] = torch.nan
    with torch.no_grad(), pytest.raises(InversionError, match=r"elements did not converge .* Worst: y = "):
        captured_flow.generate(z)


def test_weights_that_change_are_seen_and_a_move_is_followed(make_potential: MakePotential) -> None:
    potential = make_potential("affine").requires_grad_(False)
    captured = CapturedFlow(potential)
    x, _ = potential.sample(2, seed=0)
    before, _ = captured.energy_and_forces(x)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.mul_(1.01)
    changed, _ = captured.energy_and_forces(x)
    assert not torch.allclose(changed, before)
    torch.testing.assert_close(changed, potential.energy(x), rtol=1e-13, atol=1e-10)
    captured.to(torch.float32)
    assert captured.dtype == potential.dtype == torch.float32
    energy, _ = captured.energy_and_forces(x.float())
    # rounding of float32, at energies of 1e3 kJ/mol
    torch.testing.assert_close(energy.double(), changed, rtol=0, atol=0.05)


def test_batch_sizes_are_kept_up_to_the_limit_and_a_copy_records_anew() -> None:
    captured = CapturedPotential(QuarticChain(), limit=2)
    for n in (1, 2, 3, 1):
        x = chains(n)
        torch.testing.assert_close(captured.energy(x), QuarticChain().energy(x), rtol=1e-13, atol=1e-12)
    assert len(captured._captured["energy"]) == 2
    for again in (copy.deepcopy(captured), pickle.loads(pickle.dumps(captured))):
        assert (type(again), again.limit, again._captured) == (CapturedPotential, 2, {})
        torch.testing.assert_close(again.energy(chains(2)), QuarticChain().energy(chains(2)), rtol=1e-13, atol=1e-12)


def test_empty_batches_are_answered_without_a_record(captured_flow: CapturedFlow) -> None:
    x = torch.zeros((0, *captured_flow.shape), dtype=torch.float64)
    energy, forces = captured_flow.energy_and_forces(x)
    assert (energy.shape, forces.shape, captured_flow.energy(x).shape) == ((0,), x.shape, (0,))
    assert captured_flow.hessian_vector_product(x, x).shape == x.shape
    with torch.no_grad():
        assert captured_flow.sample(0, seed=0)[0].shape == x.shape


def test_what_cannot_be_captured_says_so() -> None:
    with pytest.raises(CompilationError, match="cannot be captured"):
        CapturedPotential(Asking()).energy_and_forces(chains(2))
    with pytest.raises(ConfigurationError, match="Give vectors like the positions"):
        CapturedPotential(QuarticChain()).hessian_vector_product(chains(2), chains(3))
    with pytest.raises(ConfigurationError, match="have shape"):
        CapturedPotential(QuarticChain()).energy(torch.zeros(2, 4, 3))


def test_a_record_with_other_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(function: Callable[..., tuple[Tensor, ...]], examples: object, symbolic: bool) -> object:
        return lambda *inputs: tuple(1.001 * x for x in function(*inputs))

    monkeypatch.setattr(capture, "traced", wrong)
    with pytest.raises(CompilationError, match="gives other numbers"):
        CapturedPotential(QuarticChain()).energy_and_forces(chains(2))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiling_for_a_gpu_captures_the_flow(make_potential: MakePotential, dtype: torch.dtype) -> None:
    here = make_potential("smooth").requires_grad_(False)
    x, _ = here.sample(16, seed=0)
    energy, forces = here.energy_and_forces(x)
    captured = make_potential("smooth").requires_grad_(False).to("cuda", dtype).compile()
    assert isinstance(captured, CapturedFlow)
    found_energy, found_forces = captured.energy_and_forces(x.to("cuda", dtype))
    # largest differences seen: 3e-4 kJ/mol, and 5e-5 of the largest force, in float32
    single = dtype == torch.float32
    torch.testing.assert_close(found_energy.cpu().double(), energy, rtol=0, atol=2e-2 if single else 1e-9)
    scale = float(forces.abs().max())
    torch.testing.assert_close(found_forces.cpu().double(), forces, rtol=0, atol=scale * (5e-4 if single else 1e-11))
    with torch.no_grad():
        samples, log_prob = captured.sample(1000, seed=1)
        torch.testing.assert_close(captured.log_prob(samples), log_prob, rtol=0, atol=0.5 if single else 1e-7)


@pytest.mark.cuda
def test_nothing_asks_the_device_between_the_beginning_and_the_end_of_sampling(make_potential: MakePotential) -> None:
    potential = make_potential("smooth").requires_grad_(False).to("cuda")
    z = potential.flow.latent(100, seed=0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with without_waiting(), torch.no_grad():
            potential.generate(z)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["smooth", "spline", "affine"])
def test_all_work_stays_on_the_device_of_the_flow_and_asks_for_no_value(
    make_potential: MakePotential, name: str
) -> None:
    # a copy: all potentials that are made share their coordinates
    potential = copy.deepcopy(make_potential(name)).requires_grad_(False)
    with FakeTensorMode():
        # without values: a question raises, and so does a tensor of the CPU that meets one of this device
        for module in potential.modules():
            for kind in (module._parameters, module._buffers):
                for key, value in kind.items():
                    if value is not None:
                        kind[key] = torch.empty(value.shape, dtype=value.dtype, device="meta")
        z = torch.empty(3, len(potential.flow.base.domain), dtype=torch.float64, device="meta")
        with without_waiting():
            positions, log_prob = potential.generate(z)
        energy, forces = unchecked(potential, "energy_and_forces")(positions)
        product = hessian_vector_product(potential, positions, forces)
        masses = torch.empty(len(forces[0]), dtype=torch.float64, device="meta")
        state = State(positions, torch.empty_like(forces), forces, energy, masses, 0.0)
        newton = VelocityVerlet(0.001).propagate(potential, state)
        langevin = Langevin(0.001, 300.0, 1.0, torch.Generator()).propagate(potential, state, torch.empty_like(forces))
        for tensor in (log_prob, energy, product, newton.velocities, langevin.velocities):
            assert tensor.device.type == "meta"
        with pytest.raises(RuntimeError, match="same device"):
            _ = energy + torch.zeros(3)
