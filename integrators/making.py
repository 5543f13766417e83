"""Integrators by name."""

from __future__ import annotations

import inspect

import torch

from ..core.engine import DynamicsSettings, Ensemble
from ..core.errors import ConfigurationError
from ..core.integrator import Integrator
from ..core.plugins import registry

ENSEMBLE_INTEGRATORS: dict[Ensemble, str] = {"nve": "velocity_verlet", "nvt": "langevin"}
"""Our own integrator of each ensemble."""


def make_integrator(name: str, settings: DynamicsSettings, device: torch.device) -> Integrator:
    """The registered integrator of that name, given what its constructor names (see `Integrator`).

    Args:
        name: As registered.
        settings: Time step, temperature, friction and seed.
        device: Where random numbers are drawn.

    Raises:
        UnknownNameError: If there is no such integrator.
        ConfigurationError: If its constructor needs something else, or it does not serve the ensemble.
    """
    kind = registry().integrator(name)
    offered = {
        "timestep": settings.timestep,
        "temperature": settings.temperature,
        "friction": settings.friction,
        "generator": torch.Generator(device).manual_seed(settings.seed),
    }
    wanted = [p for p in inspect.signature(kind).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    unknown = [p.name for p in wanted if p.name not in offered and p.default is p.empty]
    if unknown:
        raise ConfigurationError(
            f'The integrator "{name}" cannot be made by its name alone: it needs {", ".join(unknown)}. Make it '
            "yourself and give the object to a Simulation."
        )
    ensemble = "nvt" if "temperature" in (p.name for p in wanted) else "nve"
    if ensemble != settings.ensemble:
        has = "has a thermostat" if ensemble == "nvt" else "has no thermostat"
        raise ConfigurationError(
            f'The integrator "{name}" {has}: it samples {ensemble}, not {settings.ensemble}. Ask for {ensemble}, or '
            "for another integrator."
        )
    return kind(**{p.name: offered[p.name] for p in wanted if p.name in offered})
