"""The report of a fit."""

from __future__ import annotations

from ...analysis.found_basins import COLUMNS
from ...core.manifolds import Product
from ...molecules.frames import Frames
from ..gallery import evaluation_pictures, training_picture
from ..report import Picture, Report, Table, write_report
from .fit import Fitted
from .settings import FitSettings, spoken

EVALUATION = ("quantity", "value", "unit, remark")
DECISIONS = ("after", "what was found and decided")


def tables(result: Fitted) -> list[Table]:
    """The results as tables."""
    found = [
        Table("Model against reference", EVALUATION, result.evaluation.rows()),
        Table("Decisions", DECISIONS, result.decisions),
    ]
    if result.basins:
        note = "Wells of the torsions that frames and samples show together; free energies by reweighted samples."
        found.insert(1, Table("Basins", COLUMNS, [basin.row() for basin in result.basins], note))
    return found


def write_fit(result: Fitted, settings: FitSettings, test: Frames, domain: Product) -> None:
    """Write ``report.html`` into the folder of a fit.

    Args:
        result: What came out.
        settings: What was asked for.
        test: The frames of the evaluation.
        domain: The columns of the internal coordinates.
    """
    asked = (
        f"{settings.reference} at {settings.temperature:g} K; {100 * settings.ess:g} % sampling efficiency or "
        f"{spoken(settings.budget)} were asked for. {result.energy_evaluations} energies with forces were evaluated in "
        "training."
    )
    wrong = [f"Still wrong: {text}." for text in result.problems] or ["Nothing was found to be wrong."]
    runs = ["first", *sorted((path.name for path in result.folder.glob("round-*")), key=lambda n: int(n[6:]))]
    pictures = evaluation_pictures(result.evaluation, domain)
    for name in runs:
        picture = training_picture(result.folder / name / "metrics.csv")
        pictures.append(Picture(f"{picture.title}: {name}", picture.caption, picture.png))
    report = Report(
        title=f"A model of {settings.structure.stem}",
        paragraphs=[asked, *wrong],
        tables=tables(result),
        pictures=pictures,
        provenance={**test.provenance, "seed": settings.seed},
    )
    write_report(report, result.folder / "report.html")
