"""Machine code from any potential that is written in torch, checked before it is kept."""

from __future__ import annotations

import copy
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import CompilationError, ConfigurationError
from ..core.files import write_atomically
from ..core.potential import Potential, hessian_vector_product, unchecked
from ..core.torch_internals import compiled_files, compiler_command, traced, write_package
from ..runs.progress import OnProgress, Progress, silent
from .compiled import CURVATURE, MANY, ONE, CompiledPotential, function_name
from .package import HEADER, fingerprint, write_header

TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-3}
"""Differences allowed between compiled and eager results, relative to the largest at all configurations: both round, in
another order, and stiff terms lose digits; wrong code is off by its whole size."""

N_EXAMPLES = 4
"""Configurations that are needed for tracing and checking."""

NOISE = 0.003
"""Displacements in nm of the random configurations at which compiled code is checked: real ones, much distorted."""


@dataclass(frozen=True)
class CompiledFunction:
    """One function of a package.

    Attributes:
        name: What it is called.
        seconds: How long it took to compile.
        error: Its largest difference from eager results, relative to the largest result.
    """

    name: str
    seconds: float
    error: float


def compile_potential(
    potential: Potential,
    positions: Float[Tensor, "batch *shape"],
    path: str | Path,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64),
    second_derivatives: bool = False,
    on_progress: OnProgress = silent,
) -> list[CompiledFunction]:
    """Compile a potential ahead of time into a package that runs without a compiler.

    One function for one configuration and one for any larger number, each in every precision; each is compared with
    the potential itself at real and at distorted configurations before anything is written.

    Args:
        potential: Any potential whose energy is traceable torch; the code is for the device on which it is.
        positions: Real configurations, nm; at least `N_EXAMPLES`.
        path: The package; ends in ``.pt2``.
        dtypes: Precisions to compile for.
        second_derivatives: Whether to add Hessian-vector products, by reverse over reverse.
        on_progress: Told of functions.

    Returns:
        The functions, with their errors.

    Raises:
        CompilationError: If there is no compiler, the potential cannot be traced, or compiled code gives other numbers
            than the potential; then no file is written.
        ConfigurationError: If there are too few configurations, or the name does not end in ``.pt2``.

    Reference: tracing and compiling as in PyTorch's AOTInductor, https://docs.pytorch.org.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ConfigurationError(f'A package\'s name ends in ".pt2"; "{path}" does not. Give another name.')
    if len(positions) < N_EXAMPLES or tuple(positions.shape[1:]) != tuple(potential.shape):
        raise ConfigurationError(
            f"Compiled code is checked on at least {N_EXAMPLES} configurations of shape {tuple(potential.shape)}; the "
            f"positions have shape {tuple(positions.shape)}."
        )
    require_compiler()
    kinds = [ONE, MANY, CURVATURE] if second_derivatives else [ONE, MANY]
    wanted = [(kind, dtype) for dtype in dtypes for kind in kinds]
    positions = positions.detach().to(potential.device)
    files: dict[str, list[str]] = {}
    seconds: dict[str, float] = {}
    versions = {dtype: copy.deepcopy(potential).to(dtype).requires_grad_(False).eval() for dtype in dtypes}
    with tempfile.TemporaryDirectory() as folder:
        for done, (kind, dtype) in enumerate(wanted):
            name = function_name(kind, dtype)
            on_progress(Progress("Compiling", done, len(wanted)))
            begin = time.perf_counter()
            files[name] = _compile(versions[dtype], kind, positions.to(dtype), Path(folder) / name)
            seconds[name] = time.perf_counter() - begin
        compiled = _package(potential, files, Path(folder) / "package.pt2")
        errors = {
            function_name(kind, dtype): _largest_error(versions[dtype], compiled, kind, positions.to(dtype))
            for kind, dtype in wanted
        }
        write_atomically(path, compiled.content)
    on_progress(Progress("Compiling", len(wanted), len(wanted)))
    return [CompiledFunction(name, seconds[name], errors[name]) for name in files]


def require_compiler() -> None:
    """Raise a `CompilationError` unless torch finds a C++ compiler."""
    try:
        found = shutil.which(compiler_command())
    except Exception as error:  # torch has an error of its own for this
        raise CompilationError(_NO_COMPILER) from error
    if found is None:
        raise CompilationError(_NO_COMPILER)


_NO_COMPILER = (
    "Compiling needs a C++ compiler, and none was found. Install g++ or clang++, or set CXX; potentials also run "
    "without being compiled, slower."
)


def _function(potential: Potential, kind: str) -> Callable[..., tuple[Tensor, ...]]:
    """What is traced: energies and forces, or Hessian-vector products."""

    def energy_and_forces(x: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = unchecked(potential, "energy_and_forces")(x)
        return found

    def curvature(x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return (hessian_vector_product(potential, x, v),)

    return curvature if kind == CURVATURE else energy_and_forces


def trace(function: Callable[..., tuple[Tensor, ...]], examples: Sequence[Any], symbolic: bool) -> torch.fx.GraphModule:
    """A function with all of its derivatives as one graph of elementary operations.

    Raises:
        CompilationError: If it leaves torch or depends on values.
    """
    try:
        return traced(function, examples, symbolic)
    # whatever the code of a potential does when it meets a traced tensor
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise CompilationError(
            f"The potential cannot be traced: {type(error).__name__}: {reason[0] if reason else ''} Only potentials "
            "whose energy is torch throughout, without steps that depend on values, can be compiled."
        ) from error


def _compile(potential: Potential, kind: str, positions: Tensor, folder: Path) -> list[str]:
    """The files of one compiled function."""
    # tracing takes sizes that are equal in the example to be equal always
    n = 1 if kind == ONE else next(n for n in range(2, N_EXAMPLES + 1) if n not in potential.shape)
    # and one tensor given twice to be one argument
    examples = [positions[:n].clone() for _ in range(2 if kind == CURVATURE else 1)]
    with quiet():
        graph = trace(_function(potential, kind), examples, symbolic=kind != ONE)
        batch = torch.export.Dim("batch", min=2)
        shapes = None if kind == ONE else tuple({0: batch} for _ in examples)
        options = {
            # one configuration is too little work to share
            "cpp.threads": 1 if kind == ONE else -1,
            "cpp.dynamic_threads": kind != ONE,
        }
        return machine_code(
            graph, examples, folder, options, shapes, "The potential also runs without being compiled, slower."
        )


def machine_code(
    graph: torch.fx.GraphModule,
    examples: Sequence[Tensor],
    folder: Path,
    options: dict[str, Any],
    shapes: tuple[dict[int, Any], ...] | None = None,
    advice: str = "",
) -> list[str]:
    """The files of a traced function as machine code, without its sources, which are not needed to run.

    Args:
        graph: What `trace` gave.
        examples: Its arguments.
        folder: Where the files go.
        options: Options of Inductor.
        shapes: Dimensions that may differ from those of the examples.
        advice: What to do otherwise, for the message.

    Raises:
        CompilationError: If it cannot be compiled.
    """
    try:
        program = torch.export.export(graph, tuple(examples), dynamic_shapes=shapes)
        own = {"aot_inductor.package": True, "aot_inductor.output_path": str(folder)}
        files = compiled_files(program.module(), examples, {**own, **options})
    # the compiler's own errors have no common base
    except Exception as error:
        reason = f"Compiling failed: {type(error).__name__}: {str(error).strip().splitlines()[0]}."
        raise CompilationError(f"{reason} {advice}".strip()) from error
    return [str(file) for file in files if not str(file).endswith((".cpp", ".h"))]


def _package(potential: Potential, files: dict[str, list[str]], path: Path) -> CompiledPotential:
    header = {
        "shape": list(potential.shape),
        "device": potential.device.type,
        "functions": sorted(files),
        "fingerprint": fingerprint(potential),
        "topology": None if potential.topology is None else potential.topology.to_dict(),
        "geometry": None if potential.geometry is None else potential.geometry.to_list(),
    }
    text = write_header(header)
    with quiet():
        write_package(path, files, {HEADER: text})
    return CompiledPotential(header, path.read_bytes(), potential.topology).to(potential.device)


def _largest_error(eager: Potential, compiled: CompiledPotential, kind: str, positions: Tensor) -> float:
    """The largest relative difference between compiled and eager results.

    Raises:
        CompilationError: If it is larger than rounding explains.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(positions.shape, generator=generator, dtype=positions.dtype).to(positions.device)
    distorted = positions + NOISE * noise
    tolerance, largest = TOLERANCES[positions.dtype], 0.0
    compiled.to(positions.dtype)
    sizes = [1] if kind == ONE else [2, 3, len(positions)]
    for where, at in (("real", positions), ("distorted", distorted)):
        scales = [values.abs().max() for values in _reference(eager, kind, at, noise)]
        for size in sizes:
            for start in range(0, len(at) - size + 1, size):
                x, v = at[start : start + size], noise[start : start + size]
                if kind == CURVATURE:
                    found: tuple[Tensor, ...] = (compiled.hessian_vector_product(x, v),)
                else:
                    found = compiled.energy_and_forces(x)
                expected = _reference(eager, kind, x, v)
                differences = [
                    float((a - b).abs().max() / scale) for a, b, scale in zip(found, expected, scales, strict=True)
                ]
                if not max(differences) <= tolerance:
                    raise CompilationError(
                        f"The compiled function {function_name(kind, x.dtype)} gives other numbers than the potential: "
                        f"at {where} configurations they differ by {max(differences):.3g} of the largest value, where "
                        f"rounding explains {tolerance:g}. Nothing was written; use the potential as it is."
                    )
                largest = max(largest, *differences)
    return largest


def _reference(eager: Potential, kind: str, x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """What the potential itself gives."""
    return _function(eager, kind)(*([x, v] if kind == CURVATURE else [x]))


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warnings about its own parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield
