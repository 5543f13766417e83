"""Figures are real pictures of the data; the report stands alone and escapes what it is given."""

import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from smoothflow.core.errors import ConfigurationError, FileFormatError, MissingDependencyError
from smoothflow.studies.figures import (
    COLOURS,
    DPI,
    conservation_figure,
    energy_figure,
    force_figure,
    ramachandran_figure,
    training_figure,
)
from smoothflow.studies.report import Picture, Report, Table, render_report, write_report

RNG = np.random.default_rng(0)


def pixels(png: bytes, size: tuple[float, float]) -> np.ndarray:
    """The picture as bytes of red, green and blue, once its format and size are right."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    image = imread(io.BytesIO(png))
    assert image.shape[:2] == (round(size[1] * DPI), round(size[0] * DPI))
    return np.round(image[..., :3] * 255).astype(int)


def n_of_colour(image: np.ndarray, colour: str) -> int:
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(image - rgb).max(axis=-1) <= 2).sum())


def test_energy_figure_shows_frames_samples_and_reweighted_samples() -> None:
    frames, samples = RNG.normal(-24, 5, 5000), np.append(RNG.normal(-20, 6, 3000), [1e11, np.inf])
    image = pixels(energy_figure(frames, samples, np.exp(-0.02 * samples), size=(6, 3)), (6, 3))
    assert n_of_colour(image, "#BBBBBB") > 5000  # the filled histogram covers a good part of 900 x 450 pixels
    assert n_of_colour(image, COLOURS[0]) > 500
    assert n_of_colour(image, COLOURS[1]) > 500


def test_energy_figure_without_weights_has_one_line_less() -> None:
    values = RNG.normal(0, 5, 1000)
    assert n_of_colour(pixels(energy_figure(values, values, size=(6, 3)), (6, 3)), COLOURS[1]) == 0


def test_conservation_figure_has_one_panel_and_colour_per_run() -> None:
    times = np.linspace(0, 5, 200)
    waves = np.sin(times[:, None] + np.arange(3))
    runs = dict.fromkeys(("verlet", "ASE", "OpenMM"), (times, waves))
    image = pixels(conservation_figure(runs, size=(8, 4)), (8, 4))
    for i in range(3):
        # a third of the width each, by colour
        columns = np.nonzero((image == [int(COLOURS[i][k : k + 2], 16) for k in (1, 3, 5)]).all(-1))[1]
        assert i / 3 < columns.mean() / image.shape[1] < (i + 1) / 3


def test_force_figure_draws_many_points_as_a_histogram_and_few_as_points() -> None:
    x = RNG.normal(size=(1000, 10))
    image = pixels(force_figure({"many": (x, x + 0.1), "few": (x[:20], x[:20])}, size=(8, 4)), (8, 4))
    left, right = image[:, :600], image[:, 600:]
    assert n_of_colour(right, COLOURS[0]) > 0
    assert n_of_colour(left, COLOURS[0]) == 0
    assert len(np.unique(left.reshape(-1, 3), axis=0)) > 50


def test_ramachandran_figure_shows_only_occupied_bins() -> None:
    empty, full = np.zeros((36, 36)), np.zeros((36, 36))
    empty[0, 0] = full[0, 0] = 1
    full[10:20, 10:20] = 1
    few, many = (pixels(ramachandran_figure({"p": counts}, size=(4, 3)), (4, 3)) for counts in (empty, full))
    brightest = "#FDE725"  # the peak's colour
    assert n_of_colour(many, brightest) > 20 * n_of_colour(few, brightest) > 0


def test_training_figure_draws_every_series() -> None:
    curves = {"NLL (kT)": {"training": ([0, 1, 2], [3.0, 2.0, 1.0]), "validation": ([0, 2], [3.5, 1.5])}}
    image = pixels(training_figure(curves, size=(5, 3)), (5, 3))
    assert n_of_colour(image, COLOURS[0]) > 200
    assert n_of_colour(image, COLOURS[1]) > 200


def test_equal_data_give_equal_bytes() -> None:
    curves = {"loss": {"a": ([0, 1], [1.0, 2.0])}}
    assert training_figure(curves) == training_figure(curves)


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="at least one panel"):
        force_figure({})


class Links(HTMLParser):
    """What a page would load, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def example() -> Report:
    figure = training_figure({"loss": {"a": ([0, 1], [1.0, 2.0])}}, size=(3, 2))
    return Report(
        title="Flow of <script>alert(1)</script> & co",
        paragraphs=["A five-minute model is modest: 1 < 2."],
        tables=[Table("Numbers", ("what", "value"), [("NLL <gap>", "0.12 ± 0.01")], note="Raw & unclipped.")],
        pictures=[Picture('Curves "of" training', "Caption <i>", figure)],
        provenance={"seed": 3, "command": "smoothflow demo --seed 3"},
    )


def test_report_escapes_and_loads_nothing() -> None:
    html = render_report(example())
    page = Links()
    page.feed(html)
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert "gap" not in page.tags
    for text in (
        "Flow of <script>alert(1)</script> & co",
        "NLL <gap>",
        "0.12\u00a0±\u00a00.01",
        "Caption <i>",
        "1 < 2",
        "--seed 3",
    ):
        assert text in page.text
    assert len(page.loaded) == 1
    assert page.loaded[0].startswith("data:image/png;base64,")
    outside = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", html)
    assert not re.search(r"(https?:)?//|url\(|@import", outside)


HOSTILE = "<script src='//evil.example/x.js'>alert(1)</script>\"><img src=http://evil.example onerror=alert(1)>"


def test_hostile_names_are_text_wherever_they_stand() -> None:
    """Plug-ins, atoms, files and cells of a comparison may be named by strangers."""
    figure = training_figure({"loss": {"a": ([0, 1], [1.0, 2.0])}}, size=(3, 2))
    report = Report(
        title=HOSTILE,
        paragraphs=[HOSTILE],
        tables=[Table(HOSTILE, (HOSTILE, HOSTILE), [(HOSTILE, HOSTILE)], note=HOSTILE)],
        pictures=[Picture(HOSTILE, HOSTILE, figure)],
        provenance={HOSTILE: {HOSTILE: HOSTILE}, "list": [HOSTILE]},
    )
    plain = Links()
    plain.feed(render_report(example()))
    page = Links()
    html = render_report(report)
    page.feed(html)
    assert set(page.tags) <= set(plain.tags)
    assert all(address.startswith("data:image/png;base64,") for address in page.loaded)
    assert page.text.count(HOSTILE) >= 9
    # whatever a browser would still find is stopped by the page's own policy
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html


def test_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(example(), path)
    assert path.read_text(encoding="utf-8") == render_report(example())
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(FileFormatError, match="cannot be written"):
        write_report(example(), tmp_path / "missing" / "report.html")


def test_ragged_table_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Row 1"):
        Table("T", ("a", "b"), [("1", "2"), ("3",)])


@pytest.mark.parametrize(
    ("module", "use"),
    [
        ("matplotlib.figure", lambda: training_figure({"loss": {"a": ([0, 1], [1.0, 2.0])}})),
        ("jinja2", lambda: render_report(Report("Title"))),
    ],
)
def test_missing_packages_name_the_extra(module: str, use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"smoothflow\[report\]"):
        use()


def test_a_report_loads_nothing_and_lists_provenance_flat() -> None:
    page = render_report(Report(title="<T>", provenance={"model": {"training": {"steps": 5}, "none": {}}}))
    assert "default-src 'none'" in page
    assert "<dt>model.training.steps</dt><dd>5</dd>" in page
    assert "<dt>model.none</dt><dd>{}</dd>" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)


@pytest.mark.parametrize("name", [r"$\frac{$", "$x$ and $y$", "\u202e$\\bad$", "\ud800", "a\nb"])
def test_names_that_look_like_formulas_are_drawn_as_they_are(name: str) -> None:
    counts = np.ones((4, 4))
    figure = ramachandran_figure({name: counts}, names=(name, name))
    assert figure.startswith(b"\x89PNG")


def test_dollars_are_drawn() -> None:
    counts = np.ones((4, 4))
    assert ramachandran_figure({"$x$": counts}) != ramachandran_figure({"x": counts})
