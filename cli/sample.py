"""``smoothflow sample``: configurations without molecular dynamics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import ConfigurationError
from . import completion
from .console import print_json, print_table, progress
from .options import AsJson, Device, DType, Precision, Seed, provider_potential, require_device, structure_path

BATCH_SIZE = 1000
"""Samples per call of the model."""


def run(
    model: Annotated[Path, typer.Argument(help="A model file.", autocompletion=completion.MODELS)],
    output: Annotated[Path, typer.Option("--out", help="Frames file to write.")],
    n_samples: Annotated[int, typer.Option("-n", "--n-samples", min=1, help="How many.")] = 1000,
    reweight: Annotated[
        str | None,
        typer.Option(help="Weight to this force field, as PROVIDER:ARGUMENT.", autocompletion=completion.PROVIDERS),
    ] = None,
    structure: Annotated[
        str, typer.Option(help="PDB of the molecule, for the force field.", autocompletion=completion.STRUCTURES)
    ] = "capped-alanine",
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: DType = Precision.float64,
    as_json: AsJson = False,
) -> None:
    """Draw configurations from a model, with its energies and, if asked, log-weights to a force field.

    Example: smoothflow sample smoothflow-demo/smooth/model.safetensors -n 1000 --out samples.h5
    """
    import numpy as np
    import torch

    from ..analysis.reweighting import ess_fraction, log_z
    from ..potentials.model_file import load_model
    from ..training.frames import Frames
    from ..training.frames_file import write_frames

    if output.exists():
        raise ConfigurationError(f'"{output}" exists already. Remove it, or give another name.')
    where = require_device(device)
    potential = load_model(model, dtype.torch, where)
    target = None if reweight is None else provider_potential(reweight, structure_path(structure))
    generator = torch.Generator(where).manual_seed(seed)
    positions, log_prob, weights = [], [], []
    with progress("sample", n_samples) as advance, torch.no_grad():
        for start in range(0, n_samples, BATCH_SIZE):
            x, log_p = potential.sample(min(BATCH_SIZE, n_samples - start), generator)
            positions.append(x.cpu())
            log_prob.append(log_p.cpu().double())
            if target is not None:
                weights.append(-target.energy(x.cpu().double()) / potential.kT - log_prob[-1])
            advance(start + len(x))
    log_weights = torch.cat(weights) if weights else None
    frames = Frames(
        positions=torch.cat(positions).numpy().astype(np.float32),
        energies=-potential.kT * torch.cat(log_prob).numpy(),
        topology=potential.coordinates.topology,
        temperature=potential.temperature,
        provenance={"model": str(model), "seed": seed, "weighted to": reweight or "nothing: samples of the model"},
        log_weights=None if log_weights is None else log_weights.numpy(),
    )
    write_frames(output, frames)
    summary = {"file": str(output), "samples": str(n_samples)}
    if log_weights is not None:
        efficiency, partition = ess_fraction(log_weights), log_z(log_weights)
        summary |= {"Kish ESS fraction, raw": str(efficiency), f"log Z of {reweight}": str(partition)}
    if as_json:
        print_json(summary)
    else:
        print_table("Samples", ["quantity", "value"], [list(item) for item in summary.items()])
