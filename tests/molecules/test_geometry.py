"""Handedness of configurations."""

import torch
from smoothflow.core.topology import Atom, Topology
from smoothflow.molecules.geometry import handedness, tetrahedral_centres


def test_handedness_changes_in_the_mirror_and_with_an_exchange() -> None:
    atoms = tuple(Atom(element, name, "X", 0) for element, name in zip("CHFCN", "abcde", strict=True))
    topology = Topology(atoms, ((0, 1), (0, 2), (0, 3), (0, 4)))
    assert tetrahedral_centres(topology) == (0,)
    corners = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    # determinant of (0,-2,-2), (-2,0,-2), (-2,-2,0) is -16
    mirrored = corners * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    exchanged = corners[[0, 2, 1, 3, 4]]
    found = handedness(torch.stack([corners, mirrored, exchanged]), topology)
    assert found.flatten().tolist() == [-1, 1, 1]
