"""Functions of positions as machine code that is made at first use and kept in the user's cache for the next one."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import CompilationError, FileFormatError
from ..core.files import write_atomically
from ..core.torch_internals import loaded_function, write_package
from ..runs.locks import lock_file
from .compilation import TOLERANCES, machine_code, quiet, require_compiler, trace
from .package import HEADER, machine, read_package, write_header

Results = tuple[Float[Tensor, "batch"], ...] | tuple[Float[Tensor, "batch"], Float[Tensor, "batch *shape"]]
"""Energies, and perhaps forces."""

Function = Callable[[Tensor], Results]
"""From a batch of positions (nm) to energies, and perhaps forces."""

NAME = "kept"
"""What the function in a package of the cache is called."""

LEVER = 0.1
"""nm; a difference of forces over this distance is a difference of energies that rounding explains."""


class KeptFunction:
    """A function of batches of any size, computed by machine code that was made for one size.

    The function is traced for ``size`` configurations. The graph, which holds every operation and every constant, names
    the code in the cache, together with torch and the processor: what would change a number changes the name. Code that
    is not there yet is compiled; whether made or found, it is compared with the function at the first configurations
    before it is used. Batches are cut into pieces of ``size``, the last one filled up with copies, so that a result
    does not depend on what it is computed with.

    Args:
        function: Traceable torch, which treats every configuration alike.
        size: Configurations that the code computes at once.
    """

    def __init__(self, function: Function, size: int) -> None:
        self.function = function
        self.size = size
        self._code: Callable[[Tensor], Results] | None = None

    def __call__(self, positions: Float[Tensor, "batch *shape"]) -> Results:
        """What the function gives; nothing is recorded for derivatives.

        Raises:
            CompilationError: At first use, if the function cannot be traced or compiled here, or the code gives other
                numbers.
        """
        if self._code is None:
            # what is recorded there, for forces, must not be tensors of this mode
            with torch.inference_mode(False):
                self._code = self._checked(positions[: self.size].detach().clone())
        return in_pieces(self._code, positions.detach(), self.size)

    def _checked(self, positions: Tensor) -> Callable[[Tensor], Results]:
        """The code, once it agrees with the function."""
        run = kept_code(self.function, _filled(positions, self.size))
        difference = _difference(in_pieces(run, positions, self.size), self.function(positions))
        tolerance = TOLERANCES[positions.dtype]
        if not difference <= tolerance:
            raise CompilationError(
                f"The compiled function gives other numbers than the one that it was made of: they differ by "
                f"{difference:.3g}, relative to each configuration's forces, where rounding explains {tolerance:g}."
            )
        return run


def in_pieces(function: Function, positions: Float[Tensor, "batch *shape"], size: int) -> Results:
    """What a function gives that takes so many configurations: the last piece is filled up with copies."""
    parts = []
    for part in torch.split(positions, size):
        parts.append(tuple(values[: len(part)] for values in function(_filled(part, size).contiguous())))
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))


def _filled(positions: Tensor, size: int) -> Tensor:
    """Positions with the last one repeated until there are as many as the code takes."""
    missing = size - len(positions)
    return positions if missing == 0 else torch.cat([positions, positions[-1:].expand(missing, *positions.shape[1:])])


def _difference(found: Results, expected: Results) -> float:
    """The largest difference, of each configuration relative to its largest force and to its energy."""
    energy, *forces = (values.abs() for values in expected)
    scale = energy + sum(LEVER * each.flatten(1).amax(1) for each in forces)
    largest = 0.0
    for values, wanted in zip(found, expected, strict=True):
        # overlapping atoms have no finite numbers, by either way
        if not torch.equal(values.isfinite(), wanted.isfinite()):
            return math.inf
        unit = scale if values.ndim == 1 else scale / LEVER
        differences = torch.where(wanted.isfinite(), values - wanted, 0.0).abs().reshape(len(values), -1).amax(1) / unit
        largest = max(largest, float(torch.where(unit.isfinite() & (unit > 0), differences, 0.0).max()))
    return largest


def kept_code(function: Function, example: Float[Tensor, "size *shape"]) -> Callable[[Tensor], Results]:
    """Machine code of a function for batches like the example: from the cache, or compiled and put there.

    Raises:
        CompilationError: If the function cannot be traced, or there is no code in the cache and it cannot be compiled.
    """
    with quiet(), torch.no_grad():
        graph = trace(function, [example.clone()], symbolic=False)
    key = _digest(graph, example)
    with _folder() as folder:
        path = folder / f"{key}.pt2"
        # one process compiles for all that want the same code
        with lock_file(path, wait=True):
            try:
                _require_own(path)
                read_package(path)
            except (FileNotFoundError, FileFormatError):
                # not there, or cut short by a machine that went down
                _compile(graph, example, path)
            try:
                loaded = loaded_function(path, NAME, torch.device("cpu"))
            except RuntimeError as error:
                raise CompilationError(f'The compiled code "{path}" cannot be loaded: {error}. Remove it.') from error

    def run(positions: Tensor) -> Results:
        results: Results = tuple(loaded.run([positions]))
        return results

    return run


def cache_folder() -> Path:
    """Where compiled code is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smoothflow" / "compiled"


def _digest(graph: torch.fx.GraphModule, example: Tensor) -> str:
    """A name for a graph with its constants, on this machine."""
    digest = hashlib.sha256(json.dumps(machine(), sort_keys=True).encode())
    digest.update(f"{graph.code} {tuple(example.shape)} {example.dtype}".encode())
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            constant: Tensor = getattr(graph, node.target)
            digest.update(f"{node.target} {tuple(constant.shape)} {constant.dtype}".encode())
            digest.update(constant.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


@contextmanager
def _folder() -> Iterator[Path]:
    """The folder of the cache, or one for this process alone where there can be none."""
    folder = cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        warnings.warn(f'Compiled code is not kept: "{folder}" cannot be written ({error.strerror}).', stacklevel=2)
        with tempfile.TemporaryDirectory() as own:
            yield Path(own)
    else:
        yield folder


def _require_own(path: Path) -> None:
    """Raise a `CompilationError` if somebody else can have written a file, or put it there: it is code that runs."""
    for place in (path, path.parent):
        found = place.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise CompilationError(
                f'"{place}" is kept code that others can write. Remove it, or take their right to write away.'
            )


def _compile(graph: torch.fx.GraphModule, example: Tensor, path: Path) -> None:
    require_compiler()
    with tempfile.TemporaryDirectory() as folder, quiet():
        # threads that share a piece would add up gradients by atomic operations: three times the work
        files = machine_code(graph, [example], Path(folder) / NAME, {"cpp.threads": 1})
        package = Path(folder) / "package.pt2"
        write_package(package, {NAME: files}, {HEADER: write_header({"functions": [NAME]})})
        content = package.read_bytes()
    try:
        write_atomically(path, content)
    except FileFormatError as error:
        raise CompilationError(f"Compiled code cannot be kept: {error}") from error
