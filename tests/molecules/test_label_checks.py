"""Labels against physics, on exact samples of a potential in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from closed_forms import Springs
from smoothflow.core.errors import ConfigurationError, FileFormatError, GeometryError
from smoothflow.core.topology import Atom, Topology
from smoothflow.core.units import thermal_energy
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.label_checks import (
    LabelWarning,
    check_labels,
    compare_labels,
    examine_labels,
    warn_of_duplicates,
)

STIFFNESS, LENGTH, TEMPERATURE = 2e5, 0.15, 300.0


def chain(n_atoms: int = 9) -> Springs:
    """A freely jointed chain."""
    return Springs([(i, i + 1) for i in range(n_atoms - 1)], LENGTH, STIFFNESS)


def chain_frames(n_frames: int, n_atoms: int = 9) -> Frames:
    """Independent samples: each bond by p(r) ~ r^2 exp(-U / kT), in a random direction."""
    rng = np.random.default_rng(1)
    shape = (n_frames, n_atoms - 1)
    grid = np.linspace(0.9 * LENGTH, 1.1 * LENGTH, 20001)
    density = grid**2 * np.exp(-0.5 * STIFFNESS * (grid - LENGTH) ** 2 / thermal_energy(TEMPERATURE))
    r = np.interp(rng.random(shape), np.cumsum(density) / density.sum(), grid)
    directions = rng.normal(size=(*shape, 3))
    bonds = r[..., None] * directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    positions = np.concatenate([np.zeros((n_frames, 1, 3)), np.cumsum(bonds, axis=1)], axis=1)
    topology = Topology(
        tuple(Atom("S", f"S{i}", "MOL", 0) for i in range(n_atoms)), tuple((i, i + 1) for i in range(n_atoms - 1))
    )
    energies, forces = chain(n_atoms).energy_and_forces(torch.from_numpy(positions))
    return Frames(topology, TEMPERATURE, positions, forces.numpy(), energies.numpy())


def test_both_ratios_of_exact_samples_are_one() -> None:
    report = examine_labels(chain_frames(4000))
    assert report.forces is not None
    assert report.energies is not None
    # the standard errors of 4,000 frames are 0.6 and 2 %
    assert abs(report.forces[0] - 1) < 0.03
    assert abs(report.energies[0] - 1) < 0.1
    check_labels(chain_frames(400), "frames")


@pytest.mark.parametrize(
    ("factor", "hint"),
    [(-1, "the sign"), (4.184, "kcal"), (1 / 4.184, "kcal"), (23.06, "eV"), (0.52918, "bohr"), (0, "")],
)
@pytest.mark.parametrize("n_frames", [200, 2000])
def test_forces_in_another_unit_are_refused(factor: float, hint: str, n_frames: int) -> None:
    frames = chain_frames(n_frames)
    assert frames.forces is not None
    with pytest.raises(FileFormatError, match=rf'forces of "f" do not belong.*{hint}'):
        check_labels(replace(frames, forces=factor * frames.forces), '"f"')


@pytest.mark.parametrize("factor", [-1, 4.184, 1 / 4.184, 23.06])
def test_energies_in_another_unit_are_refused(factor: float) -> None:
    frames = chain_frames(1000)
    assert frames.energies is not None
    with pytest.raises(FileFormatError, match=r"energies of f do not belong"):
        check_labels(replace(frames, energies=factor * frames.energies), "f")


@pytest.mark.parametrize("factor", [23.06, 1 / 23.06])
def test_fluctuations_of_energies_alone_show_a_unit_that_is_far_off(factor: float) -> None:
    frames = replace(chain_frames(1000), forces=None)
    assert frames.energies is not None
    check_labels(frames, "f")
    with pytest.raises(FileFormatError, match="energies of f fluctuate"):
        check_labels(replace(frames, energies=factor * frames.energies), "f")


def test_another_temperature_is_refused_or_warned_of() -> None:
    frames = chain_frames(2000)
    with pytest.raises(FileFormatError, match="forces"):
        check_labels(replace(frames, temperature=600.0), "f")
    with pytest.warns(LabelWarning, match=r"1\.2\d? \+- .* where 1 is right"):
        check_labels(replace(frames, temperature=245.0), "f")


def test_few_frames_and_frames_without_labels_are_not_judged() -> None:
    frames = chain_frames(15)
    assert frames.forces is not None
    check_labels(replace(frames, forces=-frames.forces), "f")
    check_labels(replace(chain_frames(100), forces=None, energies=None), "f")


def test_weighted_frames_are_judged_by_their_weights() -> None:
    frames = chain_frames(3000)
    assert frames.energies is not None
    # the distribution at 500 K, from frames at 300 K
    ratio = 1 - TEMPERATURE / 500.0
    log_weights = ratio * frames.energies / thermal_energy(TEMPERATURE)
    hot = replace(frames, temperature=500.0, log_weights=log_weights)
    report = examine_labels(hot)
    assert report.forces is not None
    # a few hundred effective frames of 16 moved atoms
    assert abs(report.forces[0] - 1) < 0.2
    check_labels(hot, "f")


def test_bonds_that_constraints_hold_are_left_out() -> None:
    frames = chain_frames(500)
    report = examine_labels(replace(frames, positions=frames.positions[:1].repeat(500, axis=0)))
    assert report.forces is None


def test_stored_forces_are_compared_with_a_reference() -> None:
    frames = chain_frames(30)
    assert frames.forces is not None
    compare_labels(frames, chain(), "frames")
    with pytest.raises(ConfigurationError, match=r"The forces \(by 10 % of their size\) of frames are not"):
        compare_labels(replace(frames, forces=1.1 * frames.forces), chain(), "frames")


def test_repeated_frames_are_warned_of() -> None:
    frames = chain_frames(30)
    warn_of_duplicates(frames, "f")
    with pytest.warns(LabelWarning, match=r"75 % of the 120 frames of f repeat others exactly: 30 are different"):
        warn_of_duplicates(frames[np.tile(np.arange(30), 4)], "f")


def test_frames_far_from_the_origin_keep_their_bonds() -> None:
    frames = chain_frames(5)
    far = Frames(frames.topology, 300.0, frames.positions.astype(np.float64) + 1e5)
    bonds = np.linalg.norm(np.diff(far.positions, axis=1), axis=-1)
    # rounding of float64 at 1e5 nm
    np.testing.assert_allclose(bonds, np.linalg.norm(np.diff(frames.positions, axis=1), axis=-1), rtol=0, atol=1e-6)
    lost = Frames(frames.topology, 300.0, frames.positions + np.float32(1e5))
    with pytest.raises(
        GeometryError, match=r"1e\+05 nm from the origin, where single precision resolves only 0.008 nm"
    ):
        lost.require_precision()


@pytest.mark.parametrize(
    "change", [lambda energies: 0 * energies, lambda energies: energies + 1e3 * np.arange(len(energies))]
)
def test_numbers_that_are_no_energies_are_refused_beside_right_forces(change) -> None:
    frames = chain_frames(400)
    with pytest.raises(FileFormatError, match=r"energies of it (fluctuate|do not belong)"):
        check_labels(replace(frames, energies=change(frames.energies)), "it")
