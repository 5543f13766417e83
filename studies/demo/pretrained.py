"""What a model that is trained already can do on capped alanine, in less than a minute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...core.files import make_folder
from ...core.plugins import registry
from ...molecules.frames_file import read_frames
from ...molecules.shipped import molecule_path
from ...molecules.topologies import topology_from_pdb
from ...potentials.shipped import load, provenance_of
from ...runs.progress import OnProgress
from ...sampling.simulate import SimulateSettings, simulate
from .showcase import (
    AMBER,
    MOLECULE,
    Clock,
    Demonstration,
    ShowSettings,
    require_demonstration,
    show,
    write_demonstration,
)


@dataclass(frozen=True)
class PretrainedSettings:
    """How much of everything; the defaults take less than a minute on two cores.

    Attributes:
        n_walkers: Independent short simulations by Amber, each heated first.
        n_frames: Frames of all walkers, 0.1 ps apart, which the model has never seen.
        n_samples: Samples drawn from the flow.
        nve_duration: ps.
        n_replicas: NVE runs of the flow and of Amber.
        seed: Seed of the random numbers.
    """

    n_walkers: int = 16
    n_frames: int = 800
    n_samples: int = 4000
    nve_duration: float = 1.0
    n_replicas: int = 4
    seed: int = 0

    def showing(self) -> ShowSettings:
        """What is asked of the flow, in our own integrator alone."""
        return ShowSettings(self.n_samples, self.nve_duration, self.n_replicas, (), self.seed)


def demonstrate_pretrained(
    model: str | Path, folder: Path, settings: PretrainedSettings, on_progress: OnProgress
) -> Demonstration:
    """Simulate a few fresh frames, evaluate and sample a model against them, and run it.

    Args:
        model: A model of capped alanine, by name or path.
        folder: Gets frames.h5, metrics.json and report.html.
        settings: How much of everything.
        on_progress: Told of each stage.

    Raises:
        TopologyError: If the model is of another molecule.
        SmoothflowError: As the steps do.
    """
    path = registry().model_path(model)
    potential = load(path)
    structure = molecule_path(MOLECULE)
    molecule = topology_from_pdb(structure)[0]
    potential.coordinates.topology.require_same(molecule, f'the model "{model}"', f'the molecule "{MOLECULE}"')
    require_demonstration(folder)
    make_folder(folder)
    clock = Clock()
    simulation = SimulateSettings(
        structure=structure,
        potential=AMBER,
        n_frames=settings.n_frames,
        frame_interval=0.1,
        temperature=potential.temperature,
        walkers=settings.n_walkers,
        start_temperature=600.0,
        start_time=2.0,
        equilibration=2.0,
        seed=settings.seed,
    )
    simulate(simulation, folder / "frames.h5", on_progress)
    frames = read_frames(folder / "frames.h5")
    clock.stop("simulate")

    evaluation, trajectories = show(path, frames, settings.showing(), clock, on_progress)
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
            "more about forces and likelihood within basins than about their populations, for which the reweighted "
            "samples are the better witness.",
        ],
        [],
        frames,
        {"seed": settings.seed, **{name: origin[name] for name in ("name", "licence", "made") if name in origin}},
    )
    return result
