"""Frames that a model was trained on are known again, in another file or in part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.sketch import SIZE, Origin, fingerprints, shared_frames, sketch, without_sketches
from smoothflow.molecules.topologies import topology_from_pdb


@pytest.fixture(scope="module")
def frames() -> Frames:
    topology, positions = topology_from_pdb(molecule_path("capped-alanine"))
    noise = np.random.default_rng(0).normal(scale=0.003, size=(6000, *positions.shape[1:]))
    return Frames(topology, 300.0, positions.numpy() + noise)


@pytest.fixture(scope="module")
def header(frames: Frames) -> dict[str, object]:
    trained = frames[:5000]
    return {"frames": {"sha256": trained.digest(), "number": 5000, "sketch": sketch(trained)}}


def test_a_sketch_is_short(header: dict[str, dict[str, list[str]]]) -> None:
    assert len(header["frames"]["sketch"]) == SIZE


def test_the_same_frames_are_training_frames(frames: Frames, header: dict[str, object]) -> None:
    found = shared_frames(frames[:5000], header)
    assert (found.origin, found.share) == (Origin.TRAINING, 1.0)


def test_other_frames_are_held_out(frames: Frames, header: dict[str, object]) -> None:
    found = shared_frames(frames[5000:], header)
    assert (found.origin, found.share) == (Origin.HELD_OUT, 0.0)


def test_a_part_of_them_in_another_order_is_known(frames: Frames, header: dict[str, object]) -> None:
    part = frames[np.random.default_rng(1).permutation(5000)[:200]]
    found = shared_frames(replace(part, energies=np.zeros(200), replica=np.zeros(200)), header)
    assert found.origin is Origin.TRAINING
    assert found.share == 1


def test_a_mixture_is_known_by_its_share(frames: Frames, header: dict[str, object]) -> None:
    found = shared_frames(frames[4000:], header)
    assert found.origin is Origin.TRAINING
    # half of 2000, of which 41 % have small fingerprints: a standard deviation of 2 %
    assert found.share == pytest.approx(0.5, abs=0.08)


def test_moved_turned_and_rounded_frames_are_known(frames: Frames, header: dict[str, object]) -> None:
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    part = frames[:1000]
    # through a text file with seven decimals in angstrom
    moved = np.round(10 * (part.positions.astype(float) @ turn.T + 0.3), 7) / 10
    found = shared_frames(replace(part, positions=moved), header)
    assert found.origin is Origin.TRAINING
    assert found.share > 0.9


def test_frames_of_the_model_that_was_tuned_are_known(frames: Frames, header: dict[str, object]) -> None:
    tuned = {"initial_model": header, "frames": {"sketch": sketch(frames[5000:])}}
    assert shared_frames(frames[:500], tuned).origin is Origin.TRAINING


def test_without_a_sketch_nothing_is_known_but_equal_data(frames: Frames) -> None:
    old = {"frames": {"sha256": frames.digest(), "number": len(frames)}}
    assert shared_frames(frames, old).origin is Origin.TRAINING
    assert shared_frames(frames[:100], old).origin is Origin.UNKNOWN
    assert shared_frames(frames, {}).origin is Origin.UNKNOWN


def test_fingerprints_of_different_frames_differ(frames: Frames) -> None:
    assert len(np.unique(fingerprints(frames))) == len(frames)


def test_readers_are_spared_the_fingerprints(header: dict[str, object]) -> None:
    shown = without_sketches({"initial_model": header, **header})
    assert "sketch" not in str(shown)
    assert shown["frames"]["number"] == 5000
