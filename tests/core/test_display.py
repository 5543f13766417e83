"""Objects say what they are in one line, and in a table that shows text as text."""

from __future__ import annotations

import numpy as np
import pytest
from smoothflow import Atom, Frames, SumPotential, Topology, load, molecule_path, topology_from_pdb
from smoothflow.core.display import described, html_table
from smoothflow.core.errors import ManifoldError
from smoothflow.core.layers import Layer, Sequential
from smoothflow.core.manifolds import Circle, Product

MODEL = load("ala2-smooth")
TOPOLOGY, POSITIONS = topology_from_pdb(molecule_path("capped-alanine"))
FRAMES = Frames(TOPOLOGY, 300.0, POSITIONS.numpy(), energies=np.zeros(1), provenance={"made": "<b>by hand</b>"})
ONE_LINE = 400
"""Letters of what fits into an error; torch's own text for this model has 13,000."""


@pytest.mark.parametrize(
    ("thing", "parts"),
    [
        (MODEL, ["FlowPotential", "22 atoms C6H12N2O2", "300 K", "smooth on interval", "float64 on cpu"]),
        (MODEL.flow, ["60 (41 interval, 19 circle)", "22 (1 Chart, 20 Coupling, 1 CumulativeNormal)", "parameters"]),
        (MODEL.flow.layer.layers[0], ["Chart(60 columns", "55 standard, 5 circle charts"]),
        (MODEL.flow.layer.layers[1], ["Coupling(60 columns", "AffineTransform(line; 2 parameters)", "given 32"]),
        (MODEL.flow.layer, ["22 layers"]),
        (MODEL.flow.domain, ["60 columns: 41 interval, 19 circle"]),
        (MODEL.coordinates, ["22 atoms", "60 columns"]),
        (MODEL.coordinates.zmatrix, ["ZMatrix(22 rows)"]),
        (TOPOLOGY, ["22 atoms C6H12N2O2", "21 bonds"]),
        (FRAMES, ["1 frames", "22 atoms C6H12N2O2", "300 K", "positions + energies"]),
        (SumPotential([MODEL, MODEL], [1, -0.5]), ["1 FlowPotential + -0.5 FlowPotential"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_object_names_its_parts_and_sizes_in_one_line(thing: object, parts: list[str]) -> None:
    text = repr(thing)
    assert "\n" not in text
    assert len(text) < ONE_LINE
    for part in parts:
        assert part in text


def test_a_formula_is_in_hills_order() -> None:
    def summary(*elements: str) -> str:
        return Topology(tuple(Atom(element, element, "MOL", 0) for element in elements), ()).summary

    assert summary("O", "H", "H") == "3 atoms H2O"
    assert summary("Cl", "H", "C", "Br", "H", "H") == "6 atoms CH3BrCl"
    assert summary("H", "Br", "B") == "3 atoms BBrH"  # without carbon all are in alphabetical order
    assert summary() == "0 atoms"


@pytest.mark.parametrize("thing", [MODEL, MODEL.flow, FRAMES], ids=lambda value: type(value).__name__)
def test_a_notebook_shows_a_table(thing: object) -> None:
    html = thing._repr_html_()
    assert html.startswith("<table>")
    assert html.count("<tr>") == html.count("</tr>") > 3


def test_text_in_a_table_is_never_markup() -> None:
    assert "&lt;b&gt;by hand&lt;/b&gt;" in FRAMES._repr_html_()
    assert "<b>" not in FRAMES._repr_html_()
    assert "<script>" not in html_table("<script>", [("<script>", "<script>")])


def test_control_characters_do_not_reach_the_console() -> None:
    assert described(object(), "a\x1b[31m\nb") == "object(a\N{REPLACEMENT CHARACTER}[31m b)"


def test_layers_that_do_not_join_are_an_error_that_names_the_first_column() -> None:
    class Stand(Layer):
        def __init__(self, *names: str) -> None:
            super().__init__()
            self.domain = self.codomain = Product.of(Circle(), list(names))

        encode = decode = None

    with pytest.raises(ManifoldError, match=r'first "b" on Circle.*and "c" on Circle') as caught:
        Sequential([Stand("a", "b"), Stand("a", "c")])
    assert len(str(caught.value)) < ONE_LINE
