"""The report of a fit."""

from __future__ import annotations

from ...analysis.evaluation import Evaluation
from ...analysis.found_basins import COLUMNS
from ...core.manifolds import Product
from ...runs.provenance import versions
from ..gallery import evaluation_pictures, training_picture
from ..report import Picture, Report, Table, write_report
from .result import Fitted
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


def write_fit(result: Fitted, settings: FitSettings, domain: Product) -> None:
    """Write ``report.html`` into the folder of a fit.

    Args:
        result: The outcome.
        settings: Settings of the fit.
        domain: The columns of the internal coordinates.
    """
    asked = (
        f"{settings.reference} at {settings.temperature:g} K; {100 * settings.ess:g} % sampling efficiency or "
        f"{spoken(settings.budget)} were asked for. {result.energy_evaluations} energies with forces were evaluated in "
        "training."
    )
    wrong = [f"Still wrong: {text}." for text in result.problems] or ["Nothing was found to be wrong."]
    found = result.evaluation
    pictures = evaluation_pictures(found, domain) if isinstance(found, Evaluation) else []
    runs = ["first"]
    for kind in ("temperature", "round"):
        numbers = sorted(
            int(path.parent.name.partition("-")[2]) for path in result.folder.glob(f"{kind}-*/metrics.csv")
        )
        runs += [f"{kind}-{number}" for number in numbers]
    for name in runs:
        picture = training_picture(result.folder / name / "metrics.csv")
        pictures.append(Picture(f"{picture.title}: {name}", picture.caption, picture.png))
    report = Report(
        title=f"A model of {settings.structure.stem}",
        paragraphs=[asked, *wrong],
        tables=tables(result),
        pictures=pictures,
        provenance={
            "reference": settings.reference,
            "seed": settings.seed,
            **versions("smoothflow", "torch", "openmm"),
        },
    )
    write_report(report, result.folder / "report.html")
