"""Charged groups from numbers of neighbours; RDKit's formal charges are the witness."""

from __future__ import annotations

import pytest
from rdkit import Chem
from smoothflow.molecules.electrons import charged_groups
from smoothflow.molecules.topologies import topology_from_smiles

CHARGED = ["NC(=[NH2+])N", "[O-]S(=O)(=O)c1ccccc1", "COP(=O)([O-])[O-]", "C[NH3+]", "CC(=O)[O-]", "[NH3+]CC(=O)[O-]"]
NEUTRAL = ["NC(=O)N", "NC(=N)N", "C=C(N)N", "C[N+](=O)[O-]", "C[N+](C)(C)[O-]", "CS(=O)(=O)C", "CC(=O)O", "Nc1ncccn1"]


@pytest.mark.parametrize("smiles", [*CHARGED, *NEUTRAL])
def test_the_sum_of_charged_groups_is_the_formal_charge(smiles: str) -> None:
    groups = charged_groups(topology_from_smiles(smiles)[0])
    assert sum(size for _, size in groups) == Chem.GetFormalCharge(Chem.MolFromSmiles(smiles))
    assert bool(groups) == (smiles in CHARGED)
