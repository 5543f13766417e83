"""``smoothflow check``: does a transform keep the contract, does a potential obey physics."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..analysis.physics_settings import PHYSICS_TESTS, PhysicsSettings
from ..core.errors import ConfigurationError, UnknownNameError
from . import completion
from .console import print_json, print_table, task_progress
from .options import AsJson, Seed, Structure, provider_potential, structure_path, tell_code

if TYPE_CHECKING:
    import torch

    from ..core.potential import Potential
    from ..core.topology import Topology

DEFAULTS = PhysicsSettings()


def run(
    name: Annotated[
        str,
        typer.Argument(
            help="A transform, a model (shipped, or a file), a compiled package, or PROVIDER:ARGUMENT.",
            autocompletion=completion.SUBJECTS,
        ),
    ],
    frames: Annotated[
        Path | None,
        typer.Option(help="Frames to start from; without, samples of the model.", autocompletion=completion.FRAMES),
    ] = None,
    structure: Structure = "capped-alanine",
    tests: Annotated[
        str, typer.Option(help="Which physics tests, with commas.", show_default="all", autocompletion=completion.TESTS)
    ] = ",".join(PHYSICS_TESTS),
    replicas: Annotated[int, typer.Option(min=1, help="Copies in all dynamics.")] = DEFAULTS.n_replicas,
    nve_time: Annotated[float, typer.Option(help="Length of the NVE run, in ps.")] = DEFAULTS.production,
    order_time: Annotated[float, typer.Option(help="And of each at another time step.")] = DEFAULTS.scaling_duration,
    nvt_steps: Annotated[int, typer.Option(min=1, help="Steps of the NVT run.")] = DEFAULTS.nvt_steps,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Compare a model's minima with this force field, as PROVIDER:ARGUMENT.",
            autocompletion=completion.PROVIDERS,
        ),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Check a transform against its contract, or a potential against physics; exit code 2 if something fails.

    Example: smoothflow check smooth

    Example: smoothflow check ala2-smooth --frames smoothflow-demo/frames.h5
    """
    from ..analysis.physics import examine_physics
    from ..coordinates.elements import masses

    if _is_transform(name):
        _check_transform(name, seed, as_json)
        return
    potential, topology, positions, temperature = _load(name, frames, structure, replicas, seed)
    settings = PhysicsSettings(
        temperature=temperature,
        n_replicas=replicas,
        production=nve_time,
        scaling_duration=order_time,
        nvt_steps=nvt_steps,
        seed=seed,
    )
    chosen = [test.strip() for test in tests.split(",")]
    beside = None if reference is None else provider_potential(reference, structure_path(structure))
    with task_progress() as report:
        found = examine_physics(potential, positions, masses(topology), settings, chosen, report, beside)
    if as_json:
        print_json(found.to_dict())
    else:
        print_table(name, ["test", "quantity", "measured", "limit", "", "note"], found.rows())
    found.raise_first()


def _is_transform(name: str) -> bool:
    """Whether a name can mean nothing but a transform.

    Raises:
        UnknownNameError: If it can mean nothing at all.
    """
    from ..core.plugins import registry

    path = Path(name)
    transforms, models = registry().names("transform"), registry().names("model")
    if ":" in name or path.suffix or len(path.parts) > 1 or path.is_file() or name in models:
        return False
    nearest = difflib.get_close_matches(name, [*transforms, *models], n=1)
    if name not in transforms and nearest and nearest[0] in models:
        raise UnknownNameError("model", name, models)
    return True


def _load(
    name: str, frames: Path | None, structure: str, n_samples: int, seed: int
) -> tuple[Potential, Topology, torch.Tensor, float]:
    """The potential in float64, its molecule, configurations to start from, and their temperature in K."""
    import torch

    from ..coordinates.topologies import topology_from_pdb
    from ..core.plugins import registry
    from ..potentials.flow_potential import FlowPotential
    from ..training.frames_file import read_frames

    temperature = DEFAULTS.temperature
    potential: Potential
    topology: Topology | None
    if ":" in name:
        path = structure_path(structure)
        potential = provider_potential(name, path)
        topology, positions = topology_from_pdb(path)
    else:
        potential = tell_code(name, registry().load(name))
        topology = potential.topology
        if isinstance(potential, FlowPotential):
            temperature = potential.temperature
            with torch.no_grad():
                positions, _ = potential.sample(n_samples, torch.Generator().manual_seed(seed))
        elif frames is None:
            raise ConfigurationError(f'"{name}" cannot be sampled from. Give --frames to start from.')
    if topology is None:
        raise ConfigurationError(f'"{name}" is no potential of a molecule. Give a model of one.')
    if frames is not None:
        given = read_frames(frames)
        given.require_topology(topology, f'"{name}"')
        # apart from each other
        chosen = given[:: max(1, len(given) // n_samples)]
        positions, temperature = torch.from_numpy(chosen.positions), given.temperature
    return potential, topology, positions.double(), temperature


def _check_transform(name: str, seed: int, as_json: bool) -> None:
    from ..core.plugins import registry
    from ..testing.transforms import examine_transform

    report = examine_transform(registry().transform(name), seed=seed)
    rows = [
        {
            "manifold": result.where,
            "clause": result.clause,
            "holds": result.error is None,
            "measured": {measure: float(value) for measure, value in result.numbers.items()},
        }
        for result in report.results
    ]
    if as_json:
        print_json({"subject": report.subject, "passed": report.passed, "clauses": rows})
    else:
        print_table(
            report.subject,
            ["manifold", "clause", "", "measured"],
            [
                [
                    result.where,
                    result.clause,
                    "ok" if result.error is None else "BROKEN",
                    ", ".join(f"{measure} {value:.3g}" for measure, value in result.numbers.items()),
                ]
                for result in report.results
            ],
        )
    report.raise_first()
