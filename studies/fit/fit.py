"""From a structure to a converged model, stage by stage in one folder; an interrupted fit is resumed."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...analysis.correlation import mixing_of
from ...analysis.estimates import Estimate, percent
from ...analysis.evaluation import Evaluation, evaluate
from ...analysis.found_basins import found_basins
from ...analysis.observation import observe_samples
from ...analysis.reweighting import ess_fraction
from ...coordinates.internal import InternalCoordinates, slow_torsions
from ...core.errors import CompilationError, ConfigurationError, TrainingError
from ...core.files import make_folder, write_atomically
from ...core.potential import Potential
from ...core.topology import Topology
from ...core.units import thermal_energy
from ...molecules.checks import check_positions
from ...molecules.frames import Frames
from ...molecules.frames_file import read_frames, write_frames
from ...molecules.topologies import topology_from_pdb
from ...molecules.topology_checks import require_molecule
from ...potentials.compilation import require_compiler
from ...potentials.flow_potential import FlowPotential
from ...potentials.model_file import save_model
from ...potentials.parallel_worker import Parcel
from ...potentials.reference import reference
from ...potentials.shipped import load_flow, provenance_of
from ...runs.locks import lock_folder
from ...runs.progress import OnProgress, silent
from ...runs.workers import Call, n_cores, worker_processes
from ...sampling.simulate import SimulateSettings, default_ladder, simulate
from ...training.config import TrainSettings
from ...training.refining import weighted_samples
from ...training.run import train
from ...training.run_folder import RunFolder, journal_of, training_seconds
from .annealing import (
    ENOUGH,
    TOP,
    WORTH,
    crude_configurations,
    next_temperature,
    weighted_frames,
)
from .decisions import STATE, Clock, Decisions, require_fit_folder
from .drawn import SampleEvaluation
from .planning import (
    COMPILED_BEFORE,
    COMPILING,
    EARLY_SHARE,
    ENOUGH_INDEPENDENT,
    EQUILIBRATION,
    FEWEST_FRAMES,
    FIRST_SHARE,
    FRAME_INTERVAL,
    LAST_SHARE,
    MD_SHARE,
    MOST_FRAMES,
    NEAR,
    STARTING,
    TIMESTEP,
    Pace,
    described,
    first_training,
    plain_settings,
    round_training,
    seconds_per_energy,
    seconds_per_step,
    sized,
)
from .report import write_fit
from .result import Fitted
from .settings import FitSettings, spoken

ENGINES = {"openmm": "openmm", "torch": "openmm", "ase": "ase"}
"""The engine that runs dynamics with references of a provider; for all others it is our own."""

N_WALKERS = 8
HELD_OUT = 0.25
"""Share of the walkers whose frames are held out of all trainings."""

HOT = 2.0
"""Temperature of the hot walkers, in units of the model's."""

N_HOT = 400
LARGEST_WEIGHT = 20.0
"""Largest weight (of mean 1) of samples that serve as frames at the next temperature."""

CRUDE_SHARE, ANNEALING_SHARE = 0.08, 0.06
"""Shares of the budget for a first model on crude configurations, and for each temperature after it."""

N_MEASURED = 5000
"""Samples by which models are compared."""

FILES = (
    "frames.h5",
    "training.h5",
    "test.h5",
    "hot.h5",
    "crude.h5",
    "model.safetensors",
    "metrics.json",
    "report.html",
    "fit.log",
)
"""What a fit writes into its folder, beside its state and its run folders."""


def fit(
    settings: FitSettings,
    folder: str | Path,
    on_progress: OnProgress = silent,
    clock: Clock = time.monotonic,
    source: Mapping[str, Any] | None = None,
) -> Fitted:
    """Fit a model to a molecule in a force field, or resume the fit in the folder.

    Dynamics at several temperatures gives frames for a first model, which is then refined in rounds on its own samples
    until the sampling efficiency is reached or the budget is used up. Without dynamics, the fit begins with crude
    configurations at a high temperature, which is lowered as far as the model's samples allow; the model is refined at
    each temperature.

    Sizes and steps follow from the molecule and from measurements; each decision is logged with its reason and kept: a
    resumed fit arrives at the numbers of one that was never interrupted. A script needs the guard ``if __name__ ==
    "__main__":``, because worker processes import it.

    Args:
        settings: What to fit; to go on they must be those of the folder.
        folder: Made if it is missing.
        on_progress: Told of every stage.
        clock: Returns the time, s.
        source: The command, where it ran, and the structure by a name that stays, in JSON types: kept in the folders of
            trainings.

    Raises:
        ConfigurationError: If the folder is not this fit's, another process uses it, or the budget is too short.
        FileFormatError: If the structure cannot be read, or the folder cannot be written.
        TopologyError, GeometryError: If the structure is not a molecule that can be fitted.
        SmoothflowError: As the stages raise.
    """
    folder = Path(folder)
    require_fit_folder(folder, [STATE, *FILES])
    topology, positions = topology_from_pdb(settings.structure)
    require_molecule(topology)
    check_positions(topology, positions[:1])
    potential = reference(settings.reference, settings.structure)
    if potential.topology is not None:
        topology.require_same(potential.topology, f'"{settings.structure}"', "the reference")
    make_folder(folder)
    with lock_folder(folder), journal_of(folder / "fit.log") as log, worker_processes(n_cores()) as call:
        decisions = Decisions(folder, settings.identity, clock, log)
        work = _Fit(settings, folder, topology, potential, decisions, call, on_progress, dict(source or {}))
        return work.run(positions[0].numpy().astype(np.float64))


@dataclass(frozen=True)
class _Fit:
    """The stages of a fit."""

    settings: FitSettings
    folder: Path
    topology: Topology
    reference: Potential
    decisions: Decisions
    call: Call
    on_progress: OnProgress
    source: dict[str, Any]

    def run(self, start: np.ndarray) -> Fitted:
        self._look(start)
        if not self.settings.md:
            training, first, model, last = self._anneal(start)
            return self._evaluate(self._refine(training, first, model, None, last), None)
        training, test = self._dynamics()
        outside = self._hot()
        first, model = self._first_model(training, FIRST_SHARE)
        return self._evaluate(self._refine(training, first, model, outside, "first"), test)

    def _look(self, start: np.ndarray) -> None:
        """What the molecule is, and what an energy costs."""
        slow = slow_torsions(self.topology)
        turns = f"{len(slow)} slow torsions ({', '.join(slow[:4])}{', ...' if len(slow) > 4 else ''})" if slow else ""
        self.decisions.make(
            "molecule",
            lambda: (
                len(self.topology),
                f"{self.topology.summary}: {3 * len(self.topology) - 6} internal coordinates, "
                f"{turns or 'no slow torsion'}",
            ),
        )

        def cost() -> tuple[dict[str, float], str]:
            cores, name = n_cores(), self._of_dynamics
            moving = self.reference if name == self.settings.reference else reference(name, self.settings.structure)
            took = seconds_per_energy(moving, torch.from_numpy(start)[None])
            text = f"one energy with forces by {name} takes {1000 * took:.3g} ms; there are {cores} cores"
            return {"energy": took, "cores": cores}, text

        self.decisions.make("cost", cost)

    @property
    def _cores(self) -> int:
        return int(self.decisions["cost"]["cores"])

    @property
    def _pace(self) -> Pace:
        return Pace(**self.decisions["pace"])

    @property
    def _of_dynamics(self) -> str:
        """The reference with which walkers move."""
        provider, _, argument = self.settings.reference.partition(":")
        # OpenMM moves a single molecule faster than a batched force field of torch does, by the same energies
        return f"openmm:{argument}" if provider == "torch" else self.settings.reference

    def _simulation(self, n_frames: int, walkers: int) -> SimulateSettings:
        provider = self.settings.reference.partition(":")[0]
        ladder = default_ladder(self.settings.structure, self.settings.temperature)
        return SimulateSettings(
            structure=self.settings.structure,
            potential=self._of_dynamics,
            engine=ENGINES.get(provider, "native"),
            n_frames=n_frames,
            frame_interval=FRAME_INTERVAL,
            temperature=self.settings.temperature,
            ladder=ladder,
            timestep=TIMESTEP,
            walkers=walkers,
            equilibration=EQUILIBRATION,
            start_temperature=HOT * self.settings.temperature,
            start_time=EQUILIBRATION,
            seed=self.settings.seed,
        )

    def _seconds_per_frame(self, plan: SimulateSettings) -> float:
        """Estimated from the time of single energies, over all temperatures."""
        cost = self.decisions["cost"]
        return float(FRAME_INTERVAL / TIMESTEP * len(plan.temperatures) * cost["energy"] / cost["cores"])

    def _dynamics(self) -> tuple[Frames, Frames]:
        """Training frames, and frames of other walkers for evaluation."""
        budget = self.settings.budget

        def probe() -> tuple[dict[str, int], str]:
            one = self._simulation(1, N_WALKERS)
            per_frame = self._seconds_per_frame(one)
            per_walker = 2 * EQUILIBRATION / FRAME_INTERVAL
            least = (FEWEST_FRAMES + N_WALKERS * per_walker) * per_frame
            if least + 4 * STARTING > 0.5 * budget:
                raise ConfigurationError(
                    f"A budget of {spoken(budget)} is too short: {FEWEST_FRAMES} frames of dynamics alone take about "
                    f"{spoken(least)} here. Give at least {spoken(2 * (least + 4 * STARTING))}, or leave dynamics out "
                    "(--no-md)."
                )
            affordable = MD_SHARE * budget / per_frame - N_WALKERS * per_walker
            n_frames = int(min(max(FEWEST_FRAMES, affordable / 4), MOST_FRAMES / 4))
            temperatures = ", ".join(f"{t:g}" for t in one.temperatures)
            ladder = f"exchange between {temperatures} K, as there are slow torsions" if one.ladder else "no ladder"
            return (
                {"n_frames": n_frames, "walkers": N_WALKERS},
                f"dynamics: {N_WALKERS} walkers, {ladder}; first {n_frames} frames to see how fast it is and how "
                "fast walkers forget",
            )

        plan = self.decisions.make("dynamics", probe)
        path = self.folder / "frames.h5"
        began = self.decisions.seconds
        report = simulate(self._simulation(plan["n_frames"], plan["walkers"]), path, self.on_progress)

        def extend() -> tuple[int, str]:
            frames = read_frames(path)
            mixed = mixing_of(frames)
            independent = mixed.blocks.n_effective
            made = report.n_frames - report.resumed_from
            if made < len(frames) / 2:
                # the time of a simulation that was interrupted is not known
                per_frame = self._seconds_per_frame(self._simulation(1, N_WALKERS))
            else:
                per_frame = (self.decisions.seconds - began) / made
            affordable = int(max(0.0, MD_SHARE * budget - self.decisions.seconds) / per_frame)
            needed = int(len(frames) * max(0.0, ENOUGH_INDEPENDENT / independent - 1))
            more = min(affordable, needed, MOST_FRAMES - len(frames))
            limit = (
                "the budget allows" if affordable <= needed else f"it takes for {ENOUGH_INDEPENDENT} independent ones"
            )
            return (
                len(frames) + max(0, more),
                f"{len(frames)} frames are worth {independent:.0f} independent ones, by the autocorrelation of the "
                f"walkers; {max(0, more)} more, as many as {limit}",
            )

        n_frames = self.decisions.make("more dynamics", extend)
        simulate(self._simulation(n_frames, plan["walkers"]), path, self.on_progress)
        frames = read_frames(path)
        walker = np.zeros(len(frames), dtype=int) if frames.replica is None else frames.replica
        held_out = walker >= round((1 - HELD_OUT) * plan["walkers"])
        training, test = frames[np.flatnonzero(~held_out)], frames[np.flatnonzero(held_out)]
        for part, name in ((training, "training.h5"), (test, "test.h5")):
            if not (self.folder / name).exists():
                write_frames(self.folder / name, part)
        mixed = mixing_of(frames)
        self.decisions.make(
            "frames",
            lambda: (
                len(frames),
                f"{len(training)} frames to train on, {len(test)} of other walkers to evaluate on"
                + "".join(f"; {reason}" for reason in mixed.reasons),
            ),
        )
        return training, test

    def _hot(self) -> str:
        """The file of frames of hot walkers, on which models are trained by forces alone."""
        path = self.folder / "hot.h5"
        plan = replace(
            self._simulation(N_HOT, 4),
            ladder=(),
            temperature=HOT * self.settings.temperature,
            start_temperature=0.0,
            frame_interval=2 * FRAME_INTERVAL,
            seed=self.settings.seed + 1,
        )
        simulate(plan, path, self.on_progress)
        self.decisions.make(
            "hot", lambda: (N_HOT, f"{N_HOT} frames at {plan.temperature:g} K, to keep models free of holes")
        )
        return str(path.resolve())

    def _anneal(self, start: np.ndarray) -> tuple[Frames, TrainSettings, Path, str]:
        """Lower a high temperature to that of the model; samples of each model are the frames of the next."""
        coordinates, lowest = InternalCoordinates(self.topology), self.settings.temperature
        path, now = self.folder / "crude.h5", TOP * self.settings.temperature

        def crude() -> tuple[int, str]:
            made = crude_configurations(self.reference, coordinates, start, now, self.settings.seed)
            write_frames(path, made.frames)
            return (
                made.n_evaluations,
                f"no dynamics: {len(made.frames)} crude configurations around the relaxed structure, for {now:g} K, by "
                f"{made.n_evaluations} energies",
            )

        self.decisions.make("crude", crude)
        first, model = self._first_model(read_frames(path), CRUDE_SHARE)
        number = 0
        while True:
            number += 1
            name = f"temperature-{number}"
            step = self._lower(name, model, now, lowest)
            now, at = float(step["temperature"]), self.folder / f"{name}.safetensors"
            frames = read_frames(self.folder / f"{name}.h5")

            def decide(
                number: int = number,
                at: Path = at,
                per_sample: float = step["per_sample"],
                now: float = now,
            ) -> tuple[dict[str, Any], str]:
                if self.decisions.seconds > self.settings.budget:
                    raise TrainingError(
                        f"The budget of {spoken(self.settings.budget)} was used up at {now:g} K, before the "
                        f"{lowest:g} K of the model. Give a longer one, and another folder."
                    )
                seconds = max(2 * STARTING, ANNEALING_SHARE * self.settings.budget)
                settings = round_training(
                    first, seconds, self._pace, per_sample, str(at.resolve()), None, self.settings.seed + number
                )
                return plain_settings(settings), f"at {now:g} K, {spoken(seconds)}: {described(settings)}"

            settings = TrainSettings.model_validate(self.decisions.make(f"{name} planned", decide))
            model = self._train(frames, settings, name)
            if now == lowest and self._measure(name, model) >= WORTH:
                return frames, settings, model, name

    def _lower(self, name: str, model: Path, now: float, lowest: float) -> dict[str, float]:
        """The next temperature, and samples of a model as frames at it."""

        def decide() -> tuple[dict[str, float], str]:
            potential, drawn, took = self._drawn(model, 7)
            here = ess_of(log_weights_of(drawn, thermal_energy(now)), model)
            energy, log_density = torch.from_numpy(drawn["energy"]), torch.from_numpy(drawn["log_density"])
            colder = (
                next_temperature(energy, log_density, now, lowest) if here.value >= ENOUGH or now == lowest else now
            )
            log_weights = log_weights_of(drawn, thermal_energy(colder))
            # what is written may be written again by a fit that was interrupted here: the same
            frames = weighted_frames(potential.coordinates, colder, drawn, log_weights, LARGEST_WEIGHT)
            write_frames(self.folder / f"{name}.h5", frames)
            moved = FlowPotential(potential.flow, potential.coordinates, colder)
            save_model(moved, self.folder / f"{name}.safetensors", {"step": 0, "of": model.parent.name})
            there = ess_of(log_weights, model)
            text = f"sampling efficiency {percent(here)} at {now:g} K"
            if colder < now:
                text += f", and {percent(there)} at {colder:g} K, where it goes on"
            return {"temperature": colder, "per_sample": took}, text

        found: dict[str, float] = self.decisions.make(name, decide)
        return found

    def _drawn(self, model: Path, purpose: int) -> tuple[FlowPotential, dict[str, np.ndarray], float]:
        """A model, new weighted samples of it, and the seconds per sample; each purpose has its own random stream."""
        began = self.decisions.seconds
        potential = load_flow(model, torch.float32)
        seed = (self.settings.seed, purpose, len(self.decisions.lines))
        drawn = weighted_samples(potential, self.reference, N_MEASURED, seed, self.call, self.on_progress)
        return potential, drawn, (self.decisions.seconds - began) / N_MEASURED

    def _first_model(self, training: Frames, share: float) -> tuple[TrainSettings, Path]:
        def pace() -> tuple[dict[str, Any], str]:
            try:
                require_compiler()
                can_compile = True
            except CompilationError:
                can_compile = False
            cores = self._cores
            try:
                Parcel.pack(self.reference)
            except ConfigurationError:
                # what cannot be sent to another process
                cores = 1
            settings = first_training(training, cores, self.settings.seed)
            took = seconds_per_step(training, settings)
            text = f"a step of training on {settings.batch_size} configurations takes {1000 * took:.0f} ms on one core"
            return {"per_step": took, "cores": cores, "can_compile": can_compile}, text

        self.decisions.make("pace", pace)

        def decide() -> tuple[dict[str, Any], str]:
            settings = first_training(training, self._pace.cores, self.settings.seed)
            settings = sized(settings, len(training), share * self.settings.budget, self._pace)
            passes = settings.steps * settings.batch_size / len(training)
            text = f"a first model, conditioners of width {settings.flow.hidden}: {described(settings)}, "
            return plain_settings(settings), text + f"which are {passes:.1f} passes over the frames"

        settings = TrainSettings.model_validate(self.decisions.make("first model", decide))
        return settings, self._train(training, settings, "first")

    def _train(self, frames: Frames, settings: TrainSettings, name: str) -> Path:
        target = self.reference if settings.needs_target else None
        source = {**self.source, "frames": str((self.folder / "training.h5").resolve())}
        if target is not None:
            source |= {"target": self.settings.reference}
        stage = "" if name == "first" else f", {name}"

        def told(progress: Any) -> None:
            self.on_progress(replace(progress, stage=f"{progress.stage}{stage}"))

        return train(frames, settings, self.folder / name, target, told, source)

    def _measure(self, name: str, model: Path) -> float:
        """The sampling efficiency of a model, on samples that nothing was trained on."""

        def decide() -> tuple[dict[str, float], str]:
            potential, drawn, took = self._drawn(model, 5)
            ess = ess_of(log_weights_of(drawn, potential.kT), model)
            run = RunFolder(self.folder / name)
            return (
                {"ess": ess.value, "per_sample": took, "seconds": training_seconds(run)},
                f"{name}: sampling efficiency {percent(ess)} of {N_MEASURED} new samples; trained for "
                f"{spoken(training_seconds(run))}",
            )

        return float(self.decisions.make(f"{name} measured", decide)["ess"])

    def _refine(self, training: Frames, first: TrainSettings, model: Path, outside: str | None, last: str) -> Path:
        """Rounds of refining, each from the best model so far; returns the best one."""
        best, best_ess, number = model, self._measure(last, model), 0
        pace, compiled = self._pace, False
        while True:
            number += 1
            name = f"round-{number}"

            def decide(
                number: int = number,
                per_sample: float = self.decisions[f"{last} measured"]["per_sample"],
                pace: Pace = pace,
                compiled: bool = compiled,
                best: Path = best,
                best_ess: float = best_ess,
            ) -> tuple[dict[str, Any] | None, str]:
                if best_ess >= self.settings.ess:
                    return None, f"{100 * best_ess:.1f} % is what was asked for, {100 * self.settings.ess:g} %, or more"
                # for the evaluation, which uses one core, float64 and forces of both
                reserve = 4 * self._cores * per_sample * self.settings.n_samples + STARTING
                left = self.settings.budget - self.decisions.seconds - reserve
                if left < LAST_SHARE * self.settings.budget and number > 1:
                    return None, f"the budget is used up: {spoken(max(0.0, left))} are left before the evaluation"
                # one long schedule is worth more than two short ones, unless a short one is enough
                compiling = (COMPILED_BEFORE if compiled else COMPILING) if pace.can_compile else 0.0
                early = compiling + EARLY_SHARE * (left - compiling)
                is_early = best_ess > NEAR * self.settings.ess and left - early > LAST_SHARE * self.settings.budget
                seconds = early if is_early else left
                seconds = max(seconds, 2 * STARTING, 0.05 * self.settings.budget)
                settings = round_training(
                    first,
                    seconds,
                    pace,
                    per_sample,
                    str(best.resolve()),
                    outside,
                    self.settings.seed + number,
                    number,
                    compiled,
                )
                plan = {"seconds": seconds, "training": plain_settings(settings)}
                return plan, f"round {number}, {spoken(seconds)}: {described(settings)}"

            plan = self.decisions.make(f"{name} planned", decide)
            if plan is None:
                return best
            settings = TrainSettings.model_validate(plan["training"])
            refined = self._train(training, settings, name)
            ess = self._measure(name, refined)
            if ess > best_ess:
                best, best_ess = refined, ess
            took = self.decisions[f"{name} measured"]["seconds"]
            pace, compiled = pace.slower(min(3.0, max(0.5, took / plan["seconds"]))), settings.compile
            last = name

    def _evaluate(self, best: Path, test: Frames | None) -> Fitted:
        """The best model on frames and samples that no training saw, and the report."""
        model = self.folder / "model.safetensors"
        write_atomically(model, best.read_bytes())
        potential = load_flow(model)
        noise = torch.Generator().manual_seed(self.settings.seed + 2**31)
        domain = potential.coordinates.codomain
        found: Evaluation | SampleEvaluation
        if test is None:
            drawn = observe_samples(potential, self.settings.n_samples, noise, self.reference, self.on_progress)
            found, basins = SampleEvaluation.of(drawn), found_basins(domain, drawn)
            rest = f"reverse KL {found.reverse_kl} kT, force MSE on samples {found.force_mse_samples} (kT/nm)^2"
        else:
            found = evaluate(
                potential, test, self.reference, self.settings.n_samples, noise, self.on_progress, provenance_of(model)
            )
            basins = list(found.basins)
            rest = f"gap of the likelihood {found.forward_kl} kT, force MSE {found.force_mse_data} (kT/nm)^2"
        kinds = "" if test is None else f"{len(test)} frames and "
        self.decisions.make(
            "evaluated",
            lambda: (
                found.ess.value,
                f"evaluation on {kinds}{self.settings.n_samples} samples that no training saw: sampling efficiency "
                f"{percent(found.ess)}, {rest}",
            ),
        )
        result = Fitted(
            self.folder,
            model,
            found,
            basins,
            found.ess,
            self.settings.ess,
            self.decisions.lines,
            self._energy_evaluations(),
        )
        write_atomically(self.folder / "metrics.json", json.dumps(result.to_dict(), indent=1, default=str).encode())
        write_fit(result, self.settings, domain)
        return result

    def _energy_evaluations(self) -> int:
        """Evaluations of the reference in all trainings, by their metrics."""
        total = 0 if self.settings.md else int(self.decisions["crude"])
        for path in sorted(self.folder.glob("*-*/metrics.csv")):
            with path.open(newline="") as file:
                *_, last = csv.DictReader(file)
            total += int(float(last.get("energy_evaluations") or 0))
        return total


def ess_of(log_weights: torch.Tensor, model: Path) -> Estimate:
    """The sampling efficiency by some weights.

    Raises:
        TrainingError: If all of them are zero.
    """
    if not bool((log_weights > -math.inf).any()):
        raise TrainingError(
            f'No sample of the model "{model}" has a finite energy in the reference. Give a longer budget, and another '
            "folder."
        )
    return ess_fraction(log_weights)


def log_weights_of(drawn: Mapping[str, np.ndarray], kT: float) -> torch.Tensor:
    """Log-weights of what `weighted_samples` returns; minus infinity where the reference has no finite energy."""
    energy, log_density = torch.from_numpy(drawn["energy"]), torch.from_numpy(drawn["log_density"])
    possible = energy.isfinite() & log_density.isfinite()
    return torch.where(possible, -energy / kT - log_density, -math.inf)
