"""Machine code that is kept: the numbers of the function it was made of, and never somebody else's code."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch._inductor.config
from smoothflow import reference
from smoothflow.core.errors import CompilationError
from smoothflow.core.potential import Potential, hessian
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from smoothflow.potentials import force_field, kept_code
from smoothflow.potentials.force_field import CompiledForceField
from smoothflow.potentials.kept_code import KeptFunction, cache_folder
from torch import Tensor

AMBER = "amber99sbildn.xml,amber99_obc.xml"
NO_COMPILER = torch._inductor.config.patch({"cpp.cxx": ("/nonexistent",)})

ROUNDING = 1e-11
"""Of sums of hundreds of terms in float64, in another order, relative to forces that bonds make large."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "smoothflow" / "compiled"


@pytest.fixture(scope="module")
def shared_cache(session_folder: Path) -> Iterator[Path]:
    """The cache of all processes of this session, of which the first one that needs some code compiles it."""
    folder = session_folder / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "smoothflow" / "compiled"


def spring(x: Tensor, stiffness: float = 3.0) -> tuple[Tensor, Tensor]:
    """Energies and forces of particles bound to the origin."""
    return 0.5 * stiffness * x.square().sum((1, 2)), -stiffness * x


def configurations(n: int) -> Tensor:
    _, start = topology_from_pdb(molecule_path("capped-alanine"))
    noise = torch.randn(n, 22, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return start.double() + 0.01 * noise


def amber(provider: str, compiled: str = "") -> Potential:
    return reference(f"{provider}:{AMBER}{compiled}", molecule_path("capped-alanine"))


def write_wrong(path: Path) -> None:
    path.write_bytes(b"not code")


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 130])
def test_energies_and_forces_are_those_of_openmm(shared_cache: Path, n: int) -> None:
    ours, theirs, x = amber("torch", ",compiled"), amber("openmm"), configurations(n)
    energy, forces = ours.energy_and_forces(x)
    energy_openmm, forces_openmm = theirs.energy_and_forces(x)
    # OpenMM may have chosen a platform in single precision
    torch.testing.assert_close(energy, energy_openmm, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(forces, forces_openmm, rtol=1e-4, atol=1e-4 * float(forces.abs().max()))
    expected, expected_forces = amber("torch").energy_and_forces(x)
    scale = float(expected_forces.abs().max())
    torch.testing.assert_close(energy, expected, rtol=ROUNDING, atol=ROUNDING * scale)
    torch.testing.assert_close(forces, expected_forces, rtol=ROUNDING, atol=ROUNDING * scale)
    with torch.no_grad():
        torch.testing.assert_close(ours.energy(x), expected, rtol=ROUNDING, atol=ROUNDING * scale)
    assert list(shared_cache.glob("*.pt2"))


@pytest.mark.slow
def test_an_energy_does_not_depend_on_its_neighbours(shared_cache: Path) -> None:
    potential, x = amber("torch", ",compiled"), configurations(130)
    with torch.no_grad():
        together = potential.energy(x)
        apart = torch.cat([potential.energy(x[:1]), potential.energy(x[1:7]), potential.energy(x[7:])])
    assert torch.equal(together, apart)


@pytest.mark.slow
def test_code_is_found_again_without_a_compiler(shared_cache: Path) -> None:
    with torch.no_grad():
        expected = amber("torch", ",compiled").energy(configurations(3))
        with NO_COMPILER, warnings.catch_warnings():
            warnings.simplefilter("error")
            copy = pickle.loads(pickle.dumps(amber("torch", ",compiled")))
            assert torch.equal(copy.energy(configurations(3)), expected)


def by_records(potential: Potential, monkeypatch: pytest.MonkeyPatch) -> CompiledForceField:
    """A force field as on a GPU: its records are traced graphs here."""
    assert isinstance(potential, CompiledForceField)
    monkeypatch.setattr(potential, "_by_code", potential._by_records)
    return potential


@pytest.mark.parametrize("n", [0, 3, 11])
def test_recorded_energies_and_forces_are_those_of_the_force_field(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    # pieces of eight, and one of the rest
    monkeypatch.setattr(force_field, "RECORDED_SIZES", (1, 2, 4, 8))
    potential, x = by_records(amber("torch", ",compiled"), monkeypatch), configurations(n)
    energy, forces = potential.energy_and_forces(x)
    expected, expected_forces = amber("torch").energy_and_forces(x)
    scale = 1e-30 if n == 0 else float(expected_forces.abs().max())
    torch.testing.assert_close(energy, expected, rtol=ROUNDING, atol=ROUNDING * scale)
    torch.testing.assert_close(forces, expected_forces, rtol=ROUNDING, atol=ROUNDING * scale)
    with torch.no_grad():
        torch.testing.assert_close(potential.energy(x), expected, rtol=ROUNDING, atol=ROUNDING * scale)


def test_few_sizes_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    potential = by_records(amber("torch", ",compiled"), monkeypatch)
    with torch.no_grad():
        for n in range(1, 6):
            potential.energy(configurations(n))
    # 1, 2, 4 and 8
    assert len(potential._functions["energy"]) == 4  # type: ignore[arg-type]


def test_derivatives_of_energies_are_those_of_the_force_field(monkeypatch: pytest.MonkeyPatch) -> None:
    x = configurations(1)
    compiled, eager = by_records(amber("torch", ",compiled"), monkeypatch), amber("torch")
    scale = float(hessian(eager, x).abs().max())
    torch.testing.assert_close(hessian(compiled, x), hessian(eager, x), rtol=ROUNDING, atol=ROUNDING * scale)


@pytest.mark.cuda
@pytest.mark.parametrize("suffix", ["", ",compiled"])
def test_on_a_gpu_a_force_field_is_recorded_without_being_asked(suffix: str) -> None:
    x = configurations(100)
    potential = reference(f"torch:{AMBER}{suffix}", molecule_path("capped-alanine"), device="cuda")
    assert isinstance(potential, CompiledForceField)
    energy, forces = potential.energy_and_forces(x.cuda())
    expected, expected_forces = amber("torch").energy_and_forces(x)
    scale = float(expected_forces.abs().max())
    torch.testing.assert_close(energy.cpu(), expected, rtol=1e-10, atol=1e-10 * scale)
    torch.testing.assert_close(forces.cpu(), expected_forces, rtol=1e-10, atol=1e-10 * scale)


def test_without_a_compiler_a_warning_says_so_and_numbers_stay(cache: Path) -> None:
    x, potential = configurations(3), amber("torch", ",compiled")
    with NO_COMPILER, pytest.warns(UserWarning, match=r"runs uncompiled\. Compiling needs a C\+\+ compiler"):
        energy, forces = potential.energy_and_forces(x)
    with warnings.catch_warnings():
        # it is said once
        warnings.simplefilter("error")
        again = potential.energy_and_forces(x)
    expected, expected_forces = amber("torch").energy_and_forces(x)
    assert torch.equal(energy, expected)
    assert torch.equal(forces, expected_forces)
    assert torch.equal(again[0], expected)


def test_code_that_gives_other_numbers_is_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, potential = configurations(3), amber("torch", ",compiled")
    monkeypatch.setattr(kept_code, "kept_code", lambda function, example: lambda x: (function(x)[0] + 1e-3,))
    with torch.no_grad(), pytest.warns(UserWarning, match="gives other numbers than the one that it was made of"):
        energy = potential.energy(x)
    with torch.no_grad():
        assert torch.equal(energy, amber("torch").energy(x))


def test_wrong_forces_of_right_energies_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: Tensor) -> tuple[Tensor, ...]:
        energy, forces = spring(x)
        forces[2, 0, 0] += 1e-6
        return energy, forces

    monkeypatch.setattr(kept_code, "kept_code", lambda *_: wrong)
    with pytest.raises(CompilationError, match="other numbers"):
        KeptFunction(spring, 4)(torch.rand(4, 2, 3, dtype=torch.float64))


def test_pieces_are_filled_up_and_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def run(x: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(x))
        return spring(x)

    monkeypatch.setattr(kept_code, "kept_code", lambda *_: run)
    x = torch.rand(9, 2, 3, dtype=torch.float64)
    energy, forces = KeptFunction(spring, 4)(x)
    assert torch.equal(energy, spring(x)[0])
    assert torch.equal(forces, spring(x)[1])
    # one to compare, three pieces
    assert sizes == [4, 4, 4, 4]


def test_names_change_with_constants_and_sizes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_code, "_compile", lambda graph, example, path: write_wrong(path))
    x = torch.rand(4, 2, 3, dtype=torch.float64)
    table = torch.tensor([1.0, 2.0], dtype=torch.float64)
    functions = [
        (spring, x),
        (spring, x[:1]),
        (lambda y: spring(y, 3.0 + 1e-12), x),
        (lambda y: ((y * table[:, None]).sum((1, 2)),), x),
        (lambda y: ((y * (table + 1e-12)[:, None]).sum((1, 2)),), x),
        (spring, x.float()),
    ]
    for function, example in functions:
        with pytest.raises(CompilationError, match="cannot be loaded"):
            kept_code.kept_code(function, example)
    assert len(list(cache.glob("*.pt2"))) == len(functions)


def test_damaged_code_is_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def compiled(graph: object, example: Tensor, path: Path) -> None:
        made.append(path)
        write_wrong(path)

    monkeypatch.setattr(kept_code, "_compile", compiled)
    for _ in range(2):
        with pytest.raises(CompilationError, match="cannot be loaded"):
            kept_code.kept_code(spring, torch.rand(4, 2, 3))
    assert made == [made[0], made[0]]


@pytest.mark.parametrize("place", ["file", "folder"])
def test_code_that_others_can_write_is_not_run(cache: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(kept_code, "_compile", lambda graph, example, path: write_wrong(path))
    monkeypatch.setattr(kept_code, "loaded_function", lambda path, name, device: pytest.fail("it was loaded"))
    example = torch.rand(4, 2, 3)
    with pytest.raises(pytest.fail.Exception):
        kept_code.kept_code(spring, example)
    (path,) = cache.glob("*.pt2")
    (path if place == "file" else cache).chmod(0o777)
    with pytest.raises(CompilationError, match="others can write"):
        kept_code.kept_code(spring, example)


def test_without_a_place_for_it_code_is_not_kept_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(kept_code, "_compile", lambda graph, example, path: write_wrong(path))
    monkeypatch.setattr(kept_code, "loaded_function", lambda path, name, device: None)
    with pytest.warns(UserWarning, match=f'is not kept: "{cache_folder()}" cannot be written'):
        kept_code.kept_code(spring, torch.rand(4, 2, 3))


def test_the_name_of_a_force_field_asks_for_code() -> None:
    potential = amber("torch", ", compiled")
    assert isinstance(potential, CompiledForceField)
    assert potential.dtype == torch.float64
    assert potential.topology == amber("torch").topology
