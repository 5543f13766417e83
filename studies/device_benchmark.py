"""What a device makes of a flow: right numbers first, then speeds beside the least that arithmetic and memory take.

Nothing here needs more than torch and this package: pydantic and lightning are for training as a command, and OpenMM is
for the force field; what cannot be measured for want of a package is left out, and the result says so.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from ..core.engine import DynamicsSettings, Engine
from ..core.errors import FileFormatError, SmoothflowError
from ..core.files import write_atomically
from ..core.integrator import maxwell_boltzmann
from ..core.plugins import registry
from ..core.potential import Potential
from ..core.torch_internals import ElementCounter
from ..molecules.elements import masses
from ..molecules.shipped import molecule_path
from ..potentials.captured import CapturedFlow
from ..potentials.flow_potential import FlowPotential
from ..potentials.force_field import CompiledForceField
from ..potentials.reference import reference
from ..potentials.shipped import load_flow
from ..runs.progress import OnProgress, Progress, silent
from ..runs.provenance import commit, machine, versions
from ..sampling.draws import SamplingPlan, draw_samples
from ..training.captured_step import CapturedStep
from ..training.compiled_step import LossAndGradient
from ..training.losses import damped, force_error, likelihood_and_forces
from .report import Table

FORMAT = "smoothflow-device-benchmark"
SCHEMA = 1
MODEL = "ala2-smooth"
MOLECULE = "capped-alanine"
FORCE_FIELD = "torch:amber99sbildn.xml,amber99_obc.xml"

BATCHES = (1, 100, 1_000, 10_000, 100_000)
TRAINING_BATCHES = (256, 1_024, 8_192)
REPLICAS = (1, 100, 10_000)
N_COUNTED = 64
"""Configurations at which operations are counted; they grow with the number of configurations."""

N_COMPARED = 64
"""Configurations at which numbers are compared."""

LEAST_CALLS = 3
COMPILING = 150.0
"""Seconds that are left for machine code: two functions in one precision."""

FORCE_WEIGHT, FORCE_DAMPING, AVERAGING = 5e-4, 2e4, 0.998
"""Those that ``smoothflow train`` takes by default."""

MEMORY_SHARE = 0.6
"""Share of the device's memory that a larger batch may be expected to take."""

LIMITS = {
    ("forces", torch.float64): 1e-9,
    ("forces", torch.float32): 2e-3,
    ("energies", torch.float64): 1e-9,
    ("energies", torch.float32): 1e-4,
    ("log-densities of samples", torch.float64): 1e-6,
    ("log-densities of samples", torch.float32): 0.1,
    ("force field, energies", torch.float64): 1e-9,
    ("force field, forces", torch.float64): 1e-9,
    ("gradient of the loss", torch.float32): 1e-2,
}
"""Largest differences that rounding explains: of forces and energies relative to the largest, of log-densities in kT,
which float32 knows through positions alone; wrong code is off by its whole size."""

SHARES = {
    "correctness": 0.08,
    "roofline": 0.04,
    "energy and forces": 0.28,
    "samples": 0.14,
    "force field": 0.1,
    "weighted samples": 0.14,
    "training step": 0.12,
    "dynamics": 0.1,
    "machine code": 0.5,
}
"""The part of the time that each section may take; what one leaves over, the next ones have."""

FLOORS = (
    "A floor is the larger of operations / peak and bytes / bandwidth. Operations: those of matrix products, counted "
    "by torch.utils.flop_counter, and one for each element of each elementwise operation (a sine counts as one), over "
    f"one eager call with {N_COUNTED} configurations, times the batch. Peak: the best rate of a large matrix product "
    "in the same precision here, TF32 off. Bytes: the weights once for every pass over them (2 for forces, 1 for "
    "samples, 13 for a training step with Adam and averaging), and what goes in and comes out. Bandwidth: the best "
    "rate of copying a large array here, bytes read and written."
)


@dataclass(frozen=True)
class Timing:
    """Durations of one call, in seconds."""

    median: float
    minimum: float
    calls: int


def operations(call: Callable[[], object]) -> int:
    """Operations of a call: those of matrix products, and one for each element of elementwise operations."""
    with FlopCounterMode(display=False) as products, ElementCounter() as elements:
        call()
    return int(products.get_total_flops() + elements.total)


def measure_device(
    device: torch.device,
    seconds: float,
    output: Path,
    model: str = MODEL,
    on_progress: OnProgress = silent,
) -> dict[str, Any]:
    """Measure one device, and write what was found after every figure.

    Args:
        device: Where torch computes.
        seconds: How long it may take; sizes adapt to it, and what there is no time for is left out.
        output: JSON file, replaced as figures come: a run that is killed leaves those that it had.
        model: A flow of capped alanine.
        on_progress: Told of sections.

    Returns:
        What the file holds.
    """
    run = _Run(device, seconds, output, model)
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


class _Run:
    """What is measured, where, and how much time is left."""

    def __init__(self, device: torch.device, seconds: float, output: Path, model: str) -> None:
        self.device, self.output = device, output
        self.end = time.monotonic() + seconds
        self.section_end = self.end
        self.shares = dict(SHARES)
        self.model = model
        self.peaks: dict[torch.dtype, float] = {}
        self.bandwidth = math.nan
        self.flow = load_flow(model, torch.float64)
        if self.flow.shape != (22, 3):
            raise FileFormatError(f'"{model}" is not a flow of {MOLECULE}, which everything here is measured with.')
        parameters = sum(p.numel() for p in self.flow.parameters())
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "schema": SCHEMA,
            "finished": False,
            "device": device_name(device),
            "machine": {
                "processor": machine(),
                "load": os.getloadavg()[0],
                "system": platform.platform(terse=True),
                "python": platform.python_version(),
                "commit": commit() or "not a clone",
                "cuda": torch.version.cuda,
                **versions("smoothflow", "torch", "openmm"),
            },
            "minutes": seconds / 60,
            "model": {"name": Path(model).name, "parameters": parameters, "atoms": self.flow.shape[0]},
            "floors": FLOORS,
            "correctness": [],
            "roofline": {},
            "figures": [],
            "left_out": [],
        }
        self.write()

    def begin(self, section: str) -> None:
        """Give a section its part of the time that is left."""
        left = max(0.0, self.end - time.monotonic())
        share = self.shares[section] / sum(self.shares.values())
        del self.shares[section]
        self.section_end = time.monotonic() + share * left

    def left(self) -> float:
        """Seconds that the section has left."""
        return self.section_end - time.monotonic()

    def write(self) -> None:
        write_atomically(self.output, (json.dumps(self.content, indent=1) + "\n").encode())

    def leave_out(self, what: str, why: str) -> None:
        self.content["left_out"].append({"what": what, "why": why})
        self.write()

    def compare(self, what: str, dtype: torch.dtype, difference: float, way: str = "eager") -> None:
        """Note the largest difference of something."""
        limit = LIMITS[what, dtype]
        row = {"what": what, "way": way, "precision": _short(dtype), "difference": difference, "limit": limit}
        self.content["correctness"].append({**row, "holds": bool(difference <= limit)})
        self.write()

    def figure(
        self, section: str, what: str, way: str, dtype: torch.dtype, size: int, timing: Timing, **more: Any
    ) -> None:
        """Note how long something takes, with its floor if there is one.

        Args:
            section: The section.
            what: Of the section's figures.
            way: How it is computed: eager, captured, compiled.
            dtype: In which precision.
            size: Configurations in a call.
            timing: Of a call.
            more: ``operations`` and ``bytes`` of a call, ``memory`` in bytes, and whatever else is to be kept.
        """
        row: dict[str, Any] = {
            "section": section,
            "what": what,
            "way": way,
            "precision": _short(dtype),
            "size": size,
            "median": timing.median,
            "minimum": timing.minimum,
            "calls": timing.calls,
            "per_second": size * more.pop("repeats", 1) / timing.median,
            **more,
        }
        if "operations" in more and "bytes" in more:
            by_operations, by_bytes = more["operations"] / self.peaks[dtype], more["bytes"] / self.bandwidth
            row["floor"] = max(by_operations, by_bytes)
            row["bound"] = "operations" if by_operations >= by_bytes else "bytes"
        self.content["figures"].append(row)
        self.write()

    def sizes(
        self, what: str, sizes: Sequence[int], measure: Callable[[int], tuple[float, float]], share: float = 1.0
    ) -> None:
        """Measure growing sizes while time and memory allow.

        Args:
            what: For what is said of the sizes that are left out.
            sizes: Configurations, growing.
            measure: From a size to seconds of a call and its bytes of memory.
            share: Of the time that the section has left, what this may take.
        """
        end = time.monotonic() + share * self.left()
        seconds = memory = 0.0
        before = 1
        for size in sizes:
            growth = size / before
            # on a device that is not full, a larger batch takes no longer; one call to warm up, and three
            expected = seconds * (growth if self.device.type == "cpu" else 1) * (LEAST_CALLS + 1)
            left = max(0.0, end - time.monotonic())
            if expected > left:
                self.leave_out(f"{what}, {size}", f"would take {expected:.0f} s of {left:.0f} s left")
                return
            if memory * growth > MEMORY_SHARE * total_memory(self.device):
                self.leave_out(f"{what}, {size}", f"would take {memory * growth / 2**30:.0f} GiB of memory")
                return
            try:
                seconds, memory = measure(size)
            except torch.OutOfMemoryError:
                self.leave_out(f"{what}, {size}", "does not fit into the device's memory")
                return
            before = size

    def timed(self, call: Callable[[], object], share: float = 0.2) -> Timing:
        """Time a call again and again, after one to warm up, within a share of the section's time."""
        wait(self.device)
        call()
        wait(self.device)
        end = time.monotonic() + share * max(self.left(), 0.0)
        durations: list[float] = []
        while len(durations) < LEAST_CALLS or (time.monotonic() < end and len(durations) < 1000):
            begin = time.perf_counter()
            call()
            wait(self.device)
            durations.append(time.perf_counter() - begin)
        return Timing(statistics.median(durations), min(durations), len(durations))

    def to_device(self, dtype: torch.dtype) -> FlowPotential:
        """The flow in a precision, on the device."""
        return load_flow(self.model, dtype, self.device)

    def weights(self, dtype: torch.dtype) -> int:
        """Bytes of all weights."""
        return int(self.content["model"]["parameters"]) * dtype.itemsize

    def force_field(self, device: torch.device) -> Potential:
        return reference(FORCE_FIELD, molecule_path(MOLECULE), device=device)

    def positions(self, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Samples of the flow, the same on every device; many are the first thousand again."""
        with torch.no_grad():
            positions, _ = self.flow.sample(min(n, 1000), seed=0)
        return positions.repeat(-(-n // len(positions)), 1, 1)[:n].to(device, dtype)


def wait(device: torch.device) -> None:
    """Return once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """The name that its maker gives a device."""
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return f"{found.name}, {found.total_memory / 2**30:.0f} GiB, {found.multi_processor_count} multiprocessors"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads != 1 else ''}"


def total_memory(device: torch.device) -> float:
    """Bytes."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """Tells the largest number of bytes in use at once since the beginning of the block, beyond those in use then."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: float(torch.cuda.max_memory_allocated(device) - before)
        return
    resident = _resident("VmRSS")
    # Linux forgets the peak so far; elsewhere there is no such figure
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    yield lambda: max(0.0, _resident("VmHWM") - resident)


def _resident(name: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return 1024.0 * int(next(line for line in lines if line.startswith(name)).split()[1])


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _correctness(run: _Run) -> None:
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


def _roofline(run: _Run) -> None:
    """The best rates of multiplying large matrices and of copying a large array."""
    on_cpu = run.device.type == "cpu"
    size = 1024 if on_cpu else 8192
    found: dict[str, Any] = {"rows of the matrices": size}
    for dtype in (torch.float32, torch.float64):
        a, b = (torch.rand(size, size, device=run.device, dtype=dtype) for _ in range(2))
        run.peaks[dtype] = 2 * size**3 / run.timed(partial(torch.matmul, a, b), 0.3).minimum
        found[f"{_short(dtype)}, operations per second"] = run.peaks[dtype]
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
    """The flow as it can be evaluated on the device, by what that is called."""
    return {"eager": flow, **({"captured": CapturedFlow(flow)} if captures(flow.device) else {})}


def _forces(run: _Run) -> None:
    _measure_forces(run, _ways(run.to_device(torch.float32)))


def _machine_code(run: _Run) -> None:
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


def _measure_forces(run: _Run, ways: Mapping[str, Potential]) -> None:
    flow = run.to_device(torch.float32)
    per_frame = operations(partial(flow.energy_and_forces, run.positions(N_COUNTED, torch.float32, run.device)))
    n_atoms = flow.shape[0]
    for done, (way, potential) in enumerate(ways.items()):

        def measure(size: int, way: str = way, potential: Potential = potential) -> tuple[float, float]:
            x = run.positions(size, torch.float32, run.device)
            with peak_memory(run.device) as peak:
                timing = run.timed(partial(potential.energy_and_forces, x))
                memory = peak()
            run.figure(
                "energy and forces",
                "one call",
                way,
                torch.float32,
                size,
                timing,
                operations=per_frame * size / N_COUNTED,
                bytes=2 * run.weights(torch.float32) + size * 4 * (2 * 3 * n_atoms + 1),
                memory=memory,
            )
            return timing.median, memory

        run.sizes(f"energy and forces, {way}", BATCHES, measure, 1 / (len(ways) - done))


def _samples(run: _Run) -> None:
    generator = torch.Generator(run.device).manual_seed(0)

    def draw(flow: FlowPotential, n: int) -> None:
        with torch.no_grad():
            flow.sample(n, generator)

    ways = _ways(run.to_device(torch.float32))
    per_sample = operations(partial(draw, ways["eager"], N_COUNTED))
    for done, (way, flow) in enumerate(ways.items()):

        def measure(size: int, way: str = way, flow: FlowPotential = flow) -> tuple[float, float]:
            with peak_memory(run.device) as peak:
                timing = run.timed(partial(draw, flow, size))
                memory = peak()
            run.figure(
                "samples",
                "with log-density",
                way,
                torch.float32,
                size,
                timing,
                operations=per_sample * size / N_COUNTED,
                bytes=run.weights(torch.float32) + size * 4 * (3 * flow.shape[0] + 1),
                memory=memory,
            )
            return timing.median, memory

        run.sizes(f"samples, {way}", (100, 1_000, 10_000, 50_000), measure, 1 / (len(ways) - done))


def _force_field(run: _Run) -> None:
    potential = run.force_field(run.device)
    # as a record, operations would not be seen
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
            with peak_memory(run.device) as peak:
                timing = run.timed(partial(call, positions), 0.1)
                memory = peak()
            run.figure(
                "force field",
                what,
                "captured" if isinstance(potential, CompiledForceField) else "eager",
                torch.float64,
                size,
                timing,
                operations=per_frame * size / N_COUNTED,
                bytes=size * 8 * numbers,
                memory=memory,
            )
            return timing.median, memory

        run.sizes(f"force field, {what}", (1, 1_000, 10_000, 50_000), measure, 1 / (len(calls) - done))


def _weighted(run: _Run) -> None:
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


def _training(run: _Run) -> None:
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

    def measure(size: int) -> tuple[float, float]:
        frames = batch(size)
        with peak_memory(run.device) as peak:
            timing = run.timed(partial(step, *frames))
            memory = peak()
        run.figure(
            "training step",
            "likelihood and forces, Adam, averaging",
            "eager",
            torch.float32,
            size,
            timing,
            operations=per_frame * size / N_COUNTED,
            bytes=13 * run.weights(torch.float32) + size * 4 * 6 * flow.shape[0],
            memory=memory,
        )
        return timing.median, memory

    run.sizes("training step, eager", TRAINING_BATCHES, measure, 0.5 if captures(run.device) else 1.0)
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
    )

    def measure_captured(size: int) -> tuple[float, float]:
        positions, forces = batch(size)
        frames = torch.arange(size, device=run.device)
        tensors = {"positions": positions, "forces": forces}
        with peak_memory(run.device) as peak:
            timing = run.timed(partial(recorded, tensors, frames))
            memory = peak()
        run.figure(
            "training step",
            "likelihood and forces, Adam, averaging",
            "captured",
            torch.float32,
            size,
            timing,
            operations=per_frame * size / N_COUNTED,
            bytes=13 * run.weights(torch.float32) + size * 4 * 6 * flow.shape[0],
            memory=memory,
        )
        return timing.median, memory

    run.sizes("training step, captured", TRAINING_BATCHES, measure_captured)


def _dynamics(run: _Run) -> None:
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
    run: _Run, engine: Engine, way: str, flow: FlowPotential, mass: Tensor, counted: int, size: int
) -> tuple[float, float]:
    """Seconds and bytes of a short run of so many replicas."""
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


def read_device(path: Path) -> dict[str, Any]:
    """What a run found.

    Raises:
        FileFormatError: If the file cannot be read or was not written by `measure_device`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileFormatError(
            f'"{path}" cannot be read: {error.strerror}. Give a file of benchmarks/gpu.py.'
        ) from error
    except ValueError as error:
        raise FileFormatError(f'"{path}" is not JSON: {error}. Give a file that benchmarks/gpu.py wrote.') from error
    if not isinstance(content, dict) or (content.get("format"), content.get("schema")) != (FORMAT, SCHEMA):
        raise FileFormatError(f'"{path}" is not a file of benchmarks/gpu.py of schema {SCHEMA}. Measure again.')
    return content


def describe_run(content: dict[str, Any]) -> str:
    """What was measured where, in sentences."""
    machine, model = content["machine"], content["model"]
    cuda = f", CUDA {machine['cuda']}" if machine["cuda"] else ""
    ended = "" if content["finished"] else " The run was ended before its end; what it had measured is here."
    return (
        f"{content['device']}: {model['name']}, {model['parameters']:,} parameters, {model['atoms']} atoms; "
        f"{content['minutes']:g} minutes. torch {machine['torch']}{cuda}, commit {machine['commit']}, "
        f"{machine['processor']}, load {machine['load']:.1f} at the start.{ended}"
    )


COLUMNS = {
    "energy and forces": ("batch", "ms per call", "configurations per second"),
    "samples": ("batch", "ms per call", "samples per second"),
    "force field": ("batch", "ms per call", "configurations per second"),
    "weighted samples": ("samples", "ms in all", "samples per second"),
    "training step": ("batch", "ms per step", "frames per second"),
    "dynamics": ("replicas", "ms per run", "replica-steps per second"),
}


def device_tables(content: dict[str, Any]) -> list[Table]:
    """What was measured as tables: correctness, rates, then one for each section."""
    rows = [
        (
            row["what"],
            row["way"],
            row["precision"],
            f"{row['difference']:.2g}",
            f"{row['limit']:.2g}",
            "yes" if row["holds"] else "NO",
        )
        for row in content["correctness"]
    ]
    tables = [Table("Against float64 on the CPU", ("what", "way", "precision", "difference", "limit", "holds"), rows)]
    rates = [(name, f"{value:,.3g}" if value > 1e6 else str(value)) for name, value in content["roofline"].items()]
    tables.append(Table("Rates of this device", ("what", "measured"), rates))
    for section, (size, duration, rate) in COLUMNS.items():
        found = [row for row in content["figures"] if row["section"] == section]
        if found:
            columns = ("what", "way", "precision", size, duration, rate, "floor, ms", "times the floor", "memory, MiB")
            tables.append(Table(section.capitalize(), columns, [_row(row) for row in found]))
    if content["left_out"]:
        left_out = [(row["what"], row["why"]) for row in content["left_out"]]
        tables.append(Table("Left out", ("what", "why"), left_out))
    return tables


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    floor, memory = row.get("floor"), row.get("memory")
    return (
        row["what"],
        row["way"],
        row["precision"],
        f"{row['size']:,}",
        f"{1e3 * row['median']:.3g}",
        f"{row['per_second']:,.4g}" if row["per_second"] < 1e4 else f"{row['per_second']:,.0f}",
        "" if floor is None else f"{1e3 * floor:.2g} ({row['bound']})",
        "" if floor is None else f"{row['median'] / floor:,.3g}",
        "" if memory is None else f"{memory / 2**20:,.0f}",
    )
