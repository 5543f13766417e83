"""Evaluation against references of which everything is known: the flow itself, shifted, scaled or tilted."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from closed_forms import HarmonicWell
from conformations import untrained_flow
from smoothflow.analysis.evaluation import Evaluation, evaluate
from smoothflow.analysis.reweighting import ess_fraction
from smoothflow.core.errors import ConfigurationError, GeometryError, TopologyError
from smoothflow.core.potential import Potential
from smoothflow.core.units import thermal_energy
from smoothflow.molecules.frames import Frames
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.studies.gallery import evaluation_pictures
from torch import Tensor

TEMPERATURE = 300.0
KT = thermal_energy(TEMPERATURE)
N = 400


class Changed(Potential):
    """Another potential plus a constant and a multiple of cos(phi), kT."""

    def __init__(self, base: FlowPotential, constant: float = 0.0, tilt: float = 0.0) -> None:
        super().__init__()
        self.base, self.constant, self.tilt = base, constant, tilt
        self.shape = base.shape
        self.phi = base.coordinates.codomain.index("phi")

    def energy(self, positions: torch.Tensor) -> torch.Tensor:
        q, _ = self.base.coordinates.encode(positions)
        return self.base.energy(positions) + KT * (self.constant + self.tilt * q[:, self.phi].cos())


class Broken(Changed):
    """The same, but no number for every tenth configuration of a batch after the first ten."""

    def energy_and_forces(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energy, forces = super().energy_and_forces(positions)
        energy[10::10] = math.nan
        return energy, forces


@pytest.fixture(scope="module")
def potential() -> FlowPotential:
    return untrained_flow(circle_pairs=1)


def frames_of(potential: FlowPotential, reference: Potential, stored: bool = True) -> Frames:
    """Draws of the flow, as if a reference had made them."""
    positions, _ = potential.sample(N, torch.Generator().manual_seed(1))
    # energies belong to the float32 positions that frames hold
    positions = positions.float().double()
    energy, forces = reference.energy_and_forces(positions)
    assert potential.topology is not None
    known = {"energies": energy.numpy(), "forces": forces.numpy()} if stored else {}
    return Frames(potential.topology, TEMPERATURE, positions.numpy(), **known)


def run(potential: FlowPotential, reference: Potential, frames: Frames) -> Evaluation:
    return evaluate(potential, frames, reference, N, torch.Generator().manual_seed(2))


@pytest.mark.parametrize("stored", [True, False])
def test_a_flow_is_its_own_perfect_model(potential: FlowPotential, stored: bool) -> None:
    reference = Changed(potential, constant=7.0)
    found = run(potential, reference, frames_of(potential, reference, stored))
    # log Z of exp(-7) q is -7; decode against encode of one sample differ by rounding through 60 columns
    assert found.log_z.value == pytest.approx(-7, abs=1e-8)
    assert found.log_z_importance.value == pytest.approx(-7, abs=1e-8)
    assert found.ess.value == pytest.approx(1, abs=1e-10)
    assert found.forward_kl.value == pytest.approx(0, abs=1e-6)
    assert found.reverse_kl.value == pytest.approx(0, abs=1e-8)
    assert found.nll.value == pytest.approx(found.nll_floor.value, abs=1e-6)
    # stored forces are float32, 1e3 kT/nm and more
    assert found.force_rmse_data.value < (1e-2 if stored else 1e-8)
    assert found.force_rmse_samples.value < 1e-8
    assert found.not_finite == 0
    assert found.force_ms_data.value > 1e3


def test_a_tilted_target_has_the_divergences_of_its_weights(potential: FlowPotential) -> None:
    reference = Changed(potential, tilt=0.8)
    # draws of the flow pass for frames of the tilted target: then -tilt cos(phi) is all there is
    found = run(potential, reference, frames_of(potential, reference))
    tilt = -0.8 * found.samples.internal[:, reference.phi].cos()
    torch.testing.assert_close(found.samples.log_weights, tilt, rtol=0, atol=1e-8)  # rounding, as above
    assert found.ess.value == pytest.approx(ess_fraction(tilt).value, rel=1e-6)
    assert found.reverse_kl.value == pytest.approx(found.log_z.value - float(tilt.mean()), abs=1e-8)
    q = found.frames.internal[:, reference.phi]
    expected = float((0.8 * q.sin()[:, None] * _phi_gradient(potential, found.frames.positions)).square().mean())
    assert found.force_mse_data.value == pytest.approx(expected, rel=1e-4)  # forces of the frames are float32


def _phi_gradient(potential: FlowPotential, positions: torch.Tensor) -> torch.Tensor:
    column = potential.coordinates.codomain.index("phi")
    positions = positions.clone().requires_grad_(True)
    q, _ = potential.coordinates.encode(positions)
    return torch.autograd.grad(q[:, column].sum(), positions)[0].flatten(1)


def test_structure_of_equal_distributions(potential: FlowPotential) -> None:
    found = run(potential, potential, frames_of(potential, potential))
    assert [item.names for item in found.divergences] == [("phi", "psi")]
    item = found.divergences[0]
    assert item.divergence.value == pytest.approx(item.noise_floor.value, rel=0.5)  # 200 counts in 1296 bins
    (population,) = found.populations
    for estimate in (population.samples, population.reweighted):
        assert abs(estimate.value - population.data.value) < 5 * math.hypot(estimate.error, population.data.error)
    # the charts of narrow torsions keep the handedness of the structure they were fitted to
    assert found.wrong_handedness.value == 0
    # alpha and beta carbon, and the caps' methyl groups
    assert [name.split()[0] for name in found.handedness_by_atom] == ["ACE1-CH3", "ALA2-CA", "ALA2-CB", "NME3-C"]


MIRROR = np.array([1, 1, -1], dtype=np.float32)


class Mirrored(FlowPotential):
    """A flow whose samples are mirror images of its molecule."""

    def sample(self, n_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        positions, log_prob = super().sample(n_samples, generator)
        return positions * torch.from_numpy(MIRROR), log_prob


def test_mirrored_samples_are_seen(potential: FlowPotential) -> None:
    mirrored = Mirrored(potential.flow, potential.coordinates, potential.temperature)
    found = run(mirrored, HarmonicWell(22, 0.02), frames_of(potential, potential, stored=False))
    assert found.wrong_handedness.value == 1


def test_mirrored_frames_are_refused(potential: FlowPotential) -> None:
    frames = frames_of(potential, potential, stored=False)
    with pytest.raises(GeometryError, match=r"In frame 0: This is the mirror image .*ALA2-CA"):
        run(potential, potential, replace(frames, positions=frames.positions * MIRROR))


def test_samples_without_an_energy_count_as_impossible(potential: FlowPotential) -> None:
    found = run(potential, Broken(potential), frames_of(potential, potential))
    assert found.not_finite == 39
    # equal weights for 361 of 400
    assert found.ess.value == pytest.approx(361 / 400, rel=1e-8)
    assert found.log_z_importance.value == pytest.approx(math.log(361 / 400), abs=1e-8)
    assert found.sample_energy_max == math.inf
    assert found.high_energy_fraction.value == pytest.approx(39 / 400)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["sample_energy_max"] is None
    assert all(len(row) == 3 for row in found.rows())


def test_numbers_are_plain_and_tables_printable(potential: FlowPotential) -> None:
    found = run(potential, potential, frames_of(potential, potential))
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["nll"]["value"] == found.nll.value
    assert data["verdict"] == {"reliable": found.verdict.reliable, "reasons": list(found.verdict.reasons)}
    assert data["frames_are"] == "frames (not known whether held out)"
    assert data["mixing"]["walkers"] == 1
    assert {"r_hat", "transitions", "independent_frames", "wells"} == set(data["mixing"]["torsions"]["phi"])
    assert {"largest_weight_share", "pareto_k", "overlap", "force_median_samples"} <= set(data)
    assert data["divergences"][0]["names"] == ["phi", "psi"]
    assert "frames" not in data
    assert found.rows()[0] == ("verdict", str(found.verdict), "")
    assert ("NLL of frames (not known whether held out)", str(found.nll), f"kT, {N} frames") in found.rows()
    assert all(len(row) == 3 for row in found.rows())


def test_the_verdict_names_training_frames_and_dominating_weights(potential: FlowPotential) -> None:
    frames = frames_of(potential, potential)
    known = {"frames": {"sha256": frames.digest()}}
    found = evaluate(potential, frames, potential, N, torch.Generator().manual_seed(2), provenance=known)
    assert "the model was trained on 100 % of these frames" in found.verdict.reasons
    assert found.rows()[1][0] == "NLL of training frames"
    # a target so tilted that hardly any sample is in it
    frames = replace(frames_of(potential, Changed(potential, tilt=1e4)), energies=None)
    far = run(potential, Changed(potential, tilt=1e4), frames)
    assert not far.verdict.reliable
    assert far.largest_weight_share > 0.1
    assert any("the largest weight carries" in reason for reason in far.verdict.reasons)
    assert math.isnan(far.log_z_importance.error)


def test_different_estimates_of_log_z_are_reported(potential: FlowPotential) -> None:
    tilted = Changed(potential, tilt=1.5)
    # draws of the flow itself, which are not frames of the tilted target
    found = run(potential, tilted, frames_of(potential, tilted))
    assert any("log Z of frames and samples and log Z by weights differ" in reason for reason in found.verdict.reasons)


def test_progress_counts_every_configuration(potential: FlowPotential) -> None:
    seen: list[tuple[int, int]] = []
    evaluate(
        potential,
        frames_of(potential, potential),
        potential,
        N,
        torch.Generator().manual_seed(0),
        lambda progress: seen.append((progress.done, progress.total)),
    )
    assert seen == sorted(seen)
    assert seen[-1] == (2 * N, 2 * N)


def test_frames_of_another_temperature_or_force_field_or_molecule_are_refused(potential: FlowPotential) -> None:
    frames = frames_of(potential, potential)
    with pytest.raises(ConfigurationError, match="310 K"):
        run(potential, potential, replace(frames, temperature=310.0))
    with pytest.raises(ConfigurationError, match=r"up to 1 kT"):
        run(potential, Changed(potential, constant=1.0), frames)
    with pytest.raises(ConfigurationError, match="weights"):
        run(potential, potential, replace(frames, log_weights=np.zeros(N)))
    atoms = frames.topology.atoms
    other = replace(frames.topology, atoms=(replace(atoms[0], element="N"), *atoms[1:]))
    with pytest.raises(TopologyError, match="atom 0"):
        run(potential, potential, replace(frames, topology=other))


def test_pictures_of_an_evaluation(potential: FlowPotential) -> None:
    found = run(potential, potential, frames_of(potential, potential))
    pictures = evaluation_pictures(found, potential.coordinates.codomain)
    assert [picture.title.split()[0] for picture in pictures] == ["Ramachandran", "Forces", "Energy"]
    assert all(picture.png.startswith(b"\x89PNG") for picture in pictures)
