"""A flow on a device: correctness first, then speeds beside the least time that arithmetic and memory allow.

Nothing here needs more than torch and this package: pydantic and lightning are for training as a command, and OpenMM is
for the force field; what cannot be measured because a package is missing is left out, and the result says so.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..core.engine import DynamicsSettings, Engine
from ..core.errors import SmoothflowError
from ..core.integrator import maxwell_boltzmann
from ..core.plugins import registry
from ..core.potential import Potential
from ..molecules.elements import masses
from ..potentials.captured import CapturedFlow
from ..potentials.flow_potential import FlowPotential
from ..potentials.force_field import CompiledForceField
from ..runs.progress import OnProgress, Progress, silent
from ..sampling.draws import SamplingPlan, draw_samples
from ..training.captured_step import CapturedStep
from ..training.clipping import Clipper
from ..training.compiled_step import LossAndGradient
from ..training.losses import damped, force_error, likelihood_and_forces
from .device_run import N_COUNTED, DeviceRun, Timing, operations, peak_memory, precision_name

MODEL = "ala2-smooth"

BATCHES = (1, 100, 1_000, 10_000, 100_000)
TRAINING_BATCHES = (256, 1_024, 8_192)
REPLICAS = (1, 100, 10_000)

N_COMPARED = 64
"""Configurations at which numbers are compared."""

COMPILING = 150.0
"""Seconds that are left for machine code: two functions in one precision."""

FORCE_WEIGHT, FORCE_DAMPING, AVERAGING = 5e-4, 2e4, 0.998
"""Those that ``smoothflow train`` takes by default."""


def measure_device(
    device: torch.device,
    seconds: float,
    output: Path,
    model: str = MODEL,
    on_progress: OnProgress = silent,
) -> dict[str, Any]:
    """Measure one device, and write the results after every figure.

    Args:
        device: Where torch computes.
        seconds: Time budget; sizes adapt to it, and what it leaves no time for is left out.
        output: JSON file, rewritten after every figure: a run that is killed leaves those it had.
        model: A flow of capped alanine.
        on_progress: Told of sections.

    Returns:
        The content of the file.
    """
    run = DeviceRun(device, seconds, output, model)
    sections = {
        "correctness": _correctness,
        "roofline": _roofline,
        "energy and forces": _forces,
        "samples": _samples,
        "force field": _force_field,
        "weighted samples": _weighted,
        "training step": _training,
        "dynamics": _dynamics,
        "machine code": _machine_code,
    }
    for done, (name, section) in enumerate(sections.items()):
        on_progress(Progress("Measuring", done, len(sections)))
        run.begin(name)
        try:
            section(run)
        except (SmoothflowError, torch.OutOfMemoryError) as error:
            run.leave_out(name, str(error).splitlines()[0])
    on_progress(Progress("Measuring", len(sections), len(sections)))
    run.content["finished"] = True
    run.write()
    return run.content


def _correctness(run: DeviceRun) -> None:
    """Everything on the device against float64 on the CPU, at samples of the flow."""
    cpu = torch.device("cpu")
    x = run.positions(N_COMPARED, torch.float64, cpu)
    energy, forces = run.flow.energy_and_forces(x)
    for dtype in (torch.float64, torch.float32):
        for way, flow in _ways(run.to_device(dtype)).items():
            found, found_forces = (v.double().cpu() for v in flow.energy_and_forces(x.to(run.device, dtype)))
            run.compare("energies", dtype, float((found - energy).abs().max() / energy.abs().max()), way)
            run.compare("forces", dtype, float((found_forces - forces).abs().max() / forces.abs().max()), way)
            with torch.no_grad():
                drawn, log_prob = flow.sample(N_COMPARED, torch.Generator(run.device).manual_seed(0))
                expected = run.flow.log_prob(drawn.double().cpu())
            difference = float((log_prob.double().cpu() - expected).abs().max())
            run.compare("log-densities of samples", dtype, difference, way)
    gradient = _loss_gradient(run.flow, x, forces / run.flow.kT)
    trained = run.to_device(torch.float32)
    found_gradient = _loss_gradient(trained, x.to(run.device, torch.float32), (forces / run.flow.kT).to(run.device))
    run.compare(
        "gradient of the loss", torch.float32, float((found_gradient - gradient).abs().max() / gradient.abs().max())
    )
    energy, forces = run.force_field(cpu).energy_and_forces(x)
    found, found_forces = (v.cpu() for v in run.force_field(run.device).energy_and_forces(x.to(run.device)))
    run.compare("force field, energies", torch.float64, float((found - energy).abs().max() / energy.abs().max()))
    run.compare("force field, forces", torch.float64, float((found_forces - forces).abs().max() / forces.abs().max()))


def _roofline(run: DeviceRun) -> None:
    """The best rates of multiplying large matrices and of copying a large array."""
    on_cpu = run.device.type == "cpu"
    size = 1024 if on_cpu else 8192
    found: dict[str, Any] = {"rows of the matrices": size}
    for dtype in (torch.float32, torch.float64):
        a, b = (torch.rand(size, size, device=run.device, dtype=dtype) for _ in range(2))
        run.peaks[dtype] = 2 * size**3 / run.timed(partial(torch.matmul, a, b), 0.3).minimum
        found[f"{precision_name(dtype)}, operations per second"] = run.peaks[dtype]
    source = torch.empty(2**26 if on_cpu else 2**31, dtype=torch.uint8, device=run.device).zero_()
    target = torch.empty_like(source)
    run.bandwidth = 2 * len(source) / run.timed(partial(target.copy_, source), 0.5).minimum
    found["bytes per second"] = run.bandwidth
    run.content["roofline"] = found
    run.write()


def captures(device: torch.device) -> bool:
    """Whether work that is recorded and replayed is faster there."""
    return device.type == "cuda"


def _ways(flow: FlowPotential) -> dict[str, FlowPotential]:
    """The ways in which the flow can be evaluated on the device, by name."""
    return {"eager": flow, **({"captured": CapturedFlow(flow)} if captures(flow.device) else {})}


def _forces(run: DeviceRun) -> None:
    _measure_forces(run, _ways(run.to_device(torch.float32)))


def _machine_code(run: DeviceRun) -> None:
    """Compiled, and on a GPU captured as well; it takes minutes, and comes last."""
    if run.left() < COMPILING:
        run.leave_out("machine code", f"takes {COMPILING:.0f} s to compile, of {max(run.left(), 0):.0f} s left")
        return
    flow = run.to_device(torch.float32)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        begin = time.perf_counter()
        compiled = flow.compile(Path(folder) / "flow.pt2")
        seconds = time.perf_counter() - begin
        if compiled is flow:
            run.leave_out("machine code", str(said[-1].message))
            return
        run.content["compiling"] = seconds
        _measure_forces(run, {"compiled": compiled})


def _measure_forces(run: DeviceRun, ways: Mapping[str, Potential]) -> None:
    flow = run.to_device(torch.float32)
    per_frame = operations(partial(flow.energy_and_forces, run.positions(N_COUNTED, torch.float32, run.device)))
    n_atoms = flow.shape[0]
    for done, (way, potential) in enumerate(ways.items()):

        def measure(size: int, way: str = way, potential: Potential = potential) -> tuple[float, float]:
            x = run.positions(size, torch.float32, run.device)
            return run.measured(
                "energy and forces",
                "one call",
                way,
                torch.float32,
                size,
                partial(potential.energy_and_forces, x),
                operations=per_frame * size / N_COUNTED,
                bytes=2 * run.weights(torch.float32) + size * 4 * (2 * 3 * n_atoms + 1),
            )

        run.sizes(f"energy and forces, {way}", BATCHES, measure, 1 / (len(ways) - done))


def _samples(run: DeviceRun) -> None:
    generator = torch.Generator(run.device).manual_seed(0)

    def draw(flow: FlowPotential, n: int) -> None:
        with torch.no_grad():
            flow.sample(n, generator)

    ways = _ways(run.to_device(torch.float32))
    per_sample = operations(partial(draw, ways["eager"], N_COUNTED))
    for done, (way, flow) in enumerate(ways.items()):

        def measure(size: int, way: str = way, flow: FlowPotential = flow) -> tuple[float, float]:
            return run.measured(
                "samples",
                "with log-density",
                way,
                torch.float32,
                size,
                partial(draw, flow, size),
                operations=per_sample * size / N_COUNTED,
                bytes=run.weights(torch.float32) + size * 4 * (3 * flow.shape[0] + 1),
            )

        run.sizes(f"samples, {way}", (100, 1_000, 10_000, 50_000), measure, 1 / (len(ways) - done))


def _force_field(run: DeviceRun) -> None:
    potential = run.force_field(run.device)
    # in recorded work, operations would not be seen
    counted = potential.force_field if isinstance(potential, CompiledForceField) else potential
    x = run.positions(N_COUNTED, torch.float64, run.device)

    def energy(positions: Tensor) -> Tensor:
        with torch.no_grad():
            return potential.energy(positions)

    def counted_energy(positions: Tensor) -> Tensor:
        with torch.no_grad():
            return counted.energy(positions)

    calls: dict[str, tuple[Callable[[Tensor], object], Callable[[Tensor], object], int]] = {
        "energies": (energy, counted_energy, 3 * potential.shape[0] + 1),
        "energies and forces": (potential.energy_and_forces, counted.energy_and_forces, 6 * potential.shape[0] + 1),
    }
    for done, (what, (call, eager, numbers)) in enumerate(calls.items()):
        per_frame = operations(partial(eager, x))

        def measure(
            size: int,
            what: str = what,
            call: Callable[[Tensor], object] = call,
            numbers: int = numbers,
            per_frame: int = per_frame,
        ) -> tuple[float, float]:
            positions = run.positions(size, torch.float64, run.device)
            return run.measured(
                "force field",
                what,
                "captured" if isinstance(potential, CompiledForceField) else "eager",
                torch.float64,
                size,
                partial(call, positions),
                share=0.1,
                operations=per_frame * size / N_COUNTED,
                bytes=size * 8 * numbers,
            )

        run.sizes(f"force field, {what}", (1, 1_000, 10_000, 50_000), measure, 1 / (len(calls) - done))


def _weighted(run: DeviceRun) -> None:
    """``smoothflow sample --reference``: drawn, weighted and written."""
    ways = _ways(run.to_device(torch.float32))
    way, flow = list(ways.items())[-1]
    target = run.force_field(run.device)
    seconds, n = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(20):
            # as many as take a third of the time that is left
            n = 2_000 if not seconds else min(2 * 10**6, int(n * max(1.0, run.left() / 3 / seconds)))
            begin = time.perf_counter()
            draw_samples(flow, SamplingPlan(Path(folder) / f"{number}.h5", n, number, target))
            seconds = time.perf_counter() - begin
            # the first one warms up
            if number and run.left() < 2 * seconds:
                break
        run.figure(
            "weighted samples",
            "drawn in float32, weighted in float64, file written",
            way,
            torch.float32,
            n,
            Timing(seconds, seconds, 1),
        )


def _loss(flow: FlowPotential, positions: Tensor, forces: Tensor) -> Tensor:
    return _frame_loss(flow, {"positions": positions, "forces": forces.to(positions)})[1]


def _frame_loss(flow: FlowPotential, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """The terms of frames and the loss of ``smoothflow train``; forces are in kT/nm."""
    nll, found = likelihood_and_forces(flow, batch["positions"])
    force = damped(force_error(found, batch["forces"]), FORCE_DAMPING)
    return {"nll": nll, "force": force}, (nll + FORCE_WEIGHT * force).mean()


def _loss_gradient(flow: FlowPotential, positions: Tensor, forces: Tensor) -> Tensor:
    parameters = [p.requires_grad_(True) for p in flow.parameters()]
    try:
        found = torch.autograd.grad(_loss(flow, positions, forces), parameters)
    finally:
        flow.requires_grad_(False)
    return torch.cat([g.detach().double().cpu().flatten() for g in found])


def _training(run: DeviceRun) -> None:
    flow = run.to_device(torch.float32).requires_grad_(True)
    averaged = AveragedModel(flow, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING))  # type: ignore[no-untyped-call]
    averaged.requires_grad_(False)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.0, fused=True)
    target = run.force_field(run.device)

    def step(positions: Tensor, forces: Tensor) -> None:
        optimizer.zero_grad()
        _loss(flow, positions, forces).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        averaged.update_parameters(flow)

    def batch(size: int) -> tuple[Tensor, Tensor]:
        positions = run.positions(size, torch.float64, run.device)
        return positions.float(), (target.energy_and_forces(positions)[1] / flow.kT).float()

    per_frame = operations(partial(step, *batch(N_COUNTED)))

    def measure(way: str, prepared: Callable[[int], Callable[[], object]], size: int) -> tuple[float, float]:
        return run.measured(
            "training step",
            "likelihood and forces, Adam, averaging",
            way,
            torch.float32,
            size,
            prepared(size),
            operations=per_frame * size / N_COUNTED,
            bytes=13 * run.weights(torch.float32) + size * 4 * 6 * flow.shape[0],
        )

    def eager(size: int) -> Callable[[], object]:
        return partial(step, *batch(size))

    share = 0.5 if captures(run.device) else 1.0
    run.sizes("training step, eager", TRAINING_BATCHES, partial(measure, "eager", eager), share)
    if not captures(run.device):
        return
    captured_optimizer = torch.optim.Adam(flow.parameters(), lr=0.0, fused=True, capturable=True)
    recorded = CapturedStep(
        LossAndGradient(flow, _frame_loss),
        captured_optimizer,
        list(averaged.module.parameters()),
        averaged.n_averaged,
        AVERAGING,
        0,
        Clipper(),
    )

    def captured(size: int) -> Callable[[], object]:
        positions, forces = batch(size)
        frames = torch.arange(size, device=run.device)
        return partial(recorded, {"positions": positions, "forces": forces}, frames)

    run.sizes("training step, captured", TRAINING_BATCHES, partial(measure, "captured", captured))


def _dynamics(run: DeviceRun) -> None:
    """Steps of all replicas at once, with our own engine."""
    flow = run.to_device(torch.float32)
    assert flow.topology is not None
    mass = masses(flow.topology).to(run.device, torch.float32)
    counted = operations(partial(flow.energy_and_forces, run.positions(N_COUNTED, torch.float32, run.device)))
    engine = registry().engine("native")()
    ways = _ways(flow)
    for done, (way, potential) in enumerate(ways.items()):
        measure = partial(_measure_steps, run, engine, way, potential, mass, counted)
        run.sizes(f"dynamics, {way}", REPLICAS, measure, 1 / (len(ways) - done))


def _measure_steps(
    run: DeviceRun, engine: Engine, way: str, flow: FlowPotential, mass: Tensor, counted: int, size: int
) -> tuple[float, float]:
    """Seconds and bytes of a short run with a number of replicas."""
    x = run.positions(size, torch.float32, run.device)
    generator = torch.Generator(run.device).manual_seed(0)
    velocities = maxwell_boltzmann(mass, size, flow.temperature, generator)
    n_steps = 20

    with peak_memory(run.device) as peak:
        # a step is recorded once for a run
        advance = engine.begin(flow, mass, x, velocities, DynamicsSettings(n_steps, 0.001, report_every=n_steps))
        timing = run.timed(partial(advance, n_steps))
        memory = peak()
    run.figure(
        "dynamics",
        "velocity Verlet, 20 steps of 1 fs",
        way,
        torch.float32,
        size,
        timing,
        repeats=n_steps,
        operations=n_steps * counted * size / N_COUNTED,
        bytes=n_steps * (2 * run.weights(torch.float32) + size * 4 * 2 * 3 * 3 * flow.shape[0]),
        memory=memory,
    )
    return timing.median, memory
