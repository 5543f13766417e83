r"""Make a model that ships: a copy that tells its own name, licence, quality, and how it was made.

smoothflow evaluate run/model.safetensors test.h5 --json > metrics.json
python examples/alanine-dipeptide/publish.py run/model.safetensors metrics.json models/ala2-smooth.safetensors \
    --name ala2-smooth
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from smoothflow import SmoothflowError, add_provenance, read_header
from smoothflow.core.errors import ConfigurationError, FileFormatError

MAX_BYTES = 8_000_000
"""Of a model inside the package."""

MADE = (
    "smoothflow train (its settings: training; its data: frames), smoothflow evaluate --json on held-out frames "
    "(evaluation), examples/alanine-dipeptide/publish.py"
)

REQUIRED = ("temperature", "nll", "forward_kl", "ess", "force_mse_data", "force_mse_samples")


def publish(model: Path, metrics: Path, output: Path, name: str, licence: str, made: str) -> None:
    """Write the model under its name, complete or not at all.

    Raises:
        FileFormatError: If the model or its metrics cannot be read, or are not what they should be.
        ConfigurationError: If the metrics are of another temperature, or the model is too large to ship.
    """
    header = read_header(model)
    evaluation = _read_metrics(metrics)
    if evaluation["temperature"] != header["temperature"]:
        raise ConfigurationError(
            f'The metrics in "{metrics}" were measured at {evaluation["temperature"]} K, and the model is for '
            f"{header['temperature']} K. Give the metrics of this model."
        )
    if model.stat().st_size > MAX_BYTES:
        raise ConfigurationError(
            f'"{model}" has {model.stat().st_size} bytes; models that ship have up to {MAX_BYTES}.'
        )
    add_provenance(model, output, {"name": name, "licence": licence, "made": made, "evaluation": evaluation})


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileFormatError(f'"{path}" cannot be read as JSON: {error}.') from error
    missing = [name for name in REQUIRED if name not in found] if isinstance(found, dict) else list(REQUIRED)
    if missing:
        raise FileFormatError(
            f'"{path}" does not say {", ".join(missing)}. Give what "smoothflow evaluate --json" prints.'
        )
    if found.get("frames_are") == "training frames":
        raise FileFormatError(f'"{path}" is of frames that the model was trained on. Evaluate it on held-out ones.')
    return dict(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model file of a training run")
    parser.add_argument("metrics", type=Path, help='what "smoothflow evaluate MODEL FRAMES --json" printed')
    parser.add_argument("output", type=Path, help="the file to write")
    parser.add_argument("--name", required=True, help="what the model is called")
    parser.add_argument("--licence", default="MIT", help="under which it is given away")
    parser.add_argument("--made", default=MADE, help="how it was made, in a sentence")
    arguments = parser.parse_args()
    try:
        publish(**vars(arguments))
    except SmoothflowError as error:
        sys.exit(f"error: {error}")
