"""Tables, files and report of a comparison, from the results of its cells."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...analysis.estimates import Verdict
from ...core.files import write_atomically, write_json
from ...core.text import printable
from ..figures import conservation_figure, training_figure
from ..gallery import Curves, add_curves
from ..report import Picture, Report, Table, write_report
from .cell import MODELS
from .measured import Measured
from .settings import ComparisonSettings


@dataclass(frozen=True)
class Metric:
    """A number in the table.

    Attributes:
        name: Name in the results.
        label: Name in tables, with the unit.
        factor: Unit of the results in units of the table.
        digits: Digits of a number without an error.
    """

    name: str
    label: str
    factor: float = 1.0
    digits: int = 4


GROUPS: dict[str, tuple[Metric, ...]] = {
    "Density and sampling": (
        Metric("nll", "NLL, kT"),
        Metric("forward_kl", "gap to the floor (forward KL), kT"),
        Metric("reverse_kl", "reverse KL, kT"),
        Metric("ess", "Kish ESS, raw, %", 100),
        Metric("clipped_ess", "Kish ESS, clipped, %", 100),
    ),
    "Samples": (
        Metric("high_energy_fraction", "above 100 kT, %", 100),
        Metric("sample_energy_max", "largest energy, kT"),
        Metric("not_finite", "without finite energy", digits=12),
        Metric("wrong_handedness", "wrong handedness, %", 100),
        Metric("torsion_divergence", "divergence of {}, kT"),
        Metric("torsion_noise_floor", "its noise floor, kT"),
    ),
    "Distances of samples from frames": (
        Metric("energy_w2", "E-W2, kT"),
        Metric("energy_w2_reweighted", "reweighted"),
        Metric("energy_w2_floor", "frames from frames"),
        Metric("torsion_w2", "T-W2, radians"),
        Metric("torsion_w2_reweighted", "reweighted"),
        Metric("torsion_w2_floor", "frames from frames"),
        Metric("tica_w2", "TICA-W2"),
        Metric("tica_w2_reweighted", "reweighted"),
        Metric("tica_w2_floor", "frames from frames"),
        Metric("total_variation", "total variation of {}"),
        Metric("total_variation_reweighted", "reweighted"),
        Metric("total_variation_floor", "frames from frames"),
    ),
    "Forces": (
        Metric("force_mse_data", "MSE on frames, (kT/nm)²"),
        Metric("force_rmse_data", "RMSE on frames, kT/nm"),
        Metric("force_mse_samples", "MSE on samples, (kT/nm)²"),
        Metric("force_rmse_samples", "RMSE on samples, kT/nm"),
        Metric("largest_force_gradient", "largest gradient, kJ/mol/nm²", digits=3),
        Metric("mean_force_gradient", "mean of the largest gradients, kJ/mol/nm²"),
    ),
    "Dynamics": (
        Metric("nve_std_per_dof", "NVE std / (3n − 6), kJ/mol"),
        Metric("nve_abs_drift", "NVE |drift|, kJ/mol/ps"),
        Metric("nve_drift", "NVE drift, kJ/mol/ps"),
        Metric("timestep_exponent", "exponent of the time step"),
    ),
    "Cost": (
        Metric("n_parameters", "parameters", digits=12),
        Metric("training_seconds", "training, s"),
        Metric("energy_evaluations", "energy evaluations", digits=12),
    ),
}
"""The tables, in the order of the report; names that continue with a residue give a column for each residue."""


def comparison_tables(cells: Sequence[Measured], reference: Measured) -> list[Table]:
    """The numbers of each group: a row for every cell, and one for the force field where it has any."""
    tables = []
    rows = [*cells, reference]
    broken = [f"{row.title}: {stage}: {reason}" for row in rows for stage, reason in row.breakdowns.items()]
    for title, metrics in GROUPS.items():
        columns = [
            replace(metric, name=name, label=metric.label.format(name.removeprefix(metric.name).strip()))
            for metric in metrics
            for name in _names(metric, rows)
        ]
        shown = [
            (row.title, *(_cell(row, column) for column in columns))
            for row in rows
            if row is not reference or any(column.name in row.metrics for column in columns)
        ]
        tables.append(Table(title, ("", *(column.label for column in columns)), shown))
    judged = [row for row in cells if "nll" in row.metrics]
    if judged:
        verdicts = [(row.title, str(Verdict(tuple(row.verdict)))) for row in judged]
        tables.insert(0, Table("Verdict", ("", "errors"), verdicts))
    if broken:
        tables.append(Table("What broke down", ("",), [(line,) for line in broken]))
    return tables


def _names(metric: Metric, rows: Sequence[Measured]) -> list[str]:
    """The metric, or one for each residue, if any row has it."""
    found = [name for row in rows for name in row.metrics if name == metric.name or name.startswith(f"{metric.name} ")]
    return list(dict.fromkeys(found))


def _cell(row: Measured, metric: Metric) -> str:
    found = row.metrics.get(metric.name)
    if found is None:
        return "broke down" if row.breakdowns else "–"
    found = found.scaled(metric.factor)
    if found.reason:
        # the reason is in the files beside
        return "not known" if math.isnan(found.value) else f"{found.value:.4g} (no error)"
    return f"{found.value:.{metric.digits}g}" if math.isnan(found.error) else str(found)


def markdown(table: Table) -> str:
    """A table in Markdown."""
    lines = [table.columns, ("---", *("---:" for _ in table.columns[1:])), *table.rows]
    # a number and its error stay on one line
    cells = ([printable(cell).replace("|", r"\|").replace(" ± ", "\u00a0±\u00a0") for cell in line] for line in lines)
    body = "\n".join(f"| {' | '.join(line)} |" for line in cells)
    return f"{body}\n\n{table.note}\n" if table.note else f"{body}\n"


def write_tables(cells: Sequence[Measured], reference: Measured, folder: Path) -> None:
    """Write ``comparison.json`` with all results, ``comparison.csv`` with one number per row, and ``comparison.md``."""
    rows = [*cells, reference]
    write_json(folder / "comparison.json", comparison_dict(cells, reference))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("cell", "metric", "value", "error", "n", "reason"))
    writer.writerows(
        (printable(row.title), name, m.value, m.error, m.n, m.reason) for row in rows for name, m in row.metrics.items()
    )
    write_atomically(folder / "comparison.csv", text.getvalue().encode())
    tables = comparison_tables(cells, reference)
    page = "\n".join(f"## {table.title}\n\n{markdown(table)}" for table in tables)
    write_atomically(folder / "comparison.md", page.encode())


def comparison_dict(cells: Sequence[Measured], reference: Measured) -> dict[str, Any]:
    """The numbers, where they come from and what broke down, in plain JSON types."""
    return {"cells": [_numbers(cell) for cell in cells], "reference": _numbers(reference)}


def _numbers(measured: Measured) -> dict[str, Any]:
    kept = measured.to_dict()
    return {name: kept[name] for name in ("title", "metrics", "breakdowns", "verdict", "origin", "identity")}


def shared_pictures(cells: Sequence[Measured], reference: Measured, transforms: Sequence[str]) -> list[Picture]:
    """Energy conservation and training curves, transform by transform."""
    pictures = []
    for transform in transforms:
        members = [cell for cell in cells if cell.title.partition("/")[0] == transform]
        if any(cell.nve is not None for cell in members):
            pictures += _conservation(transform, [*members, reference])
        pictures += _training(transform, members)
    return pictures


def write_comparison_report(
    cells: Sequence[Measured], reference: Measured, settings: ComparisonSettings, path: Path
) -> None:
    """The report: tables, NVE runs and training curves transform by transform, and the figures of each cell."""
    pictures = shared_pictures(cells, reference, [*settings.transforms, MODELS])
    for cell in cells:
        pictures += [replace(p, title=f"{cell.title}: {p.title}") for p in cell.read_pictures()]
    report = Report(
        "Comparison of flows",
        paragraphs=[
            f"Every flow was trained for {settings.training.steps} steps of {settings.training.batch_size} frames, "
            f"save for {MODELS}, which existed before, and measured on the same held-out frames. An error is one "
            "standard error; a number without one has none. "
            "A row that broke down has its reason below the tables.",
        ],
        tables=comparison_tables(cells, reference),
        pictures=pictures,
        provenance=dict(reference.origin),
    )
    write_report(report, path)


def _conservation(transform: str, rows: Sequence[Measured]) -> list[Picture]:
    energies = {row.title: (row.nve.times.numpy(), row.nve.total_energy.numpy()) for row in rows if row.nve is not None}
    if not energies:
        return []
    caption = "Total energy of each NVE run, from its own mean. All panels have one scale."
    return [Picture(f"Energy conservation of {transform}", caption, conservation_figure(energies))]


def _training(transform: str, cells: Sequence[Measured]) -> list[Picture]:
    curves: Curves = {}
    for cell in cells:
        path = cell.folder / "metrics.csv"
        if path.exists():
            add_curves(curves, path, "val", cell.title.partition("/")[2])
    if not curves:
        return []
    caption = "Averaged weights on the frames held out for validation."
    return [Picture(f"Training of {transform}", caption, training_figure(curves))]
