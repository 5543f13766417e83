"""What a trained model can do on capped alanine, in less than a minute."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ...core.plugins import registry
from ...molecules.topologies import topology_from_pdb
from ...potentials.shipped import load_flow, provenance_of
from ...runs.progress import OnProgress
from .showcase import AMBER_RUN, MOLECULE, Clock, Demonstration, ShowSettings, begin, show, write_demonstration


@dataclass(frozen=True)
class PretrainedSettings(ShowSettings):
    """Sizes of all stages; the defaults take less than a minute on two cores.

    Attributes:
        n_walkers: Independent short simulations by Amber, each heated first.
        n_frames: Frames of all walkers, 0.1 ps apart, which the model has never seen.
    """

    n_walkers: int = 16
    n_frames: int = 800
    n_samples: int = 4000
    nve_duration: float = 1.0
    n_replicas: int = 4
    engines: tuple[str, ...] = ()


def demonstrate_pretrained(
    model: str | Path, folder: Path, settings: PretrainedSettings, on_progress: OnProgress
) -> Demonstration:
    """Simulate a few new frames, evaluate a model on them, sample it and run it.

    Args:
        model: A model of capped alanine, by name or path.
        folder: Receives frames.h5, metrics.json and report.html.
        settings: Sizes of the stages.
        on_progress: Told of each stage.

    Raises:
        TopologyError: If the model is of another molecule.
        SmoothflowError: As the steps do.
    """
    path = registry().model_path(model)
    potential = load_flow(path)
    molecule = topology_from_pdb(AMBER_RUN.structure)[0]
    potential.coordinates.topology.require_same(molecule, f'the model "{model}"', f'the molecule "{MOLECULE}"')
    clock = Clock()
    simulation = replace(
        AMBER_RUN,
        n_frames=settings.n_frames,
        frame_interval=0.1,
        temperature=potential.temperature,
        walkers=settings.n_walkers,
        start_time=2.0,
        equilibration=2.0,
        seed=settings.seed,
    )
    frames = begin(folder, simulation, clock, on_progress)

    evaluation, trajectories = show(path, frames, settings, clock, on_progress)
    origin = provenance_of(path)
    published = origin.get("evaluation", {})
    result = Demonstration(evaluation, trajectories, clock.seconds, path, folder / "report.html", published)
    write_demonstration(
        result,
        f"The model {Path(model).name} as sampler and potential",
        [
            "Capped alanine in Amber ff99SB-ILDN with OBC implicit solvent at "
            f"{potential.temperature:g} K: {len(frames)} frames of molecular dynamics that the model has never seen, "
            f"{settings.n_samples} samples of the model, and {settings.nve_duration:g} ps of constant-energy dynamics.",
            "Every number was measured in this run. Walkers of a few ps hardly cross between basins: the frames say "
            "more about forces and likelihood within basins than about their populations, which the reweighted samples "
            "show better.",
        ],
        [],
        frames,
        {"seed": settings.seed, **{name: origin[name] for name in ("name", "licence", "made") if name in origin}},
    )
    return result
