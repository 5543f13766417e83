"""Transforms side by side on a target whose density is known exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...analysis.estimates import Estimate, as_text, mean_of_independent, tail_reason
from ...analysis.reweighting import ess_fraction
from ...core.display import count_parameters
from ...core.errors import SmoothflowError, UnknownNameError
from ...core.files import make_folder, require_own_folder, write_atomically, write_json
from ...core.flow import Flow
from ...core.plugins import registry
from ...potentials.toys import TOYS, Toy
from ...runs.progress import OnProgress, Progress, silent, within
from ...runs.randomness import generator
from ...training.losses import force_error
from ..report import Picture, Report, Table, write_report
from .figures import Field, field_on_grid, field_on_line, maps_figure, profiles_figure
from .smoothness import CHUNK, LogDensity, forces_of, largest_force_gradient, largest_force_jump
from .training import TOY_OPTIONS, ToySettings, toy_flow, train_on_toy

FILES = ("comparison.json", "maps.png", "profiles.png", "report.html")

N_GRADIENTS = 4000
"""Held-out samples, and samples of the flow, at which force gradients are evaluated."""

N_LINES = 24
"""Lines along each coordinate on which jumps of the force are looked for."""


@dataclass(frozen=True)
class ToyEvaluation:
    """Quality of a flow on a toy target; forces are in kT per unit of the coordinates.

    Attributes:
        forward_kl: KL(target || flow), from held-out exact samples; `divergence` says how.
        reverse_kl: KL(flow || target), from samples of the flow.
        ess: Raw Kish effective sample size of the flow's samples, as a fraction.
        force_mse: Mean squared error of each force component on held-out samples.
        largest_force_gradient: The largest spectral norm of the force's gradient, on held-out samples and the flow's.
        largest_force_jump: The largest change of a force over 2e-9.
    """

    forward_kl: Estimate
    reverse_kl: Estimate
    ess: Estimate
    force_mse: Estimate
    largest_force_gradient: float
    largest_force_jump: float


@dataclass(frozen=True)
class ToyResult:
    """One transform on one target.

    Attributes:
        transform: Its name.
        smoothness: Declared smoothness, the k of C^k.
        n_parameters: Number of parameters of the flow.
        training_seconds: Wall-clock time.
        evaluation: Quality of the flow; None if training or evaluation broke down.
        breakdown: Error of a breakdown; empty if there was none.
    """

    transform: str
    smoothness: float
    n_parameters: int
    training_seconds: float
    evaluation: ToyEvaluation | None
    breakdown: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The numbers in plain JSON types; infinite ones as text."""
        row: dict[str, Any] = {
            "transform": self.transform,
            "smoothness": as_text(self.smoothness),
            "n_parameters": self.n_parameters,
            "training_seconds": as_text(self.training_seconds),
            "breakdown": self.breakdown,
        }
        if self.evaluation is not None:
            for name, value in vars(self.evaluation).items():
                if isinstance(value, Estimate):
                    row[name] = as_text(value.value)
                    row[f"{name}_error"] = as_text(value.error)
                else:
                    row[name] = as_text(value)
        return row


def compare_on_target(
    target_name: str,
    transforms: Sequence[str],
    settings: ToySettings,
    folder: Path,
    on_progress: OnProgress = silent,
) -> list[ToyResult]:
    """Train a flow of each transform on one toy target with one budget, and write a table, figures and a report.

    ``folder`` gets ``comparison.json``, rewritten after every transform, ``maps.png``, ``profiles.png`` and
    ``report.html``. A transform whose training breaks down is reported, and the others go on.

    Args:
        target_name: One of `TOYS`.
        transforms: Names.
        settings: The budget.
        folder: Made if it is missing.
        on_progress: Told of steps and losses.

    Raises:
        UnknownNameError: If there is no such target or transform.
        ManifoldError: If a transform maps nothing that the target's coordinates can be carried to.
        ConfigurationError: If options do not fit a transform, or the budget is too small for a flow.
        FileFormatError: If the folder cannot be written.
    """
    if target_name not in TOYS:
        raise UnknownNameError("toy target", target_name, TOYS)
    target = TOYS[target_name]()
    settings = replace(settings, options={**TOY_OPTIONS.get(target_name, {}), **settings.options})
    flows = {name: toy_flow(target.domain, name, settings) for name in transforms}
    require_own_folder(folder, FILES, {FILES[0]: b'"log_normalizer"'}, "a comparison on a toy target")
    make_folder(folder)
    held_out, _ = target.sample(settings.n_evaluation, generator(settings.seed, 1))
    results: list[ToyResult] = []
    for name, flow in flows.items():
        results.append(_run(name, flow, target, held_out, settings, on_progress))
        _write_table(target_name, target, held_out, settings, results, folder)
    trained = {result.transform: flows[result.transform] for result in results if result.evaluation is not None}
    _write_report(target_name, target, held_out, settings, results, trained, folder)
    return results


def _run(
    name: str,
    flow: Flow,
    target: Toy,
    held_out: Float[Tensor, "n dim"],
    settings: ToySettings,
    on_progress: OnProgress,
) -> ToyResult:
    began = time.monotonic()
    evaluation, breakdown, seconds = None, "", math.nan
    try:
        train_on_toy(flow, target, settings, within(f"train {name}", on_progress))
        seconds = time.monotonic() - began
        on_progress(Progress(f"evaluate {name}", 0, 1))
        evaluation = evaluate_on_toy(flow, target, held_out, settings)
        on_progress(Progress(f"evaluate {name}", 1, 1))
    except SmoothflowError as error:
        breakdown = str(error)
    smoothness = registry().transform(name).smoothness
    return ToyResult(name, smoothness, count_parameters(flow), seconds, evaluation, breakdown)


def evaluate_on_toy(flow: Flow, target: Toy, held_out: Float[Tensor, "n dim"], settings: ToySettings) -> ToyEvaluation:
    r"""Both KL divergences, effective sample size, forces and their smoothness.

    .. math:: \mathrm{KL}(p \| q) = \langle \log p - \log q \rangle_p, \qquad
        \mathrm{KL}(q \| p) = \langle \log q - \log p \rangle_q

    Args:
        flow: Trained, float64.
        target: The density p.
        held_out: Exact samples of it.
        settings: Their number of evaluation samples is drawn from the flow.
    """
    with torch.no_grad():
        log_q = torch.cat([flow.log_prob(part) for part in torch.split(held_out, CHUNK)])
        samples, log_q_samples = flow.sample(settings.n_evaluation, generator(settings.seed, 2))
        log_weights = target.log_prob(samples) - log_q_samples
    expected, found = forces_of(target.log_prob, held_out), forces_of(flow.log_prob, held_out)
    places = torch.cat([held_out[:N_GRADIENTS], samples[:N_GRADIENTS]])
    return ToyEvaluation(
        forward_kl=divergence(log_q - target.log_prob(held_out)),
        reverse_kl=divergence(log_weights),
        ess=ess_fraction(log_weights),
        force_mse=mean_of_independent(force_error(found.unsqueeze(-2), expected.unsqueeze(-2))),
        largest_force_gradient=largest_force_gradient(flow.log_prob, places),
        largest_force_jump=largest_force_jump(flow.log_prob, target.domain, held_out[:N_LINES]),
    )


def divergence(log_ratio: Float[Tensor, "n"]) -> Estimate:
    r"""The KL divergence from samples of the first density.

    .. math:: \mathrm{KL}(p \| q) = \left\langle -\log r + c\,(r - 1) \right\rangle_p, \qquad r = q / p

    As :math:`\langle r \rangle_p = 1` for normalized densities, any c is valid; the one of least variance, found by
    regression on the same samples, makes small divergences far more precise than the plain mean.

    Args:
        log_ratio: log r of independent samples of p.
    """
    ratio = log_ratio.exp() - 1
    if bool(ratio.isfinite().all()) and float(ratio.std()) > 0:
        centred = ratio - ratio.mean()
        log_ratio = log_ratio - (centred * log_ratio).mean() / centred.square().mean() * ratio
    # residuals of the regression crowd at zero, which looks like a heavy tail: the tail of the ratios matters
    error = float(log_ratio.std()) / math.sqrt(len(log_ratio))
    return Estimate(-float(log_ratio.mean()), error, len(log_ratio)).because(tail_reason(ratio))


def toy_table(results: Sequence[ToyResult]) -> Table:
    """The numbers side by side."""
    measures: list[tuple[str, Callable[[ToyEvaluation], str]]] = [
        ("forward KL, kT", lambda e: str(e.forward_kl)),
        ("reverse KL, kT", lambda e: str(e.reverse_kl)),
        ("Kish ESS, raw", lambda e: str(e.ess)),
        ("force MSE, kT²", lambda e: str(e.force_mse)),
        ("largest force gradient, kT", lambda e: f"{e.largest_force_gradient:.3g}"),
        ("largest force jump, kT", lambda e: f"{e.largest_force_jump:.2g}"),
    ]
    rows: list[tuple[str, ...]] = [
        ("declared smoothness", *(f"C^{'∞' if r.smoothness == math.inf else round(r.smoothness)}" for r in results)),
        ("parameters", *(str(r.n_parameters) for r in results)),
        ("training, s", *(f"{r.training_seconds:.0f}" for r in results)),
    ]
    for label, measure in measures:
        cells = ("broke down" if r.evaluation is None else measure(r.evaluation) for r in results)
        rows.append((label, *cells))
    breakdowns = [f"{r.transform}: {r.breakdown}" for r in results if r.breakdown]
    note = " ".join(
        [
            "Coordinates are in units of the period or of the interval. A jump is the largest change of a force over "
            "2e-9 of those: of smooth forces it is 2e-9 times their gradient.",
            *breakdowns,
        ]
    )
    return Table("Comparison", ("", *(r.transform for r in results)), rows, note)


def _write_table(
    name: str,
    target: Toy,
    held_out: Float[Tensor, "n dim"],
    settings: ToySettings,
    results: Sequence[ToyResult],
    folder: Path,
) -> None:
    content = {
        "target": name,
        "entropy": target.entropy,
        "log_normalizer": target.log_normalizer,
        "largest_force_gradient": largest_force_gradient(target.log_prob, held_out[:N_GRADIENTS]),
        "settings": settings.to_dict(),
        "transforms": [result.to_dict() for result in results],
    }
    write_json(folder / "comparison.json", content)


def _write_report(
    name: str,
    target: Toy,
    held_out: Float[Tensor, "n dim"],
    settings: ToySettings,
    results: Sequence[ToyResult],
    flows: dict[str, Flow],
    folder: Path,
) -> None:
    # the plane through the likeliest sample
    peak = held_out[target.log_prob(held_out).argmax()]
    densities: dict[str, LogDensity] = {
        "target": target.log_prob,
        **{key: flow.log_prob for key, flow in flows.items()},
    }
    names = target.domain.names
    pictures = []
    if len(target.domain) > 1:
        maps: dict[str, Field] = {key: field_on_grid(density, peak) for key, density in densities.items()}
        caption = (
            f"Density, force along {names[0]}, and how that force changes along {names[0]}, on the target's colour "
            "scale; linear near zero, logarithmic beyond."
        )
        pictures.append(Picture("Maps", caption, maps_figure(maps, (names[0], names[1]))))
        write_atomically(folder / "maps.png", pictures[-1].png)
    if flows:
        lines = {key: field_on_line(density, peak) for key, density in densities.items()}
        caption = f"Along {names[0]} through the likeliest sample: the flow in colour, the target in grey."
        pictures.append(Picture("Profiles", caption, profiles_figure(lines, names[0])))
        write_atomically(folder / "profiles.png", pictures[-1].png)
    report = Report(
        title=f"Transforms on {name}",
        paragraphs=[
            f"Every flow was trained on the same {settings.steps} batches of {settings.batch_size} exact samples. "
            f"The target's entropy is {target.entropy:.6f}: the least negative log-likelihood that a flow can reach.",
        ],
        tables=[toy_table(results)],
        pictures=pictures,
        provenance=settings.to_dict(),
    )
    write_report(report, folder / "report.html")
