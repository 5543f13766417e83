"""Whatever frames hold and whatever is told of them comes back from a file as it was."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from smoothflow.core.files import parse_json
from smoothflow.core.topology import Atom, Topology
from smoothflow.molecules.frames import COLUMNS, Frames
from smoothflow.molecules.frames_file import read_frames, write_frames

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Atoms of any name, joined in any way."""
    n = draw(st.integers(1, 6))
    atoms = [Atom(draw(st.sampled_from(("C", "H", "Cl"))), draw(TEXT), draw(TEXT), draw(st.integers(0, 99)))] * n
    pairs = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda pair: pair[0] < pair[1])
    bonds = draw(st.lists(pairs, unique=True, max_size=5)) if n > 1 else []
    return Topology(tuple(atoms), tuple(sorted(bonds)))


@st.composite
def frames(draw: st.DrawFn) -> Frames:
    topology = draw(topologies())
    n = draw(st.integers(0, 5))
    columns: dict[str, Any] = {}
    for name, (dtype, is_vector) in COLUMNS.items():
        if name == "positions" or draw(st.booleans()):
            numbers = arrays.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False)
            columns[name] = draw(
                arrays.arrays(dtype, (n, *((len(topology), 3) if is_vector else ())), elements=numbers)
            )
    temperature = draw(st.floats(1e-3, 1e6))
    return Frames(topology, temperature, provenance=draw(st.dictionaries(TEXT, JSON, max_size=3)), **columns)


@given(frames())
def test_frames_come_back(expected: Frames) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.h5"
        write_frames(path, expected)
        found = read_frames(path)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.topology == expected.topology
    assert found.temperature == expected.temperature
    assert found.provenance == expected.provenance
    assert found.digest() == expected.digest()


@given(topologies())
def test_topologies_come_back(topology: Topology) -> None:
    assert Topology.from_dict(parse_json(json.dumps(topology.to_dict()))) == topology
