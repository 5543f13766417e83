"""From a model of one force field to another level of theory, in as few evaluations of it as the error allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..analysis.basins import Basin
from ..analysis.estimates import Estimate, Verdict, percent, plain
from ..analysis.mbar import mixture_log_weights
from ..analysis.reweighted import Averages, Draws, require_torsions, torsions_of, weighted_averages
from ..analysis.reweighting import FEWEST_HITS, ess_fraction, kish, level_difference, level_shift, weight_tail
from ..core.errors import ConfigurationError
from ..core.files import make_folder, require_own_folder, write_json
from ..core.potential import Potential
from ..molecules.frames import BLOCK
from ..potentials.flow_potential import FlowPotential
from ..runs.locks import lock_folder
from ..runs.progress import OnProgress, silent
from ..runs.stopping import stop_requests
from ..sampling.evaluations import Evaluated, EvaluatedSamples

REPORT = "transfer.json"
MARK = '"format": "smoothflow-transfer"'

FIRST = 500
"""Evaluations before the first estimate: fewer do not show how heavy the tail of the weights is."""

GROWTH = 2.0
"""Largest growth of the number of evaluations between two estimates: errors from few evaluations are rough."""

MARGIN = 1.1
"""Number of evaluations made, in units of the number that the last error calls for."""

MANY_FAILED = 0.01
"""The share of evaluations without an energy above which averages are not to be trusted: a whole region may fail."""


@dataclass(frozen=True)
class TransferSettings:
    """Settings of a transfer.

    Attributes:
        error: Error of every free energy at which evaluations end, kT.
        evaluations: Largest number of evaluations of the reference, over all models.
        basins: Regions whose populations, and free energies above the first one, are estimated.
        seed: Seed of the samples.
    """

    error: float = 0.1
    evaluations: int = 10_000
    basins: tuple[Basin, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.error < math.inf:
            raise ConfigurationError(f"The error asked for must be positive and finite; it is {self.error} kT.")
        if self.evaluations < 2:
            raise ConfigurationError(f"A budget of {self.evaluations} evaluations is too small; give at least 2.")
        if self.seed < 0:
            raise ConfigurationError(f"The seed must not be negative; it is {self.seed}.")


@dataclass(frozen=True)
class Transfer:
    """Estimates for the reference.

    Attributes:
        n_evaluations: Evaluations of the reference that are in the folder, by model.
        failed: Number of samples without an energy of it; their weight is zero.
        ess: Kish's fraction of all samples, raw.
        verdict: Whether errors hold, and if not, why.
        largest_weight_share: Share of all weight that the largest one has.
        pareto_k: Shape of the tail of the weights.
        reference: Averages over the reference.
        cheap: Averages over the force field of the model, by weights of the same samples.
        difference: Free energy of the reference less that of the force field, kT.
        shifts: By how much free energies of basins differ between the two, kT.
        ended: Why no more was evaluated.
    """

    n_evaluations: tuple[int, ...]
    failed: int
    ess: Estimate
    verdict: Verdict
    largest_weight_share: float
    pareto_k: float
    reference: Averages
    cheap: Averages | None
    difference: Estimate | None
    shifts: Mapping[str, Estimate]
    ended: str = ""

    @property
    def error(self) -> float:
        """The largest error of a free energy, kT; infinite if one has none."""
        wanted = [*self.reference.free_energies.values()]
        wanted += [self.difference] if self.difference is not None else []
        wanted += [self.reference.log_z] if not wanted and self.reference.log_z is not None else []
        return max((e.error if e.reliable else math.inf for e in wanted), default=math.inf)

    def to_dict(self) -> dict[str, Any]:
        """All numbers in plain JSON types; null where a number is not finite."""
        return {**plain(self), "error": plain(self.error)}

    def rows(self) -> list[list[str]]:
        """The numbers as a table: what, at the reference, at the force field, and their difference."""
        log_z = self.reference.log_z
        rows = [
            ["verdict", str(self.verdict), "", ""],
            ["ended", self.ended, "", ""],
            ["evaluations", " + ".join(map(str, self.n_evaluations)), "", ""],
            ["without an energy", str(self.failed), "", ""],
            ["Kish ESS, raw", percent(self.ess), "", ""],
            ["largest weight", f"{100 * self.largest_weight_share:.3g} %", "", ""],
            ["Pareto k of the weights", f"{self.pareto_k:.2f}", "", ""],
            ["log Z", str(log_z), "" if self.cheap is None else str(self.cheap.log_z), ""],
        ]
        if self.difference is not None:
            rows.append(["free energy, kT", "", "", str(self.difference)])
        for name, found in self.reference.populations.items():
            there = "" if self.cheap is None else percent(self.cheap.populations[name])
            rows.append([f"population of {name}", percent(found), there, ""])
        for name, found in self.reference.free_energies.items():
            there = "" if self.cheap is None else str(self.cheap.free_energies[name])
            rows.append([f"{name}, kT", str(found), there, str(self.shifts.get(name, ""))])
        return rows


@dataclass(frozen=True)
class TransferRun:
    """The outcome of a transfer.

    Attributes:
        n_evaluations: Evaluations that are in the folder.
        stopped_by: Number of the signal that ended the run before its end, if one did.
        found: What is known; None where there are too few evaluations to estimate anything.
    """

    n_evaluations: int
    stopped_by: int | None
    found: Transfer | None


COLUMNS = ("quantity", "reference", "force field of the model", "difference")


def transfer(
    flows: Mapping[str, FlowPotential],
    target: Potential,
    settings: TransferSettings,
    folder: Path,
    origin: Mapping[str, Any] | None = None,
    cheap: Potential | None = None,
    on_progress: OnProgress = silent,
) -> TransferRun:
    """Free energies and populations at a reference, from samples of flows that were trained on another one.

    Samples of the last flow are evaluated, written to a file of the folder as they come, and weighted; all samples of
    all flows count, weighted as draws of their mixture. More are evaluated until the error is reached, the budget is
    spent, or it shows that the flow and the reference do not overlap. A run that was interrupted is resumed without
    repeating an evaluation; so is one that is to be more precise, or one with a further flow, trained on the files of
    the flows before it.

    Args:
        flows: The flows by a digest of each: the first was trained on the force field, later ones may be refined.
        target: The reference.
        settings: Settings of the transfer.
        folder: Files of evaluations, one for each flow, and the report as JSON.
        origin: What the reference is, in JSON types.
        cheap: The force field that the first flow was trained on.
        on_progress: Told of evaluations.

    Returns:
        The estimates, and whether a signal ended the run.

    Raises:
        ConfigurationError: If the folder is of another run, or a flow has another temperature.
        FileFormatError: If a file cannot be read or written.
        TopologyError: If flows, reference and force field are of different molecules.
        UnknownNameError: If a basin is one of other torsions than the molecule's.
        SimulationError: If the reference fails at the first sample.
    """
    names = list(flows)
    potentials = list(flows.values())
    _require_one_system(potentials, cheap)
    require_torsions(potentials[0], settings.basins)
    require_own_folder(folder, [REPORT, *(_file(i) for i in range(len(flows)))], {REPORT: MARK.encode()}, "a transfer")
    make_folder(folder)
    if not (folder / REPORT).exists():
        # identifies the folder, after a kill as well
        _write_report(folder, settings, names, origin, {})
    with lock_folder(folder), stop_requests() as asked:
        rounds = [
            EvaluatedSamples(
                folder / _file(i), flow, target, settings.seed + i, {**(origin or {}), "model": name, "round": i}
            )
            for i, (name, flow) in enumerate(zip(names, potentials, strict=True))
        ]
        while True:
            n_before = sum(len(each) for each in rounds[:-1])
            n = n_before + len(rounds[-1])
            found = None
            if n >= min(FIRST, settings.evaluations):
                found = estimate(potentials, [each.read() for each in rounds], settings.basins, cheap)
            wanted, ended = _next(found, n, len(rounds[-1]), settings)
            if found is not None and (ended or asked() is not None):
                found = _ended(found, ended or "stopped by a signal", rounds)
                _write_report(folder, settings, names, origin, found.to_dict())
            if ended or asked() is not None:
                return TransferRun(n, None if ended else asked(), found)
            rounds[-1].extend(wanted - n_before, asked, on_progress)


def _file(index: int) -> str:
    return f"evaluations-{index}.h5"


def _require_one_system(flows: Sequence[FlowPotential], cheap: Potential | None) -> None:
    if not flows:
        raise ConfigurationError("A transfer needs a model to begin with.")
    first = flows[0]
    for flow in flows[1:]:
        first.coordinates.topology.require_same(flow.coordinates.topology, "the first model", "a later one")
        if not math.isclose(first.temperature, flow.temperature, rel_tol=1e-6):
            raise ConfigurationError(
                f"The models are for {first.temperature:g} and {flow.temperature:g} K. Give models of one temperature."
            )
    if cheap is not None and cheap.topology is not None:
        first.coordinates.topology.require_same(cheap.topology, "the model", "its force field")


def estimate(
    flows: Sequence[FlowPotential],
    evaluated: Sequence[Evaluated],
    basins: Sequence[Basin] = (),
    cheap: Potential | None = None,
) -> Transfer:
    """Estimates from evaluated samples of flows, without evaluating the reference again.

    Args:
        flows: The flows that were sampled.
        evaluated: The samples of each.
        basins: Regions to weigh.
        cheap: The force field that the first flow was trained on; evaluated at all samples.
    """
    used = [(flow, each) for flow, each in zip(flows, evaluated, strict=True) if len(each)]
    positions = torch.cat([each.positions for _, each in used])
    kT = flows[0].kT
    energy = torch.cat([each.energy for _, each in used]) / kT
    densities = torch.stack([_log_density(flow, positions) for flow, _ in used])
    counts = [len(each) for _, each in used]
    torsions = torsions_of(flows[0], positions, require_torsions(flows[0], basins))
    weights = mixture_log_weights(energy, densities, counts)
    failed = int((~energy.isfinite()).sum())
    tail = weight_tail(weights)
    drawn = Draws(kT * energy, weights, torsions, len(energy))
    at_reference = weighted_averages(drawn, basins)
    reasons = [tail.reason] if tail.reason else []
    n_worth = kish((weights - weights.max()).exp())
    if n_worth < FEWEST_HITS:
        reasons.insert(0, f"no overlap: {len(weights)} samples are worth {n_worth:.1f} of the reference")
        # populations of so few samples mean nothing
        at_reference = at_reference.because(reasons[0])
    if failed > MANY_FAILED * len(weights):
        reasons.append(f"{failed} of {len(weights)} evaluations gave no energy, and count as impossible")
    at_cheap = difference = None
    shifts: dict[str, Estimate] = {}
    if cheap is not None:
        cheap_energy = _energies(cheap, positions) / kT
        cheap_weights = mixture_log_weights(cheap_energy, densities, counts)
        at_cheap = weighted_averages(Draws(kT * cheap_energy, cheap_weights, torsions, 0), basins)
        difference = level_difference(weights, cheap_weights).because(reasons[0] if reasons else "")
        reason = reasons[0] if reasons else weight_tail(cheap_weights).reason
        inside = {basin.name: basin.contains(torsions) for basin in basins}
        for basin in basins[1:]:
            shift = level_shift(inside[basin.name], inside[basins[0].name], weights, cheap_weights)
            shifts[f"{basin.name} above {basins[0].name}"] = shift.because(reason)
    return Transfer(
        n_evaluations=tuple(len(each) for each in evaluated),
        failed=failed,
        ess=ess_fraction(weights),
        verdict=Verdict(tuple(reasons)),
        largest_weight_share=tail.largest_share,
        pareto_k=tail.pareto_k,
        reference=at_reference,
        cheap=at_cheap,
        difference=difference,
        shifts=shifts,
    )


def _log_density(flow: FlowPotential, positions: Float[Tensor, "n atoms 3"]) -> Float[Tensor, "n"]:
    with torch.no_grad():
        parts = [flow.log_prob(part.to(flow.device, flow.dtype)).double().cpu() for part in _pieces(positions)]
    return torch.cat(parts)


def _energies(potential: Potential, positions: Float[Tensor, "n atoms 3"]) -> Float[Tensor, "n"]:
    with torch.no_grad():
        parts = [
            potential.energy(part.to(potential.device, potential.dtype)).double().cpu() for part in _pieces(positions)
        ]
    energy = torch.cat(parts)
    return torch.where(energy.isfinite(), energy, math.inf)


def _pieces(positions: Float[Tensor, "n atoms 3"]) -> tuple[Tensor, ...]:
    return torch.split(positions, BLOCK)


def _next(found: Transfer | None, n: int, n_last: int, settings: TransferSettings) -> tuple[int, str]:
    """The total number of evaluations before the next estimate, and why no more are needed.

    Args:
        found: The last estimate; None before the first one.
        n: Evaluations so far.
        n_last: Evaluations of the last flow.
        settings: What is asked for.
    """
    budget = settings.evaluations
    first = min(FIRST, budget)
    if found is None:
        return first, ""
    if found.error <= settings.error:
        return n, f"the target error is reached: {found.error:.2g} kT"
    if n >= budget:
        return n, f"the budget of {budget} evaluations is spent"
    if n_last < min(FIRST, budget - (n - n_last)):
        # a further flow gets its evaluations
        return min(budget, n + FIRST - n_last), ""
    if any(reason.startswith("no overlap") for reason in found.verdict.reasons):
        return n, "more samples of this model would not help: refine it on those that were evaluated"
    if math.isinf(found.error):
        return min(budget, math.ceil(GROWTH * n)), ""
    expected = MARGIN * n * (found.error / settings.error) ** 2
    return min(budget, math.ceil(min(max(expected, n + 1), GROWTH * n))), ""


def _ended(found: Transfer, why: str, rounds: Sequence[EvaluatedSamples]) -> Transfer:
    failure = next((each.failure for each in rounds if each.failure), "")
    return replace(found, ended=f"{why}; the reference failed, the last time with: {failure}" if failure else why)


def _write_report(
    folder: Path,
    settings: TransferSettings,
    names: Sequence[str],
    origin: Mapping[str, Any] | None,
    found: Mapping[str, Any],
) -> None:
    asked = {
        "error": settings.error,
        "evaluations": settings.evaluations,
        "basins": {basin.name: dict(basin.ranges) for basin in settings.basins},
        "seed": settings.seed,
    }
    content = {"format": "smoothflow-transfer", "asked": asked, "models": list(names), "of": dict(origin or {})}
    write_json(folder / REPORT, {**content, **found})
