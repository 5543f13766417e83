"""``smoothflow check``: does a transform keep the contract, does a potential obey physics."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

import torch
import typer

from ..analysis.physics import PHYSICS_TESTS, examine_physics
from ..analysis.physics_report import PhysicsSettings
from ..coordinates.elements import masses
from ..coordinates.topologies import topology_from_pdb
from ..core.errors import ConfigurationError, UnknownNameError
from ..core.plugins import registry
from ..core.potential import Potential
from ..core.topology import Topology
from ..potentials.flow_potential import FlowPotential
from ..testing.transforms import examine_transform
from ..training.frames_file import read_frames
from .console import print_json, print_table, task_progress
from .options import AsJson, Seed, Structure, provider_potential, structure_path

DEFAULTS = PhysicsSettings()


def run(
    name: Annotated[
        str, typer.Argument(help="A transform, a model (shipped, or a file), a compiled package, or PROVIDER:ARGUMENT.")
    ],
    frames: Annotated[Path | None, typer.Option(help="Frames to start from; without, samples of the model.")] = None,
    structure: Structure = "capped-alanine",
    tests: Annotated[str, typer.Option(help="Which physics tests, separated by commas.")] = ",".join(PHYSICS_TESTS),
    replicas: Annotated[int, typer.Option(min=1, help="Copies in all dynamics.")] = DEFAULTS.n_replicas,
    nve_time: Annotated[float, typer.Option(help="Length of the NVE run, in ps.")] = DEFAULTS.production,
    order_time: Annotated[float, typer.Option(help="And of each at another time step.")] = DEFAULTS.scaling_duration,
    nvt_steps: Annotated[int, typer.Option(min=1, help="Steps of the NVT run.")] = DEFAULTS.nvt_steps,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Check a transform against its contract, or a potential against physics; exit code 2 if something fails.

    Example: smoothflow check smooth

    Example: smoothflow check smoothflow-demo/smooth/model.safetensors --frames smoothflow-demo/frames.h5
    """
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
    with task_progress() as report:
        found = examine_physics(potential, positions, masses(topology), settings, chosen, report)
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
    path = Path(name)
    transforms, models = registry().names("transform"), registry().names("model")
    if ":" in name or path.suffix or len(path.parts) > 1 or path.is_file() or name in models:
        return False
    if name not in transforms and difflib.get_close_matches(name, models, n=1):
        raise UnknownNameError("model", name, models)
    return True


def _load(
    name: str, frames: Path | None, structure: str, n_samples: int, seed: int
) -> tuple[Potential, Topology, torch.Tensor, float]:
    """The potential in float64, its molecule, configurations to start from, and their temperature in K."""
    temperature = DEFAULTS.temperature
    potential: Potential
    topology: Topology | None
    if ":" in name:
        path = structure_path(structure)
        potential = provider_potential(name, path)
        topology, positions = topology_from_pdb(path)
    else:
        potential = registry().load(name)
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
