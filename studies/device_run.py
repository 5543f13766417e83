"""One run on a device: its time and how it is shared, sizes that fit, floors, and a file that is always whole."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..core.display import count_parameters
from ..core.errors import FileFormatError
from ..core.files import write_atomically
from ..core.potential import Potential
from ..core.torch_internals import ElementCounter
from ..molecules.shipped import molecule_path
from ..potentials.flow_potential import FlowPotential
from ..potentials.reference import reference
from ..potentials.shipped import load_flow
from ..runs.provenance import commit, machine, versions
from .device_report import FORMAT, SCHEMA

MOLECULE = "capped-alanine"
FORCE_FIELD = "torch:amber99sbildn.xml,amber99_obc.xml"

N_COUNTED = 64
"""Configurations at which operations are counted; they grow with the number of configurations."""

LEAST_CALLS = 3
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
"""The part of the time that each section may take; what one leaves over goes to the next ones."""

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


class DeviceRun:
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
        parameters = count_parameters(self.flow)
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
        row = {"what": what, "way": way, "precision": precision_name(dtype), "difference": difference, "limit": limit}
        self.content["correctness"].append({**row, "holds": bool(difference <= limit)})
        self.write()

    def figure(
        self, section: str, what: str, way: str, dtype: torch.dtype, size: int, timing: Timing, **more: Any
    ) -> None:
        """Note how long something takes, with its floor if there is one.

        Args:
            section: The section.
            what: What the figures of the section describe.
            way: How it is computed: eager, captured or compiled.
            dtype: Precision.
            size: Configurations in a call.
            timing: Durations of a call.
            more: ``operations`` and ``bytes`` of a call, ``memory`` in bytes, and whatever else is to be recorded.
        """
        row: dict[str, Any] = {
            "section": section,
            "what": what,
            "way": way,
            "precision": precision_name(dtype),
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
            what: Name of the figure, for the note on sizes left out.
            sizes: Configurations, growing.
            measure: Maps a size to the seconds and the bytes of memory of a call.
            share: Share of the section's remaining time that this may take.
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

    def measured(
        self,
        section: str,
        what: str,
        way: str,
        dtype: torch.dtype,
        size: int,
        call: Callable[[], object],
        share: float = 0.2,
        **more: Any,
    ) -> tuple[float, float]:
        """Time a call (`timed`) and note it (`figure`): the seconds of a call and its bytes of memory."""
        with peak_memory(self.device) as peak:
            timing = self.timed(call, share)
            memory = peak()
        self.figure(section, what, way, dtype, size, timing, memory=memory, **more)
        return timing.median, memory

    def to_device(self, dtype: torch.dtype) -> FlowPotential:
        """The flow in a precision, on the device."""
        return load_flow(self.model, dtype, self.device)

    def weights(self, dtype: torch.dtype) -> int:
        """Bytes of all weights."""
        return int(self.content["model"]["parameters"]) * dtype.itemsize

    def force_field(self, device: torch.device) -> Potential:
        return reference(FORCE_FIELD, molecule_path(MOLECULE), device=device)

    def positions(self, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Samples of the flow, the same on every device; beyond a thousand they repeat."""
        with torch.no_grad():
            positions, _ = self.flow.sample(min(n, 1000), seed=0)
        return positions.repeat(-(-n // len(positions)), 1, 1)[:n].to(device, dtype)


def wait(device: torch.device) -> None:
    """Return once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """The manufacturer's name of a device."""
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
    """Gives the largest number of bytes in use at once since the beginning of the block, beyond those in use at its
    beginning."""
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


def precision_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
