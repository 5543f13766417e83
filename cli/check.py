"""``smoothflow check``: whether plug-ins keep their contracts, and potentials obey physics."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import ConfigurationError
from ..runs.stopping import Terminated
from ..studies.physics.settings import PHYSICS_TESTS, PhysicsSettings
from . import completion
from .console import note, print_json, print_table, task_progress
from .options import (
    AsJson,
    Device,
    Seed,
    Structure,
    Temperature,
    is_given,
    model_structure,
    provider_potential,
    require_device,
    require_none_given,
    tell_code,
)

if TYPE_CHECKING:
    import torch

    from ..core.integrator import Integrator
    from ..core.plugins import Kind
    from ..core.potential import Potential
    from ..core.topology import Topology
    from ..studies.physics.report import PhysicsReport
    from ..testing.report import ClauseResult, Report

DEFAULTS = PhysicsSettings()

CONTRACTS: tuple[Kind, ...] = ("transform", "integrator", "engine")
"""Kinds of plug-ins with a contract of their own."""

PHYSICS_OPTIONS = (
    *("frames", "structure", "tests", "replicas", "nve_time", "order_time", "nvt_steps", "reference"),
    *("device", "compile_model", "temperature"),
)
"""Parameters that do not concern contracts."""

FRICTIONS = (1.0, 10.0, 100.0)
"""Frictions with which thermostats are checked, 1/ps."""

INTERRUPTED = 130
"""The exit code after Ctrl-C."""


def run(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="A transform, an integrator, an engine, a model (shipped, or a file), a compiled package, or "
            "PROVIDER:ARGUMENT, with charge and multiplicity in it: ase:tblite:GFN2-xTB,charge=-1,multiplicity=1.",
            autocompletion=completion.SUBJECTS,
        ),
    ],
    frames: Annotated[
        Path | None,
        typer.Option(help="Frames to start from; by default samples of the model.", autocompletion=completion.FRAMES),
    ] = None,
    structure: Structure = "capped-alanine",
    tests: Annotated[
        str,
        typer.Option(
            help="Physics tests to run, separated by commas.", show_default="all", autocompletion=completion.TESTS
        ),
    ] = ",".join(PHYSICS_TESTS),
    replicas: Annotated[int, typer.Option(min=1, help="Independent copies in all dynamics.")] = DEFAULTS.n_replicas,
    nve_time: Annotated[float, typer.Option(help="Length of the NVE run, in ps.")] = DEFAULTS.production,
    order_time: Annotated[
        float, typer.Option(help="Length of each NVE run at another time step, in ps.")
    ] = DEFAULTS.scaling_duration,
    nvt_steps: Annotated[int, typer.Option(min=1, help="Steps of the NVT run.")] = DEFAULTS.nvt_steps,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Compare a model's minima with this force field, as PROVIDER:ARGUMENT.",
            autocompletion=completion.PROVIDERS,
        ),
    ] = None,
    temperature: Temperature = None,
    compile_model: Annotated[
        bool, typer.Option("--compile", help="Check a model as it is compiled, or on a GPU captured.")
    ] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Check a plug-in against its contract, or a potential against physics; exit code 2 if something fails.

    A name with a colon is a provider's potential: openmm:FILE is a force field in OpenMM, openmm alone the engine.
    A name shared by transforms, integrators or engines is checked as each of them.

    Example: smoothflow check smooth

    Example: smoothflow check langevin

    Example: smoothflow check ala2-smooth --frames smoothflow-demo/frames.h5
    """
    from ..molecules.elements import masses
    from ..potentials.elsewhere import ElsewherePotential
    from ..potentials.flow_potential import FlowPotential
    from ..studies.physics.physics import ExaminationStopped, examine_physics, plan_physics

    where = require_device(device)
    kinds = _kinds(name)
    if kinds:
        require_none_given(context, PHYSICS_OPTIONS, f'"{name}" is checked against its contract')
        _check_contracts(name, kinds, seed, as_json)
        return
    if ":" not in name and reference is None:
        require_none_given(context, ["structure"], f'"{name}" knows its molecule')
    potential, topology, positions, kelvin = _load(name, frames, structure, replicas, seed, where, temperature)
    beside = None
    if reference is not None:
        beside = _reference(reference, potential, structure if is_given(context, "structure") else None, where)
    if compile_model:
        if not isinstance(potential, FlowPotential):
            raise ConfigurationError(f'"{name}" is not a model that could be compiled. Leave out --compile.')
        potential = potential.compile()
    if potential.device.type != "cpu":
        # counts and comparisons are made on the CPU
        potential, positions = ElsewherePotential(potential), positions.cpu()
    settings = PhysicsSettings(
        temperature=kelvin,
        n_replicas=replicas,
        production=nve_time,
        scaling_duration=order_time,
        nvt_steps=nvt_steps,
        seed=seed,
    )
    chosen = [test.strip() for test in tests.split(",")]
    planned = plan_physics(potential, positions, settings, chosen)
    for plan in planned:
        note(f"{plan.test}: left out, {plan.left_out}" if plan.left_out else f"{plan.test}: {_duration(plan.seconds)}")
    note(f"In total {_duration(sum(plan.seconds for plan in planned))}; shorter with --tests, --nvt-steps, --nve-time.")
    try:
        with task_progress() as report:
            found = examine_physics(potential, positions, masses(topology), settings, chosen, report, beside)
    except ExaminationStopped as stopped:
        _print_physics(name, stopped.report, as_json)
        word, code = (
            ("Terminated", stopped.signal.code)
            if isinstance(stopped.signal, Terminated)
            else ("Interrupted", INTERRUPTED)
        )
        note(f"{word}; {stopped}. Run these alone with --tests.")
        raise typer.Exit(code) from None
    _print_physics(name, found, as_json)
    found.raise_first()


def _reference(name: str, potential: Potential, structure: str | None, where: torch.device) -> Potential:
    """The force field of the examined molecule with which minima are compared."""
    from ..potentials.flow_potential import FlowPotential

    if structure is None and isinstance(potential, FlowPotential):
        with model_structure(potential, None) as (path, _):
            return provider_potential(name, path, where)
    return provider_potential(name, structure or "capped-alanine", where)


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "less than a second"
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 6000 else f"about {seconds / 3600:.1f} h"


def _print_physics(name: str, report: PhysicsReport, as_json: bool) -> None:
    if as_json:
        print_json(report.to_dict())
    else:
        print_table(name, ["test", "quantity", "measured", "limit", "", "note"], report.rows())


def _kinds(name: str) -> list[Kind]:
    """The kinds of plug-ins with a contract that have a name; none if it stands for a potential.

    Raises:
        UnknownNameError: If nothing has the name.
        PluginError: If a broken plug-in has it.
    """
    from ..core.plugins import registry

    path = Path(name)
    names: dict[Kind, list[str]] = {kind: registry().names(kind) for kind in (*CONTRACTS, "model", "provider")}
    if ":" in name or path.suffix or len(path.parts) > 1 or path.is_file() or name in names["model"]:
        return []
    found = [kind for kind in CONTRACTS if name in names[kind]]
    if found:
        return found
    if name in names["provider"]:
        raise ConfigurationError(
            f'"{name}" is a provider of potentials. Say which one after a colon: {name}:ARGUMENT (see: smoothflow '
            "plugins)."
        )
    known = {other: kind for kind in ("model", *CONTRACTS) for other in names[kind]}
    nearest = difflib.get_close_matches(name, known, n=1)
    meant = registry().meant(name)
    if meant is not None and (not nearest or meant.endswith(f":{name}")):
        raise ConfigurationError(f'Nothing to check is called "{name}". Did you mean "{meant}"?')
    kind = known[nearest[0]] if nearest else "transform"
    registry().entry(kind, name)
    return []


def _load(
    name: str,
    frames: Path | None,
    structure: str,
    n_samples: int,
    seed: int,
    where: torch.device,
    asked: float | None,
) -> tuple[Potential, Topology, torch.Tensor, float]:
    """The potential in float64 on a device, its molecule, configurations to start from, and their temperature in K."""
    import torch

    from ..core.plugins import registry
    from ..molecules.frames_file import read_frames
    from ..molecules.structure_names import structure_file
    from ..molecules.topologies import topology_from_pdb
    from ..potentials.flow_potential import FlowPotential
    from ..potentials.temperatures import is_same

    temperature = DEFAULTS.temperature
    potential: Potential
    topology: Topology | None
    if ":" in name:
        with structure_file(structure) as path:
            potential = provider_potential(name, path, where)
            topology, positions = topology_from_pdb(path)
    else:
        potential = tell_code(name, registry().load(name))
        if where.type != "cpu":
            potential = potential.to(where)
        topology = potential.topology
        if isinstance(potential, FlowPotential):
            if asked is not None:
                potential = potential.at_temperature(asked)
            temperature = potential.temperature
            with torch.no_grad():
                positions, _ = potential.sample(n_samples, seed=seed)
        elif frames is None:
            raise ConfigurationError(f'"{name}" cannot be sampled from. Give --frames to start from.')
    if topology is None:
        raise ConfigurationError(f'"{name}" is not a potential of a molecule. Give a model of one.')
    if asked is not None and not isinstance(potential, FlowPotential):
        raise ConfigurationError(f'"{name}" is not a model that has a temperature. Leave out --temperature.')
    if frames is not None:
        given = read_frames(frames)
        if isinstance(potential, FlowPotential) and potential.temperature_range is not None:
            if asked is not None and not is_same(asked, given.temperature):
                raise ConfigurationError(
                    f'"{frames}" is of {given.temperature:g} K, and {asked:g} K is asked for. Give frames of that '
                    "temperature, or leave out --temperature."
                )
            potential = potential.at_temperature(given.temperature)
        given.require_topology(topology, f'"{name}"')
        # apart from each other
        chosen = given[:: max(1, len(given) // n_samples)]
        positions, temperature = torch.from_numpy(chosen.positions), given.temperature
    return potential, topology, positions.double(), temperature


def _check_contracts(name: str, kinds: list[Kind], seed: int, as_json: bool) -> None:
    """Check a name as each of the kinds that have it, print all reports, and raise the first error."""
    reports = [_examine(kind, name, seed) for kind in kinds]
    rows: list[list[str]] = []
    parts: list[dict[str, Any]] = []
    for report in reports:
        clauses = [
            {
                "manifold": result.where,
                "clause": result.clause,
                "holds": result.error is None,
                "measured": {measure: float(value) for measure, value in result.numbers.items()},
                "left_out": result.left_out,
                "error": "" if result.error is None else str(result.error),
            }
            for result in report.results
        ]
        parts.append({"subject": report.subject, "passed": report.passed, "clauses": clauses})
        rows = [
            [r.where, r.clause, r.verdict, r.measured if r.error is None else r.error.message] for r in report.results
        ]
        if not as_json:
            columns = ["manifold" if any(row[0] in _MANIFOLDS for row in rows) else "with", "clause", "", "measured"]
            print_table(report.subject, columns, rows)
    if as_json:
        print_json(parts[0] if len(parts) == 1 else {"passed": all(r.passed for r in reports), "subjects": parts})
    for report in reports:
        report.raise_first()


_MANIFOLDS = ("circle", "interval", "line")


def _examine(kind: Kind, name: str, seed: int) -> Report:
    from ..core.plugins import registry
    from ..testing.engines import examine_engine
    from ..testing.transforms import examine_transform

    if kind == "transform":
        return examine_transform(registry().transform(name), seed=seed)
    if kind == "engine":
        return examine_engine(registry().engine(name), seed=seed)
    return _examine_integrator(name, seed)


def _examine_integrator(name: str, seed: int) -> Report:
    """Examine an integrator; one that takes a temperature as a thermostat, with several frictions."""
    import torch

    from ..core.engine import DynamicsSettings
    from ..core.plugins import registry
    from ..integrators.making import make_integrator
    from ..testing.integrators import examine_integrator
    from ..testing.report import Report

    wanted = inspect.signature(registry().integrator(name)).parameters
    thermostat, has_friction = "temperature" in wanted, "friction" in wanted
    results: list[ClauseResult] = []
    for friction in FRICTIONS if has_friction else FRICTIONS[:1]:

        def make(timestep: float, friction: float = friction) -> Integrator:
            settings = DynamicsSettings(
                1, timestep, "nvt" if thermostat else "nve", DEFAULTS.temperature, friction, seed=seed
            )
            return make_integrator(name, settings, torch.device("cpu"))

        make.__name__ = name
        found = examine_integrator(
            make, DEFAULTS.temperature if thermostat else None, None if not results else ["temperature"], seed
        )
        results += [replace(result, where=f"{friction:g}/ps" if has_friction else "") for result in found.results]
    return Report(f'Integrator "{name}"', tuple(results))
