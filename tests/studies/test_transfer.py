"""From one level of theory to another: closed forms of hydrogen peroxide, honest ends, and nothing paid twice."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from smoothflow.analysis.basins import BASINS, Basin
from smoothflow.analysis.mbar import mixture_log_weights
from smoothflow.analysis.reweighting import level_difference, level_shift
from smoothflow.core.errors import ConfigurationError, SimulationError, TopologyError
from smoothflow.core.potential import Potential
from smoothflow.core.units import thermal_energy
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import read_frames
from smoothflow.molecules.shipped import molecule_path
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.potentials.reference import reference
from smoothflow.potentials.shipped import load_flow
from smoothflow.runs.progress import Progress
from smoothflow.studies.transfer import FIRST, Transfer, TransferSettings, transfer
from smoothflow.training.config import TrainSettings
from smoothflow.training.run import initial_potential
from torch import Tensor

KT = thermal_energy(300.0)
SHIFT = 12.0
"""kJ/mol; a constant by which the other level lies higher."""


class OtherLevel(Potential):
    """Peroxide with a further cosine of the torsion, and a constant."""

    def __init__(self, base: Potential, amplitude: float) -> None:
        super().__init__()
        self.base, self.shape, self.topology, self.amplitude = base, base.shape, base.topology, amplitude
        self.n_paid = 0

    def energy(self, positions: Tensor) -> Tensor:
        self.n_paid += len(positions)
        q, _ = self.base.coordinates.encode(positions)  # type: ignore[operator,union-attr]
        return self.base.energy(positions) + self.amplitude * torch.cos(q[:, 5]) + SHIFT


@pytest.fixture(scope="module")
def flow(peroxide_frames: Frames) -> FlowPotential:
    """A flow that was fitted to the frames' charts, and not trained."""
    return initial_potential(peroxide_frames, TrainSettings()).double().requires_grad_(False)


@pytest.fixture(scope="module")
def basins(flow: FlowPotential) -> tuple[Basin, Basin]:
    name = flow.coordinates.codomain.names[-1]
    return Basin("trans", {name: (90, -90)}), Basin("cis", {name: (-90, 90)})


def torsion_integral(amplitude: float, lower: float, upper: float) -> float:
    """Of the Boltzmann factor of a cosine, over a range in radians; its sum converges faster than any power."""
    x = lower + (upper - lower) * (np.arange(200_000) + 0.5) / 200_000
    return float(np.exp(-amplitude * np.cos(x) / KT).mean() * (upper - lower))


def exact(amplitude: float) -> tuple[float, float]:
    """Free energy of the other level less that of peroxide, and of cis above trans at the other level, kT."""
    whole = [torsion_integral(a, -math.pi, math.pi) for a in (3.0, 3.0 + amplitude)]
    cis = torsion_integral(3.0 + amplitude, -math.pi / 2, math.pi / 2)
    return SHIFT / KT - math.log(whole[1] / whole[0]), -math.log(cis / (whole[1] - cis))


def run(
    folder: Path, flow: FlowPotential, target: Potential, cheap: Potential | None, settings: TransferSettings
) -> Transfer:
    done = transfer({"flow": flow}, target, settings, folder, {"reference": "other"}, cheap)
    assert done.stopped_by is None
    assert done.found is not None
    return done.found


def test_free_energies_are_those_of_the_closed_form(
    tmp_path: Path, flow: FlowPotential, force_field: Potential, basins: tuple[Basin, Basin]
) -> None:
    target = OtherLevel(force_field, 2.5)
    settings = TransferSettings(error=0.05, evaluations=20_000, basins=basins)
    found = run(tmp_path / "run", flow, target, force_field, settings)
    difference, cis = exact(2.5)
    estimate = found.reference.free_energies["cis above trans"]
    assert found.verdict.reliable
    assert found.ended.startswith("the target error is reached")
    assert found.difference is not None
    assert found.error <= 0.05
    # four standard errors each
    assert abs(found.difference.value - difference) < 4 * found.difference.error
    assert abs(estimate.value - cis) < 4 * estimate.error
    shift = found.shifts["cis above trans"]
    assert abs(shift.value - (cis - exact(0.0)[1])) < 4 * shift.error
    # what both levels have in common cancels
    assert shift.error < estimate.error
    assert target.n_paid == sum(found.n_evaluations) == len(read_frames(tmp_path / "run" / "evaluations-0.h5"))


def test_nothing_is_paid_twice_for_a_smaller_error_or_another_basin(
    tmp_path: Path, flow: FlowPotential, force_field: Potential, basins: tuple[Basin, Basin]
) -> None:
    target = OtherLevel(force_field, 2.5)
    rough = TransferSettings(error=10.0, evaluations=4000)
    first = run(tmp_path, flow, target, None, rough)
    assert first.n_evaluations == (FIRST,) == (target.n_paid,)
    assert first.difference is None
    again = run(tmp_path, flow, target, force_field, replace(rough, basins=basins))
    assert target.n_paid == FIRST
    assert again.reference.log_z == first.reference.log_z
    finer = run(tmp_path, flow, target, force_field, replace(rough, basins=basins, error=0.1))
    assert target.n_paid == sum(finer.n_evaluations) > FIRST
    assert json.loads((tmp_path / "transfer.json").read_text())["error"] == finer.error


def test_the_budget_is_kept(tmp_path: Path, flow: FlowPotential, force_field: Potential) -> None:
    target = OtherLevel(force_field, 2.5)
    found = run(tmp_path, flow, target, force_field, TransferSettings(error=1e-3, evaluations=700))
    assert found.ended == "the budget of 700 evaluations is spent"
    assert target.n_paid == 700


def test_levels_that_do_not_overlap_give_no_error_and_end_early(
    tmp_path: Path, flow: FlowPotential, force_field: Potential, basins: tuple[Basin, Basin]
) -> None:
    class Elsewhere(OtherLevel):
        def energy(self, positions: Tensor) -> Tensor:
            length = (positions[:, 0] - positions[:, 1]).norm(dim=-1)
            # six standard deviations from where the first level has the bond
            return super().energy(positions) + 1e6 * (length - 0.15) ** 2

    target = Elsewhere(force_field, 0.0)
    found = run(tmp_path, flow, target, force_field, TransferSettings(basins=basins))
    assert target.n_paid == FIRST
    assert not found.verdict.reliable
    assert found.verdict.reasons[0].startswith("no overlap: 500 samples are worth")
    assert found.ended == "more samples of this model would not help: refine it on those that were evaluated"
    assert math.isinf(found.error)
    assert found.difference is not None
    for estimate in (
        found.difference,
        found.reference.log_z,
        *found.reference.free_energies.values(),
        *found.shifts.values(),
    ):
        assert estimate is not None
        assert math.isnan(estimate.error)
    assert "no overlap" in {row[0]: row[1] for row in found.rows()}["verdict"]


def test_a_basin_that_no_sample_shows_has_no_number(
    tmp_path: Path, flow: FlowPotential, force_field: Potential, basins: tuple[Basin, Basin]
) -> None:
    (torsion,) = basins[0].ranges
    # a nothing of a region
    missed = Basin("missed", {torsion: (11.0, 11.000001)})
    settings = TransferSettings(error=0.2, evaluations=2000, basins=(basins[0], missed))
    found = run(tmp_path, flow, OtherLevel(force_field, 0.0), force_field, settings)
    free_energy = found.reference.free_energies["missed above trans"]
    assert math.isnan(free_energy.value)
    assert math.isnan(found.shifts["missed above trans"].value)
    assert str(found.reference.populations["missed"]) == "none of 2000 samples: not known"
    # and the error asked for is not reached, whatever the others say
    assert found.ended == "the budget of 2000 evaluations is spent"


def test_a_run_that_was_interrupted_goes_on(tmp_path: Path, flow: FlowPotential, force_field: Potential) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done > 100:
            os.kill(os.getpid(), signal.SIGINT)

    target = OtherLevel(force_field, 1.0)
    settings = TransferSettings(evaluations=600)
    done = transfer({"flow": flow}, target, settings, tmp_path, {}, None, interrupt)
    assert (done.stopped_by, done.found) == (signal.SIGINT, None)
    assert 100 < done.n_evaluations == target.n_paid < FIRST
    after = transfer({"flow": flow}, target, settings, tmp_path, {})
    assert after.found is not None
    assert target.n_paid == sum(after.found.n_evaluations)


def test_a_second_model_adds_to_what_the_first_one_paid(
    tmp_path: Path, flow: FlowPotential, force_field: Potential, basins: tuple[Basin, Basin]
) -> None:
    target = OtherLevel(force_field, 2.5)
    settings = TransferSettings(error=0.2, evaluations=3000, basins=basins)
    run(tmp_path, flow, target, force_field, settings)
    first = target.n_paid
    later = {"flow": flow, "refined": flow}
    done = transfer(later, target, replace(settings, error=0.08), tmp_path, {"reference": "other"}, force_field)
    assert done.found is not None
    assert done.found.n_evaluations[0] == first
    assert done.found.n_evaluations[1] >= FIRST
    assert target.n_paid == sum(done.found.n_evaluations)
    cis = done.found.reference.free_energies["cis above trans"]
    assert abs(cis.value - exact(2.5)[1]) < 4 * cis.error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"error": 0.0}, "must be positive and finite"),
        ({"error": math.nan}, "must be positive and finite"),
        ({"evaluations": 1}, "is too small"),
        ({"seed": -1}, "must not be negative"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TransferSettings(**change)  # type: ignore[arg-type]


def test_a_folder_of_something_else_and_another_molecule_are_refused(
    tmp_path: Path, flow: FlowPotential, force_field: Potential
) -> None:
    (tmp_path / "transfer.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="does not hold a transfer"):
        transfer({"flow": flow}, force_field, TransferSettings(), tmp_path)

    class Another(Potential):
        shape = (5, 3)

        def energy(self, positions: Tensor) -> Tensor:
            return positions.sum((1, 2))

    with pytest.raises(TopologyError, match=r"shape \(5, 3\)"):
        transfer({"flow": flow}, Another(), TransferSettings(), tmp_path / "other")


def test_a_region_where_the_reference_fails_is_said(
    tmp_path: Path, flow: FlowPotential, force_field: Potential
) -> None:
    class Failing(OtherLevel):
        def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
            if bool((torch.arange(self.n_paid, self.n_paid + len(positions)) % 20 == 7).any()):
                if len(positions) == 1:
                    self.n_paid += 1
                raise SimulationError("not converged")
            return super().energy_and_forces(positions)

    found = run(tmp_path, flow, Failing(force_field, 0.5), None, TransferSettings(error=1.0, evaluations=600))
    assert found.failed == pytest.approx(25, abs=2)
    assert found.verdict.reasons == (f"{found.failed} of 500 evaluations gave no energy, and count as impossible",)
    assert found.ended.endswith("the reference failed, the last time with: not converged")


def normal(mean: float, width: float) -> Callable[[Tensor], Tensor]:
    return lambda x: -0.5 * ((x - mean) / width) ** 2 - math.log(width * math.sqrt(2 * math.pi))


def test_a_mixture_of_samplers_knows_what_each_of_them_misses() -> None:
    generator = torch.Generator().manual_seed(0)
    samplers, counts = [normal(-1.0, 1.1), normal(1.2, 1.2)], [3000, 1500]
    noise = torch.randn(4500, generator=generator, dtype=torch.float64)
    x = torch.cat([-1.0 + 1.1 * noise[:3000], 1.2 + 1.2 * noise[3000:]])
    energy = 0.5 * x**2 - 2.0
    densities = torch.stack([sampler(x) for sampler in samplers])
    weights = mixture_log_weights(energy, densities, counts)
    first = mixture_log_weights(energy[:3000], densities[:1, :3000], [3000])
    # one sampler alone is ordinary importance sampling
    torch.testing.assert_close(first, -energy[:3000] - densities[0, :3000])
    other = -0.5 * (x - 0.5) ** 2 - torch.logsumexp(densities + torch.tensor([[2 / 3], [1 / 3]]).log(), 0)
    difference = level_difference(weights, other)
    # log Z of the target is 2 + log sqrt(2 pi), and that of the other one log sqrt(2 pi)
    assert abs(difference.value - (-2.0)) < 4 * difference.error
    inside = x > 0
    shift = level_shift(inside, ~inside, weights, other)
    right = 0.5 * math.erfc(-0.5 / math.sqrt(2))
    assert abs(shift.value - math.log(right / (1 - right))) < 4 * shift.error


def test_errors_of_differences_are_those_of_repeated_draws() -> None:
    found: dict[str, list[tuple[float, float]]] = {"difference": [], "shift": []}
    for seed in range(200):
        x = 1.4 * torch.randn(800, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        base = normal(0.0, 1.4)(x)
        ours, theirs = -0.5 * (x - 0.4) ** 2 - base, -0.5 * x**2 - base
        found["difference"].append((level_difference(ours, theirs).value, level_difference(ours, theirs).error))
        shift = level_shift(x > 0, x < 0, ours, theirs)
        found["shift"].append((shift.value, shift.error))
    for pairs in found.values():
        values, errors = np.array(pairs).T
        # the spread of 200 values is known to 5 %; four of its errors
        assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)


@pytest.mark.slow
def test_from_implicit_solvent_to_vacuum_errors_are_withheld(tmp_path: Path) -> None:
    flow, path = load_flow("ala2-smooth"), molecule_path("capped-alanine")
    target = reference("openmm:amber99sbildn.xml", path)
    cheap = reference("torch:amber99sbildn.xml,amber99_obc.xml", path)
    settings = TransferSettings(evaluations=2000, basins=(BASINS["alpha"], BASINS["beta"]))
    found = run(tmp_path, flow, target, cheap, settings)
    # some 60 samples of 2000 count in vacuum, where the peptide folds upon itself: whatever is said has no error
    assert found.ess.value < 0.1
    assert math.isinf(found.error)
    assert found.cheap is not None
    # at the model's own level everything is known
    assert found.cheap.free_energies["beta above alpha"].reliable
