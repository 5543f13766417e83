"""``smoothflow compile``: a model as machine code, checked against the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .console import print_json, print_table, task_progress
from .options import AsJson, Device, Model, Precision, Seed, Temperature, require_device

N_CONFIGURATIONS = 64


def run(
    model: Model,
    output: Annotated[Path, typer.Option("--out", help="The package; its name ends in .pt2.")],
    frames: Annotated[
        Path | None,
        typer.Option(help="Frames to check it at; by default samples of the model.", autocompletion=completion.FRAMES),
    ] = None,
    precision: Annotated[
        list[Precision] | None,
        typer.Option("--dtype", metavar="PRECISION", help="float32 or float64; may be given twice; default: both."),
    ] = None,
    second_derivatives: Annotated[
        bool, typer.Option("--second-derivatives", help="Add Hessian-vector products.")
    ] = False,
    temperature: Temperature = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Compile a model's energies and forces, for one configuration and for many; takes minutes and needs g++.

    The package runs without a compiler, on processors like this one and with this version of torch; compiled with
    --device cuda, on GPUs like the one here. It is of one temperature, and native code: load only those that you trust.

    Example: smoothflow compile ala2-smooth --out smooth.pt2
    """
    import torch

    from ..core.files import require_free
    from ..molecules.frames_file import read_frames
    from ..potentials.compilation import compile_potential
    from ..potentials.shipped import load_flow

    where = require_device(device)
    require_free(output)
    potential = load_flow(model, device=where, temperature=temperature)
    if frames is None:
        with torch.no_grad():
            positions, _ = potential.sample(N_CONFIGURATIONS, seed=seed)
    else:
        data = read_frames(frames)
        data.require_potential(potential, "the model")
        chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:N_CONFIGURATIONS]
        positions = torch.from_numpy(data.positions)[chosen].double()
    dtypes = [choice.torch for choice in precision or list(Precision)]
    with task_progress() as on_progress:
        functions = compile_potential(
            potential,
            positions,
            output,
            dtypes,
            second_derivatives,
            on_progress,
        )
    if as_json:
        print_json({"package": str(output), "functions": [vars(function) for function in functions]})
    else:
        print_table(
            f"{output}",
            ["function", "largest difference from the model", "seconds to compile"],
            [[function.name, f"{function.error:.2g}", f"{function.seconds:.0f}"] for function in functions],
        )
