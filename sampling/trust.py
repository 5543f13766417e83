"""How far each frame of a run can be trusted: its percentile, and how much several models disagree about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.committee import CommitteePotential
from ..core.errors import ConfigurationError, SimulationError
from ..core.integrator import State
from ..core.potential import Potential
from ..core.reporter import Reporter
from ..potentials.familiarity import Familiarity

PERCENTILE = "percentile"
ENERGY_SPREAD = "energy_spread_kJ_per_mol"
FORCE_SPREAD = "force_spread_kJ_per_mol_per_nm"


class Trust:
    """What is measured of each recorded frame.

    - ``percentile``: of the flow's energy among its own samples (`Familiarity`); with several members the highest;
    - ``energy_spread_kJ_per_mol`` and ``force_spread_kJ_per_mol_per_nm``: of a committee, the latter of the atom about
      which its members disagree most.

    Args:
        potential: What runs: a flow in whatever form, or a committee, whose spread is measured.
        familiar: Percentiles of the flow, or of each member in their order; none if they are not asked for.
    """

    def __init__(self, potential: Potential, familiar: Sequence[Familiarity] = ()) -> None:
        self.committee = potential if isinstance(potential, CommitteePotential) else None
        n_members = 1 if self.committee is None else len(self.committee.members)
        if familiar and len(familiar) != n_members:
            raise ConfigurationError(f"Percentiles of {len(familiar)} flows were given for {n_members}.")
        self.familiar = list(familiar)
        self._last: tuple[State, Mapping[str, Float[Tensor, "replicas"]]] | None = None

    @property
    def columns(self) -> list[str]:
        """Names of what is measured."""
        return [
            *([PERCENTILE] if self.familiar else []),
            *([] if self.committee is None else [ENERGY_SPREAD, FORCE_SPREAD]),
        ]

    def measure(self, state: State) -> Mapping[str, Float[Tensor, "replicas"]]:
        """By column, of each replica; once for each state, whoever asks."""
        if self._last is None or self._last[0] is not state:
            self._last = state, self._measured(state)
        return self._last[1]

    def _measured(self, state: State) -> dict[str, Float[Tensor, "replicas"]]:
        found = {}
        if self.committee is None:
            energies = state.potential_energy[:, None]
        else:
            positions = state.positions.to(self.committee.device)
            if self.familiar:
                with torch.no_grad():
                    energies = self.committee.energies(positions)
            _, _, energy_spread, force_spread = self.committee.energy_forces_and_spread(positions)
            found = {ENERGY_SPREAD: energy_spread, FORCE_SPREAD: force_spread.amax(-1)}
        if self.familiar:
            each = [familiar(energies[:, i]) for i, familiar in enumerate(self.familiar)]
            found[PERCENTILE] = torch.stack(each).amax(0)
        return {name: found[name].detach().double().cpu() for name in self.columns}


class TrustRecord(Reporter):
    """All that was measured, in memory; stops a run that has left what its model knows.

    Args:
        trust: What is measured.
        stop_above: A percentile; None for no bound.

    Raises:
        ConfigurationError: If the bound is not a percentile.
    """

    def __init__(self, trust: Trust, stop_above: float | None = None) -> None:
        if stop_above is not None and not 0 < stop_above < 100:
            raise ConfigurationError(f"A bound on percentiles lies between 0 and 100; it is {stop_above:g}.")
        if stop_above is not None and not trust.familiar:
            raise ConfigurationError("A bound on percentiles needs the samples of a flow.")
        self.trust = trust
        self.stop_above = stop_above
        self._kept: list[Mapping[str, Float[Tensor, "replicas"]]] = []

    @property
    def measured(self) -> dict[str, Float[Tensor, "reports replicas"]]:
        """By column; of the reports since the run began or went on."""
        return {name: torch.stack([each[name] for each in self._kept]) for name in self.trust.columns if self._kept}

    def open(self, n_kept: int | None, state: State) -> None:
        self._kept = []

    def report(self, step: int, state: State) -> None:
        found = self.trust.measure(state)
        self._kept.append(found)
        if self.stop_above is None:
            return
        replica = int(found[PERCENTILE].argmax())
        highest = float(found[PERCENTILE][replica])
        # a comparison that NaN fails
        if not highest <= self.stop_above:
            raise SimulationError(
                f"At {state.time:.6g} ps the energy of replica {replica} is at percentile {highest:.9g} of the model's "
                f"own samples, above {self.stop_above:.9g}: the run has left what the model knows. Train it on such "
                "configurations, or allow more (--stop-above)."
            )
