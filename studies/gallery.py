"""The standard pictures of a report."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import torch

from ..analysis.evaluation import Evaluation
from ..analysis.structure import ramachandran_pairs, torsion_histogram
from ..core.engine import Trajectory
from ..core.manifolds import Product
from .figures import conservation_figure, energy_figure, force_figure, ramachandran_figure, training_figure
from .report import Picture


def evaluation_pictures(evaluation: Evaluation, domain: Product) -> list[Picture]:
    """Ramachandran maps of each residue, force scatter and energy overlap.

    Args:
        evaluation: What was measured.
        domain: The columns of the internal coordinates.
    """
    frames, samples = evaluation.frames, evaluation.samples
    weights = torch.softmax(samples.log_weights, dim=0)
    sources = (("MD frames", frames, None), ("flow samples", samples, None), ("reweighted", samples, weights))
    pictures = []
    for i, j in ramachandran_pairs(domain):
        names = (domain.names[i], domain.names[j])
        maps = {title: torsion_histogram(x.internal[:, i], x.internal[:, j], w) for title, x, w in sources}
        pictures.append(
            Picture(
                f"Ramachandran maps of {names[0]} and {names[1]}",
                f"{len(frames)} frames of molecular dynamics, {len(samples)} samples of the flow, and the same samples "
                "with their importance weights. White: no configuration.",
                ramachandran_figure(maps, names),
            )
        )
    forces = {
        "on MD frames": (frames.forces.numpy(), frames.flow_forces.numpy()),
        "on flow samples": (samples.forces.numpy(), samples.flow_forces.numpy()),
    }
    pictures.append(
        Picture(
            "Forces",
            "Every Cartesian component of the force on every atom: the flow's against the force field's.",
            force_figure(forces),
        )
    )
    pictures.append(
        Picture(
            "Energy overlap",
            "The force field's energy of its own frames and of the flow's samples, as drawn and reweighted.",
            energy_figure(frames.energy.numpy(), samples.energy.numpy(), weights.numpy()),
        )
    )
    return pictures


def conservation_picture(runs: Mapping[str, Trajectory]) -> Picture:
    """Total energy against time of NVE runs.

    Args:
        runs: For each title (a potential, or an engine), its replicas.
    """
    energies = {title: (run.times.cpu().numpy(), run.total_energy.cpu().numpy()) for title, run in runs.items()}
    return Picture(
        "Energy conservation",
        "Total energy of each NVE run, from its own mean. All panels have one scale.",
        conservation_figure(energies),
    )


Curves = dict[str, dict[str, tuple[list[float], list[float]]]]
"""Steps and values by the name of a curve, in panels by the quantity that they show."""

MEASURES = {"nll": "negative log-likelihood (kT)", "force_mse": "force MSE (kT/nm)²"}
"""Columns of a training's metrics that are drawn, without their prefix."""


def add_curves(curves: Curves, metrics: Path, over: str, name: str) -> None:
    """Add the likelihood and the force error of a training, where it has them.

    Args:
        curves: Curves that are drawn together; the training's are added.
        metrics: The CSV file of the training.
        over: ``train`` or ``val``.
        name: Name of the curve.
    """
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for column, label in MEASURES.items():
        known = [(float(row["step"]), float(row[f"{over}_{column}"])) for row in rows if row.get(f"{over}_{column}")]
        if known:
            steps, values = zip(*known, strict=True)
            curves.setdefault(label, {})[name] = (list(steps), list(values))


def training_picture(metrics: Path) -> Picture:
    """Likelihood and force error during training.

    Args:
        metrics: The CSV file of a training run.
    """
    curves: Curves = {}
    add_curves(curves, metrics, "train", "training batches")
    add_curves(curves, metrics, "val", "validation, averaged weights")
    return Picture(
        "Training",
        "Means over the steps since the point before, and over the frames held out for validation.",
        training_figure(curves),
    )
